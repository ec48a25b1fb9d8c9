// Which machine multiplies which format, and runs which scheme.

import { h, select, table } from "../../dom.js";

const SIGNS = { native: "●", emulated: "◐", absent: "·" };

export function matrix(state, choices) {
  const { t } = state;
  const box = h("div", { class: "tall" });
  const wanted = state.list("hardware").map((name) => name.toLowerCase());
  const chosen = choices.machines.filter((one) => wanted.includes(one.name.toLowerCase()));
  const machines = chosen.length ? chosen : choices.machines;

  function draw() {
    const by = state.get("support", "formats");
    const names = by === "schemes" ? choices.schemes.map((one) => one.name) : choices.formats;
    const level = (one, name) => (by === "schemes" ? one.schemes[name] : one.formats[name].level);
    const why = (one, name) => (by === "schemes" ? "" : one.formats[name].why);
    box.replaceChildren(table([t("machine"), "GB", "GB/s", ...names], machines.map((one) => [
      one.name, one.memory_gb, one.bandwidth_gbs, ...names.map((name) => h("span", {
        class: `level ${level(one, name)}`, title: [t(`level_${level(one, name)}`), why(one, name)].filter(Boolean).join(": ") },
      h("span", { "aria-hidden": "true" }, SIGNS[level(one, name)]), h("span", { class: "unseen" }, t(`level_${level(one, name)}`))))]),
    { caption: t("matrix_caption"), numeric: [1, 2] }));
  }

  draw();
  const by = select([["formats", t("by_formats")], ["schemes", t("by_schemes")]], state.get("support", "formats"),
    (value) => { state.set({ support: value === "formats" ? null : value }); draw(); });
  by.setAttribute("aria-label", t("matrix"));
  return h("section", { class: "card", "aria-labelledby": "matrix" },
    h("header", { class: "beside" }, h("div", {}, h("h2", { id: "matrix" }, t("matrix")), h("p", {}, t("matrix_lead"))), by),
    h("ul", { class: "legend" }, Object.entries(SIGNS).map(([name, sign]) =>
      h("li", {}, h("span", { class: `level ${name}`, "aria-hidden": "true" }, sign), t(`level_${name}`)))),
    box);
}
