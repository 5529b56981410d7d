/**
 * What the page says about itself: one message (an error or a note, read out by screen readers),
 * one line of progress, and the service's warnings.
 */

import { byId, make, show } from "./dom.js";

/**
 * Say that something went wrong.
 * @param {Error} error its message is shown
 * @param {(() => void)|null} onRetry offered where trying again can help
 */
export function showError(error, onRetry = null) {
  const wait_s = error.retryAfter_s ?? 0;
  const hint = wait_s ? ` The service asks to wait ${Math.ceil(wait_s)} s.` : "";
  say("error", sentence(error.message) + hint);
  offer("Try again", onRetry, wait_s);
}

/**
 * Say something that is not an error.
 * @param {string} text
 * @param {{label?: string, action?: (() => void)|null}} offered a button beside it
 */
export function showNote(text, { label = "", action = null } = {}) {
  say("note", text);
  offer(label, action, 0);
}

export function clearMessage() {
  say("none", "");
  offer("", null, 0);
}

/**
 * Show how far the work is.
 * @param {string} text
 * @param {number|null} share 0..1, null if that is not known
 */
export function showProgress(text, share) {
  show(byId("working"), true);
  byId("progress-text").textContent = text;
  if (share === null) byId("progress").removeAttribute("value");
  else byId("progress").value = share;
}

/** @param {string} text for screen readers only: others see it */
export function announce(text) {
  byId("announcement").textContent = text;
}

export function hideProgress() {
  show(byId("working"), false);
}

/** @param {string[]} warnings of the service, about the video */
export function showWarnings(warnings) {
  byId("warnings").replaceChildren(...warnings.map((text) => make("li", {}, sentence(text))));
  show(byId("warnings"), warnings.length > 0);
}

/** @param {string} text how the video is played, where that needs saying */
export function showPlaybackNote(text) {
  byId("playback-note").textContent = text;
  show(byId("playback-note"), Boolean(text));
}

/**
 * Where the page is: what tests and the style sheet go by.
 * @param {"idle"|"uploading"|"segmenting"|"done"|"stopped"|"failed"|"live"} state
 */
export function setState(state) {
  document.body.dataset.state = state;
}

/** @param {"start"|"file"|"live"} mode what the page shows */
export function setMode(mode) {
  document.body.dataset.mode = mode;
  show(byId("result"), mode !== "start");
  show(byId("live-panel"), mode === "live");
  show(byId("file-panel"), mode === "file");
  show(byId("rate-field"), mode !== "live");
}

/** The service's words start small and have no full stop. */
function sentence(text) {
  const trimmed = String(text).trim();
  const upper = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(upper) ? upper : `${upper}.`;
}

function say(kind, text) {
  byId("message").dataset.kind = kind;
  byId("message-text").textContent = text;
}

let countdown = 0;

/** The button beside the message, locked for as long as the service asked to wait. */
function offer(label, action, wait_s) {
  const button = byId("retry");
  clearInterval(countdown);
  show(button, Boolean(action));
  button.onclick = action;
  button.textContent = label;
  button.disabled = wait_s > 0;
  const until_ms = performance.now() + 1000 * wait_s;
  const tick = () => {
    const left_s = Math.ceil((until_ms - performance.now()) / 1000);
    button.disabled = left_s > 0;
    button.textContent = left_s > 0 ? `${label} (${left_s} s)` : label;
    if (left_s <= 0) clearInterval(countdown);
  };
  if (!action || !wait_s) return;
  tick();
  countdown = setInterval(tick, 250);
}
