// Keeps the page as it is on the server. Without this it reloads now and then.
//
// Events bring the changing part as a tree of [tag, attributes, children]. It is laid over what is there: nodes stay
// the same nodes, so that focus, selection and what somebody has opened stay, too. No text is ever read as markup.

const link = document.getElementById("link");
const live = document.getElementById("live");
const log = document.getElementById("log");
const MOST_LINES = 2000;
const AGAIN_MS = 3000;

function say(text, state) {
  if (link.textContent !== text) link.textContent = text;
  link.dataset.state = state;
}

// -- trees ----------------------------------------------------------------------------------------------------------

function make(tree) {
  if (typeof tree === "string") return document.createTextNode(tree);
  const [tag, attributes, children] = tree;
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.map(make));
  return node;
}

function fits(node, tree) {
  if (typeof tree === "string") return node.nodeType === Node.TEXT_NODE;
  return node.nodeType === Node.ELEMENT_NODE && node.localName === tree[0] && node.id === (tree[1].id ?? "");
}

function lay(node, tree) {
  if (typeof tree === "string") {
    if (node.data !== tree) node.data = tree;
    return;
  }
  const [, attributes, children] = tree;
  for (const { name } of [...node.attributes]) {
    if (!(name in attributes) && name !== "open") node.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(attributes)) {
    if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  }
  layAll(node, children);
}

// What goes is removed before anything is put in its place: a node that is moved loses its focus, and one that stays is
// moved only when the order is another.
function layAll(parent, trees) {
  const spare = [...parent.childNodes];
  const taken = trees.map((tree) => {
    const at = spare.findIndex((node) => fits(node, tree));
    return at < 0 ? null : spare.splice(at, 1)[0];
  });
  for (const node of spare) node.remove();
  trees.forEach((tree, at) => {
    const node = taken[at] ?? make(tree);
    if (taken[at]) lay(node, tree);
    const here = parent.childNodes[at] ?? null;
    if (here !== node) parent.insertBefore(node, here);
  });
}

function show(tree) {
  const focused = live.contains(document.activeElement) ? document.activeElement : null;
  lay(live, tree);
  tick();
  if (!focused || document.activeElement === focused) return;
  // It was moved, or went with its run: the keyboard goes on from where it was as near as can be.
  if (focused.isConnected) focused.focus({ preventScroll: true });
  else document.getElementById("main").focus({ preventScroll: true });
}

// -- ages -----------------------------------------------------------------------------------------------------------

function age(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m`;
  if (whole < 172800) return `${Math.floor(whole / 3600)}h`;
  return `${Math.floor(whole / 86400)}d`;
}

function tick() {
  for (const time of document.querySelectorAll("time[data-since]")) {
    const text = age(Date.now() / 1000 - Number(time.dataset.since));
    if (time.textContent !== text) time.textContent = text;
  }
}

// -- logs -----------------------------------------------------------------------------------------------------------

const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 24;

function append(lines) {
  const follows = isAtEnd();
  for (const line of lines) {
    const span = document.createElement("span");
    if (line.stream === "stderr") span.className = "err";
    span.textContent = `${line.text}\n`;
    log.append(span);
  }
  while (log.childElementCount > MOST_LINES) log.firstElementChild.remove();
  if (follows) log.scrollTop = log.scrollHeight;
  if (lines.length) document.getElementById("summary").textContent = "";
}

// -- events ---------------------------------------------------------------------------------------------------------

let source = null;
let timer = 0;
let cursor = log?.dataset.cursor ?? "";
let ended = false;

function address() {
  if (live) return live.dataset.events;
  if (!log?.dataset.events) return null;
  return `${log.dataset.events}?after=${encodeURIComponent(cursor)}`;
}

// A browser opens six connections to a host, no more: a page that nobody sees gives its own back.
function listen() {
  hush();
  const path = address();
  if (!path || ended || document.hidden) return;
  source = new EventSource(path);
  source.addEventListener("open", () => say("live", "live"));
  source.addEventListener("error", () => {
    say("not connected, trying again", "lost");
    if (source.readyState !== EventSource.CLOSED) return;
    timer = setTimeout(listen, AGAIN_MS);
  });
  source.addEventListener("runs", (event) => show(JSON.parse(event.data)));
  source.addEventListener("lines", (event) => {
    cursor = event.lastEventId;
    append(JSON.parse(event.data).lines);
  });
  source.addEventListener("end", (event) => {
    const { state, exit_code: code } = JSON.parse(event.data);
    ended = true;
    hush();
    say(code === null ? state : `${state} (${code})`, "over");
  });
}

function hush() {
  clearTimeout(timer);
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? hush() : listen()));
window.addEventListener("pagehide", hush);
window.addEventListener("pageshow", (event) => event.persisted && listen());
if (log) log.scrollTop = log.scrollHeight;
if (live) setInterval(tick, 1000);
tick();
listen();
