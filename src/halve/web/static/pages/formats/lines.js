// Number lines, ranges and precision of the formats that are compared.

import * as api from "../../api.js";
import { SERIES, TIP, chart } from "../../chart.js";
import { debounce, field, h, problem, select } from "../../dom.js";
import { short } from "./number.js";

const COMPARED = ["bf16", "fp16", "fp8_e5m2", "fp8_e4m3", "fp6_e3m2", "fp4_e2m1", "int8"];
const LEFT = 104;

export function lines(state, facts) {
  const { t } = state;
  const known = facts.map((fact) => fact.name);
  let names = state.list("compare", COMPARED).filter((name) => known.includes(name));
  const line = h("div"), range = h("div"), precision = h("div");
  const colour = (name) => SERIES[names.indexOf(name) % SERIES.length];

  const chips = h("fieldset", { class: "chips" }, h("legend", {}, t("compare")), facts.map((fact) =>
    h("label", {}, h("input", { type: "checkbox", value: fact.name, checked: names.includes(fact.name), onchange: choose }), fact.name)));

  function choose() {
    names = [...chips.querySelectorAll("input:checked")].map((box) => box.value);
    state.set({ compare: names.join() === COMPARED.join() ? null : names });
    update();
  }

  const low = end("low", "-8"), high = end("high", "8");
  const axis = select([["linear", t("axis_linear")], ["log", t("axis_log")]], state.get("axis", "linear"), (value) => {
    [low.value, high.value] = value === "log" ? ["0.001", "1000"] : ["-8", "8"];
    state.set({ axis: value, low: low.value, high: high.value });
    drawLine();
  });

  function end(key, fallback) {
    return h("input", { value: state.get(key, fallback), inputmode: "decimal", size: 8,
      oninput: debounce((event) => { state.set({ [key]: event.target.value }); drawLine(); }, 250) });
  }

  const lineTurn = api.turns(state.signal), precisionTurn = api.turns(state.signal);

  async function guarded(place, work) {
    if (!names.length) {
      place.replaceChildren(h("p", { class: "muted" }, t("compare_none")));
      return;
    }
    try {
      place.replaceChildren(await work());
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren(problem(error));
    }
  }

  const drawLine = () => guarded(line, async () => {
    const logarithmic = axis.value === "log";
    const found = await api.get("formats/line", { names, low: low.value, high: high.value, logarithmic }, lineTurn());
    return numberLine(state, found, logarithmic, colour);
  });

  function update() {
    drawLine();
    guarded(range, async () => ranges(state, facts.filter((fact) => names.includes(fact.name)), colour));
    guarded(precision, async () => errors(state, await api.get("formats/precision", { names }, precisionTurn()), colour));
  }

  update();
  return h("section", { class: "card", "aria-labelledby": "lines" },
    h("header", {}, h("h2", { id: "lines" }, t("lines_title")), h("p", {}, t("lines_lead"))),
    chips,
    h("div", { class: "row" }, field(t("axis"), axis), field(t("from"), low), field(t("to"), high)),
    line, range, precision);
}

function numberLine({ t }, found, logarithmic, colour) {
  const [{ low, high }] = found;
  const ticks = found.flatMap((one) => (one.values ?? []).map((value) => ({ format: one.format, value })));
  const columns = found.flatMap((one) => (one.counts ?? []).map((count, i, all) => {
    const at = (part) => (logarithmic ? low * (high / low) ** (part / all.length) : low + (high - low) * (part / all.length));
    return { format: one.format, x1: at(i), x2: at(i + 1), density: count };
  })).filter((column) => column.density > 0);
  return chart({
    label: t("line_label"),
    caption: t("line_caption"),
    head: [t("format"), t("line_total"), t("line_values")],
    rows: found.map((one) => [one.format, String(one.total), one.values ? one.values.map(short).join("  ") : t("line_many")]),
    draw: (Plot, width) => Plot.plot({
      width, height: 34 * found.length + 44, marginLeft: LEFT, marginRight: 16, marginTop: 4,
      x: { domain: [low, high], type: logarithmic ? "log" : "linear", label: null, ticks: Math.min(10, width / 90), tickFormat: "~g" },
      y: { domain: found.map((one) => one.format), label: null, padding: 0.35, tickSize: 0 },
      opacity: { type: "log", range: [0.12, 1] },
      marks: [
        Plot.ruleY(found, { y: "format", stroke: "var(--line)" }),
        Plot.rect(columns, { x1: "x1", x2: "x2", y: "format", fill: (one) => colour(one.format), fillOpacity: "density", inset: 0 }),
        Plot.tickX(ticks, { x: "value", y: "format", stroke: (one) => colour(one.format), strokeWidth: 1.6 }),
        Plot.tip(ticks, Plot.pointer({ x: "value", y: "format", title: (one) => `${one.format}: ${short(one.value)}`, ...TIP })),
      ],
    }),
  });
}

function ranges({ t }, facts, colour) {
  const rows = facts.map((fact) => ({ ...fact, full: fact.smallest_normal ?? fact.smallest_positive }));
  return chart({
    label: t("range_label"),
    caption: t("range_caption"),
    head: [t("format"), t("smallest"), t("smallest_normal"), t("largest")],
    rows: rows.map((fact) => [fact.name, short(fact.smallest_positive), short(fact.full), short(fact.max)]),
    draw: (Plot, width) => Plot.plot({
      width, height: 30 * rows.length + 44, marginLeft: LEFT, marginRight: 24, marginTop: 4,
      x: { type: "log", base: 10, label: null, grid: true, ticks: Math.min(9, width / 80), tickFormat: power },
      y: { domain: rows.map((fact) => fact.name), label: null, padding: 0.45, tickSize: 0 },
      marks: [
        Plot.barX(rows, { x1: "smallest_positive", x2: "full", y: "name", fill: (fact) => colour(fact.name), fillOpacity: 0.3 }),
        Plot.barX(rows, { x1: "full", x2: "max", y: "name", fill: (fact) => colour(fact.name), rx: 2 }),
      ],
    }),
  });
}

function errors({ t }, found, colour) {
  const least = 10 ** Math.floor(Math.log10(Math.min(...found.flatMap((one) => one.errors))));
  const points = found.flatMap((one) => one.magnitudes.map((x, i) => ({ format: one.format, x, error: one.errors[i] })));
  return chart({
    label: t("precision_label"),
    caption: t("precision_caption"),
    legend: found.map((one) => [one.format, colour(one.format)]),
    head: [t("format"), t("precision_best"), t("precision_worst")],
    rows: found.map((one) => [one.format, `${short(100 * Math.min(...one.errors))} %`, `${short(100 * Math.max(...one.errors))} %`]),
    draw: (Plot, width) => Plot.plot({
      width, height: 320, marginLeft: 64, marginRight: 24, clip: true,
      x: { type: "log", domain: [1e-9, 1e9], label: t("magnitude"), ticks: Math.min(9, width / 80), tickFormat: power },
      y: { type: "log", domain: [least, 1], label: t("relative_error"), grid: true, tickFormat: (y) => `${short(Number((100 * y).toPrecision(1)))} %`, ticks: 6 },
      marks: [
        Plot.line(points, { x: "x", y: "error", z: "format", stroke: (one) => colour(one.format), strokeWidth: 1.8 }),
        Plot.tip(points, Plot.pointer({ x: "x", y: "error", title: (one) => `${one.format}, ${short(one.x)}: ${short(100 * one.error)} %`, ...TIP })),
      ],
    }),
  });
}

function power(x) {
  const exponent = Math.round(Math.log10(x));
  const digits = [...String(Math.abs(exponent))].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]).join("");
  return exponent === 0 ? "1" : exponent === 1 ? "10" : `10${exponent < 0 ? "⁻" : ""}${digits}`;
}
