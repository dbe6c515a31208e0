// Two explanations of one question side by side: one scale, one zoom, and the difference of their maps.

import { byId, fill, make } from "./dom.js";
import { announce, announceError } from "./announce.js";
import { makeState } from "./state.js";
import { readCase } from "./cases_api.js";
import { asShares, difference, rangeOfMap, weightOf } from "./maps.js";
import { PictureStage, stageElement } from "./picture_stage.js";
import { makeLegend, overlayBar, topBar, windowBar } from "./picture_tools.js";
import { chosenBar, comparisonKeys, KEY_GROUPS, UNITS } from "./compare_bars.js";
import { CompareSide, whatDiffers } from "./compare_side.js";
import { pictureActions } from "./case_keys.js";
import { listen, makeHelp } from "./keys.js";
import { synchronise } from "./viewer.js";
import { draggedWindow, firstWindow } from "./window_level.js";
import { hasNoUnit, unitOf } from "./shown_map.js";

class ComparePage {
  constructor(a, b) {
    this.manifest = a;
    this.views = Object.keys(a.views).filter((name) => name in b.views);
    this.state = makeState({
      view: this.views[0],
      method: "",
      unit: null,
      swapped: false,
      tokens: { a: [], b: [] },
      overlay: true,
      opacity: 0.55,
      colours: "inferno",
      smooth: true,
      outlines: false,
      grid: false,
      tool: "pan",
      invert: false,
      window: firstWindow(a.picture),
    });
    this.flip = (name) => this.state.set({ [name]: !this.state.get()[name] });
    this.windowed = (dx, dy) => this.state.set({ window: draggedWindow(a.picture, this.state.get().window, dx, dy) });
    this.sides = [new CompareSide("a", a, this), new CompareSide("b", b, this)];
    this.unlike = whatDiffers(a, b);
    this.fits = !this.unlike;
    this.state.on((now, changed) => this.changed(now, changed));
  }

  get order() {
    return this.state.get().swapped ? [...this.sides].reverse() : this.sides;
  }

  get stages() {
    return [...this.sides.map((side) => side.stage), ...(this.fits ? [this.difference.stage] : [])];
  }

  async start() {
    this.stage = this.sides[0].stage;
    this.makeDifference();
    this.act = pictureActions(this);
    this.makeBars();
    synchronise(this.stages.map((stage) => stage.viewer));
    const bindings = comparisonKeys(this);
    this.help = makeHelp(bindings, KEY_GROUPS);
    listen(bindings);
    const opened = this.stages.map((stage) => stage.open());
    await this.openView();
    await Promise.all(opened);
  }

  makeDifference() {
    const section = make("section", { id: "side-difference", class: "side", "aria-labelledby": "title-difference" });
    const told = make("p", { class: "soft" });
    const element = stageElement("stage-difference", "Picture");
    section.append(
      make("div", { class: "side-head" }, make("h2", { id: "title-difference", text: "Difference" }), told),
      element,
    );
    byId("sides").append(section);
    this.difference = { section, told, legend: makeLegend() };
    if (!this.fits) {
      element.remove();
      told.textContent = `There is no difference of the maps: ${this.unlike}.`;
      return;
    }
    this.difference.stage = new PictureStage(element, this.manifest, { windowed: this.windowed });
    section.append(this.difference.legend.element);
  }

  makeBars() {
    const outlined = this.sides.some((side) => side.manifest.outlines.length);
    this.chosen = chosenBar(this);
    const picture = windowBar(this.manifest.picture, this);
    const over = overlayBar({ ...this, outlined, scale: false });
    const tools = topBar(this);
    const look = make(
      "details",
      { class: "look" },
      make("summary", { class: "tool words", text: "Contrast and overlay" }),
      make("div", { class: "look-bars" }, picture.element, over.element),
    );
    const help = make("button", {
      type: "button",
      class: "tool words",
      id: "open-help",
      text: "Keys (?)",
      on: { click: () => this.help.open() },
    });
    this.bars = [this.chosen, tools, picture, over];
    byId("sides").before(make("div", { class: "bars" }, this.chosen.element, tools.element, look, help));
  }

  async openView() {
    const { view, method } = this.state.get();
    await Promise.all(this.sides.map((side) => side.read(view)));
    const [a, b] = this.sides.map((side) => side.maps.view.maps.map((one) => one.method));
    this.methods = a.filter((name) => b.includes(name));
    fill(
      this.chosen.method,
      ...this.methods.map((name) => make("option", { value: name, text: name.replaceAll("_", " ") })),
    );
    this.ready = true;
    this.state.set({ method: this.methods.includes(method) ? method : this.methods[0], tokens: { a: [], b: [] } });
    this.show(this.state.get());
  }

  changed(now, changed) {
    if (changed.has("window") || changed.has("invert"))
      for (const stage of this.stages) stage.setWindow(now.window, now.invert);
    for (const stage of this.stages) stage.viewer.tool = now.tool;
    if (changed.has("view")) {
      this.ready = false;
      this.openView().catch(announceError);
      return;
    }
    if (changed.has("swapped")) this.exchange();
    if (this.ready) this.show(now);
    if (changed.has("method") || changed.has("tokens") || changed.has("unit"))
      announce(`Compared: ${now.method.replaceAll("_", " ")}, ${UNITS[this.unitNow]}`, { seen: false });
  }

  exchange() {
    const [first, second] = this.order;
    byId("sides").prepend(first.section, second.section);
    announce(`A is now ${first.link.textContent}, B ${second.link.textContent}`);

  }

  show(now) {
    for (const bar of this.bars) bar.show(now);
    if (!now.method) return;
    const shares = this.unitNow === "shares";
    const maps = this.order.map((side) => side.map({ ...now, shares }, now.tokens[side.name]));
    const ranges = maps.map(rangeOfMap);
    const scale = { low: Math.min(...ranges.map((one) => one.low)), high: Math.max(...ranges.map((one) => one.high)) };
    const unit = shares ? "share of the map per patch" : unitOf(now.method);
    this.order.forEach((side, i) => {
      side.describe("AB"[i], now, now.tokens[side.name]);
      this.draw(
        side.stage,
        side.legend,
        `${"AB"[i]}: ${now.method.replaceAll("_", " ")}`,
        maps[i],
        { ...scale, unit, colours: now.colours },
        now,
        side.maps.view.sinks,
        side.manifest.outlines,
      );
    });
    if (this.fits) this.showDifference(now, maps, unit);
  }

  showDifference(now, [a, b], unit) {
    const map = difference(a, b);
    const { low, high } = rangeOfMap(map);
    const most = Math.max(Math.abs(low), Math.abs(high));
    const [ofA, ofB] = [asShares(a), asShares(b)];
    const shared = ofA.reduce((sum, value, i) => sum + Math.min(value, ofB[i]), 0);
    const overlap = weightOf(a) && weightOf(b) ? ` The maps share ${Math.round(100 * shared)} % of their weight.` : "";
    this.difference.told.textContent = `A minus B. Red: more in A. Blue: more in B.${overlap}`;
    this.draw(
      this.difference.stage,
      this.difference.legend,
      "A − B",
      map,
      { low: -most, high: most, unit, colours: "coolwarm" },
      now,
      [],
      this.manifest.outlines,
    );
  }

  draw(stage, legend, title, map, scale, now, sinks, outlines) {
    legend.show(title, scale, scale.colours);
    legend.element.hidden = !now.overlay;
    stage.draw({
      map: now.overlay ? map : null,
      ...scale,
      smooth: now.smooth,
      opacity: scale.colours === "coolwarm" ? Math.min(1, 1.5 * now.opacity) : now.opacity,
      outlines: now.outlines ? outlines : [],
      grid: now.grid,
      sinks: now.overlay ? sinks : [],
      patches: [],
      cursor: null,
    });
    const at = map.reduce((best, value, i) => (value > map[best] ? i : best), 0);
    stage.element.setAttribute(
      "aria-label",
      `Picture with map ${title}. ` +
        `Highest in row ${Math.floor(at / stage.columns) + 1}, column ${(at % stage.columns) + 1}.`,
    );
  }

  /** The unit that was chosen; if none was, shares for methods whose numbers have no unit in common. */
  get unitNow() {
    const { unit, method } = this.state.get();
    return unit ?? (hasNoUnit(method) ? "shares" : "values");
  }

  get equalAnswers() {
    const [a, b] = this.sides.map((side) =>
      side.maps.view.tokens
        .slice(side.maps.p)
        .map((token) => token.text)
        .join("\u0000"),
    );
    return a === b;
  }

  /** Chooses a token of one side; of both where the answers are the same. */
  press(side, position) {
    const { tokens } = this.state.get();
    const same = tokens[side.name][0] === position;
    const chosen = { ...tokens, [side.name]: same ? [] : [position] };
    if (this.equalAnswers) {
      const other = this.sides.find((one) => one !== side);
      chosen[other.name] = same ? [] : [position - side.maps.p + other.maps.p];
    }
    this.state.set({ tokens: chosen });
  }

  stepToken(step) {
    if (!this.ready) return;
    if (!this.equalAnswers) {
      announce("The answers differ: choose a token of each");
      return;
    }
    const [a, b] = this.sides;
    const place = this.state.get().tokens.a.length ? this.state.get().tokens.a[0] - a.maps.p : -1;
    const next = Math.max(-1, Math.min(a.maps.t - 1, place + step));
    this.state.set({ tokens: next < 0 ? { a: [], b: [] } : { a: [next + a.maps.p], b: [next + b.maps.p] } });
  }
}

const root = byId("compare");
const read = (address) => readCase(...address.split("/"), location.search);
Promise.all([read(root.dataset.a), read(root.dataset.b)])
  .then(([a, b]) => new ComparePage(a, b).start())
  .catch((error) => {
    announceError(error);
    root.prepend(make("p", { class: "warning", role: "alert", text: error.message }));
  });
