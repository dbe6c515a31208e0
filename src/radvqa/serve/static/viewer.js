// The picture: zoom, pan, rotation and flip by OpenSeadragon; a canvas above it follows. Nothing here knows of maps.

import { apply, fromPoints, invert } from "./geometry.js";
import { make } from "./dom.js";

const WHEEL = 1.2;
const EDGE = 40; // pixels of the screen that a revealed point keeps from the edge

/**
 * A viewer inside `stage`.
 *
 * Calls `moved()` when the canvas must be drawn again, `clicked(point)` and `hovered(point or null)` with a point
 * in pixels of the picture, and `windowed(dx, dy)` when a drag is to change window and level.
 */
export class Viewer {
  constructor(stage, picture, { moved, clicked, hovered, windowed }) {
    this.picture = picture;
    this.moved = moved;
    this.tool = "pan";
    leaveStylesAlone();
    this.seen = make("div", { class: "seen" });
    this.canvas = make("canvas", { class: "overlay", "aria-hidden": "true" });
    stage.append(this.seen, this.canvas);
    this.stage = stage;
    this.osd = window.OpenSeadragon({
      element: this.seen,
      drawer: "canvas",
      showNavigationControl: false,
      tabIndex: -1,
      animationTime: reducedMotion() ? 0 : 0.25,
      minZoomImageRatio: 0.3,
      maxZoomPixelRatio: 24,
      zoomPerScroll: WHEEL,
      visibilityRatio: 0.2,
      preserveImageSizeOnResize: true,
      gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false, flickEnabled: false },
      gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false, pinchRotate: false },
      gestureSettingsPen: { clickToZoom: false, dblClickToZoom: false },
    });
    this.osd.innerTracker.keyDownHandler = null;
    this.osd.innerTracker.keyHandler = null;
    this.osd.addHandler("update-viewport", () => moved());
    this.osd.addHandler("resize", () => window.requestAnimationFrame(() => moved()));
    this.osd.addHandler("canvas-click", (event) => {
      // The position that OpenSeadragon tells is mirrored on a flipped picture; the pointer's own is not.
      if (event.quick) clicked(this.pointAt(this.within(event.originalEvent)));
    });
    this.osd.addHandler("canvas-drag", (event) => this.dragged(event, windowed));
    this.seen.addEventListener("pointermove", (event) => hovered(this.pointAt(this.within(event))));
    this.seen.addEventListener("pointerleave", () => hovered(null));
    this.middleDrag(windowed);
  }

  /** Shows the picture of an address in place of the last, same zoom and place. False: a later one was asked for. */
  show(address) {
    this.turn = (this.turn ?? 0) + 1;
    const { turn } = this;
    return new Promise((resolve, reject) => {
      this.osd.addTiledImage({
        tileSource: { type: "image", url: address, buildPyramid: false },
        success: ({ item }) => {
          const done = () => resolve(this.settle(item, turn === this.turn));
          if (item.getFullyLoaded()) done();
          else item.addOnceHandler("fully-loaded-change", done);
        },
        error: (event) => reject(new Error(`The picture cannot be shown: ${event.message}`)),
      });
    });
  }

  /** Keeps a loaded picture alone if it is still wanted, or else takes it away. */
  settle(item, wanted) {
    const { world } = this.osd;
    const all = Array.from({ length: world.getItemCount() }, (_, i) => world.getItemAt(i));
    if (wanted && all.length === 1) this.fit(true);
    for (const one of wanted ? all.filter((other) => other !== item) : [item]) world.removeItem(one);
    this.moved();
    return wanted;
  }

  /** From pixels of the picture to CSS pixels of the canvas. */
  toScreen() {
    const { viewport } = this.osd;
    const width = viewport.getContainerSize().x;
    const place = (x, y) => {
      // One unit of the viewport is the width of the picture, whatever the pixels of the file that shows it.
      const point = new window.OpenSeadragon.Point(x / this.picture.width, y / this.picture.width);
      const found = viewport.pixelFromPoint(point, true);
      return { x: viewport.getFlip() ? width - found.x : found.x, y: found.y };
    };
    return fromPoints(place(0, 0), place(1, 0), place(0, 1));
  }

  pointAt({ x, y }) {
    return apply(invert(this.toScreen()), x, y);
  }

  within(event) {
    const box = this.seen.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  dragged(event, windowed) {
    if (this.tool === "pan") return;
    event.preventDefaultAction = true;
    if (this.tool === "window") windowed(event.delta.x, event.delta.y);
    else this.osd.viewport.zoomBy(Math.exp(-event.delta.y / 150)).applyConstraints();
  }

  /** The middle button always changes window and level. */
  middleDrag(windowed) {
    let last = null;
    this.stage.addEventListener(
      "pointerdown",
      (event) => {
        if (event.button !== 1) return;
        event.preventDefault();
        event.stopPropagation();
        last = event;
        this.stage.setPointerCapture(event.pointerId);
      },
      { capture: true },
    );
    this.stage.addEventListener("pointermove", (event) => {
      if (!last) return;
      windowed(event.clientX - last.clientX, event.clientY - last.clientY);
      last = event;
    });
    for (const end of ["pointerup", "pointercancel"]) this.stage.addEventListener(end, () => (last = null));
  }

  zoom(factor) {
    this.osd.viewport.zoomBy(factor).applyConstraints();
  }

  /** All of the picture, and of the frame that the model sees where that is larger. */
  fit(atOnce = false) {
    const { width, height, frame } = this.picture;
    const [x, y, wide, high] = frame;
    const [left, top] = [Math.min(0, x), Math.min(0, y)];
    const [right, bottom] = [Math.max(width, x + wide), Math.max(height, y + high)];
    const parts = [left, top, right - left, bottom - top].map((part) => part / width);
    this.osd.viewport.fitBounds(new window.OpenSeadragon.Rect(...parts), atOnce);
  }

  /** Moves what is seen by pixels of the screen: right and down are positive. */
  pan(dx, dy) {
    const { viewport } = this.osd;
    const delta = new window.OpenSeadragon.Point(viewport.getFlip() ? -dx : dx, dy);
    viewport.panBy(viewport.deltaPointsFromPixels(delta)).applyConstraints();
  }

  /** Moves a point of the picture into sight if it is outside or near the edge. */
  reveal(x, y) {
    const at = apply(this.toScreen(), x, y);
    const size = this.osd.viewport.getContainerSize();
    const past = (place, end) => Math.min(0, place - EDGE) + Math.max(0, place - (end - EDGE));
    const [dx, dy] = [past(at.x, size.x), past(at.y, size.y)];
    if (dx || dy) this.pan(dx, dy);
  }

  rotate(degrees) {
    this.osd.viewport.rotateBy(this.osd.viewport.getFlip() ? -degrees : degrees, undefined, true);
  }

  flipHorizontally() {
    this.osd.viewport.toggleFlip();
  }

  /** A vertical flip is a horizontal one and half a turn. */
  flipVertically() {
    this.osd.viewport.toggleFlip();
    this.osd.viewport.rotateBy(180, undefined, true);
  }

  reset() {
    this.osd.viewport.setFlip(false);
    this.osd.viewport.setRotation(0, true);
    this.fit(true);
  }

  /** How the picture is turned, in words; empty if it is as it was stored. */
  turned() {
    const degrees = ((Math.round(this.osd.viewport.getRotation()) % 360) + 360) % 360;
    if (!this.osd.viewport.getFlip()) return degrees ? `turned by ${degrees}°` : "";
    if (degrees === 180) return "flipped up and down";
    return `${degrees ? `turned by ${degrees}°, then ` : ""}flipped left and right`;
  }

  /** A CSS filter on the picture alone. */
  setFilter(filter) {
    this.osd.drawer.canvas.style.filter = filter;
  }
}

/** Two viewers that show the same place. */
export function synchronise(viewers) {
  let leading = false;
  for (const viewer of viewers) {
    viewer.osd.addHandler("update-viewport", () => {
      if (leading) return;
      leading = true;
      const { viewport } = viewer.osd;
      for (const other of viewers) if (other !== viewer) follow(other.osd.viewport, viewport);
      leading = false;
    });
  }
}

function follow(viewport, led) {
  if (viewport.getFlip() !== led.getFlip()) viewport.setFlip(led.getFlip());
  if (viewport.getRotation() !== led.getRotation()) viewport.setRotation(led.getRotation(), true);
  const [centre, zoom] = [led.getCenter(true), led.getZoom(true)];
  const near = viewport.getCenter(true).distanceTo(centre) < 1e-6 && Math.abs(viewport.getZoom(true) / zoom - 1) < 1e-6;
  if (near) return;
  viewport.zoomTo(zoom, null, true);
  viewport.panTo(centre, true);
}

export const reducedMotion = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

/**
 * OpenSeadragon adds a rule for touch screens as an inline style, which the content-security policy forbids, unless
 * an element of that name is there. This one is no style element: our own sheet holds the rule.
 */
function leaveStylesAlone() {
  if (document.querySelector("style[data-openseadragon-mobile-css]")) return;
  const mark = document.createElementNS("about:blank", "style");
  mark.setAttribute("data-openseadragon-mobile-css", "");
  document.head.append(mark);
}
