"use strict";

// The page: hands the weights to the worker, sends it requests, and shows the text and the probabilities.

const DEBOUNCE_MS = 250; // after typing, until the probabilities follow
const PANEL_MS = 250; // between two changes of the probabilities while text is generated
const POLL_MS = 50; // while the file arrives
const SPOKEN_CHARACTERS = 80; // that a screen reader reads at once
const PROMPT_CHARACTERS = 5000; // of a prompt, before the text: each new token lays out all of them again
const SETTINGS = ["temperature", "top_k", "top_p", "repetition_penalty"];
const REASONS = { end: "end of text", length: "max length reached", stopped: "stopped" };
const VISIBLE = { " ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥" };

const byId = (id) => document.getElementById(id);
const model = JSON.parse(byId("model").textContent);

let worker;
let typingTimer = 0;
let phase = "loading"; // loading, ready, generating, failed
let requestId = 0;
let isReading = false; // the probabilities that are shown are not those of the newest request
let isOld = false; // the form has changed since the newest request
let prompt = ""; // of the text that is shown
let seed = newSeed(); // of the text, unless one is given
let tokens = []; // after the prompt: id, bytes, text, and what else could have been there
let next = null; // probabilities after the last token
let selected = -1; // token whose alternatives are shown, -1 for the end of the text
let hasEnded = false;
let unspoken = "";
let panelShownAt = 0;

// ---- loading

function start() {
  try {
    worker = new Worker(URL.createObjectURL(new Blob([byId("worker").textContent], { type: "text/javascript" })));
  } catch (error) {
    return fail(`This browser does not let the page start a worker: ${error.message}`);
  }
  worker.onmessage = ({ data }) => HANDLERS[data.type](data);
  worker.onerror = (event) => fail(`This browser cannot run the page: ${event.message || "the worker did not start"}.`);
  worker.postMessage({ type: "start", shape: model.shape, entries: model.entries, bytes: model.bytes });
  sendWeights();
}

/** Send the next part of the weights, once it is there. */
function sendWeights() {
  const part = document.querySelector("script.weights");
  const isComplete = document.readyState !== "loading";
  if (part && (isComplete || part.nextElementSibling)) {
    const base64 = part.textContent.trim();
    part.remove(); // frees its memory
    if (base64.length % 4 === 0) return worker.postMessage({ type: "weights", base64 });
  }
  if (isComplete) return fail("The file is incomplete. Copy or download it again.");
  setTimeout(sendWeights, POLL_MS);
}

function fail(message) {
  phase = "failed";
  byId("failure").textContent = message;
  byId("failure").hidden = false;
  byId("loading").hidden = true;
  showButtons();
}

const HANDLERS = {
  loaded({ bytes }) {
    byId("loaded").value = bytes / model.bytes;
    if (phase === "loading") sendWeights();
  },
  ready() {
    phase = "ready";
    byId("loading").hidden = true;
    showButtons();
    showNext();
  },
  next(message) {
    if (message.id !== requestId) return;
    next = message;
    if (phase === "generating" && performance.now() - panelShownAt > PANEL_MS) showPanel();
  },
  token(message) {
    if (message.id === requestId) append(message);
  },
  done(message) {
    if (message.id !== requestId) return;
    if (phase === "generating") {
      const speed = message.tokensPerSecond ? `${message.tokensPerSecond.toFixed(1)} tokens per second · ` : "";
      const length = count(newTokens().length, "token");
      const note = skippedNote(message);
      byId("status").textContent = `${length} · ${speed}seed ${seed} · ${REASONS[message.reason]}${note}`;
      speak("", true);
    }
    phase = "ready";
    isReading = false;
    showPanel();
    const isBeforeLast = message.reason === "stopped"; // the list is that from which the last token was drawn
    if (isBeforeLast || (message.reason !== "read" && isOld)) showNext();
  },
  failed({ message }) {
    fail(message);
  },
};

// ---- requests

/** Send a request: the tokens after the prompt stay, `maxTokens` new ones follow. */
function request(prompt, tokens, maxTokens) {
  clearTimeout(typingTimer);
  isReading = true;
  isOld = false;
  const sampling = Object.fromEntries(SETTINGS.map((name) => [name, byId(name).valueAsNumber]));
  worker.postMessage({
    type: "read", id: ++requestId, prompt, tokens: tokens.map(({ token }) => token), sampling: { ...sampling, seed },
    count: maxTokens,
  });
}

/** Begin a new text with the prompt, and generate. */
function generate() {
  if (phase !== "ready" || !byId("form").reportValidity()) return;
  beginText();
  if (byId("seed").value === "") seed = newSeed();
  proceed();
}

/** Generate after the text that is shown. */
function proceed() {
  if (phase !== "ready" || hasEnded || !byId("form").reportValidity()) return;
  phase = "generating";
  selected = -1;
  if (byId("seed").value !== "") seed = byId("seed").valueAsNumber;
  byId("status").textContent = "generating…";
  showButtons();
  request(prompt, tokens, byId("max_tokens").valueAsNumber);
}

function stop() {
  if (phase === "generating") worker.postMessage({ type: "stop" });
}

/** Show the probabilities after the text (before its end) or, if the prompt was edited, after the new prompt. */
function showNext() {
  if (phase !== "ready" || !SETTINGS.every((name) => byId(name).validity.valid)) return;
  selected = -1;
  if (isEdited()) request(byId("prompt").value, [], 0);
  else request(prompt, tokens, 0);
}

/** Continue with one of the tokens that are listed. */
function choose(candidate) {
  if (phase !== "ready" || !SETTINGS.every((name) => byId(name).reportValidity()) || !canChoose()) return;
  const shown = selected >= 0 ? tokens[selected].next : next;
  if (selected >= 0) keep(selected);
  else if (isEdited() || !tokens.length) beginText();
  else if (hasEnded) keep(tokens.length);
  for (const token of shown.before) append({ token, bytes: new Uint8Array(0), probability: 0 });
  next = { ...shown, before: [] }; // they are in the text now
  append({ token: candidate.token, bytes: candidate.added, probability: candidate.probability });
  byId("status").textContent = count(newTokens().length, "token");
  speak("", true);
  showNext();
}

/** Return whether the tokens that are listed can be chosen: those after the end of the text only if they are new. */
function canChoose() {
  return phase === "ready" && (selected >= 0 || !(isReading || isOld));
}

function newSeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

// ---- text

let decoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Append a token, or the end of text, to the text; a character that is split over tokens appears with the last one. */
function append({ token, bytes, probability }) {
  if (token === model.eos) {
    hasEnded = true;
    byId("incomplete").textContent = decoder.decode();
    speak(byId("incomplete").textContent);
  } else {
    appendText({ token, bytes, probability, text: decoder.decode(bytes, { stream: true }), next });
  }
  byId("end").hidden = !hasEnded;
}

function appendText(entry) {
  const element = document.createElement("span");
  element.textContent = entry.text;
  element.hidden = !isNew(entry);
  element.id = `token-${tokens.length}`;
  element.setAttribute("role", "option");
  element.setAttribute("aria-selected", "false");
  byId("tokens").append(element);
  tokens.push(entry);
  speak(entry.text);
}

/** Return whether a token adds to the text: the first ones can spell only the end of the prompt. */
function isNew({ bytes, text }) {
  return bytes.length > 0 || text !== "";
}

/** Return the indices of the tokens that add to the text. */
function newTokens() {
  return [...tokens.keys()].filter((index) => isNew(tokens[index]));
}

/** Keep the first tokens of the text, and drop the others. */
function keep(length) {
  tokens.length = length;
  hasEnded = false;
  while (byId("tokens").childElementCount > length) byId("tokens").lastElementChild.remove();
  decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  for (const { bytes } of tokens) decoder.decode(bytes, { stream: true });
  byId("incomplete").textContent = "";
  byId("end").hidden = true;
}

/** Begin a new text with the prompt of the form. */
function beginText() {
  keep(0);
  prompt = byId("prompt").value;
  byId("given").textContent = shortened(prompt);
  byId("empty").hidden = true;
  byId("text").classList.remove("outdated");
}

/** Return the end of a long prompt. */
function shortened(text) {
  if (text.length <= PROMPT_CHARACTERS) return text;
  return "…" + text.slice(-PROMPT_CHARACTERS).replace(/^[\udc00-\udfff]/, ""); // not half of a pair
}

function isEdited() {
  return byId("prompt").value !== prompt;
}

/** Hand text to screen readers in parts: single tokens would be read as syllables. */
function speak(text, isLast = false) {
  unspoken += text;
  if (!isLast && unspoken.length < SPOKEN_CHARACTERS) return;
  byId("spoken").textContent = unspoken;
  unspoken = "";
}

function select(index) {
  if (phase !== "ready" || index >= tokens.length) return;
  clearTimeout(typingTimer);
  selected = index;
  showPanel();
  if (isOld && selected < 0) showNext();
  if (index >= 0) byId("next").scrollIntoView({ block: "nearest" });
}

// ---- probabilities

function showPanel() {
  panelShownAt = performance.now();
  const list = byId("tokens");
  list.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
  list.removeAttribute("aria-activedescendant");
  if (selected >= 0) {
    list.children[selected].setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", `token-${selected}`);
  }
  const shown = selected >= 0 ? tokens[selected].next : next;
  const shownTokens = newTokens();
  byId("next-title").textContent =
    selected >= 0 ? `Token ${shownTokens.indexOf(selected) + 1} of ${shownTokens.length}` : "Next token";
  byId("next-note").textContent = note();
  if (!shown) return;
  const taken = selected >= 0 ? tokens[selected].token : -1;
  const focused = Array.prototype.findIndex.call(byId("candidates").children, (one) => one.matches(":focus-within"));
  byId("candidates").replaceChildren(...shown.candidates.map((one, rank) => row(one, rank, taken)));
  byId("candidates").children[Math.min(focused, shown.candidates.length - 1)]?.firstElementChild.focus();
  byId("others").textContent = shown.others
    ? `${count(shown.others, "other token")}: ${percent(shown.otherProbability)}` : "";
  byId("others").dataset.probability = shown.otherProbability;
  showButtons();
}

function note() {
  if (selected >= 0) {
    const { bytes, probability } = tokens[selected];
    return `“${visible(bytes)}” had ${percent(probability)}. Choose another token to continue the text with it.`;
  }
  const greedy = byId("temperature").valueAsNumber === 0;
  return greedy
    ? "Probabilities of the model. At temperature 0, the first one is taken. Choose a token to continue with it."
    : "Probabilities with these sampling settings. Choose a token to continue with it.";
}

function row(candidate, rank, taken) {
  const isEnd = candidate.token === model.eos;
  const known = visible(candidate.known);
  const added = isEnd ? "end of text" : visible(candidate.added);
  const item = document.createElement("li");
  const button = element("button", "");
  button.type = "button";
  button.dataset.token = candidate.token;
  button.dataset.probability = candidate.probability;
  const bar = element("span", "bar");
  bar.style.width = `${100 * candidate.probability}%`;
  const label = element("span", isEnd ? "label special" : "label");
  label.append(element("span", "known", known), element("span", "", added));
  const number = rank < 9 ? rank + 1 : "";
  button.append(bar, element("span", "rank", number), label, element("span", "value", percent(candidate.probability)));
  button.setAttribute("aria-label", `${known}${added}, ${percent(candidate.probability)}`);
  if (candidate.token === taken) button.setAttribute("aria-current", "true");
  button.addEventListener("click", () => choose(candidate));
  item.append(button);
  return item;
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** Return bytes as visible text: white space as signs, bytes that are no character in hexadecimal. */
function visible(bytes) {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    return text.replace(/[\p{C}\p{Z}]/gu, (c) => VISIBLE[c] ?? `\\u{${c.codePointAt(0).toString(16)}}`);
  } catch {
    return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  }
}

function percent(probability) {
  const value = 100 * probability;
  return value >= 0.05 || value === 0 ? `${value.toFixed(1)}%` : "< 0.1%";
}

/** Return a note that the context holds only the last tokens of a prompt, "" if it holds all of them. */
function skippedNote({ readTokens, skippedTokens }) {
  if (!skippedTokens) return "";
  const all = (readTokens + skippedTokens).toLocaleString("en");
  return ` · the model reads only the last ${readTokens.toLocaleString("en")} of the prompt's ${all} tokens`;
}

function count(number, noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// ---- controls

/** Enable the buttons that do something now. With `disabled` they would lose the focus. */
function showButtons() {
  enable(byId("generate"), phase === "ready");
  enable(byId("stop"), phase === "generating");
  enable(byId("continue"), phase === "ready" && tokens.length > 0 && !hasEnded && !isEdited());
  enable(byId("copy"), tokens.length > 0 && navigator.clipboard !== undefined);
  byId("candidates").classList.toggle("outdated", phase === "ready" && !canChoose());
  for (const button of byId("candidates").querySelectorAll("button")) enable(button, canChoose());
}

function enable(button, isEnabled) {
  button.setAttribute("aria-disabled", String(!isEnabled));
}

async function copyText() {
  if (!tokens.length || !navigator.clipboard) return;
  const text = prompt + tokens.map(({ text }) => text).join("") + byId("incomplete").textContent;
  const isCopied = await navigator.clipboard.writeText(text).then(() => true, () => false);
  byId("status").textContent = isCopied
    ? "copied" : "not copied: the browser does not allow it here; select the text and copy it";
}

/** Show the next token once typing pauses; a request before that makes it needless. */
function showNextSoon() {
  isOld = true;
  showButtons();
  clearTimeout(typingTimer);
  typingTimer = setTimeout(showNext, DEBOUNCE_MS);
}

function onKey(event) {
  if (event.key === "Escape") {
    if (phase === "generating") stop();
    else if (selected >= 0) select(-1);
    return;
  }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    return byId("form").requestSubmit();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea")) return;
  if (/^[1-9]$/.test(event.key)) byId("candidates").children[event.key - 1]?.firstElementChild.click();
}

function onTokenKey(event) {
  const indices = newTokens();
  const at = indices.indexOf(selected); // -1 at the end of the text
  const last = indices.length - 1;
  const isLeftToRight = getComputedStyle(byId("text")).direction === "ltr";
  const target = {
    [isLeftToRight ? "ArrowLeft" : "ArrowRight"]: at < 0 ? last : Math.max(0, at - 1),
    [isLeftToRight ? "ArrowRight" : "ArrowLeft"]: at < 0 ? -1 : at + 1,
    Home: 0,
    End: last,
  }[event.key];
  if (target === undefined) return;
  event.preventDefault();
  select(indices[target] ?? -1);
}

byId("prompt").value = model.prompt;
byId("sampling").open = matchMedia("(min-width: 40rem)").matches; // on a phone, the text comes first
for (const [name, value] of Object.entries(model.sampling)) {
  const { min, max } = byId(name); // a run may have other limits
  byId(name).value = Math.min(Math.max(value, min), max);
}
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
byId("form").addEventListener("invalid", () => { byId("sampling").open = true; }, true); // shows the message
byId("stop").addEventListener("click", stop);
byId("continue").addEventListener("click", () => {
  if (tokens.length && !isEdited()) proceed();
});
byId("copy").addEventListener("click", copyText);
byId("prompt").addEventListener("input", () => {
  byId("text").classList.toggle("outdated", isEdited() && tokens.length > 0);
  showNextSoon();
});
for (const name of SETTINGS) byId(name).addEventListener("input", showNextSoon);
byId("tokens").addEventListener("click", (event) => {
  select(Array.prototype.indexOf.call(byId("tokens").children, event.target.closest("#tokens > span")));
});
byId("tokens").addEventListener("keydown", onTokenKey);
document.addEventListener("keydown", onKey);
start();
