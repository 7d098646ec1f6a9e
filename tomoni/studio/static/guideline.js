import { post, tell } from "./api.js";
import { $, $$, h, t } from "./dom.js";

async function change(body) {
  try { await post("/api/guideline/change", body); location.reload(); } catch (fault) { tell(fault); }
}

$("#add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("#text").value;
  if (!text.trim()) return;
  try {
    const done = await post("/api/guideline/add", { text });
    if (done.status === "proposed") { $("#added").textContent = t("guideline.thanks"); $("#text").value = ""; } else location.reload();
  } catch (fault) { tell(fault); }
});
for (const button of $$("[data-rule]")) button.addEventListener("click", () => change({ id: button.dataset.rule, status: button.dataset.status }));
for (const button of $$("[data-edit]")) button.addEventListener("click", () => {
  const text = $("[data-text]", button.closest("li"));
  if (text.hidden) return;
  const area = h("textarea", { "aria-label": t("guideline.edit"), maxlength: 4000 });
  area.value = text.textContent;
  const box = h("div", { class: "stack" }, area, h("div", { class: "row" },
    h("button", { class: "button lead", type: "button", onclick: () => area.value.trim() && change({ id: button.dataset.edit, text: area.value }) }, t("common.save")),
    h("button", { class: "button quiet", type: "button", onclick: () => { box.remove(); text.hidden = false; button.focus(); } }, t("common.cancel"))));
  text.hidden = true;
  text.after(box);
  area.focus();
});
