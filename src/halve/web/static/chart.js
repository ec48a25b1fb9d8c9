// Charts by Observable Plot, drawn again for every width, each with its numbers as a table.

import { ApiError } from "./api.js";
import { h, problem, table } from "./dom.js";
import { common } from "./i18n.js";

export const SERIES = Array.from({ length: 8 }, (_, i) => `var(--series-${i + 1})`);

let library;

function script(path) {
  return new Promise((resolve, reject) => {
    document.head.append(h("script", { src: path, onload: resolve, onerror: () => reject(new Error(path)) }));
  });
}

/** Observable Plot, fetched when the first chart is drawn. */
export function plot() {
  library ??= script("static/vendor/d3.min.js").then(() => script("static/vendor/plot.min.js")).then(() => globalThis.Plot);
  return library;
}

/**
 * A figure: `draw(Plot, width)` returns the drawing; `label` is what a screen reader says of it; `caption` explains it;
 * `rows` under `head` are its numbers. `legend`: [text, colour] pairs. Colours: SERIES, or var(--...) of style.css.
 */
export function chart({ label, caption, draw, head, rows, legend = [], signal }) {
  const canvas = h("div", { class: "canvas" });
  const numbers = h("details", {}, h("summary", {}, common("numbers")), table(head, rows, { caption: label, numeric: head.map((_, i) => i).slice(1) }));
  const figure = h("figure", { class: "chart" },
    h("figcaption", {}, h("strong", {}, label), caption && h("span", {}, caption)),
    legend.length > 0 && h("ul", { class: "legend" }, legend.map(([text, colour]) =>
      h("li", {}, h("i", { style: { background: colour } }), text))),
    canvas, numbers);
  let drawn = 0;
  const observer = new ResizeObserver(async ([entry]) => {
    const width = Math.floor(entry.contentRect.width);
    if (!width || width === drawn) return;
    drawn = width;
    const found = await plot().catch(() => null);
    if (!found) {
      canvas.replaceChildren(problem(new ApiError(common("unreachable"), common("unreachable_hint"))));
      return;
    }
    const drawing = draw(found, width);
    for (const part of drawing.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label"); // the parts of an image have no names
    drawing.setAttribute("role", "img");
    drawing.setAttribute("aria-label", label);
    canvas.replaceChildren(drawing);
  });
  observer.observe(canvas);
  signal?.addEventListener("abort", () => observer.disconnect());
  return figure;
}
