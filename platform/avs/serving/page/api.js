/**
 * The service as the page sees it: requests, progress, errors. Uploads go through XMLHttpRequest,
 * because fetch cannot tell how much of a body has been sent.
 *
 * @typedef {{file?: File, url?: string, name: string}} Source
 * @typedef {{masks_per_s: string, threshold: number, objects: boolean, model: string|null}} Settings
 */

const TOKEN_KEY = "avs-token";
const READ_EVERY_MS = 100;

/** What the service refused, or that it could not be reached. */
export class ServiceError extends Error {
  /**
   * @param {string} message for people
   * @param {{code?: string, status?: number, retryAfter_s?: number|null}} details
   */
  constructor(message, { code = "unreachable", status = 0, retryAfter_s = null } = {}) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter_s = retryAfter_s;
  }
}

let tokenOfPage = null; // where the browser forbids storage

/** @returns {string|null} the token of this tab */
export function token() {
  try {
    return sessionStorage.getItem(TOKEN_KEY) ?? tokenOfPage;
  } catch {
    return tokenOfPage;
  }
}

/** @param {string} text */
export function keepToken(text) {
  tokenOfPage = text;
  try {
    sessionStorage.setItem(TOKEN_KEY, text);
  } catch {
    // the page has it
  }
}

/**
 * The address of a route; the page may lie below a prefix.
 * @param {string} path without a leading slash
 * @returns {URL}
 */
export function address(path) {
  return new URL(path, document.baseURI);
}

/** @returns {Object<string, string>} what every request carries */
function commonHeaders() {
  const headers = { "X-AVS-Client": "page" };
  const known = token();
  return known ? { ...headers, Authorization: `Bearer ${known}` } : headers;
}

/**
 * Read JSON from a route.
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function getJson(path) {
  let response;
  try {
    response = await fetch(address(path), { headers: commonHeaders(), cache: "no-store" });
  } catch {
    throw unreachable();
  }
  const text = await response.text();
  if (!response.ok) throw refusal(response.status, text, (name) => response.headers.get(name));
  return JSON.parse(text);
}

/**
 * Ask for masks. Resolves when the answer is complete.
 * @param {Source} source
 * @param {Settings} settings
 * @param {{format: string, signal: AbortSignal, onUpload?: (share: number) => void,
 *   onLine?: (event: any) => void}} options onLine: called for every line of format=stream
 * @returns {Promise<Blob|null>} the answer, null for a stream
 */
export function segment(source, settings, { format, signal, onUpload, onLine }) {
  const request = new XMLHttpRequest();
  request.open("POST", address(`v1/segment?${query(settings, format)}`));
  for (const [name, value] of Object.entries(commonHeaders())) request.setRequestHeader(name, value);
  request.responseType = onLine ? "text" : "blob";
  request.upload.onprogress = (event) => onUpload?.(event.total ? event.loaded / event.total : 0);
  request.upload.onload = () => onUpload?.(1);
  const body = requestBody(source, request);
  return new Promise((resolve, reject) => {
    const lines = onLine ? new Lines(request, onLine) : null;
    const settle = async () => {
      if (request.status !== 200) return reject(await refusalOf(request));
      lines?.read();
      return resolve(lines ? null : request.response);
    };
    request.onprogress = () => lines?.readSoon((action) => guarded(action, request, reject));
    request.onload = () => settle().catch(reject);
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    if (signal.aborted) reject(new DOMException("stopped", "AbortError"));
    else request.send(body);
  });
}

/** Ends the request when what came from it cannot be used. */
function guarded(action, request, reject) {
  try {
    action();
  } catch (error) {
    reject(error);
    request.abort();
  }
}

/** The lines of an answer while it comes in. */
class Lines {
  #request;
  #onLine;
  #position = 0;
  #nextRead_ms = 0;
  #timer = 0;

  constructor(request, onLine) {
    this.#request = request;
    this.#onLine = onLine;
  }

  /**
   * As read, but not so often that reading, which copies the whole text, takes over.
   * @param {(action: () => void) => void} guard runs what may fail later
   */
  readSoon(guard) {
    if (this.#timer || this.#request.status !== 200) return;
    const wait_ms = Math.max(0, this.#nextRead_ms - performance.now());
    this.#timer = setTimeout(() => guard(() => this.#readTimed()), wait_ms);
  }

  #readTimed() {
    const start_ms = performance.now();
    this.read();
    const took_ms = performance.now() - start_ms;
    this.#nextRead_ms = start_ms + Math.max(READ_EVERY_MS, 20 * took_ms);
  }

  /** Everything that has come and was not read yet; nothing after an abort. */
  read() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#request.readyState < XMLHttpRequest.LOADING) return;
    const text = this.#request.responseText;
    let end = text.indexOf("\n", this.#position);
    while (end >= 0) {
      const line = text.slice(this.#position, end);
      this.#position = end + 1;
      if (line.trim()) this.#onLine(JSON.parse(line));
      end = text.indexOf("\n", this.#position);
    }
  }
}

/** @returns {string} the parameters of a request */
function query(settings, format) {
  const fields = { format, masks_per_s: settings.masks_per_s, threshold: settings.threshold };
  const parameters = new URLSearchParams(fields);
  if (settings.objects) parameters.set("objects", "true");
  if (settings.model) parameters.set("model", settings.model);
  return parameters.toString();
}

/** @returns {FormData|string} the body; sets its type where the browser does not */
function requestBody(source, request) {
  if (source.url) {
    request.setRequestHeader("Content-Type", "application/json");
    return JSON.stringify({ url: source.url });
  }
  const form = new FormData();
  form.append("file", source.file, source.name);
  return form;
}

async function refusalOf(request) {
  const body = request.responseType === "blob" ? request.response : null;
  const text = body ? await body.text() : request.responseText;
  return refusal(request.status, text, (name) => request.getResponseHeader(name));
}

/** The service's own words where it said any. */
function refusal(status, text, header) {
  let said = {};
  try {
    said = JSON.parse(text).error ?? {};
  } catch {
    // a proxy answered, not the service
  }
  const seconds = Number.parseFloat(header("Retry-After") ?? "");
  const isBusy = status === 429 || status === 503;
  return new ServiceError(said.message ?? `The service answered with status ${status}.`, {
    code: said.code ?? "unknown",
    status,
    retryAfter_s: Number.isFinite(seconds) ? seconds : isBusy ? 5 : null,
  });
}

function unreachable() {
  const text = navigator.onLine ? "The service cannot be reached." : "There is no network.";
  return new ServiceError(`${text} Check the connection and try again.`);
}
