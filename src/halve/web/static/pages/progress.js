// Progress: a running `halve quantize`, as its log tells of it.

import * as api from "../api.js";
import { announce, field, h, problem, s, select } from "../dom.js";
import { bytes, duration, percent, whole } from "../numbers.js";

export const title = "title";

const EVERY = 1000; // milliseconds: what the log has, too
const SILENT = 60; // seconds after which a running job may have died
const WIDTH = 600;
const HEIGHT = 90;

export async function render(root, state) {
  const { t } = state;
  const result = h("div", { class: "stack" });
  root.append(h("header", {}, h("h1", {}, t("title")), h("p", { class: "lead" }, t("lead"))));
  const watched = await api.get("progress", {}, state);
  const path = h("input", { value: state.get("path", watched[0] ?? ""), spellcheck: "false", autocomplete: "off", placeholder: "job.log" });
  const choice = watched.length > 1 && select(watched, path.value, (value) => { path.value = value; watch(); });
  root.append(
    h("section", { class: "card", "aria-label": t("which") },
      h("form", { class: "row", onsubmit: (event) => { event.preventDefault(); watch(); } },
        choice && field(t("watched"), choice), h("div", { class: "grow" }, field(t("path"), path, t("path_hint"))),
        h("button", { class: "primary" }, t("watch")))),
    result);

  const turn = api.turns(state.signal);
  let timer;
  let view = null;
  let said = "";
  state.signal.addEventListener("abort", () => clearTimeout(timer));
  if (path.value) watch();

  function watch() {
    clearTimeout(timer);
    state.set({ path: path.value === watched[0] ? null : path.value });
    view = null;
    said = "";
    result.replaceChildren();
    if (path.value) look(path.value);
  }

  async function look(named) {
    try {
      const job = await api.get("progress/job", { path: named }, turn());
      if (view === null) {
        view = screen(state);
        result.replaceChildren(view.card);
        said = "";
      }
      view.show(job);
    } catch (error) {
      if (error.name === "AbortError") return;
      view = null;
      if (said !== error.message) result.replaceChildren(problem(error)); // not again and again to screen readers
      said = error.message;
    }
    timer = setTimeout(() => look(named), EVERY);
  }
}

/** What is shown of a job; `show(job)` brings it up to date, in place. */
function screen(state) {
  const { t } = state;
  const head = h("h2", { id: "job" });
  const line = h("p", { class: "mono small wrap" });
  const share = h("span", { class: "share" });
  const now = h("p", { class: "mono small muted wrap now" });
  const verdict = h("div");
  const bar = h("progress", { max: 1, "aria-labelledby": "job" });
  const facts = h("dl", { class: "facts" });
  const stages = h("ol", { class: "stages" });
  const [area, curve] = [s("path", { class: "area" }), s("path", { class: "line" })];
  const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", class: "spark" };
  const drawing = s("svg", { ...box, role: "img", "aria-label": t("curve") }, area, curve);
  let told = -1;
  const card = h("section", { class: "card job", "aria-labelledby": "job" },
    h("header", {}, head, line), h("div", { class: "meter" }, bar, share), now, verdict, facts, drawing, h("h3", {}, t("stages")), stages);
  return { card, show };

  function show(job) {
    const { asked, end } = job;
    const part = job.total ? job.done / job.total : null;
    const count = job.unit === "bytes" ? bytes : whole;
    head.textContent = t(end === null ? "running" : end.ok ? "finished" : "failed", { scheme: asked.scheme });
    line.textContent = `${asked.source} → ${asked.out}`;
    if (part === null && end === null) bar.removeAttribute("value");
    else bar.value = end?.ok ? 1 : part ?? 0;
    share.textContent = part === null ? "" : percent(end?.ok ? 1 : part);
    now.textContent = end === null ? job.tensor : "";
    verdict.replaceChildren(...said(job));
    facts.replaceChildren(...[
      [`done_${job.unit}`, job.total && t("of", { done: count(job.done), total: count(job.total) })],
      ["rate", job.unit === "bytes" && job.per_second && t("per_second", { rate: bytes(job.per_second) })],
      ["left", job.seconds_left !== null && duration(job.seconds_left)],
      ["elapsed", duration(end?.seconds ?? job.seconds + job.silent_seconds)],
      ["memory", job.max_rss && bytes(job.max_rss)],
    ].filter(([, text]) => text).map(([key, text]) => h("div", {}, h("dt", {}, t(key)), h("dd", {}, text))));
    stages.replaceChildren(...job.stages.map((one) => h("li", { class: one.seconds === null ? "open" : "done" },
      h("span", { lang: "en" }, one.name), h("span", { class: "muted small" }, took(one, end)))));
    draw(job);
    tell(job, part);
  }

  function took({ seconds, bytes_per_second: rate }, end) {
    if (seconds === null) return t(end === null ? "under_way" : "broken_off");
    return rate ? `${duration(seconds)} · ${t("per_second", { rate: bytes(rate) })}` : duration(seconds);
  }

  function said({ end, silent_seconds: silent }) {
    if (end === null) return silent > SILENT ? [h("p", { class: "note" }, t("silent", { time: duration(silent) }))] : [];
    if (end.ok) return [];
    return [h("div", { class: "problem" }, h("p", {}, end.message ?? ""), h("p", { class: "hint" }, end.error ?? ""))];
  }

  function draw(job) {
    drawing.toggleAttribute("hidden", job.curve.length < 3);
    drawing.style.display = job.curve.length < 3 ? "none" : "";
    if (job.curve.length < 3) return;
    const [[first], [last]] = [job.curve[0], job.curve.at(-1)];
    const place = ([time, done]) => [WIDTH * (time - first) / (last - first || 1), HEIGHT * (1 - done / job.total)];
    const points = job.curve.map((one) => place(one).map((x) => x.toFixed(1)).join(" "));
    curve.setAttribute("d", `M${points.join("L")}`);
    area.setAttribute("d", `M0 ${HEIGHT}L${points.join("L")}L${WIDTH} ${HEIGHT}Z`);
  }

  /** To screen readers: every tenth, and the end. */
  function tell(job, part) {
    const tenth = job.end ? 11 : part === null ? 0 : Math.floor(part * 10);
    if (tenth === told) return;
    told = tenth;
    announce(job.end ? head.textContent : part === null ? "" : t("spoken", { share: percent(part) }));
  }
}
