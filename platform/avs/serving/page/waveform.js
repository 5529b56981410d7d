/**
 * The sound of a file as peaks, decoded in the browser. Decoded at a low rate and folded into
 * peaks at once: an hour of sound is then some kilobytes.
 */

const DECODE_HZ = 8000;
// The decoder wants the whole file in memory, and decodes it all before it lowers the rate.
const MAX_BYTES = 300e6;
const MAX_DURATION_S = 1800;
const NUM_PEAKS = 4000;

export class Waveform {
  #peaks;
  #duration_s;

  /**
   * @param {Float32Array} peaks 0..1, evenly spread
   * @param {number} duration_s
   */
  constructor(peaks, duration_s) {
    this.#peaks = peaks;
    this.#duration_s = duration_s;
  }

  /**
   * The largest amplitude between two times.
   * @param {number} from_s
   * @param {number} to_s
   * @returns {number} 0..1, of the loudest place of the file
   */
  peak(from_s, to_s) {
    const scale = this.#peaks.length / this.#duration_s;
    const from = Math.floor(from_s * scale);
    const to = Math.min(this.#peaks.length, Math.max(from + 1, Math.floor(to_s * scale)));
    let largest = 0;
    for (let k = from; k < to; k += 1) largest = Math.max(largest, this.#peaks[k]);
    return largest;
  }
}

/**
 * Decode the sound of a file.
 * @param {File} file
 * @param {number} duration_s of the video, 0 if unknown
 * @returns {Promise<Waveform|null>} null where there is no sound, or none that can be decoded here
 */
export async function readWaveform(file, duration_s) {
  if (file.size > MAX_BYTES || duration_s > MAX_DURATION_S) return null;
  try {
    const decoder = new OfflineAudioContext(1, 1, DECODE_HZ);
    const sound = await decoder.decodeAudioData(await file.arrayBuffer());
    return fold(sound);
  } catch {
    return null; // no sound, or in a form that this browser does not know
  }
}

/**
 * @param {AudioBuffer} sound
 * @returns {Waveform}
 */
function fold(sound) {
  const peaks = new Float32Array(Math.min(NUM_PEAKS, Math.max(1, sound.length)));
  for (let channel = 0; channel < sound.numberOfChannels; channel += 1) {
    const samples = sound.getChannelData(channel);
    for (let k = 0; k < samples.length; k += 1) {
      const place = Math.floor((k * peaks.length) / samples.length);
      peaks[place] = Math.max(peaks[place], Math.abs(samples[k]));
    }
  }
  const loudest = peaks.reduce((a, b) => Math.max(a, b), 0);
  if (loudest > 0) peaks.forEach((value, k) => (peaks[k] = value / loudest));
  return new Waveform(peaks, sound.duration);
}
