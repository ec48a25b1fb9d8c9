// Formats: what a number becomes, bit fields, number lines, ranges, precision, a block with its scale.

import * as api from "../api.js";
import { h } from "../dom.js";
import { bits } from "./formats/bits.js";
import { block } from "./formats/block.js";
import { becomes } from "./formats/becomes.js";
import { lines } from "./formats/lines.js";

export const title = "title";

export async function render(root, state) {
  const { t } = state;
  root.append(h("header", {}, h("h1", {}, t("title")), h("p", { class: "lead" }, t("lead"))));
  const [facts, schemes] = await Promise.all([
    api.get("formats", {}, state), api.get("formats/schemes", {}, state)]);
  const looked = bits(state, facts);
  root.append(becomes(state, facts, looked.show), looked.card, lines(state, facts), block(state, schemes));
}
