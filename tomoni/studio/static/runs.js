// Runs: start one, watch it. It goes on whether this page is open or not.

import { post, tell, watch } from "./api.js";
import { $, $$, facts, t } from "./dom.js";

const form = $("#start");
if (form) {
  const asked = new URLSearchParams(location.search).get("data");
  const wanted = asked && $$("input[name=data]", form).find((input) => input.value === asked);
  if (wanted) wanted.checked = true;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = $("button", form), value = (name) => $(`input[name=${name}]:checked`, form).value;
    button.disabled = true;
    try {
      const { name } = await post("/api/runs/start", { name: $("#name").value, data: value("data"), version: $("#version").value, amount: value("amount"), effort: value("effort"), use: $("#use").checked });
      location.assign(`/runs/${name}`);
    } catch (fault) { tell(fault); button.disabled = false; }
  });
}
for (const button of $$("[data-first]")) button.addEventListener("click", async () => {
  button.disabled = true;
  try { await post("/api/runs/first", { model: button.dataset.first }); location.reload(); } catch (fault) { tell(fault); button.disabled = false; }
});
for (const button of $$("[data-act=stop], [data-act=again], [data-act=use]")) button.addEventListener("click", async () => {
  button.disabled = true;
  try { await post(`/api/runs/${button.dataset.act}`, { name: facts.name }); location.reload(); } catch (fault) { tell(fault); button.disabled = false; }
});

if (facts.name && facts.going) watch(`/api/runs/${facts.name}`, (run) => {
  if (!run) return;
  if (run.state !== "running" && run.state !== "starting") { location.reload(); return; }
  $("#state").textContent = t(`run.${run.state}`);
  $("#done").value = run.done;
  $("#told").textContent = t("runs.step", { step: run.step, steps: run.steps, seconds: run.seconds });
  draw(run);
}, () => 1);

// The curve as it grows: numbers in, lines out, no markup.
function draw(run) {
  const svg = $("#chart-place svg"), line = svg && $("polyline", svg);
  if (!run.points?.length) return;
  if (!line) { location.reload(); return; }
  line.setAttribute("points", run.points);
}
