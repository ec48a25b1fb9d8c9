// What a number becomes in each format.

import * as api from "../../api.js";
import { announce, debounce, field, h, problem, select, table } from "../../dom.js";
import { coded, percent, short } from "./number.js";

const ROUNDINGS = ["nearest_even", "toward_zero", "away_from_zero", "stochastic"];
const FAMILIES = { float: ["float", "codebook"], integer: ["integer"] };

/** `look(name, code)` opens the bits of a code. */
export function becomes(state, facts, look) {
  const { t } = state;
  const result = h("div");
  const exact = h("p", { class: "mono muted small wrap" });
  const input = h("input", { value: state.get("x", "0.1"), inputmode: "text", autocomplete: "off", spellcheck: "false",
    oninput: (event) => { state.set({ x: event.target.value }); later(); } });
  const rounding = select(ROUNDINGS.map((name) => [name, t(`rounding_${name}`)]), state.get("rounding", ROUNDINGS[0]),
    (value) => { state.set({ rounding: value }); update(); });
  const family = select(Object.keys(FAMILIES).map((name) => [name, t(`family_${name}`)]), state.get("family", "float"),
    (value) => { state.set({ family: value }); update(); });

  const turn = api.turns(state.signal);

  async function update() {
    const shown = FAMILIES[state.get("family", "float")] ?? FAMILIES.float;
    try {
      const found = await api.get("formats/cast", { x: input.value, rounding: rounding.value }, turn());
      exact.textContent = t("exactly", { value: found.exact });
      const rows = found.formats.map((one, i) => [one, facts[i]]).filter(([, fact]) => shown.includes(fact.family));
      result.replaceChildren(table([t("format"), t("becomes"), t("error"), "", t("bits")],
        rows.map(([one, fact]) => row(one, fact)), { caption: t("becomes_caption"), numeric: [2] }));
      announce(t("becomes_done", { number: input.value }));
    } catch (error) {
      if (error.name === "AbortError") return;
      exact.textContent = "";
      result.replaceChildren(problem(error));
    }
  }
  const later = debounce(update);

  function row(one, fact) {
    if (one.problem) return [one.format, h("span", { class: "muted" }, one.problem), "", "", ""];
    const open = h("button", { class: "link", onclick: () => look(one.format, one.code, true),
      title: t("look", { name: one.format }) }, one.format);
    const lost = typeof one.relative_error === "number" ? Math.abs(one.relative_error) : 1;
    const same = one.error === 0;
    return [open, h("span", { class: "mono wrap" }, one.exact.length > 32 ? short(one.value) : one.exact),
      same ? h("span", { class: "good" }, t("exact")) : percent(one.relative_error),
      h("span", { class: "bar", "aria-hidden": "true" }, h("i", { style: { width: `${same ? 0 : width(lost)}%` } })),
      coded(fact, one.fields)];
  }

  update();
  return h("section", { class: "card", "aria-labelledby": "becomes" },
    h("header", {}, h("h2", { id: "becomes" }, t("becomes_title")), h("p", {}, t("becomes_lead"))),
    h("div", { class: "columns" }, field(t("number"), input, t("number_hint")), field(t("rounding"), rounding), field(t("show"), family)),
    exact, result);
}

/** Of the bar, by the error's magnitude: from 1e-8 (nothing) to 1 (all of it). */
function width(lost) {
  return Math.min(100, Math.max(2, 100 * (1 + Math.log10(lost) / 8)));
}
