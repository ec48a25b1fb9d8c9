// The server's data, and its errors in words.

import { h } from "./dom.js";
import { common } from "./i18n.js";

/** An error to show: `message` says what went wrong, `hint` what to do. */
export class ApiError extends Error {
  constructor(message, hint = "") {
    super(message);
    this.hint = hint;
  }
}

const KEY = "halve.key"; // of the session: it is gone when the tab is closed

function headers(more) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

let asking = null;

/** Ask for the server's API key, once for all requests that miss it. */
function askKey() {
  asking ??= new Promise((resolve) => {
    const input = h("input", { type: "password", id: "api-key", autocomplete: "off" });
    const dialog = h("dialog", { "aria-labelledby": "api-key-label" },
      h("form", { method: "dialog" },
        h("label", { for: "api-key", id: "api-key-label" }, common("key")), input,
        h("button", { class: "primary" }, common("key_send"))));
    dialog.addEventListener("close", () => {
      if (input.value) sessionStorage.setItem(KEY, input.value);
      dialog.remove();
      asking = null;
      resolve(Boolean(input.value));
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(common("unreachable"), common("unreachable_hint"));
  }
  if (response.status === 401 && (await askKey())) return send(path, options);
  if (!response.ok) {
    const { error } = await response.json().catch(() => ({}));
    throw new ApiError(error?.message ?? `HTTP ${response.status}`, error?.hint);
  }
  return response;
}

/** JSON of `/api/PATH`. `parameters`: of the query; those that are null are left out. */
export async function get(path, parameters = {}, { signal } = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined));
  return (await send(`api/${path}${query.size ? `?${query}` : ""}`, { signal })).json();
}

/** Signals of one request after another: each ends the one before, so that no late answer overtakes a newer question. */
export function turns(signal) {
  let last = null;
  return () => {
    last?.abort();
    last = new AbortController();
    return { signal: AbortSignal.any([last.signal, signal]) };
  };
}

function posted(body, signal) {
  return { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal };
}

/** JSON of `/api/PATH`, for a body. */
export async function post(path, body, { signal } = {}) {
  return (await send(`api/${path}`, posted(body, signal))).json();
}

/** The objects of a stream of server-sent events, as they come; `body` is left out: GET. */
export async function* events(path, body, { signal } = {}) {
  const response = await send(`api/${path}`, body === undefined ? { signal } : posted(body, signal));
  let text = "";
  try {
    for await (const chunk of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
      const parts = (text + chunk).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data && data !== "[DONE]") yield JSON.parse(data);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(common("cut"), common("unreachable_hint"));
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.releaseLock();
  }
}
