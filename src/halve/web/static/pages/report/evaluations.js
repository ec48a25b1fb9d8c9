// What precisions lose for their size, and which layers lose it.

import * as api from "../../api.js";
import { TIP, chart } from "../../chart.js";
import { field, h, problem, select, table } from "../../dom.js";
import { labels } from "../../labels.js";
import { bytes, digits, percent } from "../../numbers.js";

const SIZES = { bpw: (one) => one.bpw, bytes: (one) => one.bytes / 1e6 };
const LOSSES = {
  kld: { of: (loss) => loss.kld, error: (loss) => loss.kld_error },
  ppl: { of: (loss) => loss.ppl, error: (loss) => loss.ppl_error },
};
const MARGIN = { left: 56, right: 24, top: 24, bottom: 36 };

export async function evaluations(state, found) {
  const { t } = state;
  const picture = h("div");
  const turn = api.turns(state.signal);
  const able = (name) => found.some((one) => LOSSES[name].of(one.losses[0]) !== null && LOSSES[name].of(one.losses[0]) !== undefined);
  const choose = (name, values, fallback) => field(t(name), select(
    values.map((one) => [one, t(`${name}_${one}`)]), state.get(name, fallback),
    (value) => { state.set({ [name]: value === fallback ? null : value }); draw(); }));
  const usual = able("kld") ? "kld" : "ppl";
  const small = found.every((one) => one.bpw !== null) ? "bpw" : "bytes"; // GGUF files mix many bits per weight

  async function draw() {
    const size = state.get("size", small) in SIZES ? state.get("size", small) : small;
    const loss = state.get("loss", usual) in LOSSES ? state.get("loss", usual) : usual;
    const points = found.map((one) => ({
      label: one.scheme, one, x: SIZES[size](one), y: LOSSES[loss].of(one.losses[0]), error: LOSSES[loss].error(one.losses[0]) ?? 0,
    })).filter(({ x, y }) => Number.isFinite(x) && Number.isFinite(y));
    if (!points.length) {
      picture.replaceChildren(h("p", { class: "note" }, t("nothing_to_draw")));
      return;
    }
    try {
      const front = await api.post("report/front", { points: points.map(({ x, y }) => [x, y]) }, turn());
      picture.replaceChildren(cloud(points, front.map((i) => points[i]), size, loss));
    } catch (error) {
      if (error.name !== "AbortError") picture.replaceChildren(problem(error));
    }
  }

  function cloud(points, best, size, loss) {
    const logarithmic = loss === "kld" && points.every(({ y }) => y > 0);
    const ends = (values, pad) => {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const room = (high - low || Math.abs(high) || 1) * pad;
      return [low - room, high + room];
    };
    const xs = ends(points.map(({ x }) => x), 0.12);
    const height = 380;
    const scale = logarithmic ? Math.log10 : (y) => y;
    const lowest = ({ y, error }) => (logarithmic && y - error <= 0 ? y : y - error); // what a logarithm can show of it
    const ys = ends(points.flatMap((one) => [lowest(one), one.y + one.error]).map(scale), 0.1);
    const label = [t(`size_${size}`), t(`loss_${loss}`)];
    return chart({
      label: t("cloud", { loss: label[1] }),
      caption: t("cloud_caption"),
      head: [t("scheme"), ...label, t("best")],
      rows: points.map((one) => [one.label, digits(one.x, 4), digits(one.y, 4), best.includes(one) ? t("yes") : ""]),
      draw: (Plot, width) => {
        const left = (x) => MARGIN.left + (width - MARGIN.left - MARGIN.right) * (x - xs[0]) / (xs[1] - xs[0]);
        const top = (y) => height - MARGIN.bottom - (height - MARGIN.top - MARGIN.bottom) * (scale(y) - ys[0]) / (ys[1] - ys[0]);
        return Plot.plot({
          width, height, marginLeft: MARGIN.left, marginRight: MARGIN.right, marginTop: MARGIN.top, marginBottom: MARGIN.bottom, grid: true,
          x: { domain: xs, label: label[0] },
          y: { ...(logarithmic ? { type: "log", domain: ys.map((y) => 10 ** y) } : { domain: ys }),
            label: label[1], tickFormat: "~g", ticks: 6 },
          marks: [
            Plot.line(best, { x: "x", y: "y", stroke: "var(--accent)", strokeOpacity: 0.45, strokeWidth: 2, curve: "step-after" }),
            Plot.ruleX(points, { x: "x", y1: lowest, y2: ({ y, error }) => y + error, stroke: "var(--accent)" }),
            Plot.dot(points, { x: "x", y: "y", r: 5.5, stroke: "var(--accent)", strokeWidth: 2,
              fill: (one) => (best.includes(one) ? "var(--accent)" : "var(--surface)") }),
            labels(Plot, points.map((one) => ({ ...one, left: left(one.x), top: top(one.y), radius: 6 })), width),
            Plot.tip(points, Plot.pointer({ x: "x", y: "y", ...TIP,
              title: ({ one, x, y, error }) =>
                `${one.scheme}\n${digits(x, 4)} ${label[0]}\n${digits(y, 4)} ± ${digits(error, 2)} ${label[1]}\n${one.path}` })),
          ],
        });
      },
    });
  }

  const lossy = found.filter((one) => one.map.length);
  const sum = h("section", { class: "card", "aria-labelledby": "cost" },
    h("header", {}, h("h2", { id: "cost" }, t("cost")), h("p", {}, t("cost_lead"))),
    h("div", { class: "columns narrow" },
      choose("size", Object.keys(SIZES), small), choose("loss", Object.keys(LOSSES).filter(able), usual)),
    picture, numbers(state, found));
  await draw();
  return h("div", { class: "stack" }, sum, lossy.length > 0 && h("section", { class: "card", "aria-labelledby": "layers" },
    h("header", {}, h("h2", { id: "layers" }, t("layers")), h("p", {}, t("layers_lead"))),
    scale(state, lossy), lossy.map((one) => heat(state, one, ends(lossy)))));
}

function numbers({ t }, found) {
  const known = (value, show) => (value === null || value === undefined ? "—" : show(value));
  const off = (value, error, count) => known(value, () => `${digits(value, count)}${error ? ` ± ${digits(error, 2)}` : ""}`);
  const rows = found.flatMap((one) => one.losses.map((loss) => [
    one.losses.length > 1 ? `${one.scheme}, ${loss.operands}` : one.scheme,
    bytes(one.bytes), known(one.bpw, (bpw) => digits(bpw, 4)),
    off(loss.ppl, loss.ppl_error, 5), off(loss.kld, loss.kld_error, 3), known(loss.same_top, (share) => percent(share / 100, 1))]));
  return table([t("scheme"), t("size"), t("size_bpw"), t("loss_ppl"), t("loss_kld"), t("same_top")], rows,
    { caption: t("all_numbers"), numeric: [1, 2, 3, 4, 5] });
}

function ends(found) {
  const all = found.flatMap((one) => one.map.map((cell) => cell.output_db));
  return [Math.min(...all), Math.max(...all)];
}

/** One scale for all maps, so that they compare. */
function scale({ t }, found) {
  const [low, high] = ends(found);
  return h("div", { class: "ramp" },
    h("span", {}, `${digits(low)} dB`), h("i", { role: "img", "aria-label": t("ramp") }), h("span", {}, `${digits(high)} dB`));
}

function heat(state, one, [low, high]) {
  const { t } = state;
  const kinds = [...new Set(one.map.map((cell) => cell.kind))];
  const deepest = Math.max(...one.map.map((cell) => cell.depth));
  const margin = 12 + 7 * Math.max(...kinds.map((kind) => kind.length));
  return chart({
    label: t("heat", { scheme: one.scheme }),
    caption: one.mean_output_db === null ? one.path : t("heat_caption", { mean: digits(one.mean_output_db), path: one.path }),
    head: [t("layer"), t("output_db"), t("weight_db")],
    rows: one.map.map((cell) => [cell.name, digits(cell.output_db, 4), cell.weight_db === null ? "—" : digits(cell.weight_db, 4)]),
    draw: (Plot, width) => Plot.plot({
      width, height: 50 + 24 * kinds.length, marginLeft: margin, marginRight: 4, marginTop: 4, marginBottom: 42, padding: 0.06,
      x: { type: "band", domain: Array.from({ length: deepest + 1 }, (_, i) => i), label: t("depth"), labelOffset: 36, tickSize: 0,
        tickFormat: (depth) => (depth % Math.ceil((deepest + 1) * 26 / (width - margin)) ? "" : depth) },
      y: { domain: kinds, label: null, tickSize: 0 },
      color: { type: "linear", scheme: "viridis", domain: low < high ? [low, high] : [low - 1, high + 1] },
      marks: [
        Plot.cell(one.map, { x: "depth", y: "kind", fill: "output_db", rx: 2 }),
        Plot.tip(one.map, Plot.pointer({ x: "depth", y: "kind", ...TIP,
          title: (cell) => `${cell.name}\n${digits(cell.output_db, 4)} dB` })),
      ],
    }),
  });
}
