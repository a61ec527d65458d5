// Keeps a page up to date while blocks come in: fetches the same address again and puts its content in place.
"use strict";

const REFRESH_MS = 500;
const ANSWER_MS = 30000;
const news = document.getElementById("news");
let isPaused = false;
let isWaiting = false;
let isBehind = false;

/** Returns a page as a document; no script in it can run. */
function fetchPage(address) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", address);
    request.responseType = "document";
    request.onload = () => (request.response ? resolve(request.response) : reject(new Error("no page")));
    request.timeout = ANSWER_MS;
    request.ontimeout = () => reject(new Error("no answer in time"));
    request.onerror = () => reject(new Error("no answer"));
    request.send();
  });
}

/** Replaces what differs; focus, places in scrolled regions and opened details stay as the reader left them. */
function replaceContent(id, page) {
  const old = document.getElementById(id);
  const fresh = page.getElementById(id);
  if (!fresh || old.isEqualNode(fresh)) return;
  const opened = [...old.querySelectorAll("details[open][id]")].map((one) => one.id);
  const scrolled = [...old.querySelectorAll("[id]")].filter((one) => one.scrollLeft || one.scrollTop);
  const places = scrolled.map((one) => [one.id, one.scrollLeft, one.scrollTop]);
  const focused = old.contains(document.activeElement) ? describe(old, document.activeElement) : null;
  old.replaceWith(document.adoptNode(fresh));
  for (const one of opened) document.getElementById(one)?.setAttribute("open", "");
  for (const [one, left, top] of places) document.getElementById(one)?.scrollTo(left, top);
  if (focused) find(fresh, focused)?.focus({ preventScroll: true });
}

/** Returns what tells an element in the old content and in the new one. */
function describe(root, element) {
  if (element === root || element.id) return { id: element.id };
  const href = element.getAttribute("href");
  const alike = [...root.querySelectorAll(element.localName)].filter((one) => one.getAttribute("href") === href);
  return { name: element.localName, href, index: alike.indexOf(element) };
}

function find(root, { id, name, href, index }) {
  if (id !== undefined) return document.getElementById(id);
  return [...root.querySelectorAll(name)].filter((one) => one.getAttribute("href") === href)[index];
}

async function refresh() {
  if (isWaiting) {
    isBehind = true;
    return;
  }
  isWaiting = true;
  isBehind = false;
  try {
    const page = await fetchPage(location.href);
    replaceContent("status", page);
    replaceContent("content", page);
  } catch {
    news.textContent = "The page could not be brought up to date: it shows what was known before.";
  }
  setTimeout(() => {
    isWaiting = false;
    if (isBehind && !isPaused) refresh();
  }, REFRESH_MS);
}

function addPause() {
  const button = document.createElement("button");
  button.id = "pause";
  button.type = "button";
  button.textContent = "Pause updates";
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    button.setAttribute("aria-pressed", String(isPaused));
    if (!isPaused) refresh();
  });
  news.before(button);
}

function listen() {
  const source = new EventSource(document.body.dataset.events);
  let shown = document.body.dataset.shown;
  source.onmessage = (message) => {
    const told = JSON.parse(message.data);
    // The first message tells what happened between this page and its stream, too.
    const isNew = `${told.height} ${told.state}` !== shown;
    shown = `${told.height} ${told.state}`;
    if (isPaused) return;
    if (told.news.length > 0) news.textContent = told.news.join(". ");
    if (isNew) refresh();
  };
  source.onerror = () => {
    news.textContent =
      source.readyState === EventSource.CLOSED
        ? "The server has ended, or was started again: open the address that it printed."
        : "The connection is interrupted; the page shows what was known before.";
  };
}

if (document.body.dataset.live === "yes") {
  addPause();
  listen();
}
