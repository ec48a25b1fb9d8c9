// The frame: which page is shown, in which language, light or dark.

import { h, problem, announce } from "./dom.js";
import { LANGUAGES, choose, common, language, translator } from "./i18n.js";
import { State } from "./state.js";

const PAGES = ["formats", "talk", "plan", "report", "silicon", "progress"];
const THEMES = ["auto", "light", "dark"];

const main = document.getElementById("main");
let leaving = new AbortController();

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { page: PAGES.includes(path) ? path : PAGES[0], query };
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  const { page, query } = route();
  const t = await translator(page);
  if (signal.aborted) return;
  frame(page);
  const root = h("article", { class: `page ${page}` });
  main.replaceChildren(root);
  try {
    const { title, render } = await import(`./pages/${page}.js`);
    if (signal.aborted) return;
    document.title = `${t(title)} · halve`;
    announce(t(title));
    await render(root, new State(page, query, { t, language: language(), signal }));
  } catch (error) {
    if (error.name === "AbortError") return;
    root.append(problem(error));
  }
}

function frame(page) {
  document.documentElement.lang = language() === "zh" ? "zh-Hans" : "en";
  document.getElementById("skip").textContent = common("skip");
  const nav = document.getElementById("nav");
  nav.setAttribute("aria-label", common("pages"));
  nav.replaceChildren(...PAGES.map((name) =>
    h("a", { href: `#/${name}`, "aria-current": name === page ? "page" : null }, common(`page_${name}`))));
  document.getElementById("switches").replaceChildren(languages(), themes());
  document.getElementById("footer").replaceChildren(h("p", {}, common("footer")));
}

function languages() {
  const other = Object.keys(LANGUAGES).find((name) => name !== language());
  const toggle = () => {
    choose(other);
    show().then(() => document.getElementById("language").focus());
  };
  return h("button", { class: "quiet", id: "language", lang: other, onclick: toggle }, LANGUAGES[other]);
}

function themes() {
  const now = document.documentElement.dataset.theme ?? "auto";
  const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
  const toggle = (event) => {
    if (next === "auto") {
      localStorage.removeItem("halve.theme");
      delete document.documentElement.dataset.theme;
    } else {
      localStorage.setItem("halve.theme", next);
      document.documentElement.dataset.theme = next;
    }
    const button = themes();
    event.currentTarget.replaceWith(button);
    button.focus();
  };
  const label = common("theme", { theme: common(`theme_${now}`) });
  return h("button", { class: "quiet", id: "theme", title: label, "aria-label": label, onclick: toggle },
    { auto: "◐", light: "☀", dark: "☾" }[now]);
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the page's
  main.focus();
});
addEventListener("hashchange", () => {
  show();
  main.focus({ preventScroll: true });
});
show();
