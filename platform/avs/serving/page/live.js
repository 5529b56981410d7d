/**
 * The camera: pictures and sound go to the service over a WebSocket, masks come back and are drawn
 * over the camera's picture. Pictures are left out rather than queued, so the masks stay close to
 * what is happening.
 */

import { address, ServiceError, token } from "./api.js";
import { Microphone } from "./microphone.js";

const PICTURE = 1;
const SOUND = 2;
const HEAD_BYTES = 9;
const PICTURES_PER_S = 3;
const MAX_WIDTH_PX = 640;
const JPEG_QUALITY = 0.8;
const MAX_BUFFERED_BYTES = 64_000;

/** The clock that pictures and sound share. */
const now_s = () => performance.now() / 1000;

export class Live {
  #video;
  #stream = null;
  #socket = null;
  #microphone = null;
  #timer = 0;
  #picture = document.createElement("canvas");
  #isEncoding = false;
  #wasMuted = false;

  /** Callbacks: the service is ready; a mask with its latency in ms; it ended, with why or null. */
  onReady = (_event) => {};
  onMask = (_event, _latency_ms) => {};
  onEnd = (_error) => {};
  /** Told what does not work but is not needed. */
  onNote = (_text) => {};

  /** @param {HTMLVideoElement} video shows the camera */
  constructor(video) {
    this.#video = video;
  }

  get isOn() {
    return this.#stream !== null;
  }

  /** @param {import("./api.js").Settings} settings */
  async start(settings) {
    this.stop();
    try {
      const stream = await this.#openCamera();
      this.#stream = stream;
      this.#video.srcObject = stream;
      this.#wasMuted = this.#video.muted;
      this.#video.muted = true; // else it howls
      await this.#video.play();
      if (this.#stream === stream) this.connect(settings);
    } catch (error) {
      if (error.name !== "AbortError") this.#end(new ServiceError(cameraWords(error)));
    }
  }

  /**
   * Open the connection, again if there is one: other settings are another connection.
   * @param {import("./api.js").Settings} settings
   */
  connect(settings) {
    this.#disconnect();
    const url = address("v1/live");
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    const { model, threshold, objects } = settings;
    socket.onopen = () => socket.send(JSON.stringify({ token: token(), model, threshold, objects }));
    socket.onmessage = ({ data }) => this.#socket === socket && this.#onMessage(JSON.parse(data));
    socket.onclose = () => {
      if (this.#socket === socket) this.#end(new ServiceError("The live connection was closed."));
    };
  }

  /** Switch everything off. */
  stop() {
    this.#disconnect();
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    if (!this.#video.srcObject) return; // setting it, even to null, would load a file again
    this.#video.srcObject = null;
    this.#video.muted = this.#wasMuted;
  }

  async #openCamera() {
    if (!navigator.mediaDevices) throw new DOMException("", "SecurityError");
    const video = { width: { ideal: MAX_WIDTH_PX }, facingMode: "environment" };
    // what browsers take for noise is often what makes the sound
    const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false };
    try {
      return await navigator.mediaDevices.getUserMedia({ video, audio });
    } catch {
      const stream = await navigator.mediaDevices.getUserMedia({ video });
      this.onNote("There is no microphone: the model sees but hears nothing.");
      return stream;
    }
  }

  #onMessage(event) {
    if (event.event === "ready") {
      this.onReady(event);
      this.#timer = setInterval(() => this.#sendPicture(), 1000 / PICTURES_PER_S);
      this.#listen().catch(() => this.onNote("The microphone cannot be read: the model hears nothing."));
    } else if (event.event === "mask") {
      this.onMask(event, 1000 * (now_s() - event.time_s));
    } else if (event.event === "error") {
      const { code, message } = event.error;
      this.#end(new ServiceError(message, { code, status: code === "unauthorized" ? 401 : 0 }));
    }
  }

  async #listen() {
    if (!this.#stream.getAudioTracks().length) return;
    const microphone = new Microphone((samples, time_s) => this.#send(SOUND, time_s, samples));
    this.#microphone = microphone;
    await microphone.start(this.#stream);
    if (this.#microphone !== microphone) microphone.stop();
  }

  #sendPicture() {
    const { videoWidth, videoHeight } = this.#video;
    if (this.#isEncoding || !videoWidth || !this.#hasRoom()) return;
    const scale = Math.min(1, MAX_WIDTH_PX / videoWidth);
    this.#picture.width = Math.round(videoWidth * scale);
    this.#picture.height = Math.round(videoHeight * scale);
    const time_s = now_s();
    const { width, height } = this.#picture;
    this.#picture.getContext("2d").drawImage(this.#video, 0, 0, width, height);
    this.#isEncoding = true;
    const onJpeg = async (blob) => {
      this.#isEncoding = false;
      if (blob) this.#send(PICTURE, time_s, new Uint8Array(await blob.arrayBuffer()));
    };
    this.#picture.toBlob(onJpeg, "image/jpeg", JPEG_QUALITY);
  }

  #hasRoom() {
    return this.#socket?.readyState === WebSocket.OPEN && this.#socket.bufferedAmount < MAX_BUFFERED_BYTES;
  }

  /** @param {number} kind @param {number} time_s @param {Uint8Array} payload */
  #send(kind, time_s, payload) {
    if (!this.#hasRoom()) return;
    const message = new Uint8Array(HEAD_BYTES + payload.length);
    message[0] = kind;
    new DataView(message.buffer).setFloat64(1, time_s, true);
    message.set(payload, HEAD_BYTES);
    this.#socket.send(message);
  }

  #disconnect() {
    clearInterval(this.#timer);
    this.#microphone?.stop();
    this.#microphone = null;
    const socket = this.#socket;
    this.#socket = null;
    if (socket?.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket?.close();
  }

  #end(error) {
    this.stop();
    this.onEnd(error);
  }
}

function cameraWords(error) {
  const words = {
    NotAllowedError: "The camera was not allowed. Allow it in the browser's settings for this page.",
    NotFoundError: "There is no camera.",
    NotReadableError: "The camera is in use by another program.",
    SecurityError: "Browsers give the camera only to pages over HTTPS or from this computer.",
  };
  return words[error.name] ?? `The camera cannot be used (${error.name}).`;
}
