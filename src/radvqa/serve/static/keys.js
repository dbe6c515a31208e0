// The keyboard: one table makes the keys work and writes the help, so that they cannot differ.

import { make } from "./dom.js";

const PEEK_MS = 350; // held longer than this, `o` is a look and not a switch

const TYPING = "input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]";
const PRESSED_BY = {
  Enter: "a, button, summary, [type=checkbox], [type=radio]",
  " ": "a, button, summary, [type=checkbox], [type=radio]",
};
const MOVED_BY = "[type=range], [type=radio], [role=grid] button";

/**
 * Listens for keys.
 *
 * `bindings`: `{keys, shown, does, act, release}`; `act(event)` runs when one of `keys` goes down, `release(held)` when
 * it goes up after it was held (true) or tapped (false). `release` bindings do not repeat.
 */
export function listen(bindings) {
  const down = new Map();
  document.addEventListener("keydown", (event) => {
    if (isCommand(event) || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]") || belongsElsewhere(event)) return;
    const key = keyOf(event);
    const binding = bindings.find((one) => one.keys.includes(key));
    if (!binding) return;
    event.preventDefault();
    if (binding.release) {
      if (event.repeat || down.has(key)) return;
      down.set(key, performance.now());
    }
    binding.act(event);
  });
  const release = (key) => {
    const since = down.get(key);
    if (since === undefined) return;
    down.delete(key);
    bindings.find((one) => one.keys.includes(key)).release(performance.now() - since > PEEK_MS);
  };
  document.addEventListener("keyup", (event) => release(keyOf(event)));
  window.addEventListener("blur", () => [...down.keys()].forEach(release));
  leaveChosenLists();
}

/** The key as the table writes it, whether or not CapsLock is on: `o`, `Shift+ArrowLeft`. */
function keyOf({ key, shiftKey }) {
  if (key.length === 1) return key.toLowerCase();
  return shiftKey && key.startsWith("Arrow") ? `Shift+${key}` : key;
}

/** Ctrl, Alt and Meta belong to the browser; AltGr, which some systems report as both, writes signs such as `[`. */
const isCommand = (event) => (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph");

/** A list that was chosen from by pointer gives the keyboard back to the page. */
function leaveChosenLists() {
  let pointed = null;
  document.addEventListener("pointerdown", ({ target }) => (pointed = target.closest?.("select") ?? null), true);
  document.addEventListener("keydown", () => (pointed = null), true);
  document.addEventListener("change", ({ target }) => target === pointed && target.blur());
}

function belongsElsewhere(event) {
  const target = event.target;
  if (!(target instanceof Element)) return false;
  if (target.closest(TYPING)) return true;
  if (PRESSED_BY[event.key] && target.closest(PRESSED_BY[event.key])) return true;
  return event.key.startsWith("Arrow") && !event.shiftKey && Boolean(target.closest(MOVED_BY));
}

/** The help dialog of these bindings. `open()` shows it; the page gets the focus back when it closes. */
export function makeHelp(bindings, groups) {
  const sections = groups.map((group) => {
    const rows = bindings
      .filter((one) => one.group === group)
      .map((one) =>
        make(
          "tr",
          {},
          make(
            "td",
            {},
            ...one.shown.flatMap((key, i) => (i ? [" ", make("kbd", { text: key })] : [make("kbd", { text: key })])),
          ),
          make("td", { text: one.does }),
        ),
      );
    return make("section", {}, make("h3", { text: group }), make("table", {}, make("tbody", {}, ...rows)));
  });
  const close = make("button", {
    type: "button",
    class: "primary",
    text: "Close",
    on: { click: () => dialog.close() },
  });
  const dialog = make(
    "dialog",
    { id: "keys", "aria-labelledby": "keys-title" },
    make("header", {}, make("h2", { id: "keys-title", text: "Keys" }), close),
    make(
      "div",
      { class: "key-groups", tabindex: "0", role: "group", "aria-label": "Keys and what they do" },
      ...sections,
    ),
    make(
      "p",
      { class: "soft" },
      "Mouse: the left button is the chosen tool, the middle button changes window and level, the wheel zooms; ",
      "a click chooses a patch. ",
      make("a", { href: "/help", text: "What the maps mean" }),
    ),
  );
  document.body.append(dialog);
  return { open: () => dialog.open || dialog.showModal() };
}
