// Line drawings for buttons, 24 units wide. They are decoration: every button has its name in words.

import { makeSvg } from "./dom.js";

const PATHS = {
  pan: "M12 3v18M3 12h18M9.5 5.5L12 3l2.5 2.5M9.5 18.5L12 21l2.5-2.5M5.5 9.5L3 12l2.5 2.5M18.5 9.5L21 12l-2.5 2.5",
  zoom: "M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 0 0 0-13M15.3 15.3L21 21",
  window: "M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16M12 4v16M12 8h6M12 12h8M12 16h6",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  fit: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
  left: "M5 9a8 8 0 1 1-1 5M5 3v6h6",
  right: "M19 9a8 8 0 1 0 1 5M19 3v6h-6",
  flipHorizontally: "M12 3v18M9 7L4 17h5zM15 7l5 10h-5z",
  flipVertically: "M3 12h18M7 9L17 4v5zM7 15l10 5v-5z",
  invert: "M5 5h14v14H5zM5 19L19 5M9 19l10-10M14 19l5-5",
  reset: "M4 12a8 8 0 1 0 3-6.2M7 2v4h4",
  overlay: "M12 3l9 5-9 5-9-5zM3 12.5l9 5 9-5",
  grid: "M4 4h16v16H4zM4 9.3h16M4 14.6h16M9.3 4v16M14.6 4v16",
  outline: "M6 8c2-4 9-5 12-1s2 9-2 11-9 1-11-3 0-5 1-7z",
  smooth: "M3 17c4 0 5-10 9-10s5 10 9 10",
  scale: "M5 4v16M5 20h15M9 16v-4M13 16V8M17 16v-6",
  help: "M9 9a3 3 0 1 1 4 2.8c-.8.4-1 1-1 2.2M12 17.5v.5",
};

/** An icon by its name. */
export function icon(name) {
  return makeSvg(
    "svg",
    { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" },
    makeSvg("path", { d: PATHS[name] }),
  );
}
