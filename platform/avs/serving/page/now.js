/** The list beside the video: what sounds, and what is silent, in the mask on show. */

import { byId, make, percent } from "./dom.js";
import { classColour } from "./painter.js";
import { isSounding } from "./track.js";

let shown = null;

/**
 * Fill the list; the same mask again costs nothing.
 * @param {import("./track.js").TimedMask|null} mask null where there is none
 * @param {number} numClasses with the background
 */
export function showNow(mask, numClasses) {
  if (mask === shown) return;
  shown = mask;
  byId("now").replaceChildren(...(mask ? items(mask, numClasses) : []));
}

function items(mask, numClasses) {
  if (mask.visible) return mask.visible.map((object) => visibleItem(object));
  if (!mask.objects.length) return [make("li", { class: "quiet" }, "Nothing sounds here")];
  return mask.objects.map((object) => {
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = `rgb(${classColour(object.class, numClasses).join(" ")})`;
    return make("li", {}, swatch, object.category);
  });
}

function visibleItem(object) {
  const swatch = make("span", { class: isSounding(object) ? "swatch" : "swatch silent" });
  const words = isSounding(object) ? `sounds ${percent(object.sounding)}` : "silent";
  return make("li", {}, swatch, object.category, make("span", { class: "quiet" }, words));
}
