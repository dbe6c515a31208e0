// The right side of the case page: answers, tokens, map, facts, matrix, questions. Parts are made once per case.

import { make, fill } from "./dom.js";
import { choice, oneOf, pressed, toggle } from "./controls.js";
import { decimals, nats, percent, times } from "./numbers.js";
import { drawTokens, TOKEN_COLOURS, tokenMeaning, tokenNumbers } from "./tokens.js";
import { drawFacts, drawWarnings, sortedWarnings, warningsOf } from "./facts.js";
import { Matrix } from "./matrix.js";
import { drawAsk } from "./ask.js";
import { othersOf, placeOf, rowInWords } from "./shown_map.js";
import { caseAddress } from "./cases_api.js";

export const VIEW_NAMES = { model: "Model's answer", reference: "Reference answer", typed: "Typed answer" };

/** The panel of a case. `choices`: see `Choices`; `answered(case)` is called with an answer of the live model. */
export class CasePanel {
  constructor(element, page, { state, flip, choices, answered }) {
    Object.assign(this, { element, state, choices, page });
    const { manifest } = page;
    const view = manifest.views[state.get().view];
    this.views = oneOf({
      name: "Answer explained",
      group: "view",
      chosen: (name) => state.set({ view: name }),
      options: Object.keys(manifest.views).map((name) => ({ value: name, words: VIEW_NAMES[name] ?? name })),
    });
    this.answer = make("p", { class: "answer", tabindex: "-1" });
    this.numbers = make("p", { class: "soft numbers" });
    this.warnings = make("ul", { class: "warnings", "aria-label": "Warnings" });
    this.elsewhere = make("ul", { class: "warnings" });
    this.folded = make(
      "details",
      { class: "folded" },
      make("summary", { text: "Warnings of other methods" }),
      this.elsewhere,
    );
    this.question = make("div", { class: "tokens", role: "group", "aria-label": "Question, token by token" });
    this.answerTokens = make("div", { class: "tokens", role: "group", "aria-label": "Answer, token by token" });
    this.colouredBy = choice({
      id: "coloured-by",
      name: "Numbers and colour",
      options: Object.entries(TOKEN_COLOURS),
      chosen: (value) => state.set({ colouredBy: value }),
    });
    this.whole = make("button", {
      type: "button",
      id: "whole-answer",
      class: "tool words",
      text: "Whole answer",
      on: { click: () => state.set({ tokens: [] }) },
    });
    this.contrast = toggle({
      id: "against",
      name: "Against the others",
      key: "a",
      picture: "scale",
      words: true,
      press: () => flip("contrast"),
    });
    this.row = make("p", { class: "soft", id: "row-told" });
    this.patches = make("p", { class: "patches", role: "status" });
    this.method = choice({
      id: "method",
      name: "Method",
      options: manifest.methods.map(({ name }) => [name, name.replaceAll("_", " ")]),
      chosen: (value) => state.set({ method: value, layer: null, head: null }),
    });
    this.line = make("p", { class: "line" });
    this.facts = make("dl", { class: "facts" });
    this.place = make("p", { class: "soft", id: "place" });
    this.grid = make("div", { class: "matrix-holder" });
    const asked = make("div", {});
    drawAsk(asked, { ...manifest, answered });
    fill(
      element,
      askedHere(manifest),
      block(
        "Answer",
        this.views.element,
        this.answer,
        make("p", { class: "soft" }, make("span", { text: "Reference: " }), manifest.references.join(" · ") || "none"),
        this.numbers,
        this.warnings,
        this.folded,
      ),
      block(
        "Tokens",
        this.colouredBy.element,
        make("h3", { text: "Question" }),
        this.question,
        make("h3", { text: "Answer" }),
        this.answerTokens,
        make("div", { class: "row" }, this.whole, this.contrast),
        this.row,
        this.patches,
      ),
      block("Map", this.method.element, this.line, this.facts),
      block("Layers and heads", this.place, this.grid),
      block("Ask the model", asked),
      reasons(manifest),
      about(manifest),
    );
    this.matrix = new Matrix(this.grid, view.shape.L, view.shape.H, (layer, head) => state.set({ layer, head }));
  }

  /** Shows the answer of the chosen view. */
  showView(view, name) {
    this.views.show(name);
    const mark =
      view.correct === null
        ? null
        : make("span", { class: `mark ${view.correct ? "right" : "wrong"}`, text: view.correct ? "right" : "wrong" });
    fill(this.answer, make("span", { text: view.text || "(nothing)" }), mark);
    fill(
      this.numbers,
      make("span", {
        text: `Probability ${percent(view.confidence)} per token`,
        title: `log-probability of the answer: ${decimals(view.logprob, 2)} nats`,
      }),
      " · ",
      make("span", { text: `${times(view.reliance)} times as probable with the image`, title: nats(view.reliance) }),
    );
    const { t } = view.shape;
    this.whole.disabled = t < 1;
  }

  /** Tokens, numbers and what the patches say. `seen`: `{onPatches, fromPatches}`. */
  showTokens(now, maps, seen) {
    const { tokens } = maps.view;
    const numbers = tokenNumbers(now.colouredBy, tokens, seen);
    const chosen = new Set(now.tokens);
    const focused = document.activeElement?.dataset?.position;
    for (const [element, part] of [
      [this.question, "prompt"],
      [this.answerTokens, "answer"],
    ]) {
      const meaning = tokenMeaning(now.colouredBy, part);
      const press = (position, extend) => this.choices.press(position, extend);
      drawTokens(element, { tokens, part, numbers, chosen, meaning, press });
    }
    if (focused !== undefined) this.token(focused)?.focus();
    this.colouredBy.select.value = now.colouredBy;
    pressed(this.whole, !now.tokens.length);
    pressed(this.contrast, now.contrast);
    this.contrast.disabled = (Boolean(now.tokens.length) && !othersOf(now, maps).length) || !now.tokens.length;
    this.contrast.title = this.contrast.disabled
      ? "Choose a token that has others beside it"
      : "What the chosen tokens have more than the others (key a)";
    this.showPatches(now, maps);
  }

  /** Brings the answer into sight, and the focus to it. */
  toAnswer() {
    this.element.scrollTop = 0;
    this.answer.focus();
  }

  token(position) {
    return this.question.parentElement.querySelector(`[data-position="${CSS.escape(position)}"]`);
  }

  showPatches(now, maps) {
    const count = now.patches.length;
    if (!count) {
      fill(this.patches, "Click patches of the picture to see which tokens attended to them.");
      return;
    }
    const [, columns] = this.page.manifest.grid;
    const [patch] = now.patches;
    const place = `row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
    const words = patchWords(now, count === 1 ? `the chosen patch (${place})` : `the ${count} chosen patches`);
    fill(
      this.patches,
      words,
      " ",
      make("button", {
        type: "button",
        class: "link",
        id: "clear-patches",
        text: "Clear patches (Esc)",
        on: { click: () => this.choices.clearPatches() },
      }),
    );
    if (!maps.attention) this.patches.prepend("Reading the attention … ");
  }

  /** Facts and warnings of the map that is shown. */
  showMap(now, maps, shown) {
    this.method.select.value = now.method;
    const line = this.page.manifest.methods.find((one) => one.name === now.method)?.line ?? "";
    fill(
      this.line,
      shown.attention ? `Shown instead: ${placeOf(now)}. ` : line,
      shown.attention
        ? make("button", {
            type: "button",
            class: "link",
            text: "Back to the method's map",
            on: { click: () => this.choices.backToMethod() },
          })
        : null,
    );
    drawFacts(this.facts, shown.facts, relianceOf(now, maps));
    this.row.textContent = rowInWords(now, maps);
    this.row.hidden = !now.tokens.length;
    const methods = this.page.manifest.methods.map(({ name }) => name);
    const own = warningsOf({ ...shown, view: maps.view });
    const sorted = sortedWarnings(maps.view.warnings, methods, shown.attention ? null : now.method, own);
    drawWarnings(this.warnings, sorted.here);
    drawWarnings(this.elsewhere, sorted.elsewhere);
    this.folded.hidden = !sorted.elsewhere.length;
  }

  showMatrix(now, maps, positions) {
    if (!maps.mass) {
      this.place.textContent = "Reading the attention …";
      return;
    }
    this.place.textContent =
      now.layer === null && now.head === null
        ? "Brighter: more of its attention is on the image. Choose a cell for its raw attention map."
        : `Chosen: ${placeOf(now)}.`;
    this.matrix.draw(maps.matrix(positions), now.layer, now.head);
  }
}

function patchWords(now, patches) {
  if (now.colouredBy === "patches") return `Share of each token's attention that is on ${patches} (${placeOf(now)}).`;
  if (now.colouredBy !== "prompt") return `Chosen: ${patches}.`;
  const over = now.layer === null ? "heads and layers" : `the heads of layer ${now.layer + 1}`;
  return (
    `Attention of ${patches} on each token of the question, mean over ${over}. ` +
    "The answer comes later: the image never sees it."
  );
}

function relianceOf({ tokens }, maps) {
  const [first] = tokens;
  if (tokens.length === 1 && first >= maps.p) {
    return { value: maps.view.tokens[first].reliance, meaning: "times as probable this token is with the image" };
  }
  if (tokens.length) return null;
  return { value: maps.view.reliance, meaning: "times as probable the answer is with the image" };
}

const block = (title, ...children) => make("section", { class: "block" }, make("h2", { text: title }), ...children);

function askedHere({ asked_of: original, series, query }) {
  if (!original) return null;
  return make(
    "p",
    { class: "warning" },
    "Asked on this page; the last such questions are kept until the server stops. ",
    make("a", {
      href: caseAddress({ series, key: original, query }),
      text: "Back to the case",
    }),
  );
}

function reasons({ signatures, reasons: words = {} }) {
  if (!signatures?.length) return null;
  return block(
    "Why the failure finder lists this case",
    make(
      "ul",
      { class: "signatures" },
      ...signatures.map((one) =>
        make("li", {}, make("strong", { text: one.replaceAll("_", " ") }), words[one] ? `: ${words[one]}` : ""),
      ),
    ),
  );
}

function about({ sample_id, image_id, answer_type, tags, model, picture, grid }) {
  const rows = [
    ["Sample", sample_id],
    ["Image", image_id],
    ["Answer type", answer_type],
    ...Object.entries(tags),
    ["Picture", `${picture.width} × ${picture.height} pixels, ${picture.bits} bits`],
    ["Patches", `${grid[0]} × ${grid[1]}`],
    ...Object.entries(model).map(([name, value]) => [`Model: ${name}`, String(value)]),
  ];
  return make(
    "details",
    { class: "block" },
    make("summary", { text: "About this case" }),
    make(
      "dl",
      { class: "about" },
      ...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: String(value) || "–" })]),
    ),
  );
}
