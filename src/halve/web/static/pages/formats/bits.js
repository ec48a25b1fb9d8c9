// The bits of a code, to toggle by click or keyboard; its value, exactly.

import * as api from "../../api.js";
import { announce, field, h, problem, select } from "../../dom.js";
import { parts } from "./number.js";

export function bits(state, facts) {
  const { t } = state;
  const named = new Map(facts.map((fact) => [fact.name, fact]));
  let fact = named.get(state.get("format")) ?? named.get("fp8_e4m3");
  let code = state.number("code", 0x1d);
  const board = h("div", { class: "board" });
  const answer = h("div", { class: "answer" });
  const chosen = select([
    { label: t("family_float"), options: names("float", "codebook") }, { label: t("family_integer"), options: names("integer") },
  ], fact.name, (name) => show(name, 0));

  function names(...families) {
    return facts.filter((one) => families.includes(one.family)).map((one) => one.name);
  }

  const turn = api.turns(state.signal);

  async function update(focused) {
    const limit = 2 ** fact.bits;
    code = ((Math.trunc(code) % limit) + limit) % limit;
    state.set({ format: fact.name, code });
    draw(focused);
    try {
      const found = await api.get("formats/code", { name: fact.name, code }, turn());
      answer.replaceChildren(...explanation(found));
      announce(`${found.exact}, ${t(`kind_${found.kind}`)}`);
    } catch (error) {
      if (error.name !== "AbortError") answer.replaceChildren(problem(error));
    }
  }

  function draw(focused = 0) {
    const digits = code.toString(2).padStart(fact.bits, "0");
    const sizes = { sign: fact.signed ? 1 : 0, exponent: fact.exponent, mantissa: fact.mantissa };
    const fields = fact.family === "float"
      ? [digits.slice(0, sizes.sign), digits.slice(sizes.sign, sizes.sign + sizes.exponent), digits.slice(sizes.sign + sizes.exponent)]
          .filter(Boolean).join("|")
      : digits;
    let place = 0;
    board.replaceChildren(...parts(fact, fields).map(([name, part]) =>
      h("div", { class: `part ${name}`, role: "group", "aria-label": t(`field_${name}`) },
        h("span", { class: "name", "aria-hidden": "true" }, t(`field_${name}`)),
        h("div", { class: "cells" }, [...part].map((digit, i) => cell(place++, name, part.length - 1 - i, digit, focused))))));
  }

  function cell(place, name, weight, digit, focused) {
    return h("button", {
      class: "bit", "aria-pressed": digit === "1" ? "true" : "false", tabindex: place === focused ? "0" : "-1",
      "aria-label": t("bit", { field: t(`field_${name}`), place: weight }), "data-place": String(place),
      onclick: () => toggle(place), onkeydown: (event) => move(event, place),
    }, digit);
  }

  async function toggle(place) {
    const bit = 2 ** (fact.bits - 1 - place);
    code += Math.floor(code / bit) % 2 ? -bit : bit; // not ^: JavaScript's has 32 bits with a sign
    const done = update(place);
    focus(place);
    await done;
  }

  function move(event, place) {
    const to = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: fact.bits - 1 }[event.key];
    if (to === undefined || to < 0 || to >= fact.bits) return;
    event.preventDefault();
    for (const button of board.querySelectorAll(".bit")) button.tabIndex = -1;
    focus(to);
  }

  function focus(place) {
    const button = board.querySelector(`[data-place="${place}"]`);
    button.tabIndex = 0;
    button.focus();
  }

  function explanation(found) {
    const { formula } = found;
    return [
      h("p", { class: "value mono" }, found.exact),
      formula && h("p", { class: "formula mono" },
        h("span", { class: "sign" }, formula.negative ? "−1" : "+1"), " × 2", h("sup", { class: "exponent" }, formula.power), " × ",
        h("span", { class: "mantissa" }, formula.significand)),
      formula && h("p", { class: "muted small" }, t(found.kind === "subnormal" ? "formula_subnormal" : "formula_normal",
        { field: formula.exponent_field, bias: formula.bias, power: formula.power })),
      h("dl", { class: "facts" },
        fact_of("kind", t(`kind_${found.kind}`)), fact_of("code", found.hex, true), fact_of("hex_float", found.hex_float, true),
        fact_of("below", found.below ?? "—", true), fact_of("above", found.above ?? "—", true)),
    ].filter(Boolean);
  }

  function fact_of(key, text, mono = false) {
    return h("div", {}, h("dt", {}, t(key)), h("dd", { class: mono ? "mono" : null }, text));
  }

  function show(name, to, scroll = false) {
    fact = named.get(name);
    code = to;
    chosen.value = name;
    update();
    if (scroll) card.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }

  const step = (by) => h("button", { onclick: () => { code += by; update(); } }, t(by < 0 ? "code_before" : "code_after"));
  const card = h("section", { class: "card", "aria-labelledby": "bits" },
    h("header", {}, h("h2", { id: "bits" }, t("bits_title")), h("p", {}, t("bits_lead"))),
    h("div", { class: "row" }, field(t("format"), chosen), step(-1), step(1)), board, answer);
  update();
  return { card, show };
}
