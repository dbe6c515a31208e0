// Changes told in words: for those who do not see them, and for a moment on the screen for those who do.

import { byId } from "./dom.js";

const SEEN_MS = 3500;
const ERROR_MS = 12000;

let timer = 0;

/**
 * Says a sentence in the live region `#said`. The same sentence twice is said twice.
 *
 * `seen`: it also stands on the screen for a moment; false where the page shows the same elsewhere.
 */
export function announce(sentence, { seen = true, error = false } = {}) {
  const region = byId("said");
  if (!region) return;
  region.textContent = region.textContent === sentence ? `${sentence}\u00a0` : sentence;
  clearTimeout(timer);
  region.classList.toggle("seen", seen);
  region.classList.toggle("error", error);
  timer = setTimeout(() => region.classList.remove("seen"), error ? ERROR_MS : SEEN_MS);
}

/** Says what went wrong. */
export const announceError = (error) => announce(error.message, { error: true });
