// Charts by Observable Plot, drawn again for every width, each with its numbers as a table.

import { ApiError } from "./api.js";
import { disclosure, h, problem, table } from "./dom.js";
import { common } from "./i18n.js";

export const SERIES = Array.from({ length: 8 }, (_, i) => `var(--series-${i + 1})`);
export const TIP = { fill: "var(--surface)", stroke: "var(--line)" }; // options of Plot.tip

let library;

function script(path) {
  return new Promise((resolve, reject) => {
    document.head.append(h("script", { src: path, onload: resolve, onerror: () => reject(new Error(path)) }));
  });
}

/** Observable Plot, fetched when the first chart is drawn. */
export function plot() {
  library ??= script("static/vendor/d3.min.js")
    .then(() => script("static/vendor/plot.min.js"))
    .then(() => globalThis.Plot)
    .catch(() => {
      library = null; // the next chart tries again
      throw new ApiError(common("unreachable"), common("unreachable_hint"));
    });
  return library;
}

/**
 * A figure: `draw(Plot, width)` returns the drawing; `label` is what a screen reader says of it; `caption` explains it;
 * `rows` under `head` are its numbers. `legend`: [text, colour] pairs. Colours: SERIES, or var(--...) of style.css.
 */
export function chart({ label, caption, draw, head, rows, legend = [] }) {
  const canvas = h("div", { class: "canvas" });
  const figure = h("figure", { class: "chart" },
    h("figcaption", {}, h("strong", {}, label), caption && h("span", {}, caption)),
    legend.length > 0 && h("ul", { class: "legend" }, legend.map(([text, colour]) =>
      h("li", {}, h("i", { style: { background: colour } }), text))),
    canvas,
    disclosure(common("numbers"), label, table(head, rows, { caption: label, numeric: head.map((_, i) => i).slice(1) })));
  let drawn = 0;
  const observer = new ResizeObserver(async ([entry]) => {
    if (!canvas.isConnected) observer.disconnect();
    const width = Math.floor(entry.contentRect.width);
    if (!width || width === drawn) return;
    drawn = width;
    try {
      const drawing = draw(await plot(), width);
      // The parts of an image have no names of their own.
      for (const part of drawing.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
      drawing.setAttribute("role", "img");
      drawing.setAttribute("aria-label", label);
      canvas.replaceChildren(drawing);
    } catch (error) {
      canvas.replaceChildren(problem(error));
    }
  });
  observer.observe(canvas);
  return figure;
}
