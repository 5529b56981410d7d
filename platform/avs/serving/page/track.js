/**
 * The masks of one video as they come from the service. They stay run-length codes: an hour of
 * them is some megabytes, and only the one on show is ever decoded.
 *
 * @typedef {{class: number, category: string, rle: import("./rle.js").Rle}} Sounding
 * @typedef {{category: string, score: number, sounding: number, rle: import("./rle.js").Rle}} Visible
 * @typedef {{time_s: number, objects: Sounding[], visible?: Visible[]}} TimedMask
 */

import { area } from "./rle.js";

const FORMAT_VERSION = 1;
const EPSILON_S = 0.0005; // times of frames are rounded by the browser
const SOUNDS = 0.5; // from here on an object counts as sounding, as in the overlay

/**
 * Whether an object of a mask counts as sounding.
 * @param {Visible} object
 * @returns {boolean}
 */
export function isSounding(object) {
  return object.sounding >= SOUNDS;
}

export class Track {
  /** @param {any} start the "start" event of a stream */
  constructor(start) {
    this.start = start;
    /** @type {TimedMask[]} */
    this.masks = [];
    /** @type {number[]} of the picture, per mask: how much of it sounds, 0..1 */
    this.shares = [];
    /** @type {Map<string, number>} every category seen and how much it sounds at most */
    this.categories = new Map();
    this.warnings = [...(start.warnings ?? [])];
    this.isWhole = false;
    this.#holdsBefore_s = 15 / (16 * start.masks_per_s);
  }

  #holdsBefore_s;

  /** @param {TimedMask[]} masks those of one window */
  add(masks) {
    const pixels = this.start.height * this.start.width;
    for (const mask of masks) {
      const sounding = mask.objects.reduce((sum, one) => sum + area(one.rle), 0);
      this.masks.push(mask);
      this.shares.push(pixels ? Math.min(1, sounding / pixels) : 0);
      this.#learnCategories(mask);
    }
  }

  /** @param {any} end the "end" event of a stream */
  finish(end) {
    this.warnings = [...(end.warnings ?? this.warnings)];
    this.isWhole = true;
  }

  /** About how many masks there will be. */
  get numExpected() {
    const { duration_s, masks_per_s } = this.start;
    return Math.max(1, Math.ceil(duration_s * masks_per_s - 0.01), this.masks.length);
  }

  /**
   * When mask `index` starts to hold; it holds until the next one does.
   * @param {number} index
   * @returns {number} seconds
   */
  startOf(index) {
    return Math.max(0, this.masks[index].time_s - this.#holdsBefore_s);
  }

  /**
   * The mask that holds at a time.
   * @param {number} time_s
   * @returns {number} its index, -1 where there is none (yet)
   */
  indexAt(time_s) {
    let low = 0;
    let high = this.masks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.startOf(middle) <= time_s + EPSILON_S) low = middle + 1;
      else high = middle;
    }
    const isBehindStream = low === this.masks.length && !this.isWhole && time_s >= this.end_s;
    return isBehindStream ? -1 : low - 1;
  }

  /** Up to where masks have come, in seconds. */
  get end_s() {
    if (this.isWhole || !this.masks.length) return this.isWhole ? this.start.duration_s : 0;
    return this.startOf(this.masks.length - 1) + 1 / this.start.masks_per_s;
  }

  /**
   * What format=rle_json would answer, in pieces, so that no huge string is made.
   * @returns {string[]}
   */
  toJsonParts() {
    const { height, width, duration_s, classes, masks_per_s, video } = this.start;
    const head = { format: FORMAT_VERSION, height, width, duration_s, classes, masks_per_s };
    const open = JSON.stringify({ ...head, warnings: this.warnings }).slice(0, -1);
    const masks = this.masks.map((mask, k) => (k ? "," : "") + JSON.stringify(mask));
    return [open, ',"masks":[', ...masks, `],"video":${JSON.stringify(video)}}`];
  }

  /** @param {TimedMask} mask */
  #learnCategories(mask) {
    for (const { category, sounding } of mask.visible ?? []) {
      this.categories.set(category, Math.max(sounding, this.categories.get(category) ?? 0));
    }
  }
}
