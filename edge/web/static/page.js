// Conveniences: every page works without this file.
"use strict";

// "/" moves the focus to the page's search field.
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

// A checkbox in a table's head selects all rows; [data-count] shows the number of selected rows.
function count(form) {
  const selected = form.querySelectorAll("tbody input[type=checkbox]:checked").length;
  for (const place of form.querySelectorAll("[data-count]")) place.textContent = selected ? `${selected} selected` : "none selected";
}
document.addEventListener("change", (event) => {
  const form = event.target.closest("form");
  if (!form || event.target.type !== "checkbox") return;
  if (event.target.matches("[data-all]")) {
    for (const box of form.querySelectorAll("tbody input[type=checkbox]")) box.checked = event.target.checked;
  }
  count(form);
});

// A page that refreshes itself shows when two refreshes in a row have failed.
let failures = 0;
function showFreshness(ok) {
  failures = ok ? 0 : failures + 1;
  document.documentElement.toggleAttribute("data-stale", failures > 1);
}
document.addEventListener("htmx:afterRequest", (event) => showFreshness(event.detail.successful));
document.addEventListener("htmx:sendError", () => showFreshness(false));
// What a person has opened or typed is not replaced; where its subject is over, the page says so.
function isInUse(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return false;
  return node.matches("details[open]") || node.querySelector("details[open]") !== null;
}
if (window.Idiomorph) {
  Object.assign(Idiomorph.defaults.callbacks, {
    beforeNodeMorphed: (old) => !(old.nodeType === Node.ELEMENT_NODE && old.matches("details[open]")),
    beforeAttributeUpdated: (name, node) => !(name === "open" && node.matches("details")),
    beforeNodeRemoved: (node) => {
      if (!isInUse(node)) return true;
      node.toggleAttribute("data-over", true);
      return false;
    },
    afterNodeMorphed: (old) => {
      if (old.nodeType === Node.ELEMENT_NODE) old.removeAttribute("data-over");
    },
  });
}

// The quick look: dragging changes the window, the range the frame; a picture is asked for when the last one is there.
for (const look of document.querySelectorAll(".look")) {
  const image = look.querySelector("img");
  const field = (name) => look.querySelector(`[data-${name}]`);
  let wanted = "";
  const ask = () => {
    const address = new URL(image.src);
    for (const name of ["frame", "center", "width"]) if (field(name)) address.searchParams.set(name, field(name).value);
    wanted = address.href;
    if (image.complete && wanted !== image.src) image.src = wanted;
  };
  image.addEventListener("load", () => { if (wanted && wanted !== image.src) image.src = wanted; });
  look.addEventListener("input", (event) => {
    if (event.target.matches("[data-frame]")) look.querySelector("[data-frame-number]").textContent = event.target.value;
    ask();
  });
  if (!look.hasAttribute("data-look")) continue;
  let from = null;
  image.draggable = false;
  image.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY, center: Number(field("center").value), width: Number(field("width").value) };
    image.setPointerCapture(event.pointerId);
  });
  image.addEventListener("pointermove", (event) => {
    if (!from) return;
    const step = Math.max(1e-6, (look.dataset.highest - look.dataset.lowest) / 512, from.width / 512);
    field("width").value = Math.max(step, from.width + (event.clientX - from.x) * step).toPrecision(6);
    field("center").value = Number((from.center + (event.clientY - from.y) * step).toPrecision(6));
    ask();
  });
  image.addEventListener("pointerup", () => { from = null; });
}
