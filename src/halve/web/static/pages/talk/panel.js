// The answer of one model, with what it costs.

import { h, problem } from "../../dom.js";

export class Panel {
  /** `largest`: the bytes of the largest model beside it. */
  constructor(model, largest, t) {
    this.model = model;
    this.t = t;
    this.text = "";
    this.ended = false;
    this.failed = false;
    this.answer = h("div", { class: "reply", tabindex: "0", role: "region", "aria-label": t("answer_of", { name: model.name }) });
    this.said = "";
    this.comparison = h("p", { class: "comparison" });
    this.status = h("span", { class: "status" });
    this.speed = h("dd", {}, "—");
    this.count = h("dd", {}, "—");
    this.cache = h("dd", {}, "—");
    const part = (key, value) => h("div", {}, h("dt", {}, t(key)), value);
    this.root = h("section", { class: "card panel", "aria-label": model.name },
      h("header", {}, h("h2", {}, model.name, " ", this.status), h("p", { class: "small" }, model.engine)),
      this.answer, this.comparison,
      h("dl", { class: "facts" },
        part("speed", this.speed), part("tokens_written", this.count),
        part("weights", h("dd", {}, bytes(model.weight_bytes), " ", h("small", {}, model.weights))),
        part("cache", this.cache)),
      h("span", { class: "bar wide", "aria-hidden": "true" }, h("i", { style: { width: `${100 * model.weight_bytes / largest}%` } })));
  }

  wait() {
    this.root.setAttribute("aria-busy", "true");
    this.status.textContent = "…";
  }

  /** An event of halve.web.talk. */
  take(event) {
    if (event.text) this.text += event.text;
    if (event.tokens !== undefined) {
      this.count.textContent = String(event.tokens);
      if (event.tokens > 1 && event.seconds > 0) this.speed.textContent = this.t("per_second", { rate: rate((event.tokens - 1) / event.seconds) });
      if (event.cache_bytes) this.cache.textContent = bytes(event.cache_bytes);
    }
    if (event.end) this.finish(this.t(`end_${event.end}`));
    if (event.error) {
      this.failed = true;
      this.finish(this.t("failed"));
      this.answer.replaceChildren(problem(event.error));
    }
  }

  finish(text) {
    this.ended = true;
    this.root.removeAttribute("aria-busy");
    this.status.textContent = text;
  }

  /** What has not ended by now never will. */
  stop() {
    if (!this.ended) this.finish(this.t("stopped"));
  }

  /** Show the answer with word `at` of `found` marked; null: with none. */
  mark(found, at) {
    const start = at === null ? 0 : found.slice(0, at).join("").length;
    const word = at === null ? "" : (found[at] ?? "").trimEnd();
    this.answer.replaceChildren(
      h("span", { class: "same" }, this.text.slice(0, start)), word && h("mark", {}, word), this.text.slice(start + word.length));
    this.answer.scrollTop = this.answer.scrollHeight;
  }

  /** Say how it compares. */
  note(text) {
    this.said = text && `${this.model.name}: ${text}`;
    this.comparison.textContent = text;
  }
}

function bytes(count) {
  const power = count >= 1e9 ? 3 : count >= 1e6 ? 2 : 1;
  const value = count / 1000 ** power;
  return `${value >= 100 ? value.toFixed(0) : value.toFixed(1)} ${["", "kB", "MB", "GB"][power]}`;
}

function rate(x) {
  return x >= 100 ? x.toFixed(0) : x.toFixed(1);
}
