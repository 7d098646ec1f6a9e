// Data: look first, then keep.

import { post, tell } from "./api.js";
import { $, $$, h, known, t } from "./dom.js";
import { base64 } from "./files.js";

const file = $("#file"), look = $("#look"), drop = $("#drop");
const MOST = 32 * 1024 * 1024;

async function show(chosen) {
  if (!chosen) return;
  if (chosen.size > MOST) { look.replaceChildren(h("p", { class: "notice warm" }, t("data.too_large"))); return; }
  look.replaceChildren(h("p", { class: "soft" }, t("data.looking")));
  let content, found;
  try { content = await base64(chosen); found = await post("/api/data/look", { name: chosen.name, content }); } catch (fault) { look.replaceChildren(h("p", { class: "notice warm" }, [fault.message, fault.next].filter(Boolean).join(" "))); return; }
  const masked = Object.entries(found.masked).map(([kind, n]) => `${known(`masked.${kind}`, kind)} ${n}`).join("、");
  const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
  const keep = h("button", { class: "button lead", type: "button", disabled: !found.good, onclick: async () => {
    keep.disabled = true;
    try { await post("/api/data/import", { name: chosen.name, content, without_bad: found.bad_count > 0 }); location.reload(); } catch (fault) { tell(fault); keep.disabled = false; }
  } }, found.bad_count ? t("data.keep_good", { n: found.good }) : t("data.keep", { n: found.good }));
  look.replaceChildren(h("div", { class: "stack" },
    h("dl", { class: "facts" }, fact(t("data.form"), known(`form.${found.form}`, found.form || "–")), fact(t("data.good"), found.good.toLocaleString()), fact(t("data.bad"), found.bad_count.toLocaleString()), fact(t("data.repeated"), found.repeated.toLocaleString())),
    masked ? h("p", { class: "notice" }, `${t("data.will_mask")} ${masked}`) : null,
    found.bad_count ? h("div", { class: "stack tight" }, h("h3", {}, t("data.bad_rows")), h("div", { class: "scroll-x" }, h("table", {}, h("tbody", {}, found.bad.map((row) =>
      h("tr", {}, h("td", { class: "number" }, t("data.line", { n: row.line })), h("td", {}, row.reason, row.detail ? h("span", { class: "small soft" }, ` ${row.detail}`) : null), h("td", { class: "mono small said" }, row.excerpt)))))),
      found.bad_count > found.bad.length ? h("p", { class: "small soft" }, t("data.more_bad", { n: found.bad_count - found.bad.length })) : null) : null,
    found.examples.length ? h("div", { class: "stack" }, h("h3", {}, t("data.examples")), found.examples.map((turns) => h("div", { class: "example" }, turns.map(([role, text]) => h("p", {}, h("span", { class: "small soft" }, known(`who.${role}`, role)), h("span", { class: "said" }, text)))))) : null,
    h("div", { class: "row" }, keep)));
}

file.addEventListener("change", () => show(file.files[0]));
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
drop.addEventListener("drop", (event) => show(event.dataTransfer.files[0]));
for (const button of $$("[data-remove]")) button.addEventListener("click", async () => {
  if (!confirm(t("data.really"))) return;
  try { await post("/api/data/remove", { id: button.dataset.remove }); location.reload(); } catch (fault) { tell(fault); }
});
$("#town")?.addEventListener("click", async () => { try { await post("/api/data/town"); location.reload(); } catch (fault) { tell(fault); } });

// What people said, from a file of tomoni's or of another tool's.
$("#said").addEventListener("submit", async (event) => {
  event.preventDefault();
  const chosen = $("#said-file").files[0], live = $("#said-live"), button = $("#said button");
  if (!chosen) return;
  if (chosen.size > MOST) { live.textContent = t("data.too_large"); return; }
  button.disabled = true;
  live.textContent = t("data.looking");
  try {
    const done = await post("/api/data/judgements", { name: chosen.name, content: await base64(chosen), form: $("#said-form").value, without_bad: $("#said-good").checked });
    live.textContent = t("said.taken", { n: done.judgements, known: done.known, bad: done.bad, masked: done.masked });
  } catch (fault) { live.replaceChildren(h("p", {}, fault.message), h("p", { class: "soft" }, fault.next || "")); }
  button.disabled = false;
});
