// What a checkpoint holds, and which of the codes are in use.

import { TIP, chart } from "../../chart.js";
import { h, table } from "../../dom.js";
import { bytes, digits, percent, whole } from "../../numbers.js";

const CROWDED = 32; // numbers: more get the same room each, instead of their place

export function inspection(state, found) {
  const { t } = state;
  const fact = (key, text) => text && h("div", {}, h("dt", {}, t(key)), h("dd", {}, text));
  return h("section", { class: "card", "aria-label": found.path },
    h("header", {}, h("h2", {}, found.path), h("p", {}, found.architecture)),
    h("dl", { class: "facts" },
      fact("scheme", found.scheme), fact("parameters", t("millions", { count: digits(found.parameters / 1e6, 4) })),
      fact("size", bytes(found.bytes)), fact("size_bpw", digits(found.bpw, 4))),
    found.histograms.map((one) => histogram(state, one)),
    found.histograms.length === 0 && h("p", { class: "note" }, t("no_codes")),
    h("details", {}, h("summary", {}, t("elements")), table([t("element"), t("tensors"), t("size")],
      found.elements.map((one) => [one.element, whole(one.tensors), bytes(one.bytes)]), { caption: t("elements"), numeric: [1, 2] })));
}

function histogram(state, { element, weights, numbers }) {
  const { t } = state;
  const crowded = numbers.length > CROWDED;
  const points = numbers.map((one, i) => ({ ...one, x: crowded ? i : one.value, end: i === 0 || i === numbers.length - 1 }));
  const gap = crowded ? 1 : Math.min(...points.slice(1).map((one, i) => one.x - points[i].x));
  const places = points.map((one) => one.x);
  const some = (width) => places.filter((_, i) => i % Math.ceil(places.length * 48 / width) === 0); // what has room below
  const ticks = (width) => (crowded ? some(width) : width > 600 ? places : undefined);
  const fill = (one) => (one.end ? "var(--series-2)" : "var(--series-1)");
  return chart({
    label: t("histogram", { element, weights: whole(weights) }),
    caption: t(crowded ? "histogram_crowded" : "histogram_caption"),
    legend: [[t("inside"), "var(--series-1)"], [t("at_the_ends"), "var(--series-2)"]],
    head: [t("number"), t("weights"), t("share")],
    rows: numbers.map((one) => [digits(one.value, 6), whole(one.count), percent(one.share, 3)]),
    draw: (Plot, width) => Plot.plot({
      width, height: 260, marginLeft: 52, marginRight: 12,
      x: { label: null, tickFormat: (x) => (crowded ? digits(numbers[x]?.value ?? 0) : digits(x)), ticks: ticks(width) },
      y: { label: null, tickFormat: (share) => percent(share, 1), grid: true, ticks: 5 },
      marks: [
        Plot.rectY(points, { x1: (one) => one.x - 0.32 * gap, x2: (one) => one.x + 0.32 * gap, y: "share", fill, rx: 1 }),
        Plot.ruleY([0], { stroke: "var(--muted)" }),
        Plot.tip(points, Plot.pointerX({ x: "x", y: "share", ...TIP,
          title: (one) => `${digits(one.value, 6)}\n${percent(one.share, 3)}` })),
      ],
    }),
  });
}
