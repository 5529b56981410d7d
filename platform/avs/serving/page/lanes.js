/**
 * What is drawn in the timeline, from top to bottom. The functions take a pen: the context, the
 * width in CSS pixels, the colours, and what there is to show.
 *
 * @typedef {{context: CanvasRenderingContext2D, width: number, colour: Object<string, string>,
 *   track: import("./track.js").Track|null, waveform: import("./waveform.js").Waveform|null,
 *   duration_s: number}} Pen
 */

import { clock, percent } from "./dom.js";
import { isSounding } from "./track.js";

export const LANE_PX = 50;
export const ROW_PX = 30;
export const AXIS_PX = 20;
const BAR_PX = 8;
const LABEL_PX = 17;
const LABEL_LEFT_PX = 10; // clear of the playhead at its start
const TICK_APART_PX = 70;
const TICKS_S = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600];
const SMALLEST_TOP = 0.02; // share of the picture at the top of its lane, at least
const FONT = "11px system-ui, sans-serif";

/** The times. @param {Pen} pen @param {number} top */
export function drawAxis({ context, width, colour, duration_s }, top) {
  if (!duration_s) return;
  const scale = width / duration_s;
  const step_s = TICKS_S.find((seconds) => seconds * scale >= TICK_APART_PX) ?? TICKS_S.at(-1);
  context.font = FONT;
  context.textBaseline = "top";
  for (let time_s = 0; time_s * scale <= width; time_s += step_s) {
    const text = clock(time_s);
    const x = Math.min(width - 1, time_s * scale);
    context.fillStyle = colour.line;
    context.fillRect(x, top, 1, 4);
    context.fillStyle = colour.muted;
    const textWidth = context.measureText(text).width;
    context.fillText(text, Math.min(Math.max(0, x - textWidth / 2), width - textWidth), top + 6);
  }
}

/** The sound. @param {Pen} pen @param {number} top */
export function drawWave({ context, width, colour, waveform, duration_s }, top) {
  label(context, "Sound", top, colour.muted);
  const middle = top + LABEL_PX + (LANE_PX - LABEL_PX) / 2;
  const reach = (LANE_PX - LABEL_PX) / 2;
  context.fillStyle = colour.line;
  context.fillRect(0, middle - 0.5, width, 1);
  if (!waveform || !duration_s) return;
  context.fillStyle = colour.wave;
  for (let x = 0; x < width; x += 2) {
    const peak = waveform.peak((x / width) * duration_s, ((x + 2) / width) * duration_s);
    const half = Math.max(0.5, peak * reach);
    context.fillRect(x, middle - half, 1.5, 2 * half);
  }
}

/** How much of the picture sounds. @param {Pen} pen @param {number} top */
export function drawShares({ context, width, colour, track, duration_s }, top) {
  const most = (track?.shares ?? []).reduce((a, b) => Math.max(a, b), 0);
  const upTo = most ? `, up to ${percent(most)}` : "";
  label(context, `Sounding part of the picture${upTo}`, top, colour.muted);
  const bottom = top + LANE_PX;
  const scale = (LANE_PX - LABEL_PX) / Math.max(SMALLEST_TOP, most);
  context.fillStyle = colour.line;
  context.fillRect(0, bottom - 1, width, 1);
  if (!track || !duration_s) return;
  context.fillStyle = colour.sounding;
  columnsOf({ width, track, duration_s }, (k) => track.shares[k]).forEach((share, x) => {
    const height = Math.max(2, share * scale);
    if (share > 0) context.fillRect(x, bottom - height, 1, height);
  });
}

/**
 * One category of object: where it is seen, and how much it sounds.
 * @param {Pen} pen
 * @param {string} name of the category
 * @param {number} top
 */
export function drawRow({ context, width, colour, track, duration_s }, name, top) {
  label(context, name, top, colour.muted);
  const bar = top + LABEL_PX;
  context.fillStyle = colour.line;
  context.fillRect(0, bar, width, BAR_PX);
  if (!duration_s) return;
  const loudness = (k) => loudnessOf(track.masks[k], name);
  columnsOf({ width, track, duration_s }, loudness).forEach((sounding, x) => {
    if (sounding < 0) return;
    context.fillStyle = isSounding({ sounding }) ? colour.sounding : colour.silent;
    context.globalAlpha = 0.25 + 0.75 * sounding;
    context.fillRect(x, bar, 1, BAR_PX);
  });
  context.globalAlpha = 1;
}

/** Of every column of pixels the largest value of the masks that hold there, -1 without one. */
function columnsOf({ width, track, duration_s }, valueOf) {
  const columns = new Float32Array(Math.ceil(width)).fill(-1);
  const scale = width / duration_s;
  const num = track.masks.length;
  for (let k = 0; k < num; k += 1) {
    const end_s = k + 1 < num ? track.startOf(k + 1) : track.end_s;
    const from = Math.floor(track.startOf(k) * scale);
    const to = Math.min(columns.length, Math.max(from + 1, Math.floor(end_s * scale)));
    const value = valueOf(k);
    for (let x = from; x < to; x += 1) columns[x] = Math.max(columns[x], value);
  }
  return columns;
}

/** @returns {number} of the object of a category that sounds most, -1 where there is none */
function loudnessOf(mask, category) {
  let most = -1;
  for (const one of mask.visible ?? []) {
    if (one.category === category) most = Math.max(most, one.sounding);
  }
  return most;
}

function label(context, text, top, colour) {
  context.font = FONT;
  context.textBaseline = "top";
  context.fillStyle = colour;
  context.fillText(text, LABEL_LEFT_PX, top);
}
