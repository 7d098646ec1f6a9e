// Home stays true while it is looked at: the model comes up, people judge elsewhere, Learn ends.

import { watch } from "./api.js";
import { $, $$, facts, pairsOf, t } from "./dom.js";

let before = facts.gathered;
watch("/api/state", (state) => {
  if (!state) return;
  if (state.learning !== before.learning || state.enough !== before.enough || state.version !== before.version && before.version) { location.reload(); return; }
  before = state;
  const model = $("[data-model]");
  model.textContent = t(`model.${state.model}`);
  model.className = `chip ${{ ready: "good", failed: "warm" }[state.model] || ""}`;
  $$("[data-dots] span").forEach((dot, i) => dot.classList.toggle("saved", i < state.share * $$("[data-dots] span").length));
  const count = $("[data-count]");
  if (count) count.textContent = pairsOf(state.comparisons, $$("[data-dots] span").length) + (state.corrections ? ` · ${t("home.corrections", { n: state.corrections })}` : "");
}, (state) => (state.model === "ready" && !state.learning ? 4 : 1.5));
