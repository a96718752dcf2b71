// Small helps for people with a mouse and a script; every page works without.
"use strict";

const say = (sentence) => {
  document.getElementById("said").textContent = sentence;
};

// Copy buttons
const copy = async (source) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(source.textContent);
  // Over plain http browsers offer the old way alone.
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
    say(button.textContent);
    setTimeout(() => (button.textContent = name), 2000);
  });
}

// Fields that say nothing stay out of the address.
document.querySelector("form.filters")?.addEventListener("submit", (event) => {
  for (const field of event.target.elements) if (field.name && !field.value) field.disabled = true;
});
window.addEventListener("pageshow", () => {
  for (const field of document.querySelectorAll("form.filters :disabled")) field.disabled = false;
});

// How many runs are chosen
const choices = document.querySelector("form.compare-form");
if (choices) {
  const button = choices.querySelector("[data-compare]");
  const note = choices.querySelector("[data-chosen]");
  const count = () => choices.querySelectorAll("input[name=ids]:checked").length;
  const isGood = () => count() >= 2 && count() <= 10;
  const update = () => {
    const chosen = count();
    button.setAttribute("aria-disabled", String(!isGood()));
    note.textContent = chosen === 0 ? "Tick 2 to 10 runs." : chosen === 1 ? "1 ticked: tick one more." : chosen > 10 ? `${chosen} ticked: 10 at most.` : `${chosen} ticked.`;
  };
  choices.addEventListener("change", update);
  document.addEventListener("live", update);
  window.addEventListener("pageshow", update);
  choices.addEventListener("submit", (event) => {
    if (isGood()) return;
    event.preventDefault();
    say(note.textContent);
  });
  update();
}
