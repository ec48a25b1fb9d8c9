// Plan: which machine serves a model, how fast, at what price; and the command line that says the same.

import * as api from "../api.js";
import { copyable } from "../copy.js";
import { announce, debounce, field, h, problem, select } from "../dom.js";
import { digits } from "../numbers.js";
import { curves } from "./plan/curves.js";
import { matrix } from "./plan/matrix.js";
import { options } from "./plan/options.js";
import { picker } from "./plan/picker.js";

export const title = "title";

const CONTEXTS = [1, 2, 4, 8, 9, 16, 32, 64, 128, 256, 512, 1024].map((k) => k * 1024);
const OUTPUTS = [128, 256, 512, 1024, 2048, 4096, 8192];
const USUAL = { model: "Llama-3.1-8B", context: 9216, output: 1024 };

export async function render(root, state) {
  const { t } = state;
  const later = debounce(update, 250);
  const turn = api.turns(state.signal);
  const result = h("div", { class: "stack" });
  const support = h("div");
  root.append(h("header", {}, h("h1", {}, t("title")), h("p", { class: "lead" }, t("lead"))));
  const choices = await api.get("plan/choices", {}, state);
  root.append(controls(), result, support);
  update();

  function controls() {
    const names = h("datalist", { id: "models" }, choices.models.map((one) =>
      h("option", { value: one.name }, t("weights", { count: digits(one.weights / 1e9) }))));
    const model = h("input", { list: "models", value: state.get("model", USUAL.model), autocomplete: "off", spellcheck: "false",
      oninput: (event) => { state.set({ model: event.target.value }); later(); } });
    const machines = Object.entries(Object.groupBy(choices.machines, (one) => one.vendor)).map(([label, of]) => (
      { label, options: of.map((one) => [one.name, one.preliminary ? t("preliminary", { name: one.name }) : one.name]) }));
    return h("section", { class: "card", "aria-labelledby": "ask" },
      h("h2", { id: "ask" }, t("ask")),
      names,
      h("div", { class: "columns" },
        field(t("model"), model, t("model_hint")),
        picker({ label: t("hardware"), none: t("hardware_all"), more: t("more"), remove: t("remove"),
          options: [["this", t("hardware_this")], ...machines], chosen: state.list("hardware"),
          onchange: (names) => { state.set({ hardware: names }); update(); } }),
        picker({ label: t("precision"), none: t("precision_best"), more: t("more"), remove: t("remove"),
          options: choices.schemes.map((one) => [one.name, t("scheme", { name: one.name, bits: digits(one.bpw) })]),
          chosen: state.list("scheme"), onchange: (names) => { state.set({ scheme: names }); update(); } })),
      h("div", { class: "columns narrow" },
        field(t("context"), tokens("context", CONTEXTS), t("context_hint")),
        field(t("output"), tokens("output", OUTPUTS)),
        field(t("batch"), number("batch", { min: 1, max: 65536, step: 1, placeholder: t("batch_best") })),
        field(t("ttft"), number("ttft", { min: 0, step: "any", placeholder: t("no_limit") })),
        field(t("tpot"), number("tpot", { min: 0, step: "any", placeholder: t("no_limit") }, 1e-3))));
  }

  function tokens(name, usual) {
    const chosen = state.number(name, USUAL[name]);
    const all = [...new Set([...usual, chosen])].sort((a, b) => a - b);
    return select(all.map((count) => [String(count), count % 1024 ? String(count) : `${count / 1024}k`]), String(chosen),
      (value) => { state.set({ [name]: value }); update(); });
  }

  /** What is empty is left out; `unit` is what one of the shown is of what is asked. */
  function number(name, attributes, unit = 1) {
    const given = state.number(name, null);
    const value = given === null ? "" : String(Number((given / unit).toPrecision(12)));
    return h("input", { type: "number", inputmode: "decimal", ...attributes, value,
      oninput: (event) => {
        const typed = event.target.valueAsNumber;
        state.set({ [name]: Number.isFinite(typed) ? Number((typed * unit).toPrecision(12)) : null });
        later();
      } });
  }

  async function update() {
    const asked = { model: state.get("model", USUAL.model) };
    for (const name of ["hardware", "scheme", "context", "output", "batch", "ttft", "tpot"]) {
      if (state.get(name)) asked[name] = state.get(name);
    }
    support.replaceChildren(matrix(state, choices));
    result.setAttribute("aria-busy", "true");
    try {
      const found = await api.get("plan", asked, turn());
      const drawn = curves(state, found.curves);
      result.replaceChildren(options(state, found.answer), again(found), ...(drawn ? [drawn] : []));
      announce(t("found", { count: found.answer.options.length }));
    } catch (error) {
      if (error.name === "AbortError") return;
      result.replaceChildren(problem(error));
    }
    result.removeAttribute("aria-busy");
  }
  function again({ command, answer }) {
    return h("section", { class: "card", "aria-labelledby": "again" },
      h("h2", { id: "again" }, t("again")),
      copyable(t("same_command"), command),
      copyable(t("same_link"), new URL(state.link(), location.href).href),
      answer.command && copyable(t("make_it"), answer.command));
  }
}
