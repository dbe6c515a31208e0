// The bars around the picture: tools, turning, contrast; what is drawn over it. They show the state and change it.

import { make } from "./dom.js";
import { action, choice, group, oneOf, pressed, slider, toggle } from "./controls.js";
import { COLOUR_MAPS, colourTable } from "./colour_maps.js";
import { isHounsfield, PRESETS, sameWindow, windowLimits, windowOf } from "./window_level.js";
import { short } from "./numbers.js";

/** The bar above the picture. */
export function topBar({ state, act }) {
  const tools = oneOf({
    name: "Left mouse button",
    group: "tool",
    chosen: (tool) => state.set({ tool }),
    options: [
      { value: "pan", words: "Move", picture: "pan" },
      { value: "zoom", words: "Zoom", picture: "zoom", key: "z" },
      { value: "window", words: "Window and level", picture: "window" },
    ],
  });
  const invert = toggle({ id: "invert", name: "Invert", key: "i", picture: "invert", press: act.invert });
  const element = make(
    "div",
    { class: "bar", role: "group", "aria-label": "Picture" },
    tools.element,
    group(
      "Zoom",
      action({ id: "zoom-out", name: "Zoom out", key: "-", picture: "minus", act: act.zoomOut }),
      action({ id: "zoom-in", name: "Zoom in", key: "+", picture: "plus", act: act.zoomIn }),
      action({ id: "fit", name: "Fit", key: "=", picture: "fit", act: act.fit }),
    ),
    group(
      "Turn",
      action({ id: "rotate-left", name: "Rotate left", key: "l", picture: "left", act: act.rotateLeft }),
      action({ id: "rotate-right", name: "Rotate right", key: "r", picture: "right", act: act.rotateRight }),
      action({
        id: "flip-horizontally",
        name: "Flip left and right",
        key: "h",
        picture: "flipHorizontally",
        act: act.flipHorizontally,
      }),
      action({
        id: "flip-vertically",
        name: "Flip up and down",
        key: "v",
        picture: "flipVertically",
        act: act.flipVertically,
      }),
    ),
    group(
      "Grey values",
      invert,
      action({ id: "reset", name: "Reset the view", key: "space", picture: "reset", act: act.reset }),
    ),
  );
  const show = ({ tool, invert: inverted }) => {
    tools.show(tool);
    pressed(invert, inverted);
  };
  return { element, show };
}

/** Window and level in Hounsfield units, or (8 bits) brightness and contrast of what is left. */
export function windowBar(picture, { state, act }) {
  const real = isHounsfield(picture);
  const title = real ? "Window (HU)" : `Contrast (${picture.bits}-bit picture)`;
  const change = (changes) => state.set({ window: { ...windowOf(state.get().window), ...changes } });
  const sliders = real ? windowSliders(picture, change) : contrastSliders(change);
  const stored = make("button", {
    type: "button",
    class: "tool words",
    id: "stored",
    title: "The stored picture, as the model saw it (key space resets to it)",
    text: "as the model saw it",
    on: { click: () => state.set({ window: null }) },
  });
  const presets = real ? group("Windows", stored, ...PRESETS.map((one) => presetButton(one, act))) : "";
  const element = make(
    "div",
    { class: "bar", role: "group", "aria-label": title },
    make("span", { class: "bar-title", text: title }),
    ...sliders.map((one) => one.element),
    presets,
  );
  const show = ({ window }) => {
    for (const one of sliders) one.showWindow(window);
    pressed(stored, window === null);
    for (const button of element.querySelectorAll("[data-preset]")) {
      const preset = PRESETS.find((one) => one.key === button.dataset.preset);
      pressed(button, sameWindow(preset, window));
    }
  };
  return { element, show };
}

const presetButton = ({ key, name }, act) =>
  make("button", {
    type: "button",
    class: "tool words preset",
    data: { preset: key },
    title: `${name} (key ${key})`,
    text: name,
    on: { click: () => act.preset(key) },
  });

function windowSliders(picture, change) {
  const limits = windowLimits(picture);
  return ["center", "width"].map((part) => {
    const one = slider({
      id: `window-${part}`,
      name: part === "center" ? "Level" : "Width",
      ...limits[part],
      moved: (value) => change({ [part]: value }),
    });
    const words = (window) => (window ? `${Math.round(window[part])} HU` : "as stored");
    return { ...one, showWindow: (window) => one.show(windowOf(window)[part], words(window)) };
  });
}

function contrastSliders(change) {
  const brightness = slider({
    id: "brightness",
    name: "Brightness",
    min: 0,
    max: 100,
    step: 1,
    moved: (value) => change({ center: 100 - value }),
  });
  const contrast = slider({
    id: "contrast",
    name: "Contrast",
    min: 50,
    max: 1000,
    step: 10,
    moved: (value) => change({ width: 10000 / value }),
  });
  return [
    { ...brightness, showWindow: ({ center }) => brightness.show(100 - center, `${Math.round(100 - center)} %`) },
    {
      ...contrast,
      showWindow: ({ width }) => contrast.show(Math.round(10000 / width), `${Math.round(10000 / width)} %`),
    },
  ];
}

/** What is drawn over the picture. `outlined`: whether regions are known; `scale`: whether it can be chosen. */
export function overlayBar({ state, flip, outlined, scale = true }) {
  const overlay = toggle({
    id: "overlay",
    name: "Map",
    key: "o",
    picture: "overlay",
    words: true,
    press: () => flip("overlay"),
  });
  const opacity = slider({
    id: "opacity",
    name: "Opacity",
    key: "[ ]",
    min: 0,
    max: 1,
    step: 0.05,
    moved: (value) => state.set({ opacity: value }),
  });
  const colours = choice({
    id: "colours",
    name: "Colours",
    key: "c",
    hidden: true,
    options: COLOUR_MAPS.map((name) => [name, name]),
    chosen: (value) => state.set({ colours: value }),
  });
  const smooth = toggle({
    id: "smooth",
    name: "Smooth",
    key: "b",
    picture: "smooth",
    words: true,
    press: () => flip("smooth"),
  });
  const outlines = toggle({
    id: "outlines",
    name: "Regions",
    key: "m",
    picture: "outline",
    words: true,
    press: () => flip("outlines"),
  });
  outlines.disabled = !outlined;
  if (!outlined) outlines.title = "No region of this picture is known";
  const grid = toggle({
    id: "grid",
    name: "Patches",
    key: "g",
    picture: "grid",
    words: true,
    press: () => flip("grid"),
  });
  const shared = toggle({
    id: "shared",
    name: "One scale",
    key: "s",
    picture: "scale",
    words: true,
    press: () => flip("shared"),
  });
  shared.title = "One scale for all words, or for all layers and heads, instead of each map's own (key s)";
  const element = make(
    "div",
    { class: "bar", role: "group", "aria-label": "Over the picture" },
    overlay,
    opacity.element,
    colours.element,
    group("Drawn", smooth, outlines, grid, scale ? shared : ""),
  );
  const show = (now) => {
    pressed(overlay, now.overlay);
    opacity.show(now.opacity, `${Math.round(100 * now.opacity)} %`);
    colours.select.value = now.colours;
    for (const [button, on] of [
      [smooth, now.smooth],
      [outlines, now.outlines],
      [grid, now.grid],
      [shared, now.shared],
    ])
      pressed(button, on);
  };
  return { element, show };
}

/** The colour bar: what the lowest and highest colour stand for. */
export function makeLegend() {
  const canvas = make("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const low = make("span", { class: "low" });
  const high = make("span", { class: "high" });
  const title = make("span", { class: "legend-title" });
  const unit = make("span", { class: "soft" });
  const element = make("div", { class: "legend" }, title, make("span", { class: "ramp" }, low, canvas, high), unit);
  const show = (words, { low: from, high: to, unit: what }, colours) => {
    const context = canvas.getContext("2d");
    const image = context.createImageData(256, 1);
    image.data.set(colourTable(colours));
    context.putImageData(image, 0, 0);
    [title.textContent, low.textContent, high.textContent, unit.textContent] = [words, short(from), short(to), what];
  };
  return { element, show };
}
