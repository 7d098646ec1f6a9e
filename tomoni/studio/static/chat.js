// Chat: the answer as it is written. Thumbs, corrected answers and flags go through the outbox as judgements.

import { Fault, reach, tell, watch } from "./api.js";
import { $, $$, facts, h, icon, PATHS, say, t } from "./dom.js";
import { outbox } from "./outbox.js";

const talk = $("#talk"), message = $("#message"), opening = $("#opening");
const KEPT = `tomoni.talk.${document.body.dataset.person}`;
let turns = []; // { role, content, id?, version?, said?: { thumb, corrected, flags, keys } }
let writing = null; // AbortController
let model = facts.model; // how it is: loading, ready …

function keep() { try { sessionStorage.setItem(KEPT, JSON.stringify(turns)); } catch { /* lives as long as the page */ } }
function kept() { try { return JSON.parse(sessionStorage.getItem(KEPT) || "[]"); } catch { return []; } }

// What the model is given: the corrected answer where there is one, so that the talk goes on from what was meant.
const given = (upTo) => turns.slice(0, upTo).map((turn) => ({ role: turn.role, content: turn.said?.corrected || turn.content }));

function bubble(turn, at) {
  const text = h("div", { class: "said" }, turn.content);
  const box = h("div", { class: `bubble ${turn.role}` }, h("span", { class: "visually-hidden" }, t(`chat.${turn.role}`)), text);
  if (turn.role === "assistant" && turn.id) box.append(...acts(turn, at));
  talk.append(box);
  return { box, text };
}

function opinion(turn, at, kind, more, note) {
  turn.said ??= { keys: {} };
  const replaces = turn.said.keys[kind] || null;
  const body = { kind, answer: turn.id, text: turn.content, version: turn.version, messages: given(at), replaces, ...more };
  turn.said.keys[kind] = outbox.put("/api/chat/opinion", body, (ack, fault) => {
    if (fault) { delete turn.said.keys[kind]; keep(); return; }
    say(t("common.saved"));
    if (kind === "correction") note.replaceChildren(...gained(ack));
  });
  keep();
}

// How far the corrections bring it, and where to go once they are enough.
function gained({ corrections, needed, enough }) {
  if (enough) return [`${t("chat.enough")} `, h("a", { href: "/learn" }, t("learn.press"))];
  return [t("chat.gained", { n: corrections, of: needed })];
}

function takeBack(turn, kind) {
  const key = turn.said.keys[kind];
  delete turn.said.keys[kind];
  if (!outbox.withdraw(key)) outbox.put("/api/judge/undo", { of: key });
  keep();
}

function acts(turn, at) {
  const said = turn.said ??= { keys: {} };
  const button = (name, path, pressed, act, bad = false) => {
    const made = h("button", { class: `button quiet icon-only${bad ? " bad" : ""}`, type: "button", "aria-label": t(`chat.${name}`), title: t(`chat.${name}`), onclick: () => act(made) }, icon(path));
    if (pressed !== null) made.setAttribute("aria-pressed", pressed ? "true" : "false");
    return made;
  };
  const thumb = (up) => () => {
    const again = said.thumb === up && said.keys.thumb; // pressed a second time: taken back
    said.thumb = again ? undefined : up;
    if (again) takeBack(turn, "thumb"); else opinion(turn, at, "thumb", { up }, note);
    for (const [other, isUp] of [[good, true], [bad, false]]) other.setAttribute("aria-pressed", isUp === said.thumb ? "true" : "false");
    note.textContent = t(again ? "judge.undone" : up ? "chat.thanks" : "chat.thanks_down");
  };
  const good = button("up", PATHS.up, said.thumb === true, thumb(true));
  const bad = button("down", PATHS.down, said.thumb === false, thumb(false), true);
  const pen = button("correct", PATHS.pen, null, () => edit());
  const flag = button("flag", PATHS.flag, null, () => { flags.hidden = !flags.hidden; flag.setAttribute("aria-expanded", flags.hidden ? "false" : "true"); });
  const note = h("span", { class: "small soft", role: "status" });
  const flags = h("div", { class: "row", role: "group", "aria-label": t("chat.flag"), hidden: !(said.flags || []).length },
    ["harmful", "private", "untrue"].map((name) => h("button", {
      class: "toggle alarm", type: "button", "aria-pressed": (said.flags || []).includes(name) ? "true" : "false",
      onclick: (event) => {
        const now = new Set(said.flags || []);
        if (now.has(name)) now.delete(name); else now.add(name);
        said.flags = [...now];
        event.currentTarget.setAttribute("aria-pressed", now.has(name) ? "true" : "false");
        opinion(turn, at, "flag", { flags: said.flags }, note);
        note.textContent = t("common.saved_soon");
      },
    }, t(`flag.${name}`))));
  const corrected = h("div", { class: "corrected", hidden: !said.corrected }, h("span", { class: "small soft" }, t("judge.edit_label")), h("div", { class: "said" }, said.corrected || ""));
  const place = h("div", {});

  function edit() {
    if (place.firstChild) { place.replaceChildren(); return; }
    const area = h("textarea", { "aria-label": t("chat.correct"), maxlength: 20000 });
    area.value = said.corrected || turn.content;
    const save = () => {
      const text = area.value;
      if (!text.trim() || text === turn.content) { place.replaceChildren(); return; }
      said.corrected = text;
      note.textContent = t("chat.corrected");
      opinion(turn, at, "correction", { corrected: text }, note);
      corrected.lastChild.textContent = text;
      corrected.hidden = false;
      place.replaceChildren();
      pen.focus();
    };
    area.addEventListener("keydown", (event) => {
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Escape") { place.replaceChildren(); pen.focus(); }
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
    });
    place.replaceChildren(h("div", { class: "editor" }, h("p", { class: "small soft" }, t("chat.correct_hint")), area,
      h("div", { class: "row" }, h("button", { class: "button lead", type: "button", onclick: save }, t("common.save")),
        h("button", { class: "button quiet", type: "button", onclick: () => { place.replaceChildren(); pen.focus(); } }, t("common.cancel")))));
    area.focus();
  }
  return [h("div", { class: "acts" }, good, bad, pen, flag, note), flags, corrected, place];
}

function draw() {
  opening.hidden = turns.length > 0;
  $$(".bubble", talk).forEach((old) => old.remove());
  turns.forEach(bubble);
}

const near = () => window.innerHeight + window.scrollY > document.body.scrollHeight - 160;
const down = () => window.scrollTo({ top: document.body.scrollHeight });

async function ask(text) {
  if (writing || !text.trim()) return;
  opening.hidden = true;
  turns.push({ role: "user", content: text });
  bubble(turns.at(-1), turns.length - 1);
  const turn = { role: "assistant", content: "" };
  const { box, text: place } = bubble(turn, turns.length);
  const loading = h("p", { class: "small soft", role: "status" });
  const waits = (why) => { loading.textContent = why; if (why) box.append(loading); else loading.remove(); };
  box.classList.add("writing");
  message.value = "";
  busy(true);
  down();
  let fault = null;
  try {
    for await (const part of answered(given(turns.length), waits)) {
      const follow = near();
      waits("");
      if (part.text) { turn.content += part.text; place.append(part.text); }
      if (part.end) { turn.id = part.end.id; turn.version = part.end.version; }
      if (part.error) fault = new Fault(503, { error: part.error });
      if (follow) down();
    }
  } catch (error) { if (error.name !== "AbortError") fault = error; }
  box.classList.remove("writing");
  waits("");
  busy(false);
  if (turn.content) {
    turns.push(turn);
    if (turn.id) box.append(...acts(turn, turns.length - 1));
    say(turn.content);
  }
  if (fault) {
    box.append(h("div", { class: "fault", role: "alert" }, h("p", {}, fault.message), fault.next ? h("p", { class: "small" }, fault.next) : null));
    if (!turn.content) { place.hidden = true; turns.pop(); message.value = text; }
  }
  keep();
  if (near()) down();
  message.focus();
}

// What is asked while the model is still being loaded waits for it; Stop ends the waiting.
async function* answered(messages, waits) {
  writing = new AbortController();
  const { signal } = writing;
  while (model === "loading" || model === "again") {
    waits(t("chat.waits"));
    await new Promise((resolve) => { setTimeout(resolve, 200); });
    signal.throwIfAborted();
  }
  const response = await reach("/api/chat", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ messages }), signal });
  if (!response.ok) throw new Fault(response.status, await response.json().catch(() => null));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value || "";
    const lines = rest.split("\n");
    rest = done ? "" : lines.pop();
    for (const line of lines) if (line) yield JSON.parse(line);
    if (done) return;
  }
}

function busy(on) {
  if (!on) writing = null;
  $("#send").hidden = on;
  $("#stop").hidden = !on;
}

$("#composer").addEventListener("submit", (event) => { event.preventDefault(); ask(message.value); });
message.addEventListener("keydown", (event) => {
  // Enter sends, but not the Enter that ends a Japanese composition
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  ask(message.value);
});
$("#stop").addEventListener("click", () => writing?.abort());
$("#new").addEventListener("click", () => { writing?.abort(); turns = []; keep(); draw(); message.focus(); });

$("#about").textContent = facts.about;
$("#questions").replaceChildren(...facts.questions.map((question) => h("button", { class: "button", type: "button", onclick: () => ask(question) }, question)));
turns = kept();
draw();
if (turns.length) down();
watch("/api/state", (state) => {
  if (!state) return;
  model = state.model;
  $("#model").textContent = state.model === "ready" ? state.version || facts.version : t(`model.${state.model}`);
}, (state) => (state.model === "ready" ? 10 : 1));
