// Affine maps as [a, b, c, d, e, f], as canvas takes them: x' = a x + c y + e, y' = b x + d y + f.

/** The map that takes (0,0), (1,0) and (0,1) to three given points. */
export function fromPoints(origin, right, down) {
  return [right.x - origin.x, right.y - origin.y, down.x - origin.x, down.y - origin.y, origin.x, origin.y];
}

/** Where a point goes. */
export function apply([a, b, c, d, e, f], x, y) {
  return { x: a * x + c * y + e, y: b * x + d * y + f };
}

/** First `inner`, then `outer`. */
export function compose(outer, [a, b, c, d, e, f]) {
  const origin = apply(outer, e, f);
  return fromPoints(origin, apply(outer, a + e, b + f), apply(outer, c + e, d + f));
}

/** The way back. */
export function invert([a, b, c, d, e, f]) {
  const size = a * d - b * c;
  return [d / size, -b / size, -c / size, a / size, (c * f - d * e) / size, (b * e - a * f) / size];
}

/** From grid units (column, row) to pixels of the picture. */
export function gridToPicture([x, y, width, height], rows, columns) {
  return [width / columns, 0, 0, height / rows, x, y];
}
