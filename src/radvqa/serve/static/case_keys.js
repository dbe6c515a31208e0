// What the keys of the case page do. The left half follows OHIF; the table is also the help.

import { byId } from "./dom.js";
import { announce } from "./announce.js";
import { COLOUR_MAPS } from "./colour_maps.js";
import { firstWindow, isHounsfield, PRESETS } from "./window_level.js";

export const KEY_GROUPS = ["Picture", "Over the picture", "Map", "Cases"];

const ZOOM = 1.25;
const PAN = 80; // pixels of the screen
const PANS = [
  ["Shift+ArrowLeft", -PAN, 0],
  ["Shift+ArrowRight", PAN, 0],
  ["Shift+ArrowUp", 0, -PAN],
  ["Shift+ArrowDown", 0, PAN],
];
const OPACITY_STEP = 0.1;

/** What buttons and keys do to the picture. `page` has `state`, `stage`, `flip` and `manifest`. */
export function pictureActions(page) {
  const { state, stage, flip, manifest } = page;
  const { viewer } = stage;
  const turned = (turn) => () => {
    turn();
    announce(`Picture ${viewer.turned() || "not turned"}`, { seen: false });
  };
  return {
    zoomIn: () => viewer.zoom(ZOOM),
    zoomOut: () => viewer.zoom(1 / ZOOM),
    fit: () => viewer.fit(),
    pan: (key) => {
      const [, dx, dy] = PANS.find(([shifted]) => shifted === `Shift+${key}`);
      viewer.pan(dx, dy);
    },
    rotateLeft: turned(() => viewer.rotate(-90)),
    rotateRight: turned(() => viewer.rotate(90)),
    flipHorizontally: turned(() => viewer.flipHorizontally()),
    flipVertically: turned(() => viewer.flipVertically()),
    invert: () => {
      flip("invert");
      announce(state.get().invert ? "Inverted" : "Not inverted");
    },
    reset: () => {
      viewer.reset();
      state.set({ invert: false, window: firstWindow(manifest.picture), tool: "pan" });
      announce("View reset");
    },
    preset: (key) => {
      const { name, center, width } = PRESETS.find((one) => one.key === key);
      if (!isHounsfield(manifest.picture)) {
        announce(`No ${name} window: this picture has ${manifest.picture.bits} bits and no Hounsfield units`);
        return;
      }
      state.set({ window: { center, width } });
      announce(`Window: ${name}, ${width} wide at ${center}`);
    },
    opacity: (step) => {
      const opacity = Math.max(0, Math.min(1, Math.round((state.get().opacity + step * OPACITY_STEP) * 20) / 20));
      state.set({ opacity });
      announce(`Opacity ${Math.round(100 * opacity)} %`);
    },
    nextColours: () => {
      const colours = COLOUR_MAPS[(COLOUR_MAPS.indexOf(state.get().colours) + 1) % COLOUR_MAPS.length];
      state.set({ colours });
      announce(`Colours: ${colours}`);
    },
    flipAloud: (name, on, off) => {
      flip(name);
      announce(state.get()[name] ? on : off);
    },
  };
}

/** Keys that the case and the compare page share. */
export function pictureKeys(page) {
  const { state, act } = page;
  const one = (group, keys, shown, does, action, release) => ({ group, keys, shown, does, act: action, release });
  return [
    one("Picture", ["z"], ["z"], "zoom tool on or off", () =>
      state.set({ tool: state.get().tool === "zoom" ? "pan" : "zoom" }),
    ),
    one("Picture", ["+"], ["+"], "zoom in", act.zoomIn),
    one("Picture", ["-"], ["-"], "zoom out", act.zoomOut),
    one("Picture", ["="], ["="], "fit", act.fit),
    one("Picture", ["r"], ["r"], "rotate right", act.rotateRight),
    one("Picture", ["l"], ["l"], "rotate left", act.rotateLeft),
    one("Picture", ["h"], ["h"], "flip left and right", act.flipHorizontally),
    one("Picture", ["v"], ["v"], "flip up and down", act.flipVertically),
    one("Picture", ["i"], ["i"], "invert", act.invert),
    one(
      "Picture",
      PANS.map(([key]) => key),
      ["Shift", "←", "→", "↑", "↓"],
      "move over a zoomed picture",
      (event) => act.pan(event.key),
    ),
    one("Picture", [" "], ["Space"], "reset the view", act.reset),
    one(
      "Picture",
      PRESETS.map(({ key }) => key),
      ["1", "…", "5"],
      `window: ${PRESETS.map(({ name }) => name).join(", ")} (CT only)`,
      (event) => act.preset(event.key),
    ),
    one(
      "Over the picture",
      ["o"],
      ["o"],
      "map on or off; hold to peek",
      () => act.flipAloud("overlay", "Map on", "Map off"),
      (held) => held && act.flipAloud("overlay", "Map on", "Map off"),
    ),
    one("Over the picture", ["["], ["["], "less opaque", () => act.opacity(-1)),
    one("Over the picture", ["]"], ["]"], "more opaque", () => act.opacity(1)),
    one("Over the picture", ["c"], ["c"], "next colours", act.nextColours),
    one("Over the picture", ["b"], ["b"], "smooth or patch by patch", () =>
      act.flipAloud("smooth", "Smooth", "Patch by patch"),
    ),
    one("Over the picture", ["m"], ["m"], "outlines of regions", () =>
      act.flipAloud("outlines", "Regions shown", "Regions hidden"),
    ),
    one("Over the picture", ["g"], ["g"], "patch grid", () =>
      act.flipAloud("grid", "Patch grid shown", "Patch grid hidden"),
    ),
  ];
}

/** All keys of the case page. */
export function caseKeys(page) {
  const { state, act } = page;
  const one = (group, keys, shown, does, action) => ({ group, keys, shown, does, act: action });
  const atCursor = (event, otherwise) => (state.get().cursor === null ? otherwise() : moveCursor(page, event.key));
  return [
    ...pictureKeys(page),
    one("Over the picture", ["p"], ["p"], "patch cursor: arrows move it, Enter chooses, p or Esc leaves", () =>
      toggleCursor(page),
    ),
    one("Map", ["ArrowLeft"], ["←"], "token before; first the whole answer", (event) =>
      atCursor(event, () => page.choices.stepToken(-1)),
    ),
    one("Map", ["ArrowRight"], ["→"], "next token", (event) => atCursor(event, () => page.choices.stepToken(1))),
    one("Map", ["ArrowUp"], ["↑"], "layer before", (event) =>
      atCursor(event, () => page.choices.stepCell("layer", -1)),
    ),
    one("Map", ["ArrowDown"], ["↓"], "next layer", (event) =>
      atCursor(event, () => page.choices.stepCell("layer", 1)),
    ),
    one("Map", [","], [","], "head before", () => page.choices.stepCell("head", -1)),
    one("Map", ["."], ["."], "next head", () => page.choices.stepCell("head", 1)),
    one("Map", ["s"], ["s"], "one scale for all", () =>
      act.flipAloud("shared", "One scale for all", "Each map on its own scale"),
    ),
    one(
      "Map",
      ["a"],
      ["a"],
      "chosen tokens against the others",
      () => state.get().tokens.length && page.flip("contrast"),
    ),
    one("Map", ["Escape"], ["Esc"], "clear patches, then tokens, then layer and head", () => clearOne(page)),
    one("Cases", ["PageDown"], ["PgDn"], "next case", nextCase),
    one("Cases", ["Enter"], ["Enter"], "next case", (event) =>
      state.get().cursor === null ? nextCase() : moveCursor(page, event.key),
    ),
    one("Cases", ["PageUp"], ["PgUp"], "case before", () => follow("previous", "This is the first case")),
    one("Cases", ["x"], ["x"], "compare with the first other stage or model", () =>
      document.querySelector("#moves .other")?.click(),
    ),
    one("Cases", ["?"], ["?"], "this help", () => page.help.open()),
  ];
}

/** Follows the link of that id, or says why there is none. */
export function follow(id, none) {
  const link = byId(id);
  if (link) link.click();
  else announce(none);
}

const nextCase = () => follow("next", "This is the last case");

function toggleCursor(page) {
  const { state, stage } = page;
  const on = state.get().cursor === null;
  const middle = Math.floor(stage.rows / 2) * stage.columns + Math.floor(stage.columns / 2);
  state.set({ cursor: on ? middle : null });
  if (on) stage.element.focus(); // a button that has the focus would take Enter and Space
  announce(on ? "Patch cursor on" : "Patch cursor off");
}

function moveCursor(page, key) {
  const { state, stage } = page;
  const { rows, columns } = stage;
  const { cursor } = state.get();
  if (key === "Enter") {
    page.choices.togglePatch(cursor);
    return;
  }
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  const row = Math.max(0, Math.min(rows - 1, Math.floor(cursor / columns) + down));
  const column = Math.max(0, Math.min(columns - 1, (cursor % columns) + right));
  state.set({ cursor: row * columns + column });
  stage.reveal(row * columns + column);
  page.hovered(row * columns + column);
  announce(`Row ${row + 1}, column ${column + 1}`, { seen: false });
}

function clearOne(page) {
  const { cursor, patches, tokens } = page.state.get();
  if (cursor !== null) toggleCursor(page);
  else if (patches.length) page.choices.clearPatches();
  else if (tokens.length) page.state.set({ tokens: [] });
  else page.state.set({ layer: null, head: null });
}
