// Rounds: begin, stop, give up; the page follows the round's folder.

import { post, tell, watch } from "./api.js";
import { $, $$, facts, say, t } from "./dom.js";

for (const button of $$("[data-round]")) button.addEventListener("click", async () => {
  button.disabled = true;
  try { await post(`/api/rounds/${button.dataset.round}`); location.reload(); } catch (fault) { tell(fault); button.disabled = false; }
});

const when = $("#when");
if (when) when.addEventListener("change", async () => {
  try { await post("/api/rounds/when", { when: when.value }); $("#when-saved").textContent = t("rounds.when.saved"); } catch (fault) { tell(fault); }
});

const before = facts.round;
let told = before?.stage;
watch("/api/rounds", (found) => {
  const now = found?.round;
  if (!now) { if (before) location.reload(); return; }
  // another round, another state, or the evidence was looked at again: the whole page says it anew
  if (!before || now.number !== before.number || kind(now) !== kind(before) || now.said !== before.said) { location.reload(); return; }
  if (kind(now) === "asks") {
    if (!now.left !== !before.left) { location.reload(); return; }
    $("#counted").textContent = t("rounds.counted", { judged: now.judged, left: now.left });
    $("#looking").hidden = now.state !== "looking";
  }
  const stages = $$("#stages li"), place = stages.findIndex((item) => item.dataset.stage === now.stage);
  stages.forEach((item, i) => { item.className = i < place ? "done" : i === place ? "now" : ""; });
  if (now.stage !== told && place >= 0) { told = now.stage; say(t(`rounds.stage.${now.stage}`)); }
}, (found) => (found?.round && kind(found.round) === "going" ? 0.7 : 3));

function kind(round) {
  return { running: "going", starting: "going", waiting: "asks", looking: "asks" }[round.state] ?? round.state;
}
