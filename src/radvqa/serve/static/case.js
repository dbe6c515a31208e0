// The case page: reads a case, puts its parts together, and says what changed.

import { byId, fill, make } from "./dom.js";
import { announce, announceError } from "./announce.js";
import { Choices } from "./choices.js";
import { makeState } from "./state.js";
import { caseAddress, readCase } from "./cases_api.js";
import { promptAttention, readMaps, readPromptAttention, weightOf } from "./maps.js";
import { PictureStage, stageElement } from "./picture_stage.js";
import { makeLegend, overlayBar, topBar, windowBar } from "./picture_tools.js";
import { CasePanel } from "./case_panel.js";
import { caseKeys, KEY_GROUPS, pictureActions } from "./case_keys.js";
import { listen, makeHelp } from "./keys.js";
import { positionsOf, shownMap } from "./shown_map.js";
import { drawWarnings } from "./facts.js";
import { isPadded, shareOnPadding } from "./overlay.js";
import { draggedWindow, firstWindow } from "./window_level.js";
import { percent, short } from "./numbers.js";

const NOTHING = { onPatches: null, fromPatches: null };
const MAP_CHANGES = ["method", "tokens", "layer", "head", "contrast", "shared", "view"];

class CasePage {
  constructor(root, manifest) {
    this.root = root;
    this.manifest = manifest;
    this.read = new Map();
    this.prompts = new Map();
    const view = manifest.views.model ? "model" : Object.keys(manifest.views)[0];
    this.state = makeState({
      view,
      method: firstMethod(manifest, view),
      tokens: [],
      layer: null,
      head: null,
      contrast: false,
      shared: false,
      patches: [],
      cursor: null,
      colouredBy: "usual",
      overlay: true,
      opacity: 0.55,
      colours: "inferno",
      smooth: true,
      outlines: manifest.outlines.length > 0,
      grid: false,
      tool: "pan",
      invert: false,
      window: firstWindow(manifest.picture),
    });
    this.flip = (name) => this.state.set({ [name]: !this.state.get()[name] });
    this.choices = new Choices(this);
    this.state.on((now, changed) => this.changed(now, changed));
  }

  start() {
    const viewer = byId("viewer");
    const placeholder = byId("picture");
    const element = stageElement("stage", "Picture");
    const { state, flip, manifest } = this;
    this.stage = new PictureStage(element, manifest, {
      clicked: (patch) => patch !== null && this.choices.togglePatch(patch),
      hovered: (patch) => this.hovered(patch),
      windowed: (dx, dy) => state.set({ window: draggedWindow(manifest.picture, state.get().window, dx, dy) }),
    });
    this.act = pictureActions(this);
    this.bars = [
      topBar(this),
      windowBar(manifest.picture, this),
      overlayBar({ state, flip, outlined: manifest.outlines.length > 0 }),
    ];
    this.legend = makeLegend();
    this.readout = make("p", { class: "readout soft" });
    this.regions = make("p", { class: "soft", id: "regions" });
    this.padding = make("strong", { id: "padding" });
    const help = make("button", {
      type: "button",
      class: "tool words",
      id: "open-help",
      text: "Keys (?)",
      on: { click: () => this.help.open() },
    });
    this.bars[0].element.append(help);
    element.append(make("div", { class: "stage-foot" }, this.legend.element, this.readout));
    fill(viewer, this.bars[0].element, element, this.bars[1].element, this.bars[2].element, this.regions);
    if (placeholder) {
      element.prepend(placeholder);
      placeholder.className = "placeholder";
    }
    const bindings = caseKeys(this);
    this.help = makeHelp(bindings, KEY_GROUPS);
    listen(bindings);
    this.drawPanel();
    this.showRegions();
    this.stage.open().then(
      () => placeholder?.remove(),
      (error) => this.failed(error),
    );
    this.openView();
  }

  drawPanel() {
    this.panel = new CasePanel(byId("panel"), this, {
      state: this.state,
      flip: this.flip,
      choices: this.choices,
      answered: (manifest) => this.open(manifest),
    });
  }

  /** Another case on the same picture: an answer of the live model. It has an address of its own. */
  async open(manifest) {
    const { query } = this.manifest;
    this.manifest = { ...manifest, query };
    history.pushState(null, "", caseAddress(this.manifest));
    document.title = `${manifest.question} · radvqa`;
    const original = caseAddress({ ...this.manifest, key: manifest.asked_of });
    fill(
      byId("moves"),
      byId("back"),
      make("a", { id: "asked-of", href: original, text: "The case that this was asked about" }),
    );
    this.read.clear();
    this.prompts.clear();
    const view = manifest.views.typed ? "typed" : Object.keys(manifest.views)[0];
    byId("question").textContent = manifest.question;
    this.drawPanel();
    this.showRegions();
    const kept = manifest.views[view].maps.some((one) => one.method === this.state.get().method);
    const method = kept ? this.state.get().method : firstMethod(manifest, view);
    this.state.set({
      view,
      method,
      tokens: [],
      layer: null,
      head: null,
      contrast: false,
      patches: [],
      colouredBy: "usual",
      outlines: manifest.outlines.length > 0,
    });
    await this.openView();
    this.panel.toAnswer();
  }

  get maps() {
    return this.read.get(this.state.get().view);
  }

  /** Reads the chosen view unless that was done, and shows it. */
  async openView() {
    const { view } = this.state.get();
    const { manifest } = this;
    this.panel.showView(manifest.views[view], view);
    try {
      if (!this.read.has(view)) {
        const maps = await readMaps(manifest, view, () => this.showAll());
        maps.attentionRead.catch((error) => this.failed(error));
        this.read.set(view, maps);
      }
      this.showAll();
    } catch (error) {
      this.failed(error);
    }
  }

  showAll() {
    const now = this.state.get();
    for (const bar of this.bars) bar.show(now);
    if (!this.maps) return;
    this.showMap(now);
    this.showTokens(now);
    this.showMatrix(now);
  }

  changed(now, changed) {
    const any = (...names) => names.some((name) => changed.has(name));
    for (const bar of this.bars) bar.show(now);
    if (any("window", "invert")) this.stage.setWindow(now.window, now.invert);
    if (any("tool")) this.stage.viewer.tool = now.tool;
    if (any("view")) {
      const words = `Answer explained: ${this.manifest.views[now.view].text}`;
      this.openView().then(() => announce(words, { seen: false }));
      return;
    }
    if (!this.maps) return;
    if (any(...MAP_CHANGES)) this.showMap(now);
    else if (any("overlay", "opacity", "colours", "smooth", "outlines", "grid", "patches", "cursor"))
      this.drawOver(now);
    if (any("tokens", "contrast", "patches", "colouredBy", "layer", "head")) this.showTokens(now);
    if (any("tokens", "layer", "head")) this.showMatrix(now);
    if (any(...MAP_CHANGES)) announce(this.describe(), { seen: false });
  }

  showMap(now) {
    this.shown = shownMap(now, this.maps);
    if (!this.shown.pending) this.panel.showMap(now, this.maps, this.shown);
    this.tellPadding();
    this.drawOver(now);
    byId("stage").setAttribute("aria-label", `Picture. ${this.describe()}`);
  }

  drawOver(now) {
    const ready = this.shown && !this.shown.pending;
    const { map = null, low = 0, high = 0, unit = "" } = ready ? this.shown : {};
    if (ready) this.legend.show(this.shown.title, { low, high, unit }, now.colours);
    this.legend.element.hidden = !ready || !now.overlay;
    this.stage.draw({
      map: now.overlay ? map : null,
      low,
      high,
      colours: now.colours,
      smooth: now.smooth,
      opacity: now.opacity,
      outlines: now.outlines ? this.manifest.outlines : [],
      grid: now.grid,
      sinks: now.overlay ? this.maps.view.sinks : [],
      patches: now.patches,
      cursor: now.cursor,
    });
  }

  showTokens(now) {
    this.panel.showTokens(now, this.maps, this.seenOn(now));
  }

  /** Which tokens attend to the chosen patches, or the patches to the question. */
  seenOn(now) {
    if (!now.patches.length) return NOTHING;
    const onPatches = this.maps.attention ? this.maps.onPatches(now.patches, now.layer, now.head) : null;
    if (now.colouredBy !== "prompt") return { ...NOTHING, onPatches };
    const { view } = now;
    const values = this.prompts.get(view);
    if (!values) {
      readPromptAttention(this.manifest, view).then(
        (read) => {
          this.prompts.set(view, read);
          this.showTokens(this.state.get());
        },
        (error) => this.failed(error),
      );
      return { onPatches, fromPatches: null };
    }
    return { onPatches, fromPatches: promptAttention(values, this.maps, now.patches, now.layer) };
  }

  showMatrix(now) {
    this.panel.showMatrix(now, this.maps, positionsOf(now, this.maps));
  }

  /** Of a picture that was given a border: how much of the map lies there, where nothing can be seen. */
  tellPadding() {
    const { picture, grid } = this.manifest;
    if (this.shown.pending || !isPadded(picture)) return;
    const share = percent(shareOnPadding(this.shown.map, picture, ...grid));
    this.padding.textContent = `Dotted: what the model sees. ${share} of this map lies on the added border.`;
  }

  showRegions() {
    const names = this.manifest.outlines.map(({ label, asked }) => (asked ? `${label} (asked about)` : label));
    const named = names.length ? `Regions: ${names.join(", ")}. ` : "";
    fill(this.regions, `${named}Hatched cells are sinks: they draw attention whatever is asked. `, this.padding);
  }

  hovered(patch) {
    const { map } = this.shown ?? {};
    if (patch === null || !map) {
      this.readout.textContent = "";
      return;
    }
    const { columns } = this.stage;
    const total = weightOf(map);
    const share = total > 0 ? `, ${percent(Math.max(0, map[patch]) / total)} of the map` : "";
    const place = `row ${Math.floor(patch / columns) + 1}, column ${(patch % columns) + 1}`;
    this.readout.textContent = `${place}: ${short(map[patch])}${share}`;
  }

  describe() {
    if (!this.shown || this.shown.pending) return "The attention is being read.";
    const { title, peak } = this.shown;
    return `Map of ${title}. Highest in row ${peak.row + 1}, column ${peak.column + 1}.`;
  }

  failed(error) {
    announceError(error);
    const element = make("ul", { class: "warnings", role: "alert" });
    drawWarnings(element, [error.message]);
    byId("panel").prepend(element);
  }
}

function firstMethod({ views }, view) {
  const names = views[view].maps.map((one) => one.method);
  return names.includes("raw") ? "raw" : names[0];
}

const root = byId("case");
readCase(root.dataset.series, root.dataset.key, location.search).then(
  (manifest) => new CasePage(root, manifest).start(),
  (error) => announceError(new Error(`The case cannot be read: ${error.message}`)),
);
window.addEventListener("popstate", () => location.reload());
