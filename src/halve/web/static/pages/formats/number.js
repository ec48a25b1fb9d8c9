// How the page writes numbers and bits.

import { h } from "../../dom.js";

/** Four significant digits. */
export function short(x) {
  if (typeof x !== "number") return String(x);
  const size = Math.abs(x);
  return size !== 0 && (size >= 1e6 || size < 1e-4) ? x.toExponential(2).replace("e+", "e") : String(Number(x.toPrecision(4)));
}

/** A relative error. */
export function percent(x) {
  if (typeof x !== "number") return x === "nan" ? "" : "∞";
  const size = 100 * Math.abs(x);
  return `${x < 0 ? "−" : "+"}${size >= 0.01 ? Number(size.toPrecision(3)) : size.toExponential(1)} %`;
}

/** The bits of a code as [field, bits] pairs: sign, exponent, mantissa; `value` for integers and codebooks. */
export function parts(fact, fields) {
  const found = fields.split("|");
  const names = fact.family === "float"
    ? [fact.signed && "sign", fact.exponent && "exponent", fact.mantissa && "mantissa"].filter(Boolean)
    : ["value"];
  return found.map((digits, i) => [names[i], digits]);
}

/** The bits of a code in the colours of their fields. */
export function coded(fact, fields) {
  return h("span", { class: "bits" }, parts(fact, fields).map(([name, digits]) => h("span", { class: name }, digits)));
}
