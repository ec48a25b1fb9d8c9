// The state of a page is the query behind the hash of its address: a link reproduces what is seen.

export class State {
  /** `signal` is aborted when the page is left; `t` translates; `language` is en or zh. */
  constructor(page, query, { t, language, signal }) {
    this.page = page;
    this.t = t;
    this.language = language;
    this.signal = signal;
    this.query = new URLSearchParams(query);
  }

  /** The text of `name`, or `fallback`. */
  get(name, fallback = "") {
    return this.query.get(name) ?? fallback;
  }

  /** The finite number of `name`, or `fallback`. */
  number(name, fallback) {
    const found = Number(this.query.get(name) ?? NaN);
    return Number.isFinite(found) ? found : fallback;
  }

  /** The texts of `name` between commas, or `fallback`. */
  list(name, fallback = []) {
    const found = this.query.get(name);
    return found === null ? fallback : found.split(",").filter(Boolean);
  }

  /** Keep values in the address, without a new page; null, "" and [] are left out. */
  set(changes) {
    if (this.signal.aborted) return; // a late answer to a page that has been left
    for (const [name, value] of Object.entries(changes)) {
      const text = Array.isArray(value) ? value.join(",") : String(value ?? "");
      if (text === "") this.query.delete(name);
      else this.query.set(name, text);
    }
    history.replaceState(null, "", this.link());
  }

  /** The address of this page, with `changes`. */
  link(changes = {}) {
    const query = new URLSearchParams(this.query);
    for (const [name, value] of Object.entries(changes)) query.set(name, value);
    return `#/${this.page}${query.size ? `?${query}` : ""}`;
  }
}
