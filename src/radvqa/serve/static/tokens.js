// Question and answer as tokens that can be pressed. Each has its number below it: colour is never alone.

import { make, fill } from "./dom.js";
import { percent, signed } from "./numbers.js";

/** What the colour of tokens may tell, with its words. */
export const TOKEN_COLOURS = {
  image_mass: "Share of attention on the image",
  reliance: "Reliance on the image (answer only)",
  patches: "Attention on the chosen patches",
  prompt: "Attention of the chosen patches on the question",
};

/** How a token is written: line breaks and blanks are made visible, markers of pieces are left out. */
export function tokenText(token) {
  if (token.part === "bos") return "⟨start⟩";
  const text = token.text.replaceAll("\u2581", " ").replaceAll("\n", "↵");
  return text.trim() || "␣";
}

/**
 * Numbers and colours of tokens: `values` per token or null, `shown` their text, `strength` -1 … 1.
 * Image mass and patches are scaled by their largest value: what counts is which token has more.
 */
export function tokenNumbers(colouredBy, tokens, { onPatches, fromPatches }) {
  if (colouredBy === "reliance") {
    const values = tokens.map((token) => token.reliance ?? null);
    return scaled(values, (value) => signed(value, 2));
  }
  if (colouredBy === "patches")
    return scaled(
      tokens.map((_, k) => (onPatches ? onPatches[k] : null)),
      percent,
    );
  if (colouredBy === "prompt") {
    return scaled(
      tokens.map((_, k) => (fromPatches && k < fromPatches.length ? fromPatches[k] : null)),
      percent,
    );
  }
  return scaled(
    tokens.map((token) => (token.part === "bos" ? null : token.image_mass)),
    percent,
  );
}

function scaled(values, words) {
  const largest = Math.max(...values.filter((value) => value !== null).map(Math.abs), 1e-12);
  return values.map((value) => ({
    shown: value === null ? "–" : words(value),
    strength: value === null ? 0 : value / largest,
  }));
}

/** Blue: more; orange: less than nothing. Both keep white text readable at full strength. */
export function tokenColour(strength) {
  const [r, g, b] = strength < 0 ? [150, 74, 20] : [38, 98, 168];
  return `rgba(${r}, ${g}, ${b}, ${Math.min(1, Math.abs(strength)).toFixed(3)})`;
}

/** The strip of one part. `chosen` holds token positions; `press(position, extend)` is called by click and key. */
export function drawTokens(element, { tokens, part, numbers, chosen, press, meaning }) {
  const words = [];
  tokens.forEach((token, position) => {
    if ((token.part === "answer") !== (part === "answer")) return;
    const last = words.at(-1);
    if (last && last.word === token.word && last.part === token.part && token.part !== "bos")
      last.pieces.push(position);
    else words.push({ word: token.word, part: token.part, pieces: [position] });
  });
  fill(element, ...words.map(({ pieces }) => make("span", { class: "word" }, ...pieces.map(chip))));

  function chip(position) {
    const token = tokens[position];
    const { shown, strength } = numbers[position];
    const button = make(
      "button",
      {
        type: "button",
        class: "token",
        "aria-pressed": String(chosen.has(position)),
        "aria-label": `${tokenText(token)}: ${meaning} ${shown}`,
        data: { position: String(position) },
        on: { click: (event) => press(position, event.shiftKey) },
      },
      make("span", { class: "piece", text: tokenText(token) }),
      make("span", { class: "figure", text: shown }),
    );
    button.firstElementChild.style.backgroundColor = tokenColour(strength);
    return button;
  }
}
