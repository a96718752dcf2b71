// While runs are active, fetches this page every few seconds and replaces its elements with data-live.
"use strict";

(() => {
  const INTERVAL = 4000; // milliseconds
  const MAX_INTERVAL = 60000;
  const panel = document.getElementById("live");
  const state = document.getElementById("live-state");
  const button = document.getElementById("live-pause");
  const isActive = () => document.querySelector("[data-live][data-active]") !== null;
  let timer = null;
  let wait = INTERVAL;
  let paused = false;

  const runs = (root) => new Map([...root.querySelectorAll("[data-run]")].map((item) => [item.dataset.run, item.dataset]));

  const describeChanges = (before, after) => {
    const found = [];
    for (const [key, run] of after) {
      const old = before.get(key);
      if (!old) found.push(`${run.name} is new: ${run.state}`);
      else if (old.state !== run.state) found.push(`${run.name}: ${run.state}`);
    }
    return found.length > 3 ? `${found.length} runs have changed` : found.join(", ");
  };

  // Returns a function that restores ticks, opened details, scroll positions and the focus after a replacement.
  const saveState = (part) => {
    const name = (item) => item.id || item.getAttribute("href") || item.value || item.getAttribute("aria-label");
    const scrolled = [...part.querySelectorAll("[tabindex]")].filter((item) => item.scrollTop || item.scrollLeft);
    const ticked = new Set([...part.querySelectorAll("input:checked")].map((item) => item.value));
    const open = [...part.querySelectorAll("details[open][id]")].map((item) => item.id);
    const positions = scrolled.map((item) => [name(item), item.scrollTop, item.scrollLeft]);
    const active = part.contains(document.activeElement) ? document.activeElement : null;
    const focused = active && (name(active) || (active.tagName === "SUMMARY" && name(active.parentElement)));
    return () => {
      for (const item of part.querySelectorAll("input[type=checkbox]")) item.checked = ticked.has(item.value);
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      const all = [...part.querySelectorAll("a, input, button, summary, [tabindex]")];
      for (const [label, top, left] of positions) {
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
      if (!fresh) return location.reload(); // the page has other parts now
      part.toggleAttribute("data-active", fresh.hasAttribute("data-active"));
      if (part.dataset.shown === fresh.innerHTML) continue;
      const restore = saveState(part);
      part.dataset.shown = fresh.innerHTML;
      part.innerHTML = fresh.innerHTML;
      restore();
      changed = true;
    }
    const announcement = describeChanges(before, runs(document));
    if (announcement) document.getElementById("announcement").textContent = announcement;
    if (changed) document.dispatchEvent(new Event("live"));
  };

  const update = async () => {
    timer = null;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.redirected) return location.assign(answer.url); // the session has ended
      if (!answer.ok) throw new Error(String(answer.status));
      replace(new DOMParser().parseFromString(await answer.text(), "text/html"));
      wait = INTERVAL;
    } catch {
      wait = Math.min(wait * 2, MAX_INTERVAL);
    }
    schedule();
  };

  const schedule = () => {
    const active = isActive();
    const isRunning = active && !paused;
    panel.classList.toggle("still", !isRunning || wait > INTERVAL);
    state.textContent = !active ? "Nothing is active" : paused ? "Paused" : wait > INTERVAL ? "No answer: tried again" : "Live";
    button.hidden = !active;
    button.textContent = paused ? "Go on" : "Pause updates";
    clearTimeout(timer);
    timer = isRunning && !document.hidden ? setTimeout(update, wait) : null;
  };

  if (!panel || !isActive()) return;
  panel.hidden = false;
  for (const part of document.querySelectorAll("[data-live]")) part.dataset.shown = "";
  button.addEventListener("click", () => {
    paused = !paused;
    schedule();
  });
  document.addEventListener("visibilitychange", schedule);
  schedule();
})();
