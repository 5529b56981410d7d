/**
 * Downloads. JSON is made of what was streamed; everything else is asked of the service, with the
 * video sent again, because the service keeps nothing.
 */

import { segment } from "./api.js";
import { byId, percent, show } from "./dom.js";

const REVOKE_AFTER_MS = 60_000; // a browser may still be reading a large file
const FORMATS = {
  overlay: { suffix: "-overlay.mp4", words: "the overlay video" },
  png: { suffix: "-masks.zip", words: "the PNG masks" },
  npz: { suffix: "-masks.npz", words: "the NumPy file" },
  matte: { suffix: "-matte.mov", words: "the matte video" },
  json: { suffix: "-masks.json", words: "the JSON" },
};

/**
 * Show the buttons of what the service can write.
 * @param {string[]|undefined} formats as listed by the service; JSON needs none
 * @param {(format: string) => void} onChoose
 */
export function wireDownloads(formats, onChoose) {
  for (const button of buttons()) {
    const format = button.dataset.format;
    show(button, format === "json" || !formats || formats.includes(format));
    button.onclick = () => onChoose(format);
  }
}

/**
 * @param {boolean} isShown
 * @param {boolean} isBusy the buttons wait for the end of something else
 */
export function showDownloads(isShown, isBusy = false) {
  show(byId("downloads"), isShown);
  for (const button of buttons()) button.disabled = isBusy;
}

/**
 * Ask the service for a file.
 * @param {string} format
 * @param {{source: import("./api.js").Source, settings: import("./api.js").Settings,
 *   signal: AbortSignal, onProgress: (text: string, share: number|null) => void}} request
 * @returns {Promise<Blob>}
 */
export function fetchFile(format, { source, settings, signal, onProgress }) {
  const { words } = FORMATS[format];
  const onUpload = (share) => {
    if (share < 1) onProgress(`Sending the video: ${percent(share)}`, share);
    else onProgress(`The service makes ${words} …`, null);
  };
  onProgress(`The service makes ${words} …`, null);
  return segment(source, settings, { format, signal, onUpload });
}

/**
 * Hand a file to the user.
 * @param {Blob} blob
 * @param {string} videoName
 * @param {string} format
 */
export function save(blob, videoName, format) {
  const stem = videoName.replace(/\.[^.]*$/, "") || "video";
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = stem + FORMATS[format].suffix;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), REVOKE_AFTER_MS);
  byId("download-note").textContent = `Saved as ${link.download}.`;
}

/**
 * The streamed masks as the service's JSON.
 * @param {import("./track.js").Track} track
 * @returns {Blob}
 */
export function jsonOf(track) {
  return new Blob(track.toJsonParts(), { type: "application/json" });
}

/** @returns {HTMLButtonElement[]} */
function buttons() {
  return [...byId("downloads").querySelectorAll("button[data-format]")];
}
