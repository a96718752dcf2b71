// Copy buttons, form clean-up and the selection of runs; every page works without scripts.
"use strict";

const announce = (sentence) => {
  document.getElementById("announcement").textContent = sentence;
};

// Copy buttons
const copy = async (source) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(source.textContent);
  // Over plain http, browsers have no clipboard API.
  const range = document.createRange();
  range.selectNodeContents(source);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  if (!document.execCommand("copy")) throw new Error("refused");
};
for (const button of document.querySelectorAll("[data-copy]")) {
  const name = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await copy(document.getElementById(button.dataset.copy));
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied: select the text";
    }
    announce(button.textContent);
    setTimeout(() => (button.textContent = name), 2000);
  });
}

// Empty fields are not submitted.
document.querySelector("form.filters")?.addEventListener("submit", (event) => {
  for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
});
window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form.filters :disabled")) field.disabled = false;
});

// The number of selected runs
const choices = document.querySelector("form.compare-form");
if (choices) {
  const button = choices.querySelector("[data-compare]");
  const note = choices.querySelector("[data-chosen]");
  const count = () => choices.querySelectorAll("input[name=ids]:checked").length;
  const isValid = () => count() >= 2 && count() <= 10;
  const update = () => {
    const chosen = count();
    button.setAttribute("aria-disabled", String(!isValid()));
    note.textContent = chosen === 0 ? "Tick 2 to 10 runs." : chosen === 1 ? "1 ticked: tick one more." : chosen > 10 ? `${chosen} ticked: 10 at most.` : `${chosen} ticked.`;
  };
  choices.addEventListener("change", update);
  document.addEventListener("live", update);
  window.addEventListener("pageshow", update);
  choices.addEventListener("submit", (event) => {
    if (isValid()) return;
    event.preventDefault();
    announce(note.textContent);
  });
  update();
}
