// One side of the comparison: its answer and tokens, its facts, its picture with the map.

import { byId, fill, make } from "./dom.js";
import { asShares, meanMap, readMaps } from "./maps.js";
import { PictureStage, stageElement } from "./picture_stage.js";
import { makeLegend } from "./picture_tools.js";
import { drawTokens, tokenMeaning, tokenNumbers } from "./tokens.js";
import { drawFacts } from "./facts.js";

/** Why two maps cannot be subtracted, in words; empty if they can. */
export function whatDiffers(a, b) {
  if (a.image_id !== b.image_id) return "the two cases show different pictures";
  if (a.picture.width !== b.picture.width || a.picture.height !== b.picture.height)
    return "the two pictures have different sizes";
  if (a.grid.join() !== b.grid.join()) return "the image grids of the two models differ";
  if (a.picture.frame.join() !== b.picture.frame.join()) return "the two models see different parts of the picture";
  return "";
}

/** Its case, its maps and the elements that show them. `page`: `windowed(dx, dy)` and `press(side, position)`. */
export class CompareSide {
  constructor(name, manifest, page) {
    Object.assign(this, { name, manifest, page });
    this.section = byId(`side-${name}`);
    this.link = this.section.querySelector("h2 a");
    this.title = make("h2", { id: `title-${name}` });
    this.answer = make("p", { class: "answer" });
    this.tokens = make("div", { class: "tokens", role: "group" });
    this.facts = make("dl", { class: "facts" });
    this.folded = make("details", { class: "folded" }, make("summary", { text: "Numbers of this map" }), this.facts);
    this.legend = makeLegend();
    const element = stageElement(`stage-${name}`, "Picture");
    this.stage = new PictureStage(element, manifest, { windowed: page.windowed });
    const question = this.section.querySelector(".question");
    fill(
      this.section,
      make("div", { class: "side-head" }, this.title, question, this.answer, this.tokens, this.folded),
      element,
      this.legend.element,
    );
  }

  async read(view) {
    this.maps = await readMaps(this.manifest, view, () => {});
    this.maps.attentionRead.catch(() => {}); // the maps are enough here
  }

  /** The map of this side: of the chosen tokens, or of the whole answer. */
  map({ method, shares }, tokens) {
    const of = (position) => this.maps.ofMethod(method, position - this.maps.p);
    const map = tokens.length ? meanMap(tokens.map(of)) : this.maps.ofMethod(method, null);
    return shares ? asShares(map) : map;
  }

  describe(letter, now, tokens) {
    const { view } = this.maps;
    fill(this.title, make("span", { text: `${letter}: ` }), this.link);
    const mark =
      view.correct === null
        ? null
        : make("span", { class: `mark ${view.correct ? "right" : "wrong"}`, text: view.correct ? "right" : "wrong" });
    fill(this.answer, make("span", { text: view.text || "(nothing)" }), mark);
    const numbers = tokenNumbers("reliance", view.tokens, {});
    const meaning = tokenMeaning("reliance", "answer");
    this.tokens.setAttribute("aria-label", `Answer ${letter}, token by token`);
    const focused = this.tokens.contains(document.activeElement) ? document.activeElement.dataset.position : null;
    drawTokens(this.tokens, {
      tokens: view.tokens,
      part: "answer",
      numbers,
      chosen: new Set(tokens),
      meaning,
      press: (position) => this.page.press(this, position),
    });
    if (focused) this.tokens.querySelector(`[data-position="${CSS.escape(focused)}"]`)?.focus();
    const single = tokens.length === 1 ? tokens[0] - this.maps.p : null;
    drawFacts(this.facts, tokens.length > 1 ? {} : this.maps.facts(now.method, single), {
      value: single === null ? view.reliance : view.tokens[tokens[0]].reliance,
      meaning: "",
    });
  }
}
