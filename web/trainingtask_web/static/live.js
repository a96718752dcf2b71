// While runs are active, fetches this page every few seconds and replaces its parts that are marked as live.
"use strict";

(() => {
  const EVERY = 4000;
  const LONGEST = 60000;
  const panel = document.getElementById("live");
  const state = document.getElementById("live-state");
  const button = document.getElementById("live-pause");
  const isActive = () => document.querySelector("[data-live][data-active]") !== null;
  let timer = null;
  let wait = EVERY;
  let paused = false;

  const runs = (root) => new Map([...root.querySelectorAll("[data-run]")].map((item) => [item.dataset.run, item.dataset]));

  const changes = (before, after) => {
    const found = [];
    for (const [key, run] of after) {
      const old = before.get(key);
      if (!old) found.push(`${run.name} is new: ${run.state}`);
      else if (old.state !== run.state) found.push(`${run.name}: ${run.state}`);
    }
    return found.length > 3 ? `${found.length} runs have changed` : found.join(", ");
  };

  // What a person has done to a part stays: ticks, opened details, scrolled boxes and the focus.
  const keep = (part) => {
    const name = (item) => item.id || item.getAttribute("href") || item.value || item.getAttribute("aria-label");
    const scrolled = [...part.querySelectorAll("[tabindex]")].filter((item) => item.scrollTop || item.scrollLeft);
    const ticked = new Set([...part.querySelectorAll("input:checked")].map((item) => item.value));
    const open = [...part.querySelectorAll("details[open][id]")].map((item) => item.id);
    const places = scrolled.map((item) => [name(item), item.scrollTop, item.scrollLeft]);
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    const focused = active && (name(active) || (active.tagName === "SUMMARY" && name(active.parentElement)));
    return () => {
      for (const item of part.querySelectorAll("input[type=checkbox]")) item.checked = ticked.has(item.value);
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      const all = [...part.querySelectorAll("a, input, button, summary, [tabindex]")];
      for (const [label, top, left] of places) {
        const item = all.find((one) => name(one) === label);
        if (item) item.scrollTo({ top, left, behavior: "instant" });
      }
      if (!focused) return;
      const found = all.find((one) => one.tagName === active.tagName && (name(one) === focused || (one.tagName === "SUMMARY" && name(one.parentElement) === focused)));
      found?.focus({ preventScroll: true });
    };
  };

  const replace = (next) => {
    const before = runs(document);
    let changed = false;
    for (const part of document.querySelectorAll("[data-live]")) {
      const fresh = next.getElementById(part.id);
      if (!fresh) return location.reload(); // the page has another shape now
      part.toggleAttribute("data-active", fresh.hasAttribute("data-active"));
      if (part.dataset.shown === fresh.innerHTML) continue;
      const restore = keep(part);
      part.dataset.shown = fresh.innerHTML;
      part.innerHTML = fresh.innerHTML;
      restore();
      changed = true;
    }
    const said = changes(before, runs(document));
    if (said) document.getElementById("said").textContent = said;
    if (changed) document.dispatchEvent(new Event("live"));
  };

  const update = async () => {
    timer = null;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.redirected) return location.assign(answer.url); // the session has ended
      if (!answer.ok) throw new Error(String(answer.status));
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      wait = EVERY;
    } catch {
      wait = Math.min(wait * 2, LONGEST);
    }
    plan();
  };

  const plan = () => {
    const active = isActive();
    const going = active && !paused;
    panel.classList.toggle("still", !going || wait > EVERY);
    state.textContent = !active ? "Nothing is active" : paused ? "Paused" : wait > EVERY ? "No answer: tried again" : "Live";
    button.hidden = !active;
    button.textContent = paused ? "Go on" : "Pause updates";
    clearTimeout(timer);
    timer = going && !document.hidden ? setTimeout(update, wait) : null;
  };

  if (!panel || !isActive()) return;
  panel.hidden = false;
  for (const part of document.querySelectorAll("[data-live]")) part.dataset.shown = "";
  button.addEventListener("click", () => {
    paused = !paused;
    plan();
  });
  document.addEventListener("visibilitychange", plan);
  plan();
})();
