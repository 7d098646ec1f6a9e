// Two answers, blind: choose, by keyboard, finger or mouse. What was chosen goes through the outbox; the next pair is
// there already. "Saved" is said only once the studio has it.

import { get, post, tell } from "./api.js";
import { $, $$, facts, h, lang, say, shortcutOf, t, toast } from "./dom.js";
import { outbox } from "./outbox.js";

const AHEAD = 4, REASON_KEYS = "qwerty";
const place = $("#place"), none = $("#none");
const sides = Object.fromEntries($$(".answer").map((element) => [element.dataset.side, element]));
const reasonButtons = $$("[data-reason]"), strengthButtons = $$("[data-strength]");
const trial = facts.trial; // the number of a press of Learn whose answers are judged; null: the ordinary queue

let queue = [], now = null, began = 0, fetching = false, timer = null, ended = false;
let done = facts.done; // acknowledged
const history = []; // what can be taken back: { key, pair, input }
const pending = new Set(outbox.bodies().filter((entry) => entry.path === "/api/judge").map((entry) => entry.key));
const held = new Set(); // pairs this page has shown or holds

// -- what the person says besides -------------------------------------------------------------------------------------

const pressed = (button) => button.getAttribute("aria-pressed") === "true";
const press = (button, on) => button.setAttribute("aria-pressed", on ? "true" : "false");

function input() {
  const flags = {}, edits = {};
  for (const [side, element] of Object.entries(sides)) {
    const names = $$(".flags .toggle", element).filter(pressed).map((button) => button.dataset.name);
    if (names.length) flags[side] = names;
    if (!$("[data-editor]", element).hidden) {
      const text = $("textarea", element).value;
      if (text.trim() && text !== now[side]) edits[side] = text;
    }
  }
  return {
    strength: Number(strengthButtons.find(pressed)?.dataset.strength || 0),
    reasons: reasonButtons.filter(pressed).map((button) => button.dataset.reason),
    flags, edits, comment: $("#comment").value,
  };
}

function restore(said) {
  for (const button of strengthButtons) press(button, Number(button.dataset.strength) === said.strength);
  for (const button of reasonButtons) press(button, said.reasons.includes(button.dataset.reason));
  $("#comment").value = said.comment;
  for (const [side, element] of Object.entries(sides)) {
    const names = said.flags[side] || [];
    for (const button of $$(".flags .toggle", element)) press(button, names.includes(button.dataset.name));
    flagsOf(side, names.length > 0);
    editing(side, side in said.edits, said.edits[side]);
  }
}

const EMPTY = { strength: 0, reasons: [], flags: {}, edits: {}, comment: "" };

function editing(side, on, text = null) {
  const element = sides[side], editor = $("[data-editor]", element);
  editor.hidden = !on;
  $("[data-text]", element).hidden = on;
  if (on) $("textarea", editor).value = text ?? now[side];
}

function flagsOf(side, open) {
  $(".flags", sides[side]).hidden = !open;
  $("[data-flag]", sides[side]).setAttribute("aria-expanded", open ? "true" : "false");
}

// -- one pair after another -------------------------------------------------------------------------------------------

function show(pair, said = EMPTY) {
  now = pair;
  none.hidden = true;
  place.hidden = false;
  place.setAttribute("aria-busy", "false");
  $("#question").replaceChildren(...pair.prompt.map((message) =>
    h("div", { class: "turn" }, pair.prompt.length > 1 ? h("span", { class: "who" }, t(`who.${message.role}`)) : null,
      h("div", { class: "said", lang: pair.lang }, message.content))));
  for (const [side, element] of Object.entries(sides)) {
    element.classList.remove("picked");
    const text = $("[data-text]", element);
    text.textContent = pair[side];
    text.lang = pair.lang;
    text.scrollTop = 0;
    text.tabIndex = text.scrollHeight > text.clientHeight ? 0 : -1;
  }
  restore(said);
  began = performance.now();
  say(t("judge.announced", { question: pair.prompt.at(-1).content }));
}

function next() {
  now = null;
  if (queue.length) show(queue.shift());
  else place.setAttribute("aria-busy", "true");
  fill();
}

async function fill() {
  clearTimeout(timer);
  if (fetching || ended || queue.length >= AHEAD - 1) { if (ended && !now) over(); return; }
  fetching = true;
  let found = null;
  try {
    const without = [...new Set([...(now ? [now.id] : []), ...queue.map((pair) => pair.id), ...waitingPairs()])];
    found = (await post("/api/judge/next", { without, n: AHEAD, trial })).pairs;
  } catch (fault) {
    if (!now && !queue.length) nothing(fault.message, fault.next || "");
  }
  fetching = false;
  if (found) {
    for (const pair of found) if (pair.id !== now?.id && !queue.some((other) => other.id === pair.id)) { queue.push(pair); held.add(pair.id); }
    if (!now && queue.length) { next(); return; }
    if (trial && !found.length) ended = true;
    if (!now && !queue.length) { if (ended) { over(); return; } await why(); }
  }
  if (queue.length < AHEAD - 1 && !ended) timer = setTimeout(fill, found?.length ? 1500 : 2500);
}

const waitingPairs = () => outbox.bodies().map((entry) => entry.body.pair).filter(Boolean);

async function why() {
  try {
    const { body } = await get("/api/judge/state");
    nothing(t(`none.${body.state}`), t(`none.${body.state}.text`), body.link, body.state);
  } catch (fault) { nothing(fault.message, fault.next || ""); }
}

function nothing(title, text, link = null, state = null) {
  place.hidden = true;
  none.hidden = false;
  $("#none-title").textContent = title;
  $("#none-text").textContent = text;
  const anchor = $("#none-link");
  anchor.hidden = !link;
  if (link) { anchor.href = link; anchor.textContent = t(`none.${state}.link`); }
}

function over() {
  // every trial is judged: what came of it, once all of it is saved
  place.setAttribute("aria-busy", "true");
  if (outbox.size()) { saved(); return; }
  location.assign(`/learn/${trial}`);
}

// -- choosing ---------------------------------------------------------------------------------------------------------

function choose(verdict) {
  if (!now || place.getAttribute("aria-busy") === "true") return;
  const said = input(), pair = now;
  const body = { pair: pair.id, verdict, ...said, seconds: Math.round((performance.now() - began) / 100) / 10 };
  const key = outbox.put("/api/judge", body, (ack, fault) => {
    pending.delete(key);
    if (ack) { done = ack.done; saved(true); learnt(ack, verdict); } else forget(key);
    progress();
    if (ended && !now) over();
  });
  pending.add(key);
  history.push({ key, pair, input: said });
  if (history.length > 50) history.shift();
  $("#undo").disabled = false;
  const picked = sides[verdict];
  if (picked) picked.classList.add("picked");
  saved();
  progress();
  if (picked && !matchMedia("(prefers-reduced-motion: reduce)").matches) {
    place.setAttribute("aria-busy", "true");
    setTimeout(next, 140);
  } else next();
}

function skip() {
  if (!now) return;
  outbox.put("/api/judge/skip", { pair: now.id });
  say(t("judge.skipped"));
  next();
}

function forget(key) {
  const at = history.findIndex((entry) => entry.key === key);
  if (at >= 0) history.splice(at, 1);
  $("#undo").disabled = !history.length;
}

function undo() {
  const last = history.pop();
  $("#undo").disabled = !history.length;
  if (!last) return;
  if (pending.has(last.key) && outbox.withdraw(last.key)) pending.delete(last.key);
  else outbox.put("/api/judge/undo", { of: last.key }, (ack, fault) => { if (ack) { done = ack.done; progress(); saved(true, "judge.undone"); } else if (fault) tell(fault); });
  pending.delete(last.key);
  if (now) queue.unshift(now);
  ended = false;
  show(last.pair, last.input);
  progress();
  say(t("judge.undone"));
  $("#saved").textContent = t("judge.undone");
}

// -- what comes back: the model's guess, once the answer is given; and after every ten a word about them --------------

function learnt(ack, verdict) {
  if (ack.guess) {
    const { side, chance } = ack.guess, percent = `${Math.round(100 * chance)} %`;
    const letter = { left: "A", right: "B" }[side];
    $("#guess").textContent = !side ? t("coach.unsure") : t(side === verdict ? "coach.same" : "coach.other", { side: letter, chance: percent });
  } else $("#guess").textContent = "";
  if (!trial && !ack.again && ack.said && ack.said % facts.batch === 0) coach();
}

async function coach() {
  let told;
  try { told = (await get("/api/judge/coaching")).body; } catch { return; } // it comes again after the next ten
  const card = $("#coach"), known = told.known, changed = told.learnt;
  const percent = (share) => Math.round(100 * share);
  card.replaceChildren(...[
    h("div", { class: "card-head" }, h("h2", { id: "coach-title" }, t("coach.title", { n: told.said })),
      h("button", { class: "button quiet", type: "button", onclick: () => { card.hidden = true; } }, t("common.close"))),
    known ? h("p", {}, t("coach.value", { value: percent(known.value), low: percent(known.low), high: percent(known.high) }))
      : h("p", { class: "soft" }, t(told.computing ? "people.computing" : "coach.unknown")),
    known?.early ? h("p", { class: "small soft" }, t("coach.early")) : null,
    known ? known.flags.map((flag) => h("p", { class: "notice" }, t(`watch.${flag}`))) : null,
    known ? h("p", { class: "notice lead" }, t(`useful.${known.useful}`)) : null,
    known?.differs.length ? h("details", {}, h("summary", {}, t("people.differs")), h("ul", { class: "list" }, known.differs.map((one) => h("li", { class: "stack tight" },
      h("p", { class: "said" }, h("strong", {}, one.question)),
      h("p", { class: "small soft" }, t("people.chose")), h("p", { class: "said" }, one.chosen),
      h("p", { class: "small soft" }, t("people.expected", { chance: `${percent(one.chance)} %` })), h("p", { class: "said" }, one.other))))) : null,
    changed ? h("details", {}, h("summary", {}, t("coach.changed", { n: changed.changed, of: changed.of })), h("ul", { class: "list" }, changed.shown.map((one) => h("li", { class: "stack tight" },
      h("p", { class: "said" }, h("strong", {}, one.question)), h("p", { class: "said soft" }, h("s", {}, one.before)), h("p", { class: "said" }, one.after)))),
      h("a", { href: `/learn/${changed.number}` }, t("coach.all"))) : null,
  ].flat().filter(Boolean));
  card.hidden = false;
  say(t("coach.title", { n: told.said }));
}

// -- what is said about it --------------------------------------------------------------------------------------------

function saved(ack = false, key = "common.saved") {
  const n = pending.size;
  if (!n && !ack) return; // what was said last still holds
  const text = n ? (outbox.reached() ? t("outbox.saving") : t("outbox.waiting", { n })) : t(key);
  $("#saved").textContent = text;
  if (!n) say(text);
}

function progress() {
  const goal = facts.goal, count = done + pending.size;
  const rounds = trial ? 0 : Math.floor(Math.max(0, count - 1) / goal);
  const from = rounds * goal;
  $("#dots").replaceChildren(...Array.from({ length: goal }, (_, i) =>
    h("li", { class: from + i < done ? "saved" : from + i < count ? "waits" : "" })));
  $("#progress").textContent = trial ? t("judge.progress_trial", { n: done, of: goal })
    : count < facts.enough ? t("judge.progress", { n: done, of: facts.enough }) : t("judge.progress_more", { n: done });
  const ready = $("#learn-ready");
  if (ready) ready.hidden = trial || done < facts.enough;
}
outbox.watch(() => saved());

// -- keys and buttons -------------------------------------------------------------------------------------------------

const ACTIONS = {
  ArrowLeft: () => choose("left"), ArrowRight: () => choose("right"),
  ArrowUp: () => choose("tie"), "=": () => choose("tie"), ArrowDown: () => choose("both_bad"), x: () => choose("both_bad"),
  s: skip, z: undo, "?": () => $("#keys").showModal(),
  "[": () => edit("left"), "]": () => edit("right"),
  f: () => { flagsOf("left", true); flagsOf("right", true); $(".flags .toggle").focus(); },
  c: () => $("#comment").focus(),
};

function edit(side) {
  const on = $("[data-editor]", sides[side]).hidden;
  editing(side, on);
  (on ? $("textarea", sides[side]) : $("[data-edit]", sides[side])).focus();
}

function strength(value) { for (const button of strengthButtons) press(button, Number(button.dataset.strength) === value && !pressed(button)); }

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target instanceof HTMLTextAreaElement && !event.isComposing) { event.target.blur(); return; }
  const key = shortcutOf(event);
  if (!key || event.repeat || none.hidden === false && key !== "z") return;
  // arrows scroll a long answer that has the focus
  if (key.startsWith("Arrow") && event.target instanceof HTMLElement && event.target.matches("[data-text]") && /Up|Down/.test(key)) return;
  if (key in ACTIONS) { event.preventDefault(); ACTIONS[key](); }
  else if ("123".includes(key)) { event.preventDefault(); strength(Number(key)); }
  else if (REASON_KEYS.includes(key) && reasonButtons[REASON_KEYS.indexOf(key)]) {
    event.preventDefault();
    const button = reasonButtons[REASON_KEYS.indexOf(key)];
    press(button, !pressed(button));
  }
});
for (const button of $$("[data-verdict]")) button.addEventListener("click", () => choose(button.dataset.verdict));
for (const button of strengthButtons) button.addEventListener("click", () => strength(Number(button.dataset.strength)));
for (const button of [...reasonButtons, ...$$(".flags .toggle")]) button.addEventListener("click", () => press(button, !pressed(button)));
for (const button of $$("[data-edit]")) button.addEventListener("click", () => edit(button.dataset.edit));
for (const button of $$("[data-flag]")) button.addEventListener("click", () => flagsOf(button.dataset.flag, $(".flags", sides[button.dataset.flag]).hidden));
$("#skip").addEventListener("click", skip);
$("#undo").addEventListener("click", undo);
$("#help").addEventListener("click", () => $("#keys").showModal());

const waiting = new Set(waitingPairs());
queue = facts.pairs.filter((pair) => !waiting.has(pair.id));
progress();
next();
