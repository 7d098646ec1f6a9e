// Nothing that a person said may be lost: it is kept in the browser's storage until the studio has acknowledged it.
// Each entry has a key; the studio takes an entry with the same key once, however often it is sent. Entries are sent in
// their order, one at a time, by one tab at a time.

import { Fault, post } from "./api.js";
import { fresh, t, toast } from "./dom.js";

const person = document.body.dataset.person;
const PREFIX = `tomoni.outbox.${person}.`;
const waits = [1, 2, 4, 8, 15];
const watchers = new Set();
const settled = new Map(); // key -> function called with the acknowledgement or the fault
let reached = true, attempt = 0, timer = null, running = false, memory = new Map(), last = 0;

function store(name, entry) {
  try { localStorage.setItem(name, JSON.stringify(entry)); memory.delete(name); return true; } catch { memory.set(name, entry); return false; }
}
function drop(name) {
  memory.delete(name);
  try { localStorage.removeItem(name); } catch { /* was in memory only */ }
}
function entries() {
  const found = new Map(memory);
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const name = localStorage.key(i);
      if (name.startsWith(PREFIX)) { try { found.set(name, JSON.parse(localStorage.getItem(name))); } catch { localStorage.removeItem(name); } }
    }
  } catch { /* storage is switched off: memory only */ }
  return [...found].sort(([, a], [, b]) => a.at - b.at || (a.key < b.key ? -1 : 1));
}
function changed() { for (const watcher of watchers) watcher(); }

async function send() {
  for (let queue = entries(); queue.length; queue = entries()) {
    const [name, entry] = queue[0];
    try {
      const ack = await post(entry.path, { ...entry.body, key: entry.key });
      reached = true; attempt = 0;
      drop(name);
      settled.get(entry.key)?.(ack, null);
      settled.delete(entry.key);
    } catch (fault) {
      // not reached, too much at once, or a fault of the studio: it stays, and is tried again
      const again = !(fault instanceof Fault) || fault.status === 0 || fault.status === 408 || fault.status === 429 || fault.status >= 500;
      if (again || fault.status === 401) { reached = fault.status === 429; schedule(); changed(); return; }
      drop(name); // refused for good: said, never silently
      settled.get(entry.key)?.(null, fault);
      settled.delete(entry.key);
      toast(t("outbox.refused"), { fault: true, next: fault.message });
    }
    changed();
  }
}

function schedule() {
  clearTimeout(timer);
  timer = setTimeout(() => outbox.deliver(), waits[Math.min(attempt++, waits.length - 1)] * 1000);
}

export const outbox = {
  // The key of what was put in; `done(ack, fault)` is called once it is saved or refused.
  put(path, body, done = null) {
    const key = fresh();
    last = Math.max(Date.now(), last + 1);
    if (!store(PREFIX + key, { key, path, body, at: last })) toast(t("outbox.memory_only"), { fault: true });
    if (done) settled.set(key, done);
    changed();
    outbox.deliver();
    return key;
  },
  // Takes back what has not been sent yet; false where it may already have been.
  withdraw(key) {
    if (running || !entries().some(([, entry]) => entry.key === key)) return false;
    drop(PREFIX + key);
    settled.delete(key);
    changed();
    return true;
  },
  async deliver() {
    if (!person || running) return;
    clearTimeout(timer);
    running = true;
    try {
      if (navigator.locks) await navigator.locks.request(`${PREFIX}lock`, send); else await send();
    } finally { running = false; }
    changed();
  },
  size: () => entries().length,
  bodies: () => entries().map(([, entry]) => entry),
  reached: () => reached,
  watch(watcher) { watchers.add(watcher); },
};

addEventListener("online", () => { attempt = 0; outbox.deliver(); });
addEventListener("offline", () => { reached = false; changed(); });
addEventListener("pageshow", () => outbox.deliver());
addEventListener("beforeunload", (event) => { if (memory.size) event.preventDefault(); });
