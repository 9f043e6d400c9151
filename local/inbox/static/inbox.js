// Keeps the list of messages current. Without this file a reload does the same.
"use strict";

const EVERY = 1500; // milliseconds between two requests
const TYPING = 200; // milliseconds of silence before a search starts

const news = document.getElementById("news");
const search = document.getElementById("q");
let latest = 0; // answers may arrive out of order: only the answer to the latest question counts

const shown = () => document.getElementById("messages");
const ids = (list) => new Set([...list.querySelectorAll(".row")].map((row) => row.dataset.id));

/** Replace the list by that of the page at this address. */
async function show(address, announce) {
  const question = ++latest;
  const answer = await fetch(address);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const fresh = page.getElementById("messages");
  if (question !== latest || !fresh) return;
  const known = ids(shown());
  const focused = document.activeElement?.closest(".row")?.dataset.id;
  const added = [...fresh.querySelectorAll(".row")].filter((row) => !known.has(row.dataset.id));
  if (announce) {
    added.forEach((row) => row.classList.add("new"));
    if (added.length) news.textContent = `${added.length} new`;
  }
  shown().replaceWith(document.adoptNode(fresh));
  document.title = page.title;
  if (focused) shown().querySelector(`[data-id="${CSS.escape(focused)}"] .subject`)?.focus();
}

/** Ask whether the list changed. A request that fails (the inbox restarts) is followed by the next one. */
async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch(shown().dataset.revisionUrl);
    document.body.classList.toggle("offline", !answer.ok);
    if (answer.ok && (await answer.text()) !== shown().dataset.revision) await show(location.href, true);
  } catch {
    document.body.classList.add("offline");
  }
}

async function keepRefreshing() {
  await refresh();
  setTimeout(keepRefreshing, EVERY);
}

let typed;
search.addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => {
    const address = new URL(search.form.action);
    if (search.value.trim()) address.searchParams.set("q", search.value.trim());
    history.replaceState(null, "", address);
    show(address, false).catch(() => {});
  }, TYPING);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target === search || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  search.select();
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) event.preventDefault();
});

document.addEventListener("visibilitychange", refresh);
setTimeout(keepRefreshing, EVERY);
