// A block of numbers under its scale: codes, scale, error.

import * as api from "../../api.js";
import { TIP, chart } from "../../chart.js";
import { debounce, disclosure, field, h, problem, select, table } from "../../dom.js";
import { short } from "./number.js";

export function block(state, schemes) {
  const { t } = state;
  const result = h("div", { class: "stack" });
  const scheme = select(schemes.map((one) => [one.name, t("scheme_bits", { name: one.name, bits: one.bpw })]), state.get("scheme", "nvfp4"),
    (value) => { state.set({ scheme: value, rule: null }); update(); });
  const seed = h("input", { type: "number", min: 0, value: state.get("seed", "0"),
    oninput: () => { state.set({ seed: seed.value, numbers: null }); numbers.value = ""; later(); } });
  const numbers = h("textarea", { rows: 3, spellcheck: "false", class: "mono", value: state.get("numbers"),
    oninput: () => { state.set({ numbers: numbers.value }); later(); } });
  const largest = h("input", { inputmode: "decimal", value: state.get("largest", "5"),
    oninput: () => { state.set({ largest: largest.value }); later(); } });
  const rules = h("div");
  const largestField = field(t("tensor_largest"), largest, t("largest_hint"));

  const turn = api.turns(state.signal);

  async function update() {
    const asked = { scheme: scheme.value, numbers: numbers.value, seed: seed.value || 0, largest: largest.value, rule: state.get("rule") || null };
    try {
      const found = await api.get("formats/block", asked, turn());
      numbers.placeholder = found.elements.map((one) => one.input).join(", ");
      largestField.hidden = found.tensor_scale === null;
      offerRules(found);
      result.replaceChildren(summary(found), drawing(found), codes(found));
    } catch (error) {
      if (error.name !== "AbortError") result.replaceChildren(problem(error));
    }
  }
  const later = debounce(update);

  function offerRules(found) {
    rules.hidden = found.rules.length < 2;
    if (rules.dataset.of === found.rules.join()) return; // a control in use stays where it is
    rules.dataset.of = found.rules.join();
    rules.replaceChildren(field(t("rule"), select(found.rules.map((name) => [name, t(`rule_${name}`)]), found.rule,
      (value) => { state.set({ rule: value }); update(); })));
  }

  function summary(found) {
    const fact = (key, value) => h("div", {}, h("dt", {}, t(key)), h("dd", {}, value));
    const scales = found.scales.map((one) => h("div", { class: "mono" }, `${short(one.value)}`, " ", h("span", { class: "bits small" }, h("span", { class: "exponent" }, one.fields.replaceAll("|", " ")))));
    return h("dl", { class: "facts" },
      fact("scale", [scales, h("small", {}, found.scale_format)]),
      found.minima && fact("minimum", found.minima.map((one) => h("div", { class: "mono" }, short(one.value)))),
      found.tensor_scale !== null && fact("tensor_scale", h("span", { class: "mono" }, short(found.tensor_scale))),
      fact("element", found.element), fact("bpw", String(found.bpw)),
      fact("sqnr", typeof found.sqnr_db === "number" ? `${found.sqnr_db.toFixed(2)} dB` : t("exact")));
  }

  function drawing(found) {
    const points = found.elements.map((one, i) => ({ ...one, place: i + 1 }));
    const size = found.block_size;
    const levels = (found.levels ?? []).flatMap((held, i) => held.map((y) => ({ y, x1: i * size + 0.5, x2: Math.min((i + 1) * size, points.length) + 0.5 })));
    return chart({
      label: t("block_label"),
      caption: t(found.levels ? "block_caption" : "block_caption_fine"),
      legend: [[t("was"), "var(--muted)"], [t("is"), "var(--accent)"]],
      head: ["#", t("was"), t("is"), t("difference")],
      rows: points.map((one) => [String(one.place), String(one.input), short(one.value), short(one.error)]),
      draw: (Plot, width) => Plot.plot({
        width, height: 320, marginLeft: 48, marginRight: 12,
        x: { domain: [0.5, points.length + 0.5], type: "linear", label: null, ticks: Math.min(points.length, Math.floor(width / 32)), tickSize: 0 },
        y: { label: null, tickFormat: "~g" },
        marks: [
          Plot.ruleY(levels, { y: "y", x1: "x1", x2: "x2", stroke: "var(--line)" }),
          Plot.ruleY([0], { stroke: "var(--muted)", strokeOpacity: 0.6 }),
          Plot.ruleX(points, { x: "place", y1: "input", y2: "value", stroke: "var(--bad)", strokeWidth: 2, strokeOpacity: 0.7 }),
          Plot.dot(points, { x: "place", y: "input", stroke: "var(--muted)", strokeWidth: 1.8, fill: "var(--surface)", r: 4 }),
          Plot.dot(points, { x: "place", y: "value", fill: "var(--accent)", r: 4 }),
          Plot.tip(points, Plot.pointerX({ x: "place", y: "value", title: (one) => `${one.input} → ${short(one.value)}`, ...TIP })),
        ],
      }),
    });
  }

  function codes(found) {
    const rows = found.elements.map((one, i) => [String(i + 1), String(one.input), h("span", { class: "bits" }, h("span", { class: "value" }, one.fields.replaceAll("|", " "))),
      short(one.element), short(one.value), short(one.error)]);
    const head = ["#", t("was"), t("code"), t("element_value"), t("is"), t("difference")];
    return disclosure(t("block_codes"), "block_codes", table(head, rows, { caption: t("block_codes"), numeric: [1, 3, 4, 5] }));
  }

  update();
  return h("section", { class: "card", "aria-labelledby": "block" },
    h("header", {}, h("h2", { id: "block" }, t("block_title")), h("p", {}, t("block_lead"))),
    h("div", { class: "columns" }, field(t("scheme"), scheme), rules, largestField, field(t("seed"), seed, t("seed_hint"))),
    field(t("numbers_label"), numbers, t("numbers_hint")), result);
}
