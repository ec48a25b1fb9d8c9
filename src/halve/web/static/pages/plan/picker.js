// Several of a list: a select adds, a chip takes away.

import { h, select } from "../../dom.js";

let pickers = 0;

/** `none` is said while nothing is chosen, `more` afterwards; `remove` names what a chip does, with {name}. */
export function picker({ label, none, more, remove, options, chosen, onchange }) {
  const id = `picker-${++pickers}`;
  const box = h("div", { class: "field" });

  function draw() {
    const left = options.map((one) => (one.options ? { ...one, options: one.options.filter(([name]) => !chosen.includes(name)) } : one))
      .filter((one) => one.options?.length || (!one.options && !chosen.includes(one[0])));
    const add = select([["", chosen.length ? more : none], ...left], "", (name) => change([...chosen, name]));
    add.id = id;
    box.replaceChildren(
      h("label", { for: id }, label), add,
      ...(chosen.length ? [h("ul", { class: "chosen", "aria-label": label }, chosen.map((name) =>
        h("li", {}, h("button", {
          "aria-label": remove.replace("{name}", name), onclick: () => change(chosen.filter((one) => one !== name)),
        }, name, h("span", { "aria-hidden": "true" }, " ×")))))] : []));
  }

  function change(names) {
    chosen = names;
    draw();
    document.getElementById(id).focus();
    onchange(names);
  }

  draw();
  return box;
}
