// The maps of one view, made from the bytes that the browser already holds: no slider waits for the server.
// A map is a Float32Array of rows * columns. T text tokens: the prompt's p (bos included), then the answer's t.

import { readArray } from "./cases_api.js";

/** The maps and attention of one view; `attention` comes later than the maps, since it is the larger part. */
export class ViewMaps {
  constructor(view, { maps, attention = null, scales = null }) {
    const { T, L, H, r, c, p, t } = view.shape;
    Object.assign(this, { view, T, L, H, rows: r, columns: c, p, t, cells: r * c });
    this.bytes = new Uint8Array(maps);
    this.hold(attention, scales);
  }

  hold(attention, scales) {
    this.attention = attention && new Uint8Array(attention);
    const both = scales && new Float32Array(scales);
    this.scale = both && both.subarray(0, this.T * this.L * this.H);
    this.mass = both && both.subarray(this.T * this.L * this.H);
  }

  record(method) {
    return this.view.maps.findIndex((one) => one.method === method);
  }

  /** Facts of a method's map: of one answer token, or (`null`) of the whole answer. */
  facts(method, token) {
    const record = this.view.maps[this.record(method)];
    return token === null ? record.answer : record.tokens[token];
  }

  /** A method's map of one answer token, or (`null`) of the whole answer, in the method's own unit. */
  ofMethod(method, token) {
    const { low, high } = this.facts(method, token);
    const start = (this.record(method) * (this.t + 1) + (token === null ? this.t : token)) * this.cells;
    return Float32Array.from(
      this.bytes.subarray(start, start + this.cells),
      (byte) => low + (byte / 255) * (high - low),
    );
  }

  /** The range of all token maps of a method, that of the whole answer's map included. */
  rangeOf(method) {
    const record = this.view.maps[this.record(method)];
    const all = [...record.tokens, record.answer];
    return { low: Math.min(...all.map((one) => one.low)), high: Math.max(...all.map((one) => one.high)) };
  }

  chosen(layer, head) {
    const layers = layer === null ? range(this.L) : [layer];
    const heads = head === null ? range(this.H) : [head];
    return layers.flatMap((l) => heads.map((h) => l * this.H + h));
  }

  /** Raw attention on the image: mean over these text positions and over the chosen layers and heads. */
  ofAttention(positions, layer, head) {
    const map = new Float32Array(this.cells);
    const cells = this.chosen(layer, head);
    for (const position of positions) {
      for (const cell of cells) {
        const at = position * this.L * this.H + cell;
        const unit = this.scale[at] / 255 / cells.length / positions.length;
        if (!unit) continue;
        const start = at * this.cells;
        for (let i = 0; i < this.cells; i++) map[i] += unit * this.attention[start + i];
      }
    }
    return map;
  }

  /** The largest weight of a single layer and head for these positions: one scale for the whole matrix. */
  largestWeight(positions) {
    let largest = 0;
    for (const position of positions) {
      const start = position * this.L * this.H;
      for (let i = start; i < start + this.L * this.H; i++) largest = Math.max(largest, this.scale[i]);
    }
    return largest;
  }

  /** Share of the attention that is on the image, of every layer and head (L * H): mean over these positions. */
  matrix(positions) {
    const size = this.L * this.H;
    const mean = new Float32Array(size);
    for (const position of positions) {
      for (let i = 0; i < size; i++) mean[i] += this.mass[position * size + i] / positions.length;
    }
    return mean;
  }

  /** Inverse view: how much of its attention each text token (T) puts on these patches. */
  onPatches(patches, layer, head) {
    const cells = this.chosen(layer, head);
    const found = new Float32Array(this.T);
    for (let position = 0; position < this.T; position++) {
      for (const cell of cells) {
        const at = position * this.L * this.H + cell;
        for (const patch of patches) {
          found[position] += ((this.scale[at] / 255) * this.attention[at * this.cells + patch]) / cells.length;
        }
      }
    }
    return found;
  }
}

/** Image → prompt: the attention of these patches on each prompt token (p), mean over patches and heads. */
export function promptAttention(values, { L, p, cells }, patches, layer) {
  const layers = layer === null ? range(L) : [layer];
  const found = new Float32Array(p);
  for (const l of layers) {
    for (const patch of patches) {
      const start = (l * cells + patch) * p;
      for (let i = 0; i < p; i++) found[i] += values[start + i] / layers.length / patches.length;
    }
  }
  return found;
}

/** The mean of maps of one size. */
export function meanMap(maps) {
  const mean = new Float32Array(maps[0].length);
  for (const map of maps) for (let i = 0; i < mean.length; i++) mean[i] += map[i] / maps.length;
  return mean;
}

/** What one map has above another: the positive part of the difference. */
export function positivePart(map, other) {
  return map.map((value, i) => Math.max(0, value - other[i]));
}

/** One map minus another. */
export function difference(map, other) {
  return map.map((value, i) => value - other[i]);
}

/** The sum of a map's positive part. */
export const weightOf = (map) => map.reduce((sum, value) => sum + Math.max(0, value), 0);

/** A map whose positive part sums to 1; all zero where there is none. */
export function asShares(map) {
  const total = weightOf(map);
  return map.map((value) => (total > 0 ? Math.max(0, value) / total : 0));
}

/** Lowest and highest value. */
export function rangeOfMap(map) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of map) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return { low, high };
}

/** Entropy of a map's positive part, as a share of the largest one possible: 0 is one cell, 1 is flat, null is none. */
export function flatness(map) {
  if (!(weightOf(map) > 0)) return null;
  const shares = asShares(map);
  let entropy = 0;
  for (const share of shares) if (share > 0) entropy -= share * Math.log(share);
  return entropy / Math.log(map.length);
}

/** Reads the maps of a view, and starts to read its attention; `whenAttention` is called when that is there. */
export async function readMaps(manifest, name, whenAttention) {
  const maps = new ViewMaps(manifest.views[name], { maps: await readArray(manifest, name, "maps") });
  const later = Promise.all([readArray(manifest, name, "attention"), readArray(manifest, name, "scales")]);
  maps.attentionRead = later.then(([attention, scales]) => {
    maps.hold(attention, scales);
    whenAttention(maps);
  });
  return maps;
}

/** Reads the attention of image positions on the prompt (L r c p). */
export async function readPromptAttention(manifest, name) {
  return new Float32Array(await readArray(manifest, name, "image_to_prompt"));
}

/** 0 … length - 1. */
export function range(length) {
  return Array.from({ length }, (_, i) => i);
}
