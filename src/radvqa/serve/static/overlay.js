// What is drawn over the picture: the map, outlines, patch grid, sinks, chosen patches. One canvas, redrawn whole.

import { apply, compose, gridToPicture } from "./geometry.js";
import { colourTable } from "./colour_maps.js";

const FINER = 16; // sub-cells per cell and direction when values are interpolated, before they are coloured
const ASKED = "#ffd166";
const NAMED = "#7cc4ff";
const CHOSEN = "#ffffff";
const LABEL = 18; // height in CSS pixels
const SINK = "rgba(255, 255, 255, .75)";

/** A map as a small canvas: one pixel per cell, or values interpolated between the middles of cells. */
export function paintMap(map, { rows, columns, low, high, colours, smooth }) {
  const [height, width] = smooth ? [rows * FINER, columns * FINER] : [rows, columns];
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const table = new Uint32Array(colourTable(colours).buffer);
  const values = smooth ? interpolated(map, rows, columns) : map;
  const unit = high > low ? 255 / (high - low) : 0;
  for (let i = 0; i < pixels.length; i++) {
    const entry = ((values[i] - low) * unit + 0.5) | 0;
    pixels[i] = table[entry < 0 ? 0 : entry > 255 ? 255 : entry];
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Bilinear interpolation between the middles of cells, FINER times finer: first across, then down. */
export function interpolated(map, rows, columns) {
  const width = columns * FINER;
  const across = places(columns);
  const wide = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    for (let x = 0; x < width; x++) {
      const [left, right, part] = across[x];
      wide[row * width + x] = map[row * columns + left] * (1 - part) + map[row * columns + right] * part;
    }
  }
  const found = new Float32Array(rows * FINER * width);
  places(rows).forEach(([top, bottom, part], y) => {
    for (let x = 0; x < width; x++) {
      found[y * width + x] = wide[top * width + x] * (1 - part) + wide[bottom * width + x] * part;
    }
  });
  return found;
}

/** For each fine place: the cell before it, the one after it, and how far it is between their middles. */
function places(cells) {
  return Array.from({ length: cells * FINER }, (_, i) => {
    const place = Math.max(0, Math.min(cells - 1, (i + 0.5) / FINER - 0.5));
    const before = Math.floor(place);
    return [before, Math.min(before + 1, cells - 1), place - before];
  });
}

/**
 * Draws everything onto a canvas.
 *
 * `toScreen`: from pixels of the picture to CSS pixels of the canvas. `what`: `painted` (from `paintMap`) with
 * `opacity`, or null; `outlines`, `grid`, `sinks`, `patches`, `cursor` (a cell or null); `picture`, `rows`, `columns`.
 */
export function drawOverlay(canvas, toScreen, what) {
  const ratio = window.devicePixelRatio || 1;
  const context = sized(canvas, ratio);
  const cells = compose(toScreen, gridToPicture(what.picture.frame, what.rows, what.columns));
  if (what.painted) drawMap(context, cells, what, ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  if (isPadded(what.picture)) drawFrame(context, cells, what);
  if (what.grid) drawGrid(context, cells, what);
  for (const [row, column] of what.sinks) hatch(context, cells, row, column);
  const labels = [];
  for (const outline of what.outlines) drawOutline(context, toScreen, outline, labels);
  for (const patch of what.patches) frameCell(context, cells, patch, what.columns, []);
  if (what.cursor !== null) frameCell(context, cells, what.cursor, what.columns, [4, 3]);
}

function sized(canvas, ratio) {
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

function drawMap(context, cells, { painted, opacity, rows, columns, smooth }, ratio) {
  context.setTransform(...cells.map((part) => part * ratio));
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = smooth;
  context.drawImage(painted, 0, 0, columns, rows);
  context.globalAlpha = 1;
}

function drawGrid(context, cells, { rows, columns }) {
  if (Math.hypot(cells[0], cells[1]) < 3) return;
  context.beginPath();
  for (let row = 0; row <= rows; row++) line(context, apply(cells, 0, row), apply(cells, columns, row));
  for (let column = 0; column <= columns; column++) line(context, apply(cells, column, 0), apply(cells, column, rows));
  context.strokeStyle = "rgba(255, 255, 255, .28)";
  context.lineWidth = 1;
  context.setLineDash([]);
  context.stroke();
}

/** Whether the model sees more than the picture: a border was added to give it the shape the model wants. */
export const isPadded = ({ width, height, frame: [x, y, wide, high] }) =>
  x < -0.5 || y < -0.5 || x + wide > width + 0.5 || y + high > height + 0.5;

/** How much of a map's positive part lies on the border that was added. */
export function shareOnPadding(map, { width, height, frame: [x, y, wide, high] }, rows, columns) {
  let [outside, total] = [0, 0];
  const within = (from, size, end) => Math.max(0, Math.min(from + size, end) - Math.max(from, 0)) / size;
  map.forEach((value, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const across = within(x + (column * wide) / columns, wide / columns, width);
    const down = within(y + (row * high) / rows, high / rows, height);
    const weight = Math.max(0, value);
    total += weight;
    outside += weight * (1 - across * down);
  });
  return total > 0 ? outside / total : 0;
}

function drawFrame(context, cells, { rows, columns }) {
  trace(
    context,
    [
      [0, 0],
      [columns, 0],
      [columns, rows],
      [0, rows],
    ].map(([x, y]) => apply(cells, x, y)),
  );
  context.setLineDash([2, 4]);
  context.strokeStyle = "rgba(255, 255, 255, .6)";
  context.lineWidth = 1;
  context.stroke();
  context.setLineDash([]);
}

function line(context, from, to) {
  context.moveTo(from.x, from.y);
  context.lineTo(to.x, to.y);
}

const corners = (cells, row, column) =>
  [
    [0, 0],
    [1, 0],
    [1, 1],
    [0, 1],
  ].map(([x, y]) => apply(cells, column + x, row + y));

function trace(context, points) {
  context.beginPath();
  points.forEach((point, i) => (i ? context.lineTo(point.x, point.y) : context.moveTo(point.x, point.y)));
  context.closePath();
}

function hatch(context, cells, row, column) {
  context.beginPath();
  for (const step of [0.25, 0.5, 0.75, 1]) {
    line(context, apply(cells, column, row + step), apply(cells, column + step, row));
    if (step < 1) line(context, apply(cells, column + step, row + 1), apply(cells, column + 1, row + step));
  }
  context.strokeStyle = SINK;
  context.lineWidth = 1;
  context.setLineDash([]);
  context.stroke();
}

function frameCell(context, cells, patch, columns, dash) {
  trace(context, corners(cells, Math.floor(patch / columns), patch % columns));
  context.setLineDash([]);
  context.strokeStyle = "#000000";
  context.lineWidth = 4;
  context.stroke();
  context.setLineDash(dash);
  context.strokeStyle = CHOSEN;
  context.lineWidth = 2;
  context.stroke();
  context.setLineDash([]);
}

/** The closed polygons of an outline, in pixels of the picture. */
export function polygonsOf({ box, polygons }) {
  if (polygons.length) return polygons;
  const [x, y, width, height] = box;
  return [
    [
      [x, y],
      [x + width, y],
      [x + width, y + height],
      [x, y + height],
    ],
  ];
}

function drawOutline(context, toScreen, outline, labels) {
  let corner = null;
  for (const polygon of polygonsOf(outline)) {
    const points = polygon.map(([x, y]) => apply(toScreen, x, y));
    trace(context, points);
    context.setLineDash(outline.asked ? [] : [7, 4]);
    context.strokeStyle = "rgba(0, 0, 0, .8)";
    context.lineWidth = 4;
    context.stroke();
    context.strokeStyle = outline.asked ? ASKED : NAMED;
    context.lineWidth = 2;
    context.stroke();
    for (const point of points) if (!corner || point.y < corner.y) corner = point;
  }
  context.setLineDash([]);
  if (corner) writeLabel(context, corner, outline, labels);
}

/** Writes a label above a corner, and below the labels that it would cover. */
function writeLabel(context, { x, y }, { label, asked }, labels) {
  const text = label.length > 40 ? `${label.slice(0, 39)}…` : label;
  context.font = "600 12px system-ui, 'DejaVu Sans', sans-serif";
  const width = context.measureText(text).width + 10;
  const left = Math.max(2, Math.min(x - width / 2, context.canvas.clientWidth - width - 2));
  let top = Math.max(2, y - 22);
  const covers = (one) =>
    Math.abs(one.top - top) < LABEL && left < one.left + one.width + 2 && one.left < left + width + 2;
  while (labels.some(covers)) top += LABEL + 1;
  labels.push({ left, top, width });
  context.fillStyle = "rgba(8, 10, 13, .85)";
  context.fillRect(left, top, width, LABEL);
  context.fillStyle = asked ? ASKED : NAMED;
  context.fillText(text, left + 5, top + 13);
}
