// Which map is on the screen: from what was chosen to a map with its range, facts and name. No elements here.

import { flatness, meanMap, positivePart, range, rangeOfMap } from "./maps.js";
import { phraseOf } from "./tokens.js";

/**
 * The map that the state asks for, or `{pending: true}` while its attention is still on the way.
 *
 * Tokens of the question have attention only; so has a chosen layer or head. Otherwise the method's map is shown.
 * `tokens` of the state are text positions; none means the whole answer.
 */
export function shownMap(state, maps) {
  const attention = isAttention(state, maps);
  if (attention && !maps.attention) return { pending: true, attention };
  const found = attention ? fromAttention(state, maps) : fromMethod(state, maps);
  return { ...found, attention, title: titleOf(state, maps, attention), peak: peakOf(found.map, maps) };
}

export const isAttention = ({ layer, head, tokens }, maps) =>
  layer !== null || head !== null || tokens.some((position) => position < maps.p);

/** The text positions that the state's tokens mean. */
export function positionsOf({ tokens }, maps) {
  return tokens.length ? tokens : range(maps.T - maps.p).map((k) => maps.p + k);
}

/** What the chosen tokens can be set against: the other tokens of the same part. */
export function othersOf({ tokens }, maps) {
  if (!tokens.length) return [];
  const ofAnswer = tokens.every((position) => position >= maps.p);
  const [from, to] = ofAnswer ? [maps.p, maps.T] : [1, maps.p];
  return range(to - from)
    .map((k) => from + k)
    .filter((position) => !tokens.includes(position));
}

function fromAttention(state, maps) {
  const positions = positionsOf(state, maps);
  const { layer, head } = state;
  const all = maps.ofAttention(positions, layer, head);
  const others = state.contrast ? othersOf(state, maps) : [];
  const map = others.length ? positivePart(all, maps.ofAttention(others, layer, head)) : all;
  const high = state.shared ? maps.largestWeight(positions) : rangeOfMap(map).high;
  const cells = maps.chosen(layer, head);
  let mass = 0;
  for (const position of positions) {
    for (const cell of cells) mass += maps.mass[position * maps.L * maps.H + cell] / positions.length / cells.length;
  }
  return {
    map,
    low: 0,
    high,
    unit: "attention weight per patch",
    facts: { image_mass: mass, flatness: flatness(map) },
  };
}

function fromMethod(state, maps) {
  const { method } = state;
  const tokens = state.tokens.map((position) => position - maps.p);
  const single = tokens.length < 2;
  const all = single ? maps.ofMethod(method, tokens[0] ?? null) : meanMap(tokens.map((k) => maps.ofMethod(method, k)));
  const others = state.contrast ? othersOf(state, maps) : [];
  const unit = unitOf(method);
  if (others.length) {
    const map = positivePart(all, meanMap(others.map((position) => maps.ofMethod(method, position - maps.p))));
    const high = state.shared ? maps.rangeOf(method).high : rangeOfMap(map).high;
    return { map, low: 0, high, unit, facts: { flatness: flatness(map) } };
  }
  const { low, high } = state.shared ? maps.rangeOf(method) : rangeOfMap(all);
  const facts = single ? { ...maps.facts(method, tokens[0] ?? null) } : { flatness: flatness(all) };
  return { map: all, low, high, unit, facts };
}

/**
 * Whose row the chosen tokens' map is, in words; empty for the whole answer. A word of the question is a position of
 * its own and has what it attends to; a word of the answer is shown as it came about.
 */
export function rowInWords({ tokens, layer, head, method }, maps) {
  if (!tokens.length) return "";
  const words = `“${phraseOf([...tokens].sort((a, b) => a - b).map((position) => maps.view.tokens[position]))}”`;
  const [these, were] = tokens.length > 1 ? ["these words", "were"] : ["this word", "was"];
  if (tokens[0] < maps.p) return `${words}: what ${these} ${tokens.length > 1 ? "attend" : "attends"} to.`;
  const attention = layer !== null || head !== null || unitOf(method) === SHARE;
  return attention
    ? `${words}: the attention under which ${these} ${were} predicted.`
    : `${words}: what the probability of ${these} reacts to.`;
}

const SHARE = "share of attention per patch";

/** Whether maps of two models have no unit in common, so that only shares can be compared. */
export const hasNoUnit = (method) => ["attention_gradient", "chefer", "grad_cam"].includes(method);

/** What the numbers of a method are. */
export function unitOf(method) {
  if (method.endsWith("occlusion")) return "loss of log-probability, nats";
  if (hasNoUnit(method)) return "relevance, no unit";
  if (method === "relative") return "times the generic question's";
  return SHARE;
}

function titleOf(state, maps, attention) {
  const tokens = [...state.tokens].sort((a, b) => a - b).map((position) => maps.view.tokens[position]);
  const what = tokens.length ? `“${phraseOf(tokens)}”` : "the whole answer";
  const against = state.contrast && othersOf(state, maps).length ? " against the other words" : "";
  return `${what}${against}: ${attention ? placeOf(state) : state.method}`;
}

/** A layer and head in words. */
export function placeOf({ layer, head }) {
  if (layer === null && head === null) return "raw attention, all layers and heads";
  if (head === null) return `raw attention, layer ${layer + 1}, all heads`;
  if (layer === null) return `raw attention, all layers, head ${head + 1}`;
  return `raw attention, layer ${layer + 1}, head ${head + 1}`;
}

function peakOf(map, { columns }) {
  const at = map.reduce((best, value, i) => (value > map[best] ? i : best), 0);
  return { row: Math.floor(at / columns), column: at % columns, value: map[at] };
}
