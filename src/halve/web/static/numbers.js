// Numbers as people read them, in the page's language.

import { language } from "./i18n.js";

const formats = new Map();

function format(key, options) {
  const name = `${language()} ${key}`;
  if (!formats.has(name)) formats.set(name, new Intl.NumberFormat(language(), options));
  return formats.get(name);
}

/** Three digits that mean something: 1,830, 0.0532. */
export function digits(number, count = 3) {
  return format(`digits ${count}`, { maximumSignificantDigits: count }).format(number);
}

/** A whole number. */
export function whole(number) {
  return format("whole", { maximumFractionDigits: 0 }).format(number);
}

/** A share of one, in per cent. */
export function percent(share, places = 0) {
  return format(`percent ${places}`, { style: "percent", maximumFractionDigits: places }).format(share);
}

/** Bytes, in powers of ten. */
export function bytes(count) {
  const [unit, factor] = [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["kB", 1e3]].find(([, one]) => count >= one) ?? ["B", 1];
  return `${digits(count / factor)} ${unit}`;
}

/** A time: 38 ms, 4.2 s, 3 min 20 s, 2 h 5 min. */
export function duration(seconds) {
  if (seconds < 1) return `${digits(seconds * 1e3)} ms`;
  if (seconds < 60) return `${digits(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** From one to another, once where both are the same. */
export function range([low, high], show = digits) {
  return show(low) === show(high) ? show(low) : `${show(low)}–${show(high)}`;
}
