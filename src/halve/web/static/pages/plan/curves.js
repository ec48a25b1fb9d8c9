// What a device writes over what each user sees.

import { SERIES, TIP, chart } from "../../chart.js";
import { h } from "../../dom.js";
import { digits } from "../../numbers.js";

export function curves(state, all) {
  const { t } = state;
  const found = all.filter((one) => one.per_user.length > 1); // a machine for one request at a time has no curve
  if (!found.length) return null;
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
      width, height: 350, marginLeft: 56, marginRight: 16, marginBottom: 44, grid: true,
      x: { type: "log", label: t("per_user"), labelOffset: 38, tickFormat: "~s" },
      y: { type: "log", label: t("per_device"), tickFormat: "~s" },
      marks: [
        Plot.line(points, { x: "x", y: "y", z: "name", stroke: (one) => colour(one.name), strokeWidth: 2, curve: "monotone-x" }),
        Plot.dot(points, { x: "x", y: "y", fill: (one) => colour(one.name), r: 3 }),
        Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: (one) => `${one.name}\n${digits(one.x)} · ${digits(one.y)}`, ...TIP })),
      ],
    }),
  }));
}
