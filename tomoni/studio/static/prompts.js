import { post, tell } from "./api.js";
import { $, $$, t } from "./dom.js";
import { base64 } from "./files.js";

$("#add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("#text");
  if (!text.value.trim()) return;
  try {
    const done = await post("/api/prompts/add", { text: text.value, topic: $("#topic").value });
    $("#added").textContent = t(done.known ? "prompts.known" : done.status === "proposed" ? "prompts.thanks" : "prompts.added");
    text.value = "";
    text.focus();
    if (!done.known) setTimeout(() => location.reload(), 900);
  } catch (fault) { tell(fault); }
});
$("#text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.isComposing) { event.preventDefault(); $("#add").requestSubmit(); }
});

for (const button of $$("[data-status]")) button.addEventListener("click", async () => {
  button.disabled = true;
  try { await post("/api/prompts/change", { id: button.dataset.id, status: button.dataset.status }); button.closest("li").remove(); } catch (fault) { tell(fault); button.disabled = false; }
});

$("#import")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = $("#file").files[0];
  if (!file) return;
  const button = $("button", event.currentTarget);
  button.disabled = true;
  try {
    const done = await post("/api/prompts/import", { name: file.name, content: await base64(file), topic: $("#topic").value });
    $("#taken").textContent = t("prompts.taken", { n: done.added, known: done.known, bad: done.bad, masked: done.masked });
    setTimeout(() => location.reload(), 2500);
  } catch (fault) { tell(fault); }
  button.disabled = false;
});
