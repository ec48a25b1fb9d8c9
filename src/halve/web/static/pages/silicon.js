// Silicon: area against SQNR, the bits as the size of the dot, out of the measured table.

import * as api from "../api.js";
import { TIP, chart } from "../chart.js";
import { field, h, problem, select, table } from "../dom.js";
import { labels } from "../labels.js";
import { digits, whole } from "../numbers.js";

export const title = "title";

const CIRCUITS = {
  tile: ["dot16", "dot16_mx", "dot16_nvfp4"],
  multiplier: ["multiplier"],
  mac: ["mac", "fixed_mac"],
};
const COSTS = { area: "area_per_product", energy: "energy_per_product" };
const MOST = 100; // dB that are drawn; the label says what is better
const MARGIN = { left: 48, right: 32, top: 28, bottom: 40 };
const FAMILIES = [["float", "var(--series-1)"], ["integer", "var(--series-2)"]];
const SUFFIXES = { dot16_mx: "mx", dot16_nvfp4: "nv", fixed_mac: "fixed" };

export function render(root, state) {
  const { t } = state;
  const result = h("div", { class: "stack" });
  const turn = api.turns(state.signal);
  const choose = (name, values, fallback, prefix) => field(t(name), select(values.map((one) => [one, t(`${prefix}_${one}`)]),
    state.get(name, fallback), (value) => { state.set({ [name]: value === fallback ? null : value }); update(); }));
  root.append(
    h("header", {}, h("h1", {}, t("title")), h("p", { class: "lead" }, t("lead"))),
    h("section", { class: "card", "aria-label": t("ask") }, h("div", { class: "columns" },
      choose("circuit", Object.keys(CIRCUITS), "tile", "circuit"), choose("cost", Object.keys(COSTS), "area", "cost"),
      choose("data", ["gaussian", "heavy"], "gaussian", "data"))),
    result);
  return update();

  async function update() {
    try {
      draw(await api.get("silicon", { data: state.get("data", "gaussian") }, turn()));
    } catch (error) {
      if (error.name !== "AbortError") result.replaceChildren(problem(error));
    }
  }

  function draw(found) {
    const cost = COSTS[state.get("cost", "area")] ?? COSTS.area;
    const units = CIRCUITS[state.get("circuit", "tile")] ?? CIRCUITS.tile;
    const shown = found.measured.filter((one) => units.includes(one.unit) && one.subnormals);
    result.replaceChildren(picture(found, shown, cost), ratios(found, shown), literature(found));
  }

  function picture(found, shown, cost) {
    const tiles = shown.some((one) => one.best !== null);
    const points = shown.map((one) => ({
      ...one, x: one[cost], y: Math.min(one.sqnr_db, MOST), family: one.format.startsWith("int") ? "integer" : "float",
      label: [one.format.split("_").at(-1), SUFFIXES[one.unit], one.sqnr_db > MOST && `(${Math.round(one.sqnr_db)} dB)`]
        .filter(Boolean).join(" "),
    })).sort((a, b) => b.bits - a.bits); // the small ones stay on top
    const colour = (one) => FAMILIES.find(([name]) => name === one.family)[1];
    const label = t(cost);
    const radius = (one) => 3 + one.bits * 0.55;
    const [low, high] = [0.85 * Math.min(...points.map((one) => one.x)), 1.3 * Math.max(...points.map((one) => one.x))];
    return h("section", { class: "card" }, chart({
      label: t("picture", { cost: label }),
      caption: t(tiles ? "picture_tiles" : "picture_caption"),
      legend: FAMILIES.map(([name, of]) => [t(name), of]),
      head: [t("format"), t("unit"), t("bits"), t("sqnr"), label, ...(tiles ? [t("best")] : [])],
      rows: shown.map((one) => [one.format, one.unit, digits(one.bits, 4), digits(one.sqnr_db, 4), digits(one[cost], 4),
        ...(tiles ? [one.best ? t("yes") : ""] : [])]),
      draw: (Plot, width) => {
        const height = Math.max(380, Math.min(520, width * 0.55));
        const left = (x) => MARGIN.left + (width - MARGIN.left - MARGIN.right) * Math.log(x / low) / Math.log(high / low);
        const top = (y) => height - MARGIN.bottom - (height - MARGIN.top - MARGIN.bottom) * y / (MOST + 4);
        return Plot.plot({
          width, height, marginLeft: MARGIN.left, marginRight: MARGIN.right, marginTop: MARGIN.top, marginBottom: MARGIN.bottom, grid: true,
          x: { type: "log", domain: [low, high], label, tickFormat: "~s", ticks: Math.max(3, Math.floor(width / 130)) },
          y: { label: t("sqnr"), domain: [0, MOST + 4] },
          r: { type: "identity" },
          marks: [
            Plot.dot(points, { x: "x", y: "y", r: radius, fill: colour, stroke: colour, strokeWidth: 1.5,
              fillOpacity: (one) => (one.best === false ? 0.06 : 0.4), strokeOpacity: (one) => (one.best === false ? 0.45 : 1) }),
            labels(Plot, points.map((one) => ({
              ...one, label: one.best === false ? "" : one.label, left: left(one.x), top: top(one.y), radius: radius(one) })), width),
            Plot.tip(points, Plot.pointer({ x: "x", y: "y", ...TIP,
              title: (one) => [`${one.format}, ${one.unit}`, `${label}: ${digits(one.x)}`,
                `${t("sqnr")}: ${digits(one.sqnr_db)}`, `${t("bits")}: ${digits(one.bits)}`].join("\n") })),
          ],
        });
      },
    }), h("p", { class: "muted small", lang: "en" }, found.caveat));
  }

  function ratios(found, shown) {
    const smaller = (ratio) => (ratio === null ? "—" : `${digits(ratio)}×`);
    return h("section", { class: "card", "aria-labelledby": "ratios" },
      h("header", {}, h("h2", { id: "ratios" }, t("ratios")), h("p", {}, t("ratios_lead"))),
      h("dl", { class: "units small", lang: "en" }, [...new Set(shown.map((one) => one.unit))].map((name) =>
        h("div", {}, h("dt", {}, name), h("dd", {}, found.units[name])))),
      h("div", { class: "tall" }, table([t("format"), t("unit"), t("nand2"), t("smaller"), t("rule"), t("saves"), t("depth"), t("vectors")],
        shown.map((one) => [one.format, one.unit, digits(one.area, 4), smaller(one.area_ratio), smaller(one.rule_of_thumb),
          smaller(one.energy_ratio), whole(one.depth), whole(one.vectors)]),
        { caption: t("ratios"), numeric: [2, 3, 4, 5, 6, 7] })),
      h("p", { class: "muted small" }, t("proven", { vectors: whole(found.vectors), wrong: whole(found.mismatches) })));
  }

  function literature(found) {
    const long = (text) => h("span", { lang: "en", class: "long" }, text);
    return h("section", { class: "card", "aria-labelledby": "literature" },
      h("header", {}, h("h2", { id: "literature" }, t("literature")), h("p", {}, t("literature_lead"))),
      table([t("format"), t("unit"), t("relative"), t("published"), t("here"), t("counted"), t("source")],
        found.literature.map((one) => [
          one.format, one.unit, one.relative_to, one.published, one.here ?? "—", long(one.counted), long(one.source)]),
        { caption: t("literature"), numeric: [3, 4] }));
  }
}
