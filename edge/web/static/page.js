// The little that HTML cannot do by itself. Every page works without it.
"use strict";

// "/" puts the cursor into the page's search.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) return;
  const search = document.querySelector("[data-search]");
  if (search) {
    event.preventDefault();
    search.focus();
    search.select();
  }
});

// A box in a table's head marks all of its rows; bars of actions say how many are marked.
function count(form) {
  const marked = form.querySelectorAll("tbody input[type=checkbox]:checked").length;
  for (const place of form.querySelectorAll("[data-count]")) place.textContent = marked ? `${marked} marked` : "none marked";
}
document.addEventListener("change", (event) => {
  const form = event.target.closest("form");
  if (!form || event.target.type !== "checkbox") return;
  if (event.target.matches("[data-all]")) {
    for (const box of form.querySelectorAll("tbody input[type=checkbox]")) box.checked = event.target.checked;
  }
  count(form);
});

// A page that refreshes itself says so when it no longer can.
let failures = 0;
function told(ok) {
  failures = ok ? 0 : failures + 1;
  document.documentElement.toggleAttribute("data-stale", failures > 1);
}
document.addEventListener("htmx:afterRequest", (event) => told(event.detail.successful));
document.addEventListener("htmx:sendError", () => told(false));
// What somebody is typing into, or has opened, stays as it is.
document.addEventListener("htmx:beforeSwap", (event) => {
  const live = event.detail.target;
  const at = document.activeElement;
  if (live.contains(at) && at.matches("input, textarea, select")) event.detail.shouldSwap = false;
});
