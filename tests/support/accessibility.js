// What axe or Lighthouse would ask first, asked here: gives sentences, none when all is well.
() => {
  const faults = [];
  const seen = (e) => e.offsetParent !== null || e.closest("svg");
  const named = (e) => (e.getAttribute("aria-label") || e.textContent || e.querySelector("img[alt]")?.alt || e.getAttribute("title") || "").trim();
  if (!document.documentElement.lang) faults.push("the page has no language");
  if (!document.title.trim()) faults.push("the page has no title");
  for (const landmark of ["header", "main"]) if (document.querySelectorAll(landmark).length !== 1) faults.push(`not one ${landmark}`);
  if (document.querySelectorAll("h1").length !== 1) faults.push(`${document.querySelectorAll("h1").length} h1`);
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) faults.push(`id ${id} stands twice`);
  for (const e of document.querySelectorAll("[aria-labelledby]"))
    for (const id of e.getAttribute("aria-labelledby").split(" ")) if (!document.getElementById(id)) faults.push(`no label ${id}`);
  for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea"))
    if (!e.labels.length || !e.labels[0].textContent.trim()) faults.push(`field ${e.name} has no label`);
  for (const e of document.querySelectorAll("a[href], button, summary")) if (!named(e)) faults.push(`${e.outerHTML.slice(0, 60)} has no name`);
  for (const e of document.querySelectorAll("svg")) if (!e.closest("[aria-hidden=true], [role=img]")) faults.push("a picture without words");
  for (const e of document.querySelectorAll("table")) if (!e.caption || !e.querySelector("th[scope]")) faults.push("a table without caption or heads");
  for (const e of document.querySelectorAll("button, nav a, input[type=checkbox]")) {
    const box = e.getBoundingClientRect();
    if (seen(e) && box.width && (box.width < 20 || box.height < 20)) faults.push(`${e.outerHTML.slice(0, 60)} is too small to hit`);
  }
  const rgb = (text) => (text.match(/[0-9.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => { const f = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const paper = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.99) return c; }
    return [255, 255, 255]; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode());) {
    const e = node.parentElement;
    if (!node.textContent.trim() || e.closest("svg, script, noscript, .unseen, .skip, option") || !seen(e)) continue;
    const a = light(rgb(getComputedStyle(e).color)), b = light(paper(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faults.push(`"${node.textContent.trim().slice(0, 30)}" has a contrast of ${ratio.toFixed(1)}`);
  }
  if (document.documentElement.scrollWidth > innerWidth + 1) faults.push(`wider than the window: ${document.documentElement.scrollWidth}`);
  return faults;
}
