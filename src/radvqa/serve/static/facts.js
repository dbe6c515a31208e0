// The numbers beside a map, and what they mean, in plain words.

import { make, fill } from "./dom.js";
import { decimals, nats, percent, short } from "./numbers.js";

const SAME_MAP = 0.02; // specificity under which maps of different words cannot be told apart
const NO_RELIANCE = 0.1; // nats

const WORDS = {
  image_mass: ["Image mass", percent, "share of the attention that is on the image; the rest is on words"],
  sink_mass: ["Sinks", percent, "share on cells and tokens that draw attention whatever is asked"],
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
  if (reliance) items.unshift(item("Reliance", nats(reliance.value), reliance.meaning));
  fill(element, ...items);
}

function item(name, value, meaning) {
  return make(
    "div",
    { class: "fact" },
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
  if (!attention && facts.specificity !== null && facts.specificity !== undefined && facts.specificity < SAME_MAP) {
    found.push("This map is the same for every word of the answer.");
  }
  if (facts.low !== undefined && facts.high === facts.low)
    found.push("This map is the same everywhere: it shows nothing.");
  else if (map && Math.max(...map) === Math.min(...map))
    found.push("This map is the same everywhere: it shows nothing.");
  return found;
}

/** Draws warnings as a list, each once. */
export function drawWarnings(element, warnings) {
  fill(element, ...[...new Set(warnings)].map((text) => make("li", { text })));
  element.hidden = !warnings.length;
}
