// Upload by drag and drop, in parts: a part that fails comes again, and an upload that broke off goes on with the same files.
"use strict";

const PART = 4 * 1024 * 1024;
const zone = document.querySelector("[data-drop]");
const form = document.querySelector("[data-upload]");
const csrf = form.querySelector("[name=csrf]").value;
const place = document.querySelector("[data-progress]");
const bar = place.querySelector("progress");
const text = place.querySelector("[data-progress-text]");

const pause = (seconds) => new Promise((resume) => setTimeout(resume, seconds * 1000));

async function ask(path, options) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const answer = await fetch(path, options);
      if (answer.status < 500 || attempt > 8) return answer;
    } catch (error) {
      if (attempt > 8) throw error;
    }
    text.textContent = "The connection is lost; it is tried again.";
    await pause(Math.min(30, 2 ** attempt));
  }
}

// Other answers than those of an upload end it: a refusal says why, and behind the end of a session stands the sign-in.
async function read(answer) {
  if (answer.redirected) throw new Error("You are signed out.");
  if (!answer.ok && answer.status !== 409) throw new Error((await answer.text()).slice(0, 200));
  return answer.json();
}

async function post(path, fields) {
  const body = new URLSearchParams({ csrf, ...fields });
  const headers = { "content-type": "application/x-www-form-urlencoded" };
  return read(await ask(path, { method: "POST", body, headers }));
}

// Which files they are. Those of another disc have the same names, and often the same sizes.
function nameFiles(files) {
  let sum = 0x811c9dc5;
  for (const [file, path] of files) {
    for (const each of `${path}\n${file.size}\n${file.lastModified}\n`) sum = Math.imul(sum ^ each.codePointAt(0), 0x01000193) >>> 0;
  }
  return `${files.length}-${files.reduce((total, [file]) => total + file.size, 0)}-${sum}`;
}

async function send(upload, file, name, report) {
  const address = `/import/upload/${upload}/part?name=${encodeURIComponent(name)}`;
  let { have } = await read(await ask(address));
  do {
    const body = file.slice(have, have + PART);
    const headers = { "content-type": "application/octet-stream", "x-csrf": csrf };
    ({ have } = await read(await ask(`${address}&offset=${have}`, { method: "POST", body, headers })));
    report(have);
  } while (have < file.size);
}

async function upload(files) {
  if (!files.length) return;
  place.hidden = false;
  const total = files.reduce((sum, [file]) => sum + file.size, 0);
  let done = 0;
  try {
    const { upload: name } = await post("/import/upload", { files: nameFiles(files) });
    for (const [number, [file, path]] of files.entries()) {
      await send(name, file, path, (have) => {
        bar.value = total ? (done + have) / total : 1;
        text.textContent = `File ${number + 1} of ${files.length}: ${Math.floor((100 * (done + have)) / (total || 1))} %`;
      });
      done += file.size;
    }
    await post(`/import/upload/${name}/finish`, {});
    location.assign("/import");
  } catch (error) {
    text.textContent = `The upload broke off: ${error.message} Choose the same files again, and it goes on.`;
  }
}

// A dropped folder is read to its end.
async function entries(entry, path = "") {
  if (entry.isFile) return [[await new Promise((give, fail) => entry.file(give, fail)), path + entry.name]];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((give, fail) => reader.readEntries(give, fail));
    if (!some.length) break;
    for (const each of some) found.push(...(await entries(each, `${path}${entry.name}/`)));
  }
  return found;
}

zone.addEventListener("dragover", (event) => {
  event.preventDefault();
  zone.toggleAttribute("data-over-it", true);
});
zone.addEventListener("dragleave", () => zone.toggleAttribute("data-over-it", false));
zone.addEventListener("drop", async (event) => {
  event.preventDefault();
  zone.toggleAttribute("data-over-it", false);
  const items = [...event.dataTransfer.items].map((each) => each.webkitGetAsEntry?.()).filter(Boolean);
  const files = [];
  if (items.length) for (const each of items) files.push(...(await entries(each)));
  else for (const file of event.dataTransfer.files) files.push([file, file.name]);
  await upload(files);
});
for (const chooser of form.querySelectorAll("input[type=file]")) {
  chooser.addEventListener("change", () => upload([...chooser.files].map((file) => [file, file.webkitRelativePath || file.name])));
}
form.addEventListener("submit", (event) => event.preventDefault());
