// What the reader chooses of a case: tokens, layer and head, patches. Buttons, keys and the picture share it.

import { announce } from "./announce.js";
import { range } from "./maps.js";

const PATCH_COLOURS = ["patches", "prompt"];

/** The choices of a page that has `state` and, once they are read, `maps`. */
export class Choices {
  constructor(page) {
    Object.assign(this, { page, state: page.state });
  }

  /** Chooses a token; with `extend`, the phrase from the last chosen token to this one. */
  press(position, extend) {
    const { tokens } = this.state.get();
    if (!extend || !tokens.length) {
      this.anchor = position;
      this.state.set({ tokens: tokens.length === 1 && tokens[0] === position ? [] : [position] });
      return;
    }
    const anchor = this.anchor ?? tokens[0];
    const [from, to] = [Math.min(anchor, position), Math.max(anchor, position)];
    const answer = anchor >= this.page.maps.p;
    const part = (k) => k >= this.page.maps.p === answer;
    this.state.set({
      tokens: range(to - from + 1)
        .map((k) => from + k)
        .filter(part),
    });
  }

  /** Steps through the tokens of the answer; the whole answer stands before the first. */
  stepToken(step) {
    if (!this.page.maps) return;
    const { p, T } = this.page.maps;
    const { tokens } = this.state.get();
    const place = tokens.length ? tokens.at(-1) : p - 1;
    const next = place < p - 1 ? p : Math.min(T - 1, place + step);
    this.anchor = next;
    this.state.set({ tokens: next < p ? [] : [next] });
  }

  /** Steps through layers or heads; "all" stands before the first. */
  stepCell(name, step) {
    if (!this.page.maps) return;
    const size = name === "layer" ? this.page.maps.L : this.page.maps.H;
    const place = this.state.get()[name] ?? -1;
    const next = Math.max(-1, Math.min(size - 1, place + step));
    this.state.set({ [name]: next < 0 ? null : next });
  }

  togglePatch(patch) {
    const { patches, colouredBy } = this.state.get();
    const chosen = patches.includes(patch) ? patches.filter((one) => one !== patch) : [...patches, patch];
    const about = colouredBy === "prompt" ? "prompt" : "patches";
    this.state.set({ patches: chosen, colouredBy: chosen.length ? about : "usual" });
    announce(`${chosen.length} ${chosen.length === 1 ? "patch" : "patches"} chosen`, { seen: false });
  }

  clearPatches() {
    const { patches, colouredBy } = this.state.get();
    if (!patches.length) return;
    this.state.set({ patches: [], colouredBy: PATCH_COLOURS.includes(colouredBy) ? "usual" : colouredBy });
    announce("No patch chosen", { seen: false });
  }

  backToMethod() {
    const { tokens } = this.state.get();
    this.state.set({ layer: null, head: null, tokens: tokens.every((k) => k >= this.page.maps.p) ? tokens : [] });
  }
}
