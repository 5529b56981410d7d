/**
 * The microphone as pieces of 16 kHz sound with the time of their first sample, on the page's
 * clock. The worklet counts samples; how its clock lies to the page's is learnt from arrivals.
 */

const SAMPLE_RATE_HZ = 16000;
const DRIFT_S = 0.0001; // by which the clocks may part from one piece to the next
const TOLERANCE_S = 0.03;

export class Microphone {
  #onSound;
  /** @type {AudioContext|null} */
  #context = null;
  #estimate_s = Infinity;
  #offset_s = Infinity;
  #isStopped = false;

  /** @param {(pcm: Uint8Array, time_s: number) => void} onSound 16-bit mono, little-endian */
  constructor(onSound) {
    this.#onSound = onSound;
  }

  /** @param {MediaStream} stream */
  async start(stream) {
    const { context, source } = await open(stream);
    this.#context = context;
    if (this.#isStopped) return this.stop();
    const worklet = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 1 });
    worklet.port.onmessage = ({ data }) => this.#onPiece(data);
    // its output is silence; without a way to the speakers browsers may not run it
    source.connect(worklet).connect(context.destination);
    await context.resume();
  }

  stop() {
    this.#isStopped = true;
    if (this.#context && this.#context.state !== "closed") this.#context.close();
  }

  #onPiece({ pcm, start_s, end_s }) {
    if (this.#isStopped) return;
    // The piece that came through fastest tells best how the two clocks lie to each other.
    const seen_s = performance.now() / 1000 - end_s;
    this.#estimate_s = Math.min(seen_s, this.#estimate_s + DRIFT_S);
    // Kept while it is nearly right: pieces then follow each other to the sample, without clicks.
    const isOff = !(Math.abs(this.#estimate_s - this.#offset_s) <= TOLERANCE_S);
    if (isOff) this.#offset_s = this.#estimate_s;
    this.#onSound(new Uint8Array(pcm), start_s + this.#offset_s);
  }
}

/** A context at 16 kHz where the browser converts the microphone's rate, else at its own rate. */
async function open(stream) {
  const module = new URL("./microphone-worklet.js", import.meta.url);
  let context = new AudioContext({ sampleRate: SAMPLE_RATE_HZ });
  let source = null;
  try {
    source = context.createMediaStreamSource(stream);
  } catch {
    await context.close();
    context = new AudioContext(); // the worklet converts
    source = context.createMediaStreamSource(stream);
  }
  await context.audioWorklet.addModule(module);
  return { context, source };
}
