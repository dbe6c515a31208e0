// Layers × heads by the share of attention they put on the image. A cell chooses its raw attention map.

import { make, fill } from "./dom.js";
import { colourTable } from "./colour_maps.js";
import { percent } from "./numbers.js";
import { range } from "./maps.js";

/**
 * A grid of buttons, L rows and H columns, made once and coloured anew by `draw`.
 *
 * `choose(layer, head)` is called with null for "all". One button is in the tab order; arrows move between them.
 */
export class Matrix {
  constructor(element, layers, heads, choose) {
    Object.assign(this, { layers, heads, choose });
    this.cells = range(layers).map((layer) => range(heads).map((head) => this.button(layer, head)));
    this.rows = range(layers).map((layer) => this.button(layer, null));
    this.columns = range(heads).map((head) => this.button(null, head));
    this.all = this.button(null, null);
    const head = make(
      "div",
      { role: "row" },
      cell(this.all, "columnheader"),
      ...this.columns.map((one) => cell(one, "columnheader")),
    );
    const body = this.cells.map((row, layer) =>
      make("div", { role: "row" }, cell(this.rows[layer], "rowheader"), ...row.map((one) => cell(one, "gridcell"))),
    );
    this.grid = make(
      "div",
      {
        role: "grid",
        class: "matrix",
        "aria-label": "Layers (rows) and heads (columns) by share of attention on the image",
        on: { keydown: (event) => this.move(event) },
      },
      head,
      ...body,
    );
    this.grid.style.setProperty("--heads", String(heads));
    fill(element, this.grid);
  }

  button(layer, head) {
    return make("button", {
      type: "button",
      tabindex: "-1",
      "aria-pressed": "false",
      text:
        layer === null && head === null
          ? "all"
          : head === null
            ? String(layer + 1)
            : layer === null
              ? String(head + 1)
              : "",
      data: { layer: String(layer ?? ""), head: String(head ?? "") },
      on: { click: () => this.choose(layer, head) },
    });
  }

  at(layer, head) {
    if (layer === null) return head === null ? this.all : this.columns[head];
    return head === null ? this.rows[layer] : this.cells[layer][head];
  }

  /** Colours the cells by `mass` (L * H) and marks the choice. */
  draw(mass, layer, head) {
    if (!this.mass || mass.some((value, i) => value !== this.mass[i])) this.colour(mass);
    this.mass = mass;
    for (const button of this.grid.querySelectorAll("[aria-pressed=true]")) press(button, false);
    press(this.at(layer, head), true);
  }

  colour(mass) {
    const largest = Math.max(...mass, 1e-9);
    const table = colourTable("viridis");
    for (const l of range(this.layers)) {
      for (const h of range(this.heads)) {
        const value = mass[l * this.heads + h];
        const entry = 4 * Math.round((255 * value) / largest);
        const button = this.cells[l][h];
        button.style.backgroundColor = `rgb(${table[entry]}, ${table[entry + 1]}, ${table[entry + 2]})`;
        button.title = `layer ${l + 1}, head ${h + 1}: ${percent(value)} on the image`;
      }
    }
    this.label(mass);
  }

  label(mass) {
    const mean = (cells) => percent(cells.reduce((sum, at) => sum + mass[at], 0) / cells.length);
    const { heads, layers } = this;
    for (const l of range(layers)) {
      this.rows[l].setAttribute(
        "aria-label",
        `layer ${l + 1}, all heads: ${mean(range(heads).map((h) => l * heads + h))} on the image`,
      );
    }
    for (const h of range(heads)) {
      this.columns[h].setAttribute(
        "aria-label",
        `head ${h + 1}, all layers: ${mean(range(layers).map((l) => l * heads + h))} on the image`,
      );
    }
    this.all.setAttribute("aria-label", `all layers and heads: ${mean(range(layers * heads))} on the image`);
  }

  move(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    const from = event.target.dataset;
    if (!step || from.layer === undefined || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    const layer = moved(from.layer === "" ? -1 : Number(from.layer), step[0], this.layers);
    const head = moved(from.head === "" ? -1 : Number(from.head), step[1], this.heads);
    this.choose(layer, head);
    this.at(layer, head).focus();
  }
}

function press(button, chosen) {
  button.setAttribute("aria-pressed", String(chosen));
  button.tabIndex = chosen ? 0 : -1;
}

/** One step along a header (-1, "all") and its cells; null is "all". */
function moved(place, step, size) {
  const next = Math.max(-1, Math.min(size - 1, place + step));
  return next < 0 ? null : next;
}

const cell = (button, role) => make("div", { role }, button);
