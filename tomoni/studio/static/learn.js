// Learn: press, watch, decide.

import { post, tell, watch } from "./api.js";
import { $, $$, facts, pairsOf, say, t, toast } from "./dom.js";

const button = $("#learn");
if (button) {
  let enough = button.dataset.enough === "yes";
  const blocked = () => { button.setAttribute("aria-disabled", enough ? "false" : "true"); };
  blocked();
  button.addEventListener("click", async () => {
    if (!enough) { toast($("[data-text]").textContent); return; }
    button.disabled = true;
    try {
      await post("/api/learn");
      $("#learn-live").textContent = t("learn.starting");
      follow();
    } catch (fault) { tell(fault); button.disabled = false; }
  });

  // The process has no number in its first moments.
  function follow() {
    const watching = watch("/api/learn", (state) => {
      if (!state) return;
      if (state.number) { watching.end(); location.assign(`/learn/${state.number}`); }
      else if (!state.going && state.failed) { watching.end(); location.reload(); }
    }, () => 0.4);
  }
  if (button.disabled) follow();

  watch("/api/state", (state) => {
    if (!state) return;
    enough = state.enough;
    blocked();
    const dots = $$("[data-dots] span");
    dots.forEach((dot, i) => dot.classList.toggle("saved", i < state.share * dots.length));
    $("[data-count]").textContent = pairsOf(state.comparisons, dots.length) + (state.corrections ? ` · ${t("home.corrections", { n: state.corrections })}` : "");
    if (enough && button.dataset.enough === "no") location.reload();
  }, () => 3);
}

const stages = $("#stages");
if (stages) {
  const names = $$("li", stages).map((item) => item.dataset.stage);
  let seconds = facts.press.seconds, told = "", at = performance.now();
  setInterval(() => { $("#seconds").textContent = Math.round(seconds + (performance.now() - at) / 1000); }, 500);
  // Whole fives, so that what is left does not flicker with every guess.
  function left(press) {
    if (press.left === null) return press.stage === "reading" ? "\u00a0" : t("learn.left.unknown");
    return press.left < 3 ? t("learn.left.soon") : t("learn.left", { n: Math.ceil(press.left / 5) * 5 });
  }
  const left_at = $("#left");
  watch(`/api/learn/${facts.number}`, (press) => {
    if (!press) return;
    if (press.state !== "running" && press.state !== "starting") { location.reload(); return; }
    seconds = press.seconds; at = performance.now();
    const now = names.indexOf(press.stage);
    $$("li", stages).forEach((item, i) => { item.className = i < now ? "done" : i === now ? "now" : ""; });
    $("[data-stage=imitating]", stages).hidden = !press.stages.includes("imitating");
    $("#done").value = press.done;
    left_at.textContent = left(press);
    if (press.stage !== told && now >= 0) { told = press.stage; say(t(`stage.${press.stage}`)); }
  }, () => 0.7);
  $("#stop").addEventListener("click", async () => { try { await post("/api/learn/stop"); location.reload(); } catch (fault) { tell(fault); } });
}

const promote = $("#promote");
if (promote) promote.addEventListener("click", async () => {
  promote.disabled = true;
  try { await post("/api/models/promote", { version: promote.dataset.version, reason: `learn ${facts.number}` }); location.reload(); } catch (fault) { tell(fault); promote.disabled = false; }
});
