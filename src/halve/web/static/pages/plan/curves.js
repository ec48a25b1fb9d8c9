// What a device writes over what each user sees.

import { SERIES, TIP, chart } from "../../chart.js";
import { h } from "../../dom.js";
import { digits } from "../../numbers.js";

export function curves(state, found) {
  const { t } = state;
  if (!found.length) return h("div");
  const names = found.map((one) => `${one.machine}, ${one.scheme}`);
  const points = found.flatMap((one, i) => one.per_user.map((x, j) => ({ name: names[i], x, y: one.per_device[j] })));
  const colour = (name) => SERIES[names.indexOf(name)];
  return h("section", { class: "card" }, chart({
    label: t("curves"),
    caption: t("curves_caption"),
    legend: names.map((name) => [name, colour(name)]),
    head: [t("machine"), t("per_user"), t("per_device")],
    rows: points.map((one) => [one.name, digits(one.x), digits(one.y)]),
    draw: (Plot, width) => Plot.plot({
      width, height: 340, marginLeft: 56, marginRight: 16, grid: true,
      x: { type: "log", label: t("per_user"), tickFormat: "~s" },
      y: { type: "log", label: t("per_device"), tickFormat: "~s" },
      marks: [
        Plot.line(points, { x: "x", y: "y", z: "name", stroke: (one) => colour(one.name), strokeWidth: 2, curve: "monotone-x" }),
        Plot.dot(points, { x: "x", y: "y", fill: (one) => colour(one.name), r: 3 }),
        Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: (one) => `${one.name}\n${digits(one.x)} · ${digits(one.y)}`, ...TIP })),
      ],
    }),
  }));
}
