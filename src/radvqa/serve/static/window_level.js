// Window and level. Of a picture with Hounsfield units the server makes the real window; of 8 bits only the contrast
// of what is left can be stretched, and the page says so. Both react at once, through a filter in this browser.

import { makeSvg } from "./dom.js";

/** Windows of the keys 1 to 5, in Hounsfield units. */
export const PRESETS = [
  { key: "1", name: "soft tissue", width: 400, center: 40 },
  { key: "2", name: "lung", width: 1500, center: -600 },
  { key: "3", name: "liver", width: 150, center: 90 },
  { key: "4", name: "bone", width: 2500, center: 480 },
  { key: "5", name: "brain", width: 80, center: 40 },
];

export const isHounsfield = (picture) => picture.unit === "HU";

/**
 * The window a picture starts with. Of Hounsfield units it is null: the stored picture, as the model saw it, whose
 * window is not known. Of 8 bits: percent of the full range, which leaves it as it is.
 */
export const firstWindow = (picture) => (isHounsfield(picture) ? null : { center: 50, width: 100 });

/** The window from which sliders and drags start. */
export const windowOf = (window) => window ?? { center: PRESETS[0].center, width: PRESETS[0].width };

/** Whether two windows are the same. */
export const sameWindow = (one, other) => one?.center === other?.center && one?.width === other?.width;

/** The window that the server is asked for: whole Hounsfield units. */
export const wholeWindow = (window) =>
  window && { center: Math.round(window.center), width: Math.max(1, Math.round(window.width)) };

/** What the sliders may take. */
export function windowLimits(picture) {
  return isHounsfield(picture)
    ? { center: { min: -1000, max: 2000, step: 5 }, width: { min: 10, max: 4000, step: 5 } }
    : { center: { min: 0, max: 100, step: 1 }, width: { min: 10, max: 200, step: 1 } };
}

/** A window moved by a drag: right is wider, down is lower. Not rounded, since a slow drag moves it by small parts. */
export function draggedWindow(picture, window, dx, dy) {
  const { center, width } = windowLimits(picture);
  const from = windowOf(window);
  const pixel = (limits) => (limits.max - limits.min) / 500;
  return {
    center: held(from.center + dy * pixel(center), center),
    width: held(from.width + dx * pixel(width), width),
  };
}

const held = (value, { min, max }) => Math.max(min, Math.min(max, value));

/**
 * Slope and intercept that turn what is shown in one window (0 … 1) into another window, inverted or not.
 * Both windows are in the same unit. From or to the stored picture (null) there is no line: it stays as it is.
 */
export function windowLine(shown, wanted, invert) {
  const known = shown && wanted;
  const slope = known ? shown.width / wanted.width : 1;
  const low = (one) => one.center - one.width / 2;
  const intercept = known ? (low(shown) - low(wanted)) / wanted.width : 0;
  return invert ? { slope: -slope, intercept: 1 - intercept } : { slope, intercept };
}

/** An SVG filter that applies a line to grey values. `css` is what a style's `filter` takes. */
export function makeWindowFilter(id) {
  const functions = ["R", "G", "B"].map((part) => makeSvg(`feFunc${part}`, { type: "linear", slope: 1, intercept: 0 }));
  const transfer = makeSvg("feComponentTransfer", {}, ...functions);
  const bounds = { x: "0", y: "0", width: "100%", height: "100%", "color-interpolation-filters": "sRGB" };
  const filter = makeSvg("filter", { id, ...bounds }, transfer);
  document.body.append(makeSvg("svg", { class: "grey-filters", width: 0, height: 0, "aria-hidden": "true" }, filter));
  return {
    css: `url("#${id}")`,
    set({ slope, intercept }) {
      for (const one of functions) {
        one.setAttribute("slope", slope.toFixed(5));
        one.setAttribute("intercept", intercept.toFixed(5));
      }
    },
  };
}
