// Ways to serve, the cheapest first: memory against capacity, speed and price with their intervals.

import { h } from "../../dom.js";
import { digits, duration, range, whole } from "../../numbers.js";

const FIRST = 8;
const PARTS = [["weights", "--series-1"], ["cache", "--series-3"], ["workspace", "--series-5"], ["reserve", "--series-8"]];
const GB = 1e9;

/** `answer` is what `halve plan --json` prints. */
export function options(state, answer) {
  const { t } = state;
  const list = h("ol", { class: "options" });
  const { weights, active } = answer.model;
  const facts = weights ? t("model_facts", { weights: digits(weights / 1e9), active: digits(active / 1e9) }) : "";
  const section = h("section", { class: "card", "aria-label": t("options", { model: answer.model.name }) },
    h("header", {}, h("h2", {}, t("options", { model: answer.model.name })), h("p", {}, facts, t("options_lead"))),
    h("ul", { class: "legend" }, PARTS.map(([name, colour]) =>
      h("li", {}, h("i", { style: { background: `var(${colour})` } }), t(`memory_${name}`)))),
    list, left(state, answer.left));
  show(FIRST);
  return section;

  function show(count) {
    const shown = answer.options.slice(0, count);
    const fastest = Math.max(...shown.map((one) => one.tokens_per_second_p10_p90[1] / one.devices));
    const dearest = Math.max(...shown.map((one) => one.usd_per_million_tokens?.[1] ?? 0));
    list.replaceChildren(...shown.map((one) => option(state, one, fastest, dearest)));
    const hidden = answer.options.length - shown.length;
    if (hidden > 0) list.after(h("button", { class: "more", onclick: (event) => {
      event.target.remove();
      show(answer.options.length);
      list.children[count].querySelector("h3").focus();
    } }, t("show_all", { count: answer.options.length })));
  }
}

function option(state, one, fastest, dearest) {
  const { t } = state;
  const cut = ["tp", "pp", "dp"].filter((name) => one[name] > 1).map((name) => `${name} ${one[name]}`).join(", ");
  const speed = one.tokens_per_second_per_device;
  const interval = one.tokens_per_second_p10_p90.map((x) => x / one.devices);
  const price = one.usd_per_million_tokens;
  const held = one.memory_bytes;
  const part = (name) => `${t(`memory_${name}`)} ${digits(held[name] / GB)} GB`;
  return h("li", {},
    h("div", { class: "who" },
      h("h3", { tabindex: "-1" }, one.devices > 1 ? `${one.devices} × ${one.machine}` : one.machine),
      h("p", {}, h("strong", {}, one.scheme), one.kv === "bf16" ? "" : t("kv", { kv: one.kv })),
      h("p", { class: "muted small" }, [cut, t("at_once", { count: whole(one.batch) })].filter(Boolean).join(" · "))),
    h("div", { class: "measure" },
      h("span", { class: "label" }, t("memory")),
      h("span", { class: "figure" }, t("of", { used: digits(held.total / GB), all: digits(one.device_bytes / GB) })),
      h("div", { class: "stacked", role: "img", "aria-label": PARTS.map(([name]) => part(name)).join(", ") },
        PARTS.map(([name, colour]) => h("i", {
          title: part(name), style: { width: `${100 * held[name] / one.device_bytes}%`, background: `var(${colour})` } })))),
    h("div", { class: "measure" },
      h("span", { class: "label" }, one.devices > 1 ? t("speed_device") : t("speed")),
      h("span", { class: "figure" }, digits(speed)),
      whisker(interval, speed, fastest),
      h("span", { class: "muted small" }, t("p10_p90", { range: range(interval) }))),
    h("div", { class: "measure" },
      h("span", { class: "label" }, t("price")),
      h("span", { class: "figure" }, price ? `$${range(price)}` : "—"),
      price && whisker(price, (price[0] + price[1]) / 2, dearest),
      h("span", { class: "muted small" }, price ? "" : t("no_price"))),
    h("p", { class: "muted small more" },
      one.ttft_s === null ? "" : `${t("first_token")} ${duration(one.ttft_s)} · `, `${t("next_token")} ${duration(one.tpot_s)} · `,
      t("bound_by"), " ", h("span", { lang: "en" }, [one.binding, ...one.remarks].join(" · "))));
}

/** An interval with its middle, on the scale of all options. */
function whisker([low, high], middle, most) {
  const at = (x) => `${100 * x / most}%`;
  return h("div", { class: "whisker", "aria-hidden": "true" },
    h("i", { style: { left: at(low), width: `max(3px, ${100 * (high - low) / most}%)` } }), h("b", { style: { left: at(middle) } }));
}

function left(state, machines) {
  const { t } = state;
  if (!machines.length) return null;
  const why = Object.entries(Object.groupBy(machines, (one) => one.why));
  return h("details", {}, h("summary", {}, t("left", { count: machines.length })),
    h("ul", { class: "small" }, why.map(([reason, of]) =>
      h("li", {}, h("span", { lang: "en" }, reason), ": ", of.map((one) => one.machine).join(", ")))));
}
