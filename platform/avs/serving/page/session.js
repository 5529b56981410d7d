/**
 * One video: it is sent, its masks come in, and it can be asked for again with other settings. At
 * most one request is open; a new one ends the old, and the service then stops working on it.
 */

import { segment } from "./api.js";
import { byId, percent } from "./dom.js";
import { fetchFile, jsonOf, save, showDownloads } from "./download.js";
import { showNow } from "./now.js";
import * as status from "./status.js";
import { Track } from "./track.js";
import { readWaveform } from "./waveform.js";

const WORDS = {
  elsewhere: "The video is not on this device: the service’s copy, with the masks drawn in, follows.",
  unplayable: "This browser cannot play this file: the service’s copy, with the masks drawn in, follows.",
  overlay: "This is the service’s copy with the masks drawn in; the file itself cannot be played here.",
  hopeless: "This browser cannot play the service’s copy either. The masks can be downloaded.",
  noWaveform: "No waveform: there is no sound, none that this browser can read, or too much of it.",
};

export class Session {
  #player;
  #timeline;
  #settings;
  #onUnauthorized;
  /** @type {import("./api.js").Source|null} */
  #source = null;
  /** @type {import("./api.js").Settings|null} what the masks on show were asked with */
  #ran = null;
  /** @type {Track|null} */
  #track = null;
  /** @type {AbortController|null} */
  #request = null;
  #isPlayable = true;
  /** @type {Blob|null} the overlay, where it is played in place of the video */
  #overlay = null;

  /** @param {{player: any, timeline: any, settings: any, onUnauthorized: any}} parts */
  constructor({ player, timeline, settings, onUnauthorized }) {
    this.#player = player;
    this.#timeline = timeline;
    this.#settings = settings;
    this.#onUnauthorized = onUnauthorized;
    player.onUnplayable = () => this.#onUnplayable();
    player.onTime((time_s, index) => {
      timeline.duration_s = player.duration_s;
      timeline.moveTo(time_s, index);
      showNow(this.#track?.masks[index] ?? null, this.#track?.start.classes.length ?? 2);
    });
    timeline.onSeek = (time_s) => player.seek(time_s);
    timeline.onToggle = () => player.toggle();
  }

  /** @param {import("./api.js").Source} source a new video; the one before is dropped */
  open(source) {
    this.close();
    this.#source = source;
    this.#isPlayable = Boolean(source.file);
    status.setMode("file");
    byId("title").textContent = source.name;
    this.#player.load(source.file ?? null);
    this.#readWaveform(source);
    if (!source.file) status.showPlaybackNote(WORDS.elsewhere);
    this.run();
  }

  /** Forget the video and end what runs. */
  close() {
    this.#abort();
    this.#source = null;
    this.#overlay = null;
    this.#timeline.waveform = null;
    this.#player.load(null);
    this.#setTrack(null);
    this.#allowOpacity(true);
    status.showPlaybackNote("");
    status.setState("idle");
  }

  /** Segment the video with the settings as they are now. */
  async run() {
    if (!this.#source) return;
    this.#setTrack(null);
    if (this.#overlay) this.#dropOverlay();
    this.#ran = this.#settings.read();
    status.setState("uploading");
    status.announce("Segmenting.");
    await this.#during((signal) => this.#stream(signal), () => this.run());
    if (document.body.dataset.state === "done" && !this.#isPlayable) await this.#playOverlay();
  }

  async #stream(signal) {
    const onLine = (event) => this.#onEvent(event);
    const onUpload = (share) => this.#onUpload(share);
    status.showProgress("Sending the video …", null);
    await segment(this.#source, this.#ran, { format: "stream", signal, onUpload, onLine });
    if (!this.#track?.isWhole) throw new Error("The answer broke off.");
    status.setState("done");
    status.announce(`Done: ${this.#track.masks.length} masks.`);
  }

  /** The user's wish: the service stops too. */
  stop() {
    const wasRun = !this.#track?.isWhole;
    this.#abort();
    if (!wasRun) return;
    const num = this.#track?.masks.length ?? 0;
    status.setState("stopped");
    status.showNote(num ? `Stopped after ${num} masks.` : "Stopped.", {
      label: "Segment again",
      action: () => this.run(),
    });
  }

  /** @param {string} format a key of the download buttons */
  async download(format) {
    if (!this.#track?.isWhole) return;
    const { name } = this.#source;
    if (format === "json") return void save(jsonOf(this.#track), name, format);
    if (format === "overlay" && this.#overlay) return void save(this.#overlay, name, format);
    await this.#during(async (signal) => {
      save(await this.#fetch(format, signal), name, format);
    }, () => this.download(format));
  }

  get isOpen() {
    return this.#source !== null;
  }

  /** Do something that Stop can end, with its errors shown; `again` is offered then. */
  async #during(action, again) {
    this.#abort();
    const request = new AbortController();
    this.#request = request;
    status.clearMessage();
    byId("download-note").textContent = "";
    showDownloads(Boolean(this.#track?.isWhole), true);
    try {
      await action(request.signal);
    } catch (error) {
      if (this.#request === request) this.#onError(error, again);
    }
    if (this.#request !== request) return; // something newer shows its own state
    this.#request = null;
    this.#settle();
  }

  #onError(error, again) {
    if (error.name === "AbortError") return;
    if (!this.#track?.isWhole) status.setState("failed");
    const canHelp = !error.status || error.retryAfter_s !== null || error.status >= 500;
    if (error.code === "unauthorized") this.#onUnauthorized(again);
    else status.showError(error, canHelp ? again : null);
  }

  #abort() {
    const request = this.#request;
    this.#request = null;
    request?.abort();
    this.#settle();
  }

  #settle() {
    status.hideProgress();
    showDownloads(Boolean(this.#track?.isWhole));
  }

  #onUpload(share) {
    if (this.#source?.url) return void status.showProgress("The service fetches the video …", null);
    if (share < 1) status.showProgress(`Sending the video: ${percent(share)}`, share);
    else status.showProgress("Waiting for the first masks …", null);
  }

  #onEvent(event) {
    if (event.event === "error") throw new Error(event.error.message);
    if (event.event === "start") return this.#setTrack(new Track(event));
    if (event.event === "end") this.#track.finish(event);
    if (event.event === "masks") this.#track.add(event.masks);
    this.#showProgress();
  }

  #showProgress() {
    const track = this.#track;
    const num = track.masks.length;
    status.showProgress(`${num} of about ${track.numExpected} masks`, num / track.numExpected);
    status.showWarnings(track.warnings);
    this.#timeline.redraw();
    this.#player.refresh();
  }

  #setTrack(track) {
    this.#track = track;
    this.#player.track = track;
    this.#timeline.track = track;
    status.showWarnings(track?.warnings ?? []);
    showNow(null, 2);
    byId("answered-by").textContent = track ? `Segmented by ${track.start.model}` : "";
    if (track) status.setState("segmenting");
    if (track) this.#showProgress();
  }

  async #readWaveform(source) {
    const note = byId("waveform-note");
    note.hidden = true;
    if (source.file) await this.#player.whenKnown();
    if (this.#source !== source) return; // another video since
    const waveform = source.file && (await readWaveform(source.file, this.#player.duration_s));
    if (this.#source !== source) return;
    this.#timeline.waveform = waveform;
    note.hidden = waveform !== null;
    note.textContent = WORDS.noWaveform;
  }

  #onUnplayable() {
    if (this.#overlay) return void status.showPlaybackNote(WORDS.hopeless);
    this.#isPlayable = false;
    status.showPlaybackNote(WORDS.unplayable);
    if (document.body.dataset.state === "done" && !this.#request) this.#playOverlay();
  }

  async #playOverlay() {
    await this.#during(async (signal) => {
      this.#overlay = await this.#fetch("overlay", signal);
      this.#player.load(this.#overlay, { hasMasksDrawnIn: true });
      this.#allowOpacity(false);
      status.showPlaybackNote(WORDS.overlay);
    }, () => this.#playOverlay());
  }

  #dropOverlay() {
    this.#overlay = null;
    this.#player.load(null);
    this.#allowOpacity(true);
  }

  /** The masks of an overlay cannot be made fainter here. */
  #allowOpacity(isAllowed) {
    byId("opacity").disabled = !isAllowed;
  }

  /** A file of the masks on show: of the model that made them, too. */
  #fetch(format, signal) {
    const settings = { ...this.#ran, model: this.#track.start.model };
    const onProgress = status.showProgress;
    return fetchFile(format, { source: this.#source, settings, signal, onProgress });
  }
}
