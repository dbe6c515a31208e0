// What is compared: the choices above the pictures, and the keys of the compare page.

import { make } from "./dom.js";
import { choice, pressed } from "./controls.js";
import { follow, pictureKeys } from "./case_keys.js";
import { VIEW_NAMES } from "./case_panel.js";

export const UNITS = { values: "values as they are", shares: "shares: each map sums to 1" };
export const KEY_GROUPS = ["Picture", "Over the picture", "Comparison"];

/** Answer, method, scale; whole answers and the swap. `method` is the list that the page fills. */
export function chosenBar(page) {
  const { state, flip, views } = page;
  const view = choice({
    id: "view",
    name: "Answer",
    options: views.map((name) => [name, VIEW_NAMES[name] ?? name]),
    chosen: (name) => state.set({ view: name }),
  });
  view.element.hidden = views.length < 2;
  const method = choice({ id: "method", name: "Method", options: [], chosen: (name) => state.set({ method: name }) });
  const unit = choice({
    id: "unit",
    name: "Scale",
    options: [
      ["values", "values"],
      ["shares", "shares"],
    ],
    chosen: (name) => state.set({ unit: name }),
  });
  unit.select.title = `${UNITS.values}, or ${UNITS.shares} (key s)`;
  const swap = make("button", {
    type: "button",
    class: "tool words",
    id: "swap",
    text: "Swap A and B",
    title: "Swap A and B (key x)",
    on: { click: () => flip("swapped") },
  });
  const whole = make("button", {
    type: "button",
    class: "tool words",
    id: "whole-answer",
    text: "Whole answers",
    on: { click: () => state.set({ tokens: { a: [], b: [] } }) },
  });
  const element = make(
    "div",
    { class: "bar", role: "group", "aria-label": "What is compared" },
    view.element,
    method.element,
    unit.element,
    whole,
    swap,
  );
  const show = (now) => {
    [view.select.value, method.select.value, unit.select.value] = [now.view, now.method, page.unitNow];
    pressed(whole, !now.tokens.a.length && !now.tokens.b.length);
    pressed(swap, now.swapped);
  };
  return { element, method: method.select, show };
}

/** All keys of the compare page. */
export function comparisonKeys(page) {
  const { state } = page;
  const one = (keys, shown, does, act) => ({ group: "Comparison", keys, shown, does, act });
  return [
    ...pictureKeys(page),
    one(["x"], ["x"], "swap A and B", () => page.flip("swapped")),
    one(["s"], ["s"], "values, or shares that sum to 1", () =>
      state.set({ unit: page.unitNow === "values" ? "shares" : "values" }),
    ),
    one(["ArrowLeft"], ["←"], "token before, of equal answers", () => page.stepToken(-1)),
    one(["ArrowRight"], ["→"], "next token, of equal answers", () => page.stepToken(1)),
    one(["Escape"], ["Esc"], "whole answers", () => state.set({ tokens: { a: [], b: [] } })),
    one(["PageDown", "Enter"], ["PgDn", "Enter"], "the same pair of the next case", () =>
      follow("next", "This is the last case of both"),
    ),
    one(["PageUp"], ["PgUp"], "the same pair of the case before", () =>
      follow("previous", "This is the first case of both"),
    ),
    one(["?"], ["?"], "this help", () => page.help.open()),
  ];
}
