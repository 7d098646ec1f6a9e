// Elements and words. What people and models write becomes text nodes only; nothing here parses markup.

const words = JSON.parse(document.getElementById("words")?.textContent || "{}");
export const facts = JSON.parse(document.getElementById("facts")?.textContent || "{}");
export const lang = document.documentElement.lang;

export function t(key, values = {}) {
  let text = words[values.n === 1 && `${key}.one` in words ? `${key}.one` : key];
  if (text === undefined) return key;
  for (const [name, value] of Object.entries(values)) text = text.replaceAll(`{${name}}`, shown(value));
  return text;
}

export const known = (key, otherwise) => words[key] ?? otherwise;

export function shown(value) {
  return typeof value === "number" ? value.toLocaleString(lang, { maximumFractionDigits: 1 }) : String(value);
}

// How many of the pairs that are needed; beyond that, how many.
export const pairsOf = (n, of) => (n < of ? t("home.count", { n, of }) : t("home.counted", { n }));

// h("button", { class: "button", onclick: f }, "text", node …): attributes, listeners, children; strings are text
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "disabled") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
export function icon(path) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

export const PATHS = {
  up: "M7 11v9H4v-9h3Zm0 0 4-8c1.7 0 2.5 1 2.3 2.6L12.8 9H18a2 2 0 0 1 2 2.3l-1.1 7A2 2 0 0 1 17 20H7",
  down: "M17 13V4h3v9h-3Zm0 0-4 8c-1.7 0-2.5-1-2.3-2.6l.5-3.4H6a2 2 0 0 1-2-2.3l1.1-7A2 2 0 0 1 7 4h10",
  pen: "m4 20 1-4L16.5 4.5a2 2 0 0 1 3 3L8 19l-4 1Zm10.5-13.5 3 3",
  flag: "M5 21V4m0 0h12l-2.5 4L17 12H5",
  check: "m5 12.5 4.5 4.5L19 7.5",
};

export const $ = (selector, from = document) => from.querySelector(selector);
export const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];

export function say(text) {
  // for screen readers and for whoever looks: one polite line
  const place = $("#live");
  if (place) place.textContent = text;
}

export function toast(text, { fault = false, next = "", action = null, seconds = 6 } = {}) {
  const box = h("div", { class: fault ? "toast fault" : "toast", role: fault ? "alert" : "status" },
    h("div", {}, h("span", {}, text), next ? h("span", { class: "small" }, next) : null));
  const gone = () => box.remove();
  if (action) box.append(h("button", { type: "button", onclick: () => { gone(); action.run(); } }, action.text));
  $("#toasts").append(box);
  while ($("#toasts").children.length > 3) $("#toasts").firstChild.remove();
  setTimeout(gone, (fault ? 2 : 1) * seconds * 1000);
}

// Keys are shortcuts only where nobody writes, and never while Japanese is being composed.
export function shortcutOf(event) {
  if (event.isComposing || event.keyCode === 229 || event.defaultPrevented) return null;
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const at = event.target;
  if (at instanceof HTMLElement && (at.isContentEditable || at.matches("textarea, select, input:not([type=checkbox]):not([type=radio])"))) return null;
  if (document.querySelector("dialog[open]")) return null;
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

// The key ids of the outbox and of requests.
export function fresh() {
  return crypto.randomUUID ? crypto.randomUUID() : [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}
