"use strict";
const form = document.querySelector("form");
const input = form.elements.pictures;
const drop = document.querySelector(".drop");
const says = document.getElementById("status");
const button = form.querySelector("button");
const limit = Object.fromEntries(Object.entries(form.dataset).map(([name, value]) => [name, Number(value)]));

const isTooMuch = (files) =>
  files.length > limit.files || files.some((file) => file.size > limit.bytes) ||
  files.reduce((sum, file) => sum + file.size, 0) > limit.together;

const show = (answers) => {
  document.getElementById("answers").replaceWith(answers);
  answers.focus();
};

input.addEventListener("change", () => {
  says.textContent = isTooMuch([...input.files]) ? `That is too much. ${form.dataset.limits}` : "";
});

for (const name of ["dragover", "drop"]) {
  window.addEventListener(name, (event) => event.preventDefault());
}
drop.addEventListener("dragover", () => drop.classList.add("over"));
for (const name of ["dragleave", "drop"]) {
  drop.addEventListener(name, () => drop.classList.remove("over"));
}
window.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length) {
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change"));
  }
});

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (isTooMuch([...input.files])) return;
  button.disabled = true;
  says.textContent = "Asking the model …";
  try {
    const response = await fetch(form.action, { method: "POST", body: new FormData(form) });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const answers = page.getElementById("answers");
    says.textContent = answers ? "" : page.body.textContent;
    if (answers) show(document.adoptNode(answers));
  } catch {
    says.textContent = "No answer came: mura app has ended, or a file can't be read any more. Start it again, or choose the files again.";
  } finally {
    button.disabled = false;
  }
});
