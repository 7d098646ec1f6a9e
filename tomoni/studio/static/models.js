// Models: which version is served, and two of them side by side.

import { post, tell } from "./api.js";
import { $, $$, h, t, toast } from "./dom.js";

async function move(button, path, body) {
  button.disabled = true;
  try { await post(path, body); location.reload(); } catch (fault) { tell(fault); button.disabled = false; }
}
for (const button of $$("[data-promote]")) button.addEventListener("click", () => move(button, "/api/models/promote", { version: button.dataset.promote }));
for (const button of $$("[data-rollback]")) button.addEventListener("click", () => move(button, "/api/models/rollback", {}));
$("#start")?.addEventListener("click", (event) => move(event.currentTarget, "/api/models/start", {}));

$("#both")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const versions = [$("#first").value, $("#second").value], question = $("#question").value.trim();
  if (!question) return;
  if (versions[0] === versions[1]) { toast(t("models.same"), { fault: true }); return; }
  const live = $("#both-live"), button = $("button", event.currentTarget);
  live.textContent = t("models.asking");
  button.disabled = true;
  try {
    const { answers } = await post("/api/models/both", { messages: [{ role: "user", content: question }], versions });
    $("#answers").replaceChildren(...answers.map((answer) => h("article", {}, h("h3", {}, answer.version), h("p", { class: "said" }, answer.text))));
    live.textContent = "";
  } catch (fault) { live.textContent = ""; tell(fault); }
  button.disabled = false;
});
$("#question")?.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229) { event.preventDefault(); $("#both").requestSubmit(); }
});
