// Talk: one prompt, answered by several precisions side by side.

import * as api from "../api.js";
import { announce, field, h, problem } from "../dom.js";
import { Panel } from "./talk/panel.js";
import { count, firstDifference, words } from "./talk/words.js";

export const title = "title";
const TOGETHER = 4; // halve.web.talk

export async function render(root, state) {
  const { t } = state;
  root.append(h("header", {}, h("h1", {}, t("title")), h("p", { class: "lead" }, t("lead"))));
  const models = await api.get("talk/models", {}, state);
  root.append(models.length ? talk(state, models) : howToLoad(t));
}

function howToLoad(t) {
  return h("section", { class: "card" },
    h("header", {}, h("h2", {}, t("none_title")), h("p", {}, t("none_lead"))),
    h("pre", { tabindex: "0" }, h("code", {}, "halve demo\nhalve web halve-demo/bf16 halve-demo/nvfp4a16")),
    h("p", { class: "muted" }, t("none_more")));
}

function talk(state, models) {
  const { t } = state;
  const wanted = state.list("models", models.slice(0, 3).map((model) => model.name));
  let panels = [];
  let asking = null;
  let frame = null;

  const chips = h("fieldset", { class: "chips" }, h("legend", {}, t("models", { most: TOGETHER })), models.map((model) =>
    h("label", {}, h("input", { type: "checkbox", value: model.name, checked: wanted.includes(model.name), onchange: choose }), model.name)));
  const prompt = h("textarea", { rows: 3, value: state.get("prompt", t("example")),
    oninput: () => state.set({ prompt: prompt.value }),
    onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(); } });
  const number = (key, fallback, limits) => h("input", { type: "number", value: state.number(key, fallback), ...limits,
    oninput: (event) => state.set({ [key]: event.target.value }) });
  const tokens = number("tokens", 96, { min: 1, step: 1 });
  const temperature = number("temperature", 0, { min: 0, max: 2, step: 0.1 });
  const seed = number("seed", 0, { min: 0, step: 1 });
  const start = h("button", { class: "primary", onclick: ask }, t("ask"));
  const stop = h("button", { disabled: true, onclick: () => asking?.abort() }, t("stop"));
  const trouble = h("div");
  const board = h("div", { class: "panels" });
  state.signal.addEventListener("abort", () => asking?.abort());

  function chosen() {
    return [...chips.querySelectorAll("input:checked")].map((box) => box.value);
  }

  function choose() {
    state.set({ models: chosen() });
    asking?.abort();
    lay();
  }

  function lay() {
    const names = chosen();
    for (const box of chips.querySelectorAll("input:not(:checked)")) box.disabled = names.length >= TOGETHER;
    const shown = models.filter((model) => names.includes(model.name));
    const largest = Math.max(...shown.map((model) => model.weight_bytes));
    panels = shown.map((model) => new Panel(model, largest, t));
    board.replaceChildren(...panels.map((panel) => panel.root));
    start.disabled = !names.length;
  }

  async function ask() {
    if (start.disabled) return;
    lay();
    trouble.replaceChildren();
    const mine = (asking = new AbortController());
    start.disabled = true;
    stop.disabled = false;
    announce(t("asking"));
    for (const panel of panels) panel.wait();
    const question = { models: chosen(), prompt: prompt.value, max_tokens: tokens.valueAsNumber, temperature: temperature.valueAsNumber, seed: seed.valueAsNumber };
    try {
      for await (const event of api.events("talk", question, mine)) {
        if (event.error && !event.model) throw new api.ApiError(event.error.message, event.error.hint);
        panels.find((panel) => panel.model.name === event.model)?.take(event);
        frame ??= requestAnimationFrame(compare); // words are told apart no more often than they are drawn
      }
      compare();
      announce([t("done"), ...panels.map((panel) => panel.said)].join(" "));
    } catch (error) {
      if (error.name === "AbortError") announce(t("stopped"));
      else trouble.replaceChildren(problem(error));
    } finally {
      if (asking === mine) {
        for (const panel of panels) panel.stop();
        compare();
        start.disabled = !chosen().length;
        stop.disabled = true;
        asking = null;
      }
    }
  }

  /** Mark where each answer first leaves the words of the first model's, and where that is first left. */
  function compare() {
    cancelAnimationFrame(frame);
    frame = null;
    const answers = panels.filter((panel) => !panel.failed && (panel.text || panel.ended));
    const [reference, ...others] = answers;
    if (!reference) return;
    const first = words(reference.text, reference.ended);
    let earliest = null;
    for (const panel of others) {
      const own = words(panel.text, panel.ended);
      const at = firstDifference(first, own, reference.ended && panel.ended);
      panel.mark(own, at);
      panel.note(at === null ? (reference.ended && panel.ended ? t("agree", { name: reference.model.name }) : "")
        : t("differ", { name: reference.model.name, place: count(own, at) + 1 }));
      if (at !== null && (earliest === null || at < earliest)) earliest = at;
    }
    reference.mark(first, earliest);
    reference.note(others.length ? t("reference") : "");
  }

  lay();
  return h("div", { class: "stack" },
    h("section", { class: "card" }, chips, field(t("prompt"), prompt, t("prompt_hint")),
      h("div", { class: "row" }, field(t("tokens"), tokens), field(t("temperature"), temperature), field(t("seed"), seed), start, stop),
      h("p", { class: "muted small" }, t("fair"))),
    trouble, board);
}
