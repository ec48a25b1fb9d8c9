// Elements, labelled controls, tables, and what is said to screen readers.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", value);
    else if (name === "style") Object.assign(element.style, value); // the policy forbids the attribute
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
  return element;
}

/** An element: h("p", {class: "lead", onclick: f}, "text", child, [children]). Text is never read as HTML. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  // A select has its value only once it has its options.
  const { value, ...others } = attributes ?? {};
  fill(element, others, children);
  if (value !== undefined && value !== null) element.value = value;
  return element;
}

/** An element of SVG, alike. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

let fields = 0;

/** A control under its label; `hint` is read with it. */
export function field(label, control, hint) {
  control.id ||= `field-${++fields}`;
  const note = hint && h("small", { id: `${control.id}-hint` }, hint);
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, note);
}

/** A select of [value, text] pairs or of values; a group is {label, options}. */
export function select(options, value, onchange) {
  const one = (option) => {
    const [key, text] = Array.isArray(option) ? option : [option, option];
    return h("option", { value: key }, text);
  };
  const all = options.map((option) =>
    option.options ? h("optgroup", { label: option.label }, option.options.map(one)) : one(option));
  return h("select", { value, onchange: (event) => onchange(event.target.value) }, all);
}

/** A table: texts of `head`, and `rows` of texts or elements. `numeric`: columns that align right. */
export function table(head, rows, { caption, numeric = [] } = {}) {
  const side = (column) => (numeric.includes(column) ? "number" : null);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption ?? head.join(", ") },
    h("table", {},
      caption && h("caption", {}, caption),
      h("thead", {}, h("tr", {}, head.map((text, i) => h("th", { scope: "col", class: side(i) }, text)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) =>
        i ? h("td", { class: side(i) }, cell) : h("th", { scope: "row", class: side(i) }, cell)))))));
}

const opened = new Set();

/** `content` under a summary that opens it; what has been opened as `key` stays so when it is made again. */
export function disclosure(summary, key, content) {
  const details = h("details", { open: opened.has(key) }, h("summary", {}, summary), content);
  details.addEventListener("toggle", () => (details.open ? opened.add(key) : opened.delete(key)));
  return details;
}

/** Say `text` to a screen reader, when it has time. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** An error in words: what went wrong, and what to do. */
export function problem(error) {
  return h("div", { class: "problem", role: "alert" },
    h("p", {}, error.message), error.hint && h("p", { class: "hint" }, error.hint));
}

/** Call `work` once, `milliseconds` after the last call. */
export function debounce(work, milliseconds = 120) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), milliseconds);
  };
}
