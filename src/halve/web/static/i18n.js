// Texts by language: one dictionary a page and one in common, static/text/LANGUAGE/PAGE.json.

export const LANGUAGES = { en: "English", zh: "中文" };

const loaded = new Map();
let current = {};

async function dictionary(language, page) {
  const path = `static/text/${language}/${page}.json`;
  if (!loaded.has(path)) loaded.set(path, fetch(path).then((response) => (response.ok ? response.json() : {})));
  return loaded.get(path);
}

/** The language that was chosen, or the browser's. */
export function language() {
  const chosen = localStorage.getItem("halve.language");
  return chosen in LANGUAGES ? chosen : navigator.language.startsWith("zh") ? "zh" : "en";
}

export function choose(name) {
  localStorage.setItem("halve.language", name);
}

/** t(key, {name: value}): the page's text, or the common one, with {name} replaced. */
export async function translator(page) {
  const name = language();
  current = await dictionary(name, "common");
  const texts = { ...current, ...(await dictionary(name, page)) };
  return (key, values = {}) => text(texts, key, values);
}

/** A common text, once a page has been shown. */
export function common(key, values = {}) {
  return text(current, key, values);
}

function text(texts, key, values) {
  return (texts[key] ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}
