/** Ties the parts of the page together: what the user does, and which part answers it. */

import { getJson, keepToken, token } from "./api.js";
import { byId, duration, show, size } from "./dom.js";
import { wireDownloads } from "./download.js";
import { Live } from "./live.js";
import { showNow } from "./now.js";
import { Painter } from "./painter.js";
import { Player } from "./player.js";
import { Session } from "./session.js";
import { SettingsPanel } from "./settings.js";
import * as status from "./status.js";
import { Timeline } from "./timeline.js";

const SMOOTHING = 0.3; // of the shown latency

const painter = new Painter(byId("mask"));
const player = new Player(painter);
const settings = new SettingsPanel((opacity) => (painter.opacity = opacity));
const session = new Session({
  player,
  timeline: new Timeline(),
  settings,
  onUnauthorized: askForToken,
});
const live = new Live(byId("video"));
let limits = {};
let afterToken = () => {};

/** What the service can do; asked again once there is a token. */
async function learnService() {
  try {
    const service = await getJson("v1/models");
    settings.models = service.models;
    limits = service.limits ?? {};
    showLimits();
    wireDownloads(limits.formats, (format) => session.download(format));
  } catch (error) {
    if (error.code === "unauthorized") askForToken(() => {});
    else status.showError(error, retryLearning);
  }
}

function retryLearning() {
  status.clearMessage();
  learnService();
}

function showLimits() {
  const parts = [
    limits.max_body_bytes && size(limits.max_body_bytes),
    limits.max_duration_s && duration(limits.max_duration_s),
  ].filter(Boolean);
  byId("limits").textContent = parts.length ? `Up to ${parts.join(" and ")}.` : "";
  show(byId("camera"), limits.live !== false);
}

/** @param {() => void} again what to do once there is one */
function askForToken(again) {
  afterToken = again;
  const words = token() ? "The service does not know this token." : "This service asks for a token.";
  status.showError(new Error(words));
  show(byId("token-form"), true);
  byId("token").focus();
}

/** @param {File} file */
function openFile(file) {
  live.stop();
  if (limits.max_body_bytes && file.size > limits.max_body_bytes) {
    const most = size(limits.max_body_bytes);
    session.close();
    status.setMode("start");
    status.setState("failed");
    status.showError(new Error(`${file.name} has ${size(file.size)}; this service takes up to ${most}.`));
    return;
  }
  session.open({ file, name: file.name });
}

/** @param {string} url */
function openUrl(url) {
  live.stop();
  const last = new URL(url).pathname.split("/").filter(Boolean).at(-1);
  session.open({ url, name: last ? decodedName(last) : "video" });
}

function decodedName(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a percent sign that is only that
  }
}

function wireSource() {
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = ""; // so that the same file can be chosen again
    if (file) openFile(file);
  });
  byId("url-form").addEventListener("submit", (event) => {
    event.preventDefault();
    openUrl(byId("url").value.trim());
  });
  byId("token-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    keepToken(byId("token").value.trim());
    show(byId("token-form"), false);
    status.clearMessage();
    await learnService();
    if (byId("token-form").hidden) afterToken();
  });
  byId("stop").addEventListener("click", () => session.stop());
  settings.onChange = () => {
    if (live.isOn) live.connect(settings.read());
    else if (session.isOpen) session.run();
  };
}

/** The whole page takes a dropped file, so that missing the box does not leave the page. */
function wireDrop() {
  const mark = (isOver) => (document.body.dataset.dragging = String(isOver));
  window.addEventListener("dragover", (event) => {
    event.preventDefault();
    mark(true);
  });
  window.addEventListener("dragleave", (event) => event.relatedTarget || mark(false));
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    mark(false);
    const [file] = event.dataTransfer?.files ?? [];
    if (file) openFile(file);
  });
}

function wireLive() {
  let latency_ms = 0;
  let numMasks = 0;
  let numClasses = 2;
  byId("camera").addEventListener("click", startLive);
  byId("live-stop").addEventListener("click", () => endLive(null));
  live.onEnd = endLive;
  live.onNote = (text) => status.showPlaybackNote(text);
  live.onReady = (event) => {
    numMasks = 0;
    numClasses = event.classes.length;
    byId("answered-by").textContent = `Segmented by ${event.model}`;
  };
  live.onMask = (event, now_ms) => {
    latency_ms = numMasks ? latency_ms + SMOOTHING * (now_ms - latency_ms) : now_ms;
    const { height, width } = event;
    painter.show(event, { height, width, numClasses, index: numMasks });
    showNow(event, numClasses);
    numMasks += 1;
    byId("live-latency").textContent = latencyWords(latency_ms, event.latency_ms);
    byId("live-dropped").textContent = String(event.dropped);
  };
}

function latencyWords(total_ms, service_ms) {
  return `${Math.round(total_ms)} ms (service ${Math.round(service_ms)} ms)`;
}

function startLive() {
  session.close();
  status.clearMessage();
  status.setMode("live");
  status.setState("live");
  byId("title").textContent = "Camera";
  byId("live-latency").textContent = "–";
  byId("live-dropped").textContent = "0";
  live.start(settings.read());
}

/** @param {Error|null} error null: the user ended it */
function endLive(error) {
  live.stop();
  painter.clear();
  showNow(null, 2);
  status.showPlaybackNote("");
  status.setMode("start");
  status.setState(error ? "failed" : "idle");
  if (error?.code === "unauthorized") askForToken(startLive);
  else if (error) status.showError(error, startLive);
}

wireSource();
wireDrop();
wireLive();
status.setMode("start");
wireDownloads(undefined, (format) => session.download(format));
learnService();
