// What every page has: the look, the language, the menu, and the outbox that keeps what is not yet saved.

import { post, tell } from "./api.js";
import { $, $$, lang, t } from "./dom.js";
import { outbox } from "./outbox.js";

function theme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("tomoni.theme", root.dataset.theme); } catch { /* stays for this page */ }
}

async function language() {
  try { await post("/api/language", { lang: lang === "ja" ? "en" : "ja" }); location.reload(); } catch (fault) { tell(fault); }
}

for (const button of $$("[data-act=theme]")) button.addEventListener("click", theme);
for (const button of $$("[data-act=language]")) button.addEventListener("click", language);
for (const button of $$("[data-act=more]")) button.addEventListener("click", () => $("#more").showModal());

// How many answers wait here, on whatever page.
function waiting() {
  const place = $("#offline");
  const n = outbox.size();
  place.hidden = outbox.reached() && n === 0;
  if (!place.hidden) place.textContent = n ? t("outbox.waiting", { n }) : t("outbox.offline");
}
outbox.watch(waiting);
waiting();
outbox.deliver();
