/**
 * COCO compressed run-length masks: 5 bits a character, low bits first, from the third run on as a
 * difference to the run before last. Runs go down the columns and start with background.
 *
 * @typedef {{size: [number, number], counts: string|number[]}} Rle size = [height, width]
 */

/**
 * The run-lengths of a code: background, object, background, ...
 * @param {Rle} rle
 * @returns {number[]} they add up to height * width
 */
export function runLengths(rle) {
  const runs = Array.isArray(rle.counts) ? rle.counts : parseCounts(rle.counts);
  let total = 0;
  for (const run of runs) {
    if (!(run >= 0)) throw new Error("a mask has a negative run");
    total += run;
  }
  if (total !== rle.size[0] * rle.size[1]) throw new Error("a mask does not fit its size");
  return runs;
}

/**
 * @param {string} text
 * @returns {number[]}
 */
function parseCounts(text) {
  const runs = [];
  let position = 0;
  while (position < text.length) {
    let value = 0;
    let shift = 0;
    let digit = 0;
    do {
      digit = text.charCodeAt(position++) - 48;
      value |= (digit & 0x1f) << shift;
      shift += 5;
    } while (digit & 0x20 && shift < 35);
    // Shifting by 32 or more is not zero in JavaScript; a run that long does not fit any picture.
    if (digit & 0x10 && shift < 32) value |= -1 << shift;
    runs.push(value + (runs.length > 2 ? runs[runs.length - 2] : 0));
  }
  return runs;
}

/**
 * Number of object pixels, without decoding the mask.
 * @param {Rle} rle
 * @returns {number}
 */
export function area(rle) {
  const runs = runLengths(rle);
  let pixels = 0;
  for (let k = 1; k < runs.length; k += 2) pixels += runs[k];
  return pixels;
}

/**
 * Write `value` where the mask is, into a picture stored row by row.
 * @param {Rle} rle
 * @param {Uint8Array} labels height * width
 * @param {number} value
 */
export function paint(rle, labels, value) {
  const [height, width] = rle.size;
  const runs = runLengths(rle);
  let start = 0;
  for (let k = 0; k < runs.length; k += 1) {
    if (k % 2) paintRun(labels, { start, length: runs[k], height, width, value });
    start += runs[k];
  }
}

/**
 * The columns that a mask lies in, without decoding it.
 * @param {Rle} rle
 * @returns {{left: number, right: number}} [left, right), empty for an empty mask
 */
export function columns(rle) {
  const [height] = rle.size;
  const runs = runLengths(rle);
  let start = 0;
  let first = Infinity;
  let last = -1;
  for (let k = 0; k < runs.length; k += 1) {
    if (k % 2 && runs[k]) {
      first = Math.min(first, start);
      last = start + runs[k] - 1;
    }
    start += runs[k];
  }
  if (last < 0) return { left: 0, right: 0 };
  return { left: Math.floor(first / height), right: Math.floor(last / height) + 1 };
}

/**
 * One run: down from `start`, going on at the top of the next column.
 * @param {Uint8Array} labels
 * @param {{start: number, length: number, height: number, width: number, value: number}} run
 */
function paintRun(labels, { start, length, height, width, value }) {
  let column = Math.floor(start / height);
  let row = start % height;
  let index = row * width + column;
  for (let n = 0; n < length; n += 1) {
    labels[index] = value;
    row += 1;
    index += width;
    if (row === height) {
      row = 0;
      column += 1;
      index = column;
    }
  }
}
