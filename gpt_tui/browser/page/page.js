// The page around textual-serve's terminal: focus, title, clipboard keys, downloads, and the notice that replaces the
// app at its end. Loaded before textual.js, whose connection it observes.
"use strict";

const RETRY_MS = 2000;
const SHIFT_ENTER = "\x1b[13;2u";
const MAX_PASTE = 5_000_000; // characters; the server closes the connection at a larger message
const ESCAPE = "\x1b"; // would end the paste, so that the rest of it would press keys
const NOTICE_MS = 10_000;
const FONT_SIZES = { min: 6, default: 16, max: 60 };

const ENDINGS = {
  ended: {
    title: "gpt-tui has ended.",
    text: "To stop the server, too, press Ctrl+C in its terminal.",
    button: "Start again",
    action: startAgain,
  },
  elsewhere: { title: "gpt-tui is open in another tab.", button: "Use it here", action: reload },
  stopped: {
    title: "gpt-tui serve has stopped.",
    text: "This page reconnects when it is started again.",
    button: "Reconnect now",
    action: reload,
    reconnects: true,
  },
  lost: {
    title: "The connection to gpt-tui is lost.",
    text: "Reconnecting…",
    button: "Reconnect now",
    action: reload,
    reconnects: true,
  },
};

const QUERY = new URLSearchParams(window.location.search);
const TOKEN = `token=${encodeURIComponent(QUERY.get("token"))}`; // every request but for scripts and styles needs it

let socket = null;
let isOver = false;

function element(id) {
  return document.getElementById(id);
}

function reload() {
  window.location.reload();
}

async function startAgain() {
  try {
    await fetch(`/start?${TOKEN}`, { method: "POST" });
    reload();
  } catch {
    isOver = false;
    showOver("stopped", "");
  }
}

function send(...message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function focusTerminal() {
  const input = document.querySelector(".xterm-helper-textarea");
  if (input && !isOver) input.focus();
}

function showOver(reason, text) {
  if (isOver) return;
  isOver = true;
  const ending = ENDINGS[reason];
  element("over-title").textContent = ending.title;
  element("over-text").textContent = [text, ending.text].filter(Boolean).join("\n\n");
  element("over-button").textContent = ending.button;
  element("over-button").onclick = ending.action;
  element("over").hidden = false;
  element("terminal").inert = true; // it takes Tab, which would not lead back to the button
  element("over-button").focus();
  document.title = "gpt-tui";
  if (ending.reconnects) setTimeout(reconnect, RETRY_MS);
}

async function reconnect() {
  try {
    await fetch(`/?${TOKEN}`, { cache: "no-store" });
    reload();
  } catch {
    setTimeout(reconnect, RETRY_MS);
  }
}

function download(key) {
  const link = document.createElement("a");
  link.href = `/download/${encodeURIComponent(key)}?${TOKEN}`;
  link.download = "";
  link.click();
}

const HANDLERS = {
  title: (title) => {
    document.title = title;
    document.body.classList.add("-ready"); // the app has drawn
  },
  over: ({ reason, text }) => showOver(reason, text),
  deliver_file_start: download,
};

function onMessage(event) {
  if (typeof event.data !== "string") return;
  const [name, value] = JSON.parse(event.data);
  if (name in HANDLERS) {
    event.stopImmediatePropagation(); // textual.js would open a window for a download
    HANDLERS[name](value);
  }
}

function sendVisibility() {
  send(document.hidden ? "hidden" : "visible");
}

// textual.js opens the one connection of the page, with the size in its query
class ObservedSocket extends WebSocket {
  constructor(url) {
    super(`${url}&${TOKEN}`);
    socket = this;
    this.addEventListener("open", focusTerminal);
    this.addEventListener("open", () => document.hidden && sendVisibility());
    this.addEventListener("message", onMessage);
    this.addEventListener("close", () => showOver("lost", ""));
  }
}
window.WebSocket = ObservedSocket;

// Copies the terminal's own selection (Shift and drag); returns whether there was one.
function copySelection() {
  let copied = false;
  const notice = (event) => {
    copied = event.defaultPrevented;
  };
  document.addEventListener("copy", notice, { once: true });
  document.execCommand("copy");
  document.removeEventListener("copy", notice);
  return copied;
}

function isPaste(event) {
  return event.ctrlKey && event.key.toLowerCase() === "v";
}

function isCopy(event) {
  return event.ctrlKey && !event.shiftKey && event.key.toLowerCase() === "c" && copySelection();
}

// Keys that mean something else in a browser than in the terminal.
function onKey(event) {
  if (isOver || event.altKey || event.metaKey) return;
  if (isPaste(event)) {
    event.stopImmediatePropagation(); // without the terminal, the browser pastes
  } else if (isCopy(event)) {
    event.stopImmediatePropagation();
    event.preventDefault();
  } else if (event.key === "Enter" && event.shiftKey && !event.ctrlKey) {
    event.stopImmediatePropagation();
    event.preventDefault();
    send("stdin", SHIFT_ENTER); // the terminal would send the same as for Enter
  }
}

let noticeTimer = 0;

function showNotice(text) {
  element("notice").textContent = text;
  element("notice").hidden = false;
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => (element("notice").hidden = true), NOTICE_MS);
}

function onPaste(event) {
  const text = event.clipboardData.getData("text/plain");
  if (text.length <= MAX_PASTE && !text.includes(ESCAPE)) return;
  event.stopImmediatePropagation();
  event.preventDefault();
  if (text.length <= MAX_PASTE) return pasteWithout(ESCAPE, text, event.target);
  const [got, expected] = [text.length, MAX_PASTE].map((count) => count.toLocaleString("en"));
  showNotice(`nothing was pasted: got ${got} characters, expected at most ${expected}`);
}

function pasteWithout(character, text, target) {
  const clipboardData = new DataTransfer();
  clipboardData.setData("text/plain", text.replaceAll(character, ""));
  target.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}

function prepareTerminal() {
  const asked = Number(QUERY.get("fontsize")) || FONT_SIZES.default;
  const terminal = element("terminal");
  terminal.dataset.fontSize = Math.min(Math.max(asked, FONT_SIZES.min), FONT_SIZES.max);
  terminal.dataset.sessionWebsocketUrl = `ws://${window.location.host}/ws`;
}

document.addEventListener("DOMContentLoaded", prepareTerminal);
document.addEventListener("keydown", onKey, { capture: true });
document.addEventListener("paste", onPaste, { capture: true });
document.addEventListener("visibilitychange", sendVisibility);
document.addEventListener("mouseup", focusTerminal);
window.addEventListener("focus", focusTerminal);
