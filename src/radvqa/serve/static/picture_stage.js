// The picture with what is drawn over it, as one part that the case and the compare page share.

import { make } from "./dom.js";
import { announceError } from "./announce.js";
import { Viewer } from "./viewer.js";
import { drawOverlay, paintMap } from "./overlay.js";
import { pictureAddress } from "./cases_api.js";
import { firstWindow, isHounsfield, makeWindowFilter, sameWindow, wholeWindow, windowLine } from "./window_level.js";
import { apply, gridToPicture, invert } from "./geometry.js";

const SERVER_WINDOW_MS = 150; // a new window is asked of the server when the slider rests this long

let stages = 0;

/**
 * A stage inside `element` for the picture of a case.
 *
 * `clicked(patch)` and `hovered(patch)` get a patch number of the grid, or null outside of it.
 */
export class PictureStage {
  constructor(element, manifest, { clicked = () => {}, hovered = () => {}, windowed = () => {} }) {
    Object.assign(this, { element, manifest, picture: manifest.picture });
    [this.rows, this.columns] = manifest.grid;
    this.filter = makeWindowFilter(`window-${++stages}`);
    this.drawn = {
      painted: null,
      opacity: 1,
      smooth: true,
      outlines: [],
      grid: false,
      sinks: [],
      patches: [],
      cursor: null,
    };
    this.waiting = false;
    this.badge = make("p", { class: "turned", hidden: true });
    this.viewer = new Viewer(element, this.picture, {
      moved: () => this.redraw(),
      clicked: (point) => clicked(this.patchAt(point)),
      hovered: (point) => hovered(point && this.patchAt(point)),
      windowed,
    });
    this.shownWindow = firstWindow(this.picture);
    this.wanted = this.shownWindow;
    this.inverted = false;
    element.append(this.badge);
  }

  /** Shows the picture for the first time; then the placeholder of the page goes. */
  async open() {
    await this.viewer.show(this.address(this.shownWindow));
    this.applyWindow();
    this.element.dataset.ready = "true";
  }

  address(window) {
    return pictureAddress(this.manifest, isHounsfield(this.picture) ? window : null);
  }

  /** A patch number at a point of the picture, or null. */
  patchAt({ x, y }) {
    const place = apply(invert(gridToPicture(this.picture.frame, this.rows, this.columns)), x, y);
    const [row, column] = [Math.floor(place.y), Math.floor(place.x)];
    const inside = row >= 0 && column >= 0 && row < this.rows && column < this.columns;
    return inside ? row * this.columns + column : null;
  }

  /** Window and inversion: at once by a filter, then (Hounsfield units) as the server makes it. */
  setWindow(window, inverted) {
    Object.assign(this, { wanted: window, inverted });
    this.applyWindow();
    clearTimeout(this.timer);
    if (isHounsfield(this.picture))
      this.timer = setTimeout(
        () => this.fetchWindow(wholeWindow(window)).catch(announceError),
        SERVER_WINDOW_MS,
      );
  }

  async fetchWindow(window) {
    if (sameWindow(window, this.shownWindow)) return;
    if (!(await this.viewer.show(this.address(window)))) return;
    this.shownWindow = window;
    this.applyWindow();
  }

  applyWindow() {
    const line = windowLine(this.shownWindow, this.wanted, this.inverted);
    const same = Math.abs(line.slope - 1) < 1e-6 && Math.abs(line.intercept) < 1e-6;
    this.filter.set(line);
    this.viewer.setFilter(same ? "none" : this.filter.css);
  }

  /** A picture that is turned or flipped says so: left and right matter. */
  tellTurned() {
    const words = this.viewer.turned();
    if (words === this.badge.textContent) return;
    this.badge.textContent = words;
    this.badge.hidden = !words;
  }

  /** Moves a patch into sight. */
  reveal(patch) {
    const [row, column] = [Math.floor(patch / this.columns), patch % this.columns];
    const place = apply(gridToPicture(this.picture.frame, this.rows, this.columns), column + 0.5, row + 0.5);
    this.viewer.reveal(place.x, place.y);
  }

  /** What is drawn from now on; `map` with `low`, `high` and `colours` is painted, null hides it. */
  draw({ map, low, high, colours, smooth, ...rest }) {
    Object.assign(this.drawn, rest, { painted: map && this.painted([map, low, high, colours, smooth]), smooth });
    this.redraw();
  }

  /** The painted map, made anew only if one of its parts changed. */
  painted(parts) {
    if (!this.paintedOf?.every((part, i) => part === parts[i])) {
      const [map, low, high, colours, smooth] = parts;
      this.paintedMap = paintMap(map, { rows: this.rows, columns: this.columns, low, high, colours, smooth });
      this.paintedOf = parts;
    }
    return this.paintedMap;
  }

  /** Draws in the next frame, once however often it is asked. */
  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.tellTurned();
      drawOverlay(this.viewer.canvas, this.viewer.toScreen(), {
        ...this.drawn,
        picture: this.picture,
        rows: this.rows,
        columns: this.columns,
      });
    });
  }
}

/** The element that a stage fills: reached by the keyboard, named for those who do not see it. */
export function stageElement(id, label) {
  return make("div", { id, class: "stage", tabindex: "0", role: "group", "aria-label": label });
}
