// Numbers as a reader wants them. What is undefined is said so, never shown as 0.

const UNDEFINED = "not defined";

const known = (value) => typeof value === "number" && Number.isFinite(value);

/** A share as percent: 0.1234 → "12.3 %". */
export function percent(value) {
  if (!known(value)) return UNDEFINED;
  const shown = 100 * value;
  if (shown !== 0 && Math.abs(shown) < 0.1) return "under 0.1 %";
  return `${shown.toFixed(Math.abs(shown) < 10 ? 1 : 0)} %`;
}

/** A difference of log-probabilities: 1.234 → "+1.23 nats". */
export function nats(value) {
  return known(value) ? `${signed(value, 2)} nats` : UNDEFINED;
}

/** How many times as probable: the log-probability difference 0.18 → "1.2". */
export function times(value) {
  if (!known(value)) return UNDEFINED;
  const factor = Math.exp(value);
  return factor >= 1000 || factor < 0.01 ? short(factor) : String(Number(factor.toPrecision(2)));
}

/** A number with its sign: -0.5 → "−0.50". */
export function signed(value, digits) {
  if (!known(value)) return UNDEFINED;
  const shown = Math.abs(value).toFixed(digits);
  if (Number(shown) === 0) return shown;
  return `${value < 0 ? "\u2212" : "+"}${shown}`;
}

/** A number with so many decimals. */
export function decimals(value, digits) {
  return known(value) ? value.toFixed(digits).replace("-", "\u2212") : UNDEFINED;
}

/** A small or large number in few signs: 0.00042 → "4.2e-4". */
export function short(value) {
  if (!known(value)) return UNDEFINED;
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text =
    size >= 1000 || size < 0.001 ? value.toExponential(1).replace("e+", "e") : String(Number(value.toPrecision(3)));
  return text.replaceAll("-", "\u2212");
}
