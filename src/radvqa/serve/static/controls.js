// Buttons, sliders and choices of the tool bars. Each shows the state that it changes.

import { make } from "./dom.js";
import { icon } from "./icons.js";

const named = (name, key) => (key ? `${name} (key ${key})` : name);

/** A button that does something at once. */
export function action({ id, name, key, picture, act }) {
  return make(
    "button",
    { type: "button", id, class: "tool", title: named(name, key), "aria-label": name, on: { click: act } },
    icon(picture),
  );
}

/** A button that is on or off. With `words` the name stands beside the icon. */
export function toggle({ id, name, key, picture, words = false, press }) {
  const properties = {
    type: "button",
    id,
    class: words ? "tool words" : "tool",
    title: named(name, key),
    "aria-pressed": "false",
    on: { click: press },
  };
  if (!words) properties["aria-label"] = name;
  return make("button", properties, icon(picture), words ? make("span", { text: name }) : null);
}

/** Shows whether a toggle is on. */
export const pressed = (button, on) => button.setAttribute("aria-pressed", String(Boolean(on)));

/** A slider with its name and its value in words. `moved(value)` is called at each step. */
export function slider({ id, name, key, min, max, step, moved }) {
  const output = make("output", { for: id });
  const input = make("input", {
    type: "range",
    id,
    min,
    max,
    step,
    title: named(name, key),
    on: { input: () => moved(Number(input.value)) },
  });
  return {
    element: make("label", { class: "slider", for: id }, make("span", { text: name }), input, output),
    show(value, words) {
      input.value = String(value);
      input.setAttribute("aria-valuetext", words);
      output.textContent = words;
    },
  };
}

/** A list to choose from: `options` are [value, words]. */
export function choice({ id, name, key, options, chosen, hidden = false }) {
  const select = make(
    "select",
    { id, title: named(name, key), on: { change: () => chosen(select.value) } },
    ...options.map(([value, words]) => make("option", { value, text: words })),
  );
  const label = make("span", { class: hidden ? "unseen" : "", text: name });
  return { element: make("label", { class: "choice", for: id }, label, select), select };
}

/** A row of which one is chosen: `options` are {value, words, picture?, key?}. */
export function oneOf({ name, group, options, chosen }) {
  const inputs = new Map();
  const labels = options.map(({ value, words, picture, key, detail }) => {
    const input = make("input", {
      type: "radio",
      name: group,
      value,
      class: "unseen",
      on: { change: () => chosen(value) },
    });
    inputs.set(value, input);
    const shown = picture
      ? [icon(picture), make("span", { class: "unseen", text: words })]
      : [make("span", { text: words })];
    return make(
      "label",
      { class: picture ? "tool" : "segment", title: named(words, key) },
      input,
      ...shown,
      detail ?? null,
    );
  });
  return {
    element: make(
      "div",
      { class: picture(options) ? "group" : "segments", role: "radiogroup", "aria-label": name },
      ...labels,
    ),
    show: (value) => inputs.has(value) && (inputs.get(value).checked = true),
  };
}

const picture = (options) => Boolean(options[0]?.picture);

/** Tools that belong together. */
export const group = (name, ...children) =>
  make("div", { class: "group", role: "group", "aria-label": name }, ...children);
