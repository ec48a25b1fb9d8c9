// Report: result files of `halve eval`, `inspect` and `plan`, drawn: which is best for its size, layer by layer, code by code.

import * as api from "../api.js";
import { announce, h, problem } from "../dom.js";
import { options } from "./plan/options.js";
import { evaluations } from "./report/evaluations.js";
import { inspection } from "./report/inspection.js";
import { translator } from "../i18n.js";

export const title = "title";

const COMMANDS = [
  "halve eval OUT1 OUT2 --against MODEL --json > eval.json",
  "halve inspect OUT --values --json > inspect.json",
  "halve plan MODEL --json > plan.json",
];
const LARGEST = 8e6; // bytes: what the server takes

export async function render(root, state) {
  const { t } = state;
  const plan = await translator("plan"); // ways to serve are drawn as on that page
  let opened = []; // {name, results} or {name, error}
  const list = h("ul", { class: "files", "aria-label": t("files") });
  const result = h("div", { class: "stack" });
  const input = h("input", { type: "file", multiple: true, accept: ".json,application/json", class: "unseen", id: "files",
    onchange: () => { take(input.files).then(() => { input.value = ""; }); } });
  const drop = h("div", { class: "drop" },
    h("p", {}, h("label", { for: "files", class: "button" }, t("choose")), input, h("span", {}, t("or_drop"))),
    h("p", { class: "muted small" }, t("made_by")),
    h("pre", { class: "small", tabindex: "0" }, COMMANDS.join("\n")));
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    take(event.dataTransfer.files);
  });
  root.append(
    h("header", {}, h("h1", {}, t("title")), h("p", { class: "lead" }, t("lead"))),
    h("section", { class: "card", "aria-label": t("open") }, drop, list),
    result);
  // What misses the field is not to replace the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault(), { signal: state.signal });

  async function take(files) {
    const found = await Promise.all(Array.from(files, read));
    const names = found.map((one) => one.name);
    opened = [...opened.filter((one) => !names.includes(one.name)), ...found];
    const failed = found.filter((one) => one.error).length;
    announce(t("said", { count: found.length - failed, failed }));
    await draw();
  }

  async function read(file) {
    const { name } = file;
    try {
      if (file.size > LARGEST) throw new api.ApiError(t("too_large", { name }), t("too_large_hint"));
      let content;
      try {
        content = JSON.parse(await file.text());
      } catch {
        throw new api.ApiError(t("no_json", { name }), t("no_json_hint"));
      }
      return { name, results: await api.post("report", { name, content }, state) };
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return { name, error };
    }
  }

  function kinds(results) {
    const by = Object.entries(Object.groupBy(results, (one) => one.kind));
    return by.map(([kind, of]) => (of.length > 1 ? `${of.length} × ${t(kind)}` : t(kind))).join(", ");
  }

  async function draw() {
    list.replaceChildren(...opened.map((one) => h("li", {},
      h("div", { class: "beside" }, h("span", {}, h("strong", {}, one.name), one.results ? ` · ${kinds(one.results)}` : ""),
        h("button", { class: "quiet", "aria-label": t("close", { name: one.name }), onclick: () => {
          opened = opened.filter((other) => other !== one);
          draw();
          input.focus();
        } }, "×")),
      one.error && problem(one.error))));
    const results = opened.flatMap((one) => one.results ?? []);
    const of = (kind) => results.filter((one) => one.kind === kind);
    result.replaceChildren(
      ...(of("evaluation").length ? [await evaluations(state, of("evaluation"))] : []),
      ...of("inspection").map((one) => inspection(state, one)),
      ...of("plan").map((one) => options({ t: plan }, one)));
  }
}
