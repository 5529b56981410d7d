/**
 * The video with its masks on top. The mask follows the frame that is really on the screen
 * (requestVideoFrameCallback); browsers without it get the clock of the video instead.
 */

import { byId, clock, show } from "./dom.js";

export class Player {
  #video = byId("video");
  #frame = byId("frame");
  #painter;
  #objectUrl = "";
  #hasMasksDrawnIn = false;
  /** @type {import("./track.js").Track|null} */
  #track = null;
  #listeners = [];
  #shown = -2;
  #lastTime_s = 0;
  /** Called when the browser cannot play what it was given. */
  onUnplayable = () => {};

  /** @param {import("./painter.js").Painter} painter */
  constructor(painter) {
    this.#painter = painter;
    this.#video.addEventListener("error", () => {
      if (this.#objectUrl) this.onUnplayable();
    });
    for (const name of ["loadedmetadata", "durationchange", "seeked"]) {
      this.#video.addEventListener(name, () => this.#update(this.#video.currentTime));
    }
    for (const name of ["play", "pause", "ended"]) {
      this.#video.addEventListener(name, () => this.#showPlaying());
    }
    this.#video.addEventListener("loadedmetadata", () => this.#fitFrame());
    this.#wireButtons();
    this.#follow();
  }

  /** @param {(time_s: number, maskIndex: number) => void} listener told when the time moves */
  onTime(listener) {
    this.#listeners.push(listener);
  }

  /**
   * Play a file, or nothing.
   * @param {Blob|null} blob
   * @param {{hasMasksDrawnIn?: boolean}} options an overlay needs no masks on top
   */
  load(blob, { hasMasksDrawnIn = false } = {}) {
    this.#video.pause();
    if (this.#objectUrl) URL.revokeObjectURL(this.#objectUrl);
    this.#objectUrl = blob ? URL.createObjectURL(blob) : "";
    this.#hasMasksDrawnIn = hasMasksDrawnIn;
    if (blob) this.#video.src = this.#objectUrl;
    else this.#video.removeAttribute("src");
    this.#video.load();
    this.#painter.clear();
    this.#shown = -2;
    this.#lastTime_s = 0;
  }

  /** @param {import("./track.js").Track|null} track whose masks are shown from now on */
  set track(track) {
    this.#track = track;
    this.#shown = -2;
    this.#painter.clear();
    if (track) this.#setRatio(track.start.width / track.start.height);
  }

  /** Show masks that have come since. */
  refresh() {
    this.#update(this.time_s);
  }

  /** What is known of the length, in seconds. */
  get duration_s() {
    const own = this.#video.duration;
    return Number.isFinite(own) && own > 0 ? own : (this.#track?.start.duration_s ?? 0);
  }

  get time_s() {
    return this.canPlay ? this.#video.currentTime : this.#lastTime_s;
  }

  /** Whether there is a video behind the masks. */
  get canPlay() {
    return this.#video.readyState > 0;
  }

  /** Resolves when the file's length is known, or that it cannot be played. */
  whenKnown() {
    if (this.canPlay || this.#video.error) return Promise.resolve();
    return new Promise((resolve) => {
      for (const name of ["loadedmetadata", "error"]) {
        this.#video.addEventListener(name, resolve, { once: true });
      }
    });
  }

  /** @param {number} time_s */
  seek(time_s) {
    const target = Math.min(Math.max(0, time_s), this.duration_s);
    if (this.canPlay) this.#video.currentTime = target;
    this.#update(target);
  }

  toggle() {
    if (!this.canPlay) return;
    if (!this.#video.paused) this.#video.pause();
    else this.#video.play().catch(() => {}); // stopped again before it began
  }

  /** @param {number} direction -1 or 1: to the mask before or after */
  step(direction) {
    if (!this.#track?.masks.length) return;
    const now = this.#track.indexAt(this.time_s);
    const next = Math.min(Math.max(0, now + direction), this.#track.masks.length - 1);
    this.#video.pause();
    this.seek(this.#track.startOf(next) + 0.001);
  }

  #wireButtons() {
    const frame = this.#frame;
    byId("play").addEventListener("click", () => this.toggle());
    this.#video.addEventListener("click", () => this.toggle());
    byId("back").addEventListener("click", () => this.step(-1));
    byId("forward").addEventListener("click", () => this.step(1));
    byId("mute").addEventListener("click", (event) => {
      this.#video.muted = !this.#video.muted;
      event.currentTarget.setAttribute("aria-pressed", String(this.#video.muted));
    });
    show(byId("fullscreen"), Boolean(frame.requestFullscreen));
    byId("fullscreen").addEventListener("click", () => frame.requestFullscreen().catch(() => {}));
  }

  #follow() {
    if ("requestVideoFrameCallback" in HTMLVideoElement.prototype) {
      const onFrame = (_, { mediaTime }) => {
        this.#update(mediaTime);
        this.#video.requestVideoFrameCallback(onFrame);
      };
      this.#video.requestVideoFrameCallback(onFrame);
      return;
    }
    const onTick = () => {
      if (!this.#video.paused) this.#update(this.#video.currentTime);
      requestAnimationFrame(onTick);
    };
    requestAnimationFrame(onTick);
  }

  #update(time_s) {
    if (this.#video.srcObject) return; // the camera has no time
    this.#lastTime_s = time_s;
    const index = this.#track ? this.#track.indexAt(time_s) : -1;
    if (index !== this.#shown) this.#showMask(index);
    byId("clock").textContent = `${clock(time_s)} / ${clock(this.duration_s)}`;
    for (const listener of this.#listeners) listener(time_s, index);
  }

  #showMask(index) {
    this.#shown = index;
    if (index < 0 || this.#hasMasksDrawnIn) return void this.#painter.clear();
    const { height, width, classes } = this.#track.start;
    const about = { height, width, numClasses: classes.length, index };
    this.#painter.show(this.#track.masks[index], about);
  }

  #showPlaying() {
    const isPlaying = !this.#video.paused && !this.#video.ended;
    const button = byId("play");
    button.dataset.playing = String(isPlaying);
    button.setAttribute("aria-label", isPlaying ? "Pause" : "Play");
  }

  #fitFrame() {
    const { videoWidth, videoHeight } = this.#video;
    if (videoWidth && videoHeight) this.#setRatio(videoWidth / videoHeight);
  }

  #setRatio(ratio) {
    this.#frame.style.setProperty("--ratio", String(ratio));
  }
}
