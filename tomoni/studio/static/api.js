// Talking to the studio: JSON in, JSON out, every fault shown in words with what to do.

import { t, toast } from "./dom.js";

export class Fault extends Error {
  constructor(status, body) {
    super(body?.error?.message || t("reach.unknown"));
    this.status = status;
    this.code = body?.error?.code || "unknown";
    this.next = body?.error?.next || "";
  }
}

export async function get(path, { etag = null, signal = null } = {}) {
  const response = await reach(path, { headers: etag ? { "If-None-Match": etag } : {}, signal });
  if (response.status === 304) return { same: true, etag };
  return { body: await opened(response), etag: response.headers.get("etag") };
}

export async function post(path, body = {}, { signal = null } = {}) {
  return opened(await reach(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal }));
}

export async function reach(path, options = {}) {
  try {
    return await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault(0, { error: { code: "unreachable", message: t("reach.unreachable"), next: t("reach.unreachable.next") } });
  }
}

async function opened(response) {
  let body = null;
  try { body = await response.json(); } catch { /* told below */ }
  if (!response.ok) {
    const fault = new Fault(response.status, body);
    if (fault.code === "signed_out") location.assign("/sign-in");
    throw fault;
  }
  return body;
}

export function tell(fault) {
  if (fault.name === "AbortError") return;
  toast(fault.message, { fault: true, next: fault.next || "" });
}

// Ask again and again while the page is looked at; `seconds` may depend on what came back.
export function watch(path, show, seconds) {
  let etag = null, timer = null, wait = 1, ended = false, asking = false;
  async function ask() {
    if (ended || asking) return;
    clearTimeout(timer);
    asking = true;
    try {
      const found = await get(path, { etag });
      if (!found.same) { etag = found.etag; wait = seconds(found.body); show(found.body, null); }
    } catch (fault) { show(null, fault); wait = Math.max(wait, 2); }
    asking = false;
    if (!ended && wait > 0 && !document.hidden) timer = setTimeout(ask, wait * 1000);
  }
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  ask();
  return { now: ask, end() { ended = true; clearTimeout(timer); } };
}
