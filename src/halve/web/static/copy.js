// A line to copy: a command, a link.

import { announce, h } from "./dom.js";
import { common } from "./i18n.js";

/** `text` under `label`, with a button that copies it. */
export function copyable(label, text) {
  const button = h("button", { class: "quiet", "aria-label": `${common("copy")}: ${label}`, onclick: async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = common("copied");
    announce(common("copied"));
    setTimeout(() => { button.textContent = common("copy"); }, 1600);
  } }, common("copy"));
  return h("div", { class: "copyable" },
    h("span", { class: "label" }, label), h("code", { tabindex: "0" }, text), button);
}
