// Changes told in words, for those who do not see them. The region holds one sentence at a time.

import { byId } from "./dom.js";

/** Says a sentence in the live region `#said`. The same sentence twice is said twice. */
export function announce(sentence) {
  const region = byId("said");
  if (!region) return;
  region.textContent = region.textContent === sentence ? `${sentence}\u00a0` : sentence;
}
