/**
 * Draws one mask on a canvas of the mask's own size: tinted where it sounds, outlined, and light
 * outlines around what is visible but silent. Only one mask is decoded at a time.
 */

import { columns, paint } from "./rle.js";
import { isSounding } from "./track.js";

const ACCENT = [255, 90, 30]; // as in the overlays that the service draws
const SILENT = [235, 235, 235];
const SILENT_LABEL = 255; // labels below: 2 * class, + 1 on the outline
const MAX_CLASS = 126;
const OUTLINE_BOOST = 0.35;

/**
 * The colour of a class, [red, green, blue]: one accent for one class, else Pascal VOC's.
 * @param {number} index 1, 2, ...
 * @param {number} numClasses with the background
 * @returns {number[]}
 */
export function classColour(index, numClasses) {
  if (numClasses <= 2) return ACCENT;
  const colour = [0, 0, 0];
  for (let bit = 0; bit < 8; bit += 1) {
    for (let channel = 0; channel < 3; channel += 1) {
      colour[channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit);
    }
  }
  return colour;
}

export class Painter {
  #canvas;
  #context;
  /** @type {Uint8Array} */
  #labels = new Uint8Array(0);
  #image = null;
  #mask = null;
  #numClasses = 2;
  #opacity = 0.55;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  /** @param {number} value 0..1 */
  set opacity(value) {
    this.#opacity = value;
    if (this.#mask) this.#draw();
  }

  /**
   * Show a mask; the same one again costs nothing.
   * @param {import("./track.js").TimedMask} mask
   * @param {{height: number, width: number, numClasses: number, index: number}} about
   */
  show(mask, { height, width, numClasses, index }) {
    if (mask === this.#mask) return;
    this.#fit(height, width);
    this.#mask = mask;
    this.#numClasses = numClasses;
    this.#decode(mask);
    this.#draw();
    this.#canvas.dataset.index = String(index);
    this.#canvas.dataset.timeS = String(mask.time_s);
  }

  /** Show nothing. */
  clear() {
    this.#mask = null;
    this.#context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    delete this.#canvas.dataset.index;
    delete this.#canvas.dataset.timeS;
  }

  #fit(height, width) {
    if (this.#image?.width === width && this.#image.height === height) return;
    this.#canvas.width = width;
    this.#canvas.height = height;
    this.#labels = new Uint8Array(width * height);
    this.#image = this.#context.createImageData(width, height);
  }

  #decode(mask) {
    const labels = this.#labels.fill(0);
    const { width, height } = this.#canvas;
    for (const object of mask.objects) {
      paint(sized(object.rle, height, width), labels, 2 * Math.min(object.class, MAX_CLASS));
    }
    const all = mask.objects.map((object) => columns(object.rle));
    const left = Math.min(width, ...all.map((one) => one.left));
    const right = Math.max(0, ...all.map((one) => one.right));
    for (const k of edges(labels, { width, height, left, right })) labels[k] |= 1;
    for (const object of mask.visible ?? []) {
      if (!isSounding(object)) this.#outline(sized(object.rle, height, width));
    }
  }

  /** The outline of a silent object, where nothing sounding lies. */
  #outline(rle) {
    const { width, height } = this.#canvas;
    const alone = new Uint8Array(width * height);
    paint(rle, alone, 1);
    for (const k of edges(alone, { width, height, ...columns(rle) })) {
      if (!this.#labels[k]) this.#labels[k] = SILENT_LABEL;
    }
  }

  #draw() {
    const palette = this.#palette();
    const pixels = new Uint32Array(this.#image.data.buffer);
    for (let k = 0; k < pixels.length; k += 1) pixels[k] = palette[this.#labels[k]];
    this.#context.putImageData(this.#image, 0, 0);
  }

  /** Label -> pixel, as the 32 bits of red, green, blue, alpha. */
  #palette() {
    const bytes = new Uint8ClampedArray(4 * 256);
    const inside = Math.round(255 * this.#opacity);
    const edge = this.#opacity ? Math.min(255, Math.round(inside + 255 * OUTLINE_BOOST)) : 0;
    for (let index = 1; index <= MAX_CLASS; index += 1) {
      const colour = classColour(index, this.#numClasses);
      bytes.set([...colour, inside], 8 * index);
      bytes.set([...colour.map((c) => (c + 2 * 255) / 3), edge], 8 * index + 4);
    }
    bytes.set([...SILENT, edge], 4 * SILENT_LABEL);
    return new Uint32Array(bytes.buffer);
  }
}

/** @returns {import("./rle.js").Rle} the code, if it has the size of the canvas */
function sized(rle, height, width) {
  if (rle.size[0] !== height || rle.size[1] !== width) {
    throw new Error("a mask does not have the size of the video");
  }
  return rle;
}

/**
 * The object pixels next to another label, as thick as the overlay's outline.
 * @param {Uint8Array} labels
 * @param {{width: number, height: number, left: number, right: number}} where columns to look at
 * @returns {number[]} their places
 */
function edges(labels, { width, height, left, right }) {
  const reach = 1 + Math.floor(Math.min(width, height) / 300);
  const found = [];
  for (let row = 0; row < height; row += 1) {
    for (let column = left; column < right; column += 1) {
      const k = row * width + column;
      const value = labels[k];
      if (!value) continue;
      const isEdge =
        (row >= reach && labels[k - reach * width] !== value) ||
        (row + reach < height && labels[k + reach * width] !== value) ||
        (column >= reach && labels[k - reach] !== value) ||
        (column + reach < width && labels[k + reach] !== value);
      if (isEdge) found.push(k);
    }
  }
  return found;
}
