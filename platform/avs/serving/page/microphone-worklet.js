/**
 * Runs beside the page, in the audio thread: mixes to one channel, brings it to 16 kHz where the
 * context has another rate, and posts pieces of a tenth of a second as 16-bit numbers.
 */

const TARGET_HZ = 16000;
const PIECE = 1600;

class MicrophoneProcessor extends AudioWorkletProcessor {
  #view = new DataView(new ArrayBuffer(2 * PIECE));
  #filled = 0;
  #start_s = 0;
  // A box filter: the samples of the context that make up one sample of the piece.
  #step = sampleRate / TARGET_HZ;
  #sum = 0;
  #count = 0;
  #phase = 0;

  /**
   * @param {Float32Array[][]} inputs
   * @returns {boolean} true: go on
   */
  process(inputs) {
    const channels = inputs[0];
    const length = channels[0]?.length ?? 0;
    for (let k = 0; k < length; k += 1) {
      this.#sum += channels.reduce((sum, channel) => sum + channel[k], 0) / channels.length;
      this.#count += 1;
      this.#phase += 1;
      if (this.#phase < this.#step) continue;
      this.#phase -= this.#step;
      this.#push(this.#sum / this.#count, currentTime + k / sampleRate);
      this.#sum = 0;
      this.#count = 0;
    }
    return true;
  }

  /** @param {number} value -1..1 @param {number} time_s on the clock of the context */
  #push(value, time_s) {
    if (!this.#filled) this.#start_s = time_s;
    const level = Math.round(32767 * Math.max(-1, Math.min(1, value)));
    this.#view.setInt16(2 * this.#filled, level, true);
    this.#filled += 1;
    if (this.#filled < PIECE) return;
    const pcm = this.#view.buffer;
    this.port.postMessage({ pcm, start_s: this.#start_s, end_s: time_s }, [pcm]);
    this.#view = new DataView(new ArrayBuffer(2 * PIECE));
    this.#filled = 0;
  }
}

registerProcessor("microphone", MicrophoneProcessor);
