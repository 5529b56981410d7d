/**
 * Small helpers around the document. Text from outside enters the page here and only as text:
 * nothing in these modules writes markup.
 */

/**
 * The element with this id, which must be there.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element #${id}`);
  return found;
}

/**
 * A new element with text or other elements in it.
 * @param {string} tag
 * @param {Object<string, any>} properties set on the element; "class" is its class name
 * @param {...(Node|string)} children strings become text, never markup
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/**
 * Show or hide an element.
 * @param {HTMLElement} node
 * @param {boolean} isShown
 */
export function show(node, isShown) {
  node.hidden = !isShown;
}

/**
 * Seconds as a clock: 75 is "1:15", 3675 is "1:01:15".
 * @param {number} seconds
 * @returns {string}
 */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(Number.isFinite(seconds) ? seconds : 0));
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  const tail = String(whole % 60).padStart(2, "0");
  if (!hours) return `${minutes}:${tail}`;
  return `${hours}:${String(minutes).padStart(2, "0")}:${tail}`;
}

/**
 * A number of bytes for people: "12 MB".
 * @param {number} bytes
 * @returns {string}
 */
export function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value >= 10 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/**
 * A length of time for people: "90 s", "10 min".
 * @param {number} seconds
 * @returns {string}
 */
export function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/**
 * A share of one for people: 0.123 is "12 %".
 * @param {number} share
 * @returns {string}
 */
export function percent(share) {
  if (share > 0 && share < 0.01) return "under 1 %";
  return `${Math.round(share * 100)} %`;
}

/**
 * A function that runs `action` once, `wait_ms` after it was last called.
 * @param {() => void} action
 * @param {number} wait_ms
 * @returns {() => void}
 */
export function debounced(action, wait_ms) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait_ms);
  };
}
