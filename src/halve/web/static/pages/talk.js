// One prompt, answered by several precisions side by side.

import { h } from "../dom.js";

export const title = "title";

export function render(root, state) {
  const { t } = state;
  root.append(h("header", {}, h("h1", {}, t("title")), h("p", { class: "lead" }, t("lead"))));
}
