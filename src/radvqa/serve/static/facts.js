// The numbers beside a map, and what they mean, in plain words.

import { make, fill } from "./dom.js";
import { decimals, nats, percent, short, times } from "./numbers.js";

const SAME_MAP = 0.02; // specificity under which maps of different words cannot be told apart
const NO_RELIANCE = 0.1; // nats

const WORDS = {
  image_mass: ["Image mass", percent, "share of the attention that is on the image; the rest is on words"],
  sink_mass: [
    "Largest text position",
    percent,
    "largest share on one position of the text, the word itself left out; high is a sink in the text",
  ],
  self_mass: ["Self", percent, "share that stays on the token itself"],
  entropy: ["Entropy", (value) => decimals(value, 2), "how spread out the map is; low is a few cells"],
  specificity: [
    "Specificity",
    (value) => decimals(value, 3),
    "how different from the maps of the answer's other words; 0 is the same",
  ],
  grid_specificity: ["Specificity on the image", (value) => decimals(value, 3), "the same, of the image part alone"],
  flatness: ["Flatness", (value) => decimals(value, 2), "1 is an even map, 0 is a single cell"],
  hit: [
    "Hit",
    (value) => (value === null ? "not defined" : value >= 1 ? "yes" : value <= 0 ? "no" : decimals(value, 2)),
    "is the highest cell inside the region asked about?",
  ],
  energy: ["Energy inside", percent, "share of the map inside the region asked about"],
  area: ["Area of the region", percent, "what an even map would put there"],
  enrichment: [
    "Enrichment",
    (value) => (value === null ? "not defined" : `${short(value)}×`),
    "energy over area; 1 is no better than an even map",
  ],
};

/** Draws the strip: what is known of the map, and the reliance of token or answer. Unknown numbers are left out. */
export function drawFacts(element, facts, reliance) {
  const known = Object.entries(facts).filter(([name, value]) => WORDS[name] && value !== null && value !== undefined);
  const order = Object.keys(WORDS);
  known.sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
  const items = known.map(([name, value]) => item(WORDS[name][0], WORDS[name][1](value), WORDS[name][2]));
  if (reliance) {
    items.unshift(item("Reliance", `${times(reliance.value)}×`, reliance.meaning, nats(reliance.value)));
  }
  fill(element, ...items);
}

function item(name, value, meaning, title = null) {
  return make(
    "div",
    { class: "fact", title },
    make("dt", { text: name }),
    make("dd", { class: "value", text: value }),
    make("dd", { class: "meaning", text: meaning }),
  );
}

/** What the numbers warn of, beyond the warnings that the bundle brings. */
export function warningsOf({ facts, map, view, attention }) {
  const found = [];
  if (Math.abs(view.reliance) < NO_RELIANCE) {
    found.push("The answer is about as probable without the image: no map can show why it was given.");
  }
  const specificity = facts.grid_specificity ?? facts.specificity ?? 1;
  if (!attention && specificity < SAME_MAP) found.push("This map is the same for every word of the answer.");
  const even = facts.low !== undefined ? facts.high === facts.low : map && Math.max(...map) === Math.min(...map);
  if (even) found.push("This map is the same everywhere: it shows nothing.");
  return found;
}

const TOPICS = [/without the image/i, /same for every word/i, /same everywhere|nearly flat|map is empty/i];

/**
 * The warnings of a view for one method: `here`, those of all maps and of this method, and `elsewhere`, those of the
 * other methods. In a bundle a method's warning begins with its name. Each topic stands once in `here`.
 */
export function sortedWarnings(warnings, methods, method, own) {
  const here = [];
  const elsewhere = [];
  for (const warning of warnings) {
    const [, name, words] = /^(\w+): (.*)$/su.exec(warning) ?? [];
    if (!methods.includes(name)) here.push(warning);
    else if (name === method) here.push(words[0].toUpperCase() + words.slice(1));
    else elsewhere.push(`${name.replaceAll("_", " ")}: ${words}`);
  }
  const told = (topic) => topic && here.some((warning) => topic.test(warning));
  for (const one of own) if (!told(TOPICS.find((topic) => topic.test(one)))) here.push(one);
  return { here: [...new Set(here)], elsewhere: [...new Set(elsewhere)] };
}

/** Draws warnings as a list. */
export function drawWarnings(element, warnings) {
  fill(element, ...warnings.map((text) => make("li", { text })));
  element.hidden = !warnings.length;
}
