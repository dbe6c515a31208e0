// Question and answer as tokens that can be pressed. Each has its number below it: colour is never alone.

import { make, fill } from "./dom.js";
import { nats, percent, times } from "./numbers.js";

/** What the colour of tokens may tell, with its words. */
export const TOKEN_COLOURS = {
  usual: "On the image; answer: reliance",
  image_mass: "Share of attention on the image",
  reliance: "Reliance: times as probable with the image (answer)",
  patches: "Attention on the chosen patches",
  prompt: "Attention of the chosen patches on the question",
};

/** How a token is written: line breaks and blanks are made visible, markers of pieces are left out. */
export function tokenText(token) {
  if (token.part === "bos") return "⟨start⟩";
  const text = token.text.replaceAll("\u2581", " ").replaceAll("\n", "↵");
  return text.trim() || "␣";
}

/** What the number of a token is, in words; `usual` tells different things of question and answer. */
export function tokenMeaning(colouredBy, part) {
  if (colouredBy !== "usual") return TOKEN_COLOURS[colouredBy].toLowerCase();
  return TOKEN_COLOURS[part === "answer" ? "reliance" : "image_mass"].toLowerCase();
}

/** The words of some tokens as they stand in the text. */
export function phraseOf(tokens) {
  const joined = tokens.reduce((text, token, i) => {
    const piece = token.part === "bos" ? "⟨start⟩" : token.text.replaceAll("\u2581", " ");
    const apart = i && token.word !== tokens[i - 1].word && /\w$/.test(text) && /^\w/.test(piece);
    return text + (apart ? " " : "") + piece;
  }, "");
  return joined.trim().replaceAll("\n", "↵") || "␣";
}

/**
 * Numbers and colours of tokens: `shown` their text, `strength` -1 … 1, `detail` what a tooltip adds.
 * Image mass and patches are scaled by their largest value: what counts is which token has more.
 */
export function tokenNumbers(colouredBy, tokens, { onPatches, fromPatches }) {
  if (colouredBy === "usual") {
    const [question, answer] = ["image_mass", "reliance"].map((one) => tokenNumbers(one, tokens, {}));
    return tokens.map(({ part }, k) => (part === "answer" ? answer[k] : question[k]));
  }
  if (colouredBy === "reliance") {
    const values = tokens.map((token) => token.reliance ?? null);
    return scaled(values, (value) => `×${times(value)}`, nats);
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

function scaled(values, words, details = () => null) {
  const largest = Math.max(...values.filter((value) => value !== null).map(Math.abs), 1e-12);
  return values.map((value) => ({
    shown: value === null ? "–" : words(value),
    strength: value === null ? 0 : value / largest,
    detail: value === null ? null : details(value),
  }));
}

/** Blue: more; orange: less than nothing. Both keep white text readable at full strength. */
export function tokenColour(strength) {
  const [r, g, b] = strength < 0 ? [150, 74, 20] : [38, 98, 168];
  return `rgba(${r}, ${g}, ${b}, ${Math.min(1, Math.abs(strength)).toFixed(3)})`;
}

/** The strip of one part. `chosen` holds token positions; click and key call `press(position, extend)`. */
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
    const { shown, strength, detail } = numbers[position];
    const button = make(
      "button",
      {
        type: "button",
        class: "token",
        "aria-pressed": String(chosen.has(position)),
        "aria-label": `${tokenText(token)}: ${meaning} ${shown}`,
        title: detail,
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
