/**
 * Under the video: the sound, how much of the picture sounds, and a row for every category of
 * object. It is a slider: a click, a drag and the arrow keys seek.
 */

import { byId, clock, percent } from "./dom.js";
import { AXIS_PX, drawAxis, drawRow, drawShares, drawWave, LANE_PX, ROW_PX } from "./lanes.js";

const GAP_PX = 10;
const MAX_ROWS = 12;
const STEP_S = 1;
const PAGE_S = 10;

export class Timeline {
  #box = byId("timeline");
  #canvas = byId("timeline-canvas");
  #playhead = byId("playhead");
  /** @type {import("./track.js").Track|null} */
  #track = null;
  /** @type {import("./waveform.js").Waveform|null} */
  #waveform = null;
  #duration_s = 0;
  #isDrawing = false;
  #nextDraw_ms = 0;
  #time_s = 0;
  #isDragging = false;
  /** Called with a time in seconds when the user moves the playhead. */
  onSeek = (_time_s) => {};
  /** Called for the space bar. */
  onToggle = () => {};

  constructor() {
    this.#box.addEventListener("keydown", (event) => this.#onKey(event));
    this.#box.addEventListener("pointerdown", (event) => this.#onPress(event));
    this.#box.addEventListener("pointermove", (event) => this.#isDragging && this.#seekTo(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.#box.addEventListener(name, () => (this.#isDragging = false));
    }
    new ResizeObserver(() => this.redraw()).observe(this.#box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  /** @param {import("./track.js").Track|null} track */
  set track(track) {
    this.#track = track;
    this.redraw();
  }

  /** @param {import("./waveform.js").Waveform|null} waveform */
  set waveform(waveform) {
    this.#waveform = waveform;
    this.redraw();
  }

  /** @param {number} seconds length of the whole line */
  set duration_s(seconds) {
    if (seconds === this.#duration_s) return;
    this.#duration_s = seconds;
    this.#box.setAttribute("aria-valuemax", seconds.toFixed(2));
    this.redraw();
  }

  /**
   * Move the playhead.
   * @param {number} time_s
   * @param {number} index of the mask that holds then, or -1
   */
  moveTo(time_s, index) {
    this.#time_s = time_s;
    const share = this.#duration_s ? Math.min(1, time_s / this.#duration_s) : 0;
    this.#playhead.style.left = `${100 * share}%`;
    this.#box.setAttribute("aria-valuenow", time_s.toFixed(2));
    const sounds = index >= 0 ? `, ${percent(this.#track?.shares[index] ?? 0)} of the picture sounds` : "";
    this.#box.setAttribute("aria-valuetext", `${clock(time_s)} of ${clock(this.#duration_s)}${sounds}`);
  }

  /** Draw again soon; many calls are one drawing, and drawing takes a tenth of the time at most. */
  redraw() {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    const wait_ms = Math.max(0, this.#nextDraw_ms - performance.now());
    setTimeout(() => requestAnimationFrame(() => this.#drawTimed()), wait_ms);
  }

  #drawTimed() {
    this.#isDrawing = false;
    const start_ms = performance.now();
    this.#draw();
    this.#nextDraw_ms = start_ms + 10 * (performance.now() - start_ms);
  }

  #onKey(event) {
    const moves = {
      ArrowLeft: -STEP_S, ArrowDown: -STEP_S, ArrowRight: STEP_S, ArrowUp: STEP_S,
      PageDown: -PAGE_S, PageUp: PAGE_S, Home: -Infinity, End: Infinity,
    };
    if (event.key === " ") this.onToggle();
    else if (event.key in moves && !event.ctrlKey && !event.altKey && !event.metaKey) {
      this.onSeek(Math.min(Math.max(0, this.#time_s + moves[event.key]), this.#duration_s));
    } else return;
    event.preventDefault();
  }

  #onPress(event) {
    if (event.button) return;
    this.#isDragging = true;
    this.#box.setPointerCapture(event.pointerId);
    this.#seekTo(event);
  }

  #seekTo(event) {
    const { left, width } = this.#canvas.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - left) / width));
    this.onSeek(share * this.#duration_s);
  }

  #draw() {
    const width = this.#box.clientWidth;
    const rows = loudest(this.#track?.categories ?? new Map());
    const rowsTop = 2 * (LANE_PX + GAP_PX);
    const axisTop = rowsTop + rows.length * ROW_PX;
    if (!width) return;
    const context = sizedContext(this.#canvas, width, axisTop + AXIS_PX);
    const style = getComputedStyle(this.#box);
    const names = ["muted", "line", "wave", "sounding", "silent"];
    const colours = names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]);
    const shown = { track: this.#track, waveform: this.#waveform, duration_s: this.#duration_s };
    const pen = { context, width, colour: Object.fromEntries(colours), ...shown };
    drawWave(pen, 0);
    drawShares(pen, LANE_PX + GAP_PX);
    rows.forEach((name, k) => drawRow(pen, name, rowsTop + k * ROW_PX));
    drawAxis(pen, axisTop);
  }
}

/** @returns {string[]} the categories worth a row, in the order of appearance */
function loudest(categories) {
  const names = [...categories.keys()];
  const kept = [...names].sort((a, b) => categories.get(b) - categories.get(a)).slice(0, MAX_ROWS);
  return names.filter((name) => kept.includes(name));
}

/** @returns {CanvasRenderingContext2D} cleared, with a unit of one CSS pixel */
function sizedContext(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  return context;
}
