import { post, tell, watch } from "./api.js";
import { $, $$, t } from "./dom.js";

for (const button of $$("[data-active]")) button.addEventListener("click", async () => {
  button.disabled = true;
  try { await post("/api/people/change", { person: button.dataset.person, active: button.dataset.active === "yes" }); location.reload(); } catch (fault) { tell(fault); button.disabled = false; }
});
for (const button of $$("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());

$("#invite")?.addEventListener("click", () => { $("#invite-result").hidden = true; $("#invite-dialog").showModal(); });
$("#invite-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const { path } = await post("/api/people/invite", { name: $("#invite-name").value.trim(), role: $("input[name=role]:checked").value });
    $("#invite-result").hidden = false;
    const link = $("#invite-link");
    link.value = location.origin + path;
    link.focus();
    link.select();
  } catch (fault) { tell(fault); }
});

let erasing = null;
for (const button of $$("[data-erase]")) button.addEventListener("click", () => { erasing = button.dataset.erase; $("#erase-name").value = ""; $("#erased").textContent = ""; $("#erase-dialog").showModal(); });
$("#erase-form")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    const gone = await post("/api/people/erase", { person: erasing, name: $("#erase-name").value });
    $("#erased").textContent = t("people.erased", { n: gone.judgements, versions: gone.versions.join(", ") || "–" });
    setTimeout(() => location.reload(), 4000);
  } catch (fault) { tell(fault); }
});

// The first look at many judgements is computed behind the page.
if ($("#computing")) {
  const watching = watch("/api/judge/coaching", (found) => { if (found && !found.computing) { watching.end(); location.reload(); } }, () => 2);
}
for (const button of $$("[data-gold]")) button.addEventListener("click", async () => {
  button.disabled = true;
  try { await post("/api/people/gold", { pair: button.dataset.gold, known: button.dataset.known === "yes" }); location.reload(); } catch (fault) { tell(fault); button.disabled = false; }
});
