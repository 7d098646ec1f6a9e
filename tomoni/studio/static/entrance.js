import { post, tell } from "./api.js";
import { $, $$, facts, t, toast } from "./dom.js";

for (const form of $$("form[data-form]")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const place = $("[data-fault]", form), button = $("button", form);
    place.textContent = "";
    button.disabled = true;
    try {
      const body = Object.fromEntries(new FormData(form));
      if (facts.token) body.token = facts.token;
      const done = await post(form.dataset.form, body);
      if (done.to) location.assign(done.to);
      else { toast(t("common.saved")); $("input[type=password]", form).value = ""; }
    } catch (fault) {
      place.textContent = [fault.message, fault.next].filter(Boolean).join(" ");
    }
    button.disabled = false;
  });
}

for (const button of $$("[data-act=sign-out]")) {
  button.addEventListener("click", async () => {
    try { location.assign((await post("/api/sign-out")).to); } catch (fault) { tell(fault); }
  });
}
