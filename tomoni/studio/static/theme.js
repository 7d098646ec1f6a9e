// Before the first paint: the look that was chosen here, if any. Nothing secret is kept in the browser.
(() => {
  try {
    const chosen = localStorage.getItem("tomoni.theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch { /* storage may be switched off */ }
})();
