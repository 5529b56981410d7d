/**
 * What the user can choose, and the models to choose from. Opacity acts at once; the rest is asked
 * of the service, so a change is told to the app, which segments again.
 */

import { byId, debounced, make, show } from "./dom.js";
import { renderMarkdown } from "./markdown.js";

const SETTLE_MS = 500; // arrow keys on a slider give a change each
const KNOWN_METRICS = { val_j: "J of the validation", val_f: "F of the validation", epoch: "Epoch" };

export class SettingsPanel {
  /** @type {any[]} */
  #models = [];
  /** Called when something changed that needs a new run. */
  onChange = () => {};

  /** @param {(opacity: number) => void} onOpacity told 0..1 at once */
  constructor(onOpacity) {
    const changed = debounced(() => this.onChange(), SETTLE_MS);
    for (const id of ["model", "threshold", "masks-per-s", "objects"]) {
      byId(id).addEventListener("change", changed);
    }
    byId("model").addEventListener("change", () => this.#showModel());
    byId("threshold").addEventListener("input", () => this.#showValues());
    byId("opacity").addEventListener("input", () => {
      this.#showValues();
      onOpacity(byId("opacity").valueAsNumber / 100);
    });
    this.#showValues();
    onOpacity(byId("opacity").valueAsNumber / 100);
  }

  /** @param {any[]} models as listed by the service */
  set models(models) {
    this.#models = models;
    const chosen = byId("model").value;
    const options = models.map((model) => make("option", { value: model.name }, model.name));
    if (models.filter((model) => model.share > 0).length > 1) {
      options.unshift(make("option", { value: "" }, "The service's choice"));
    }
    byId("model").replaceChildren(...options);
    const names = options.map((option) => option.value);
    const byDefault = models.find((model) => model.default)?.name ?? "";
    byId("model").value = chosen && names.includes(chosen) ? chosen : names.includes("") ? "" : byDefault;
    show(byId("model-field"), models.length > 1);
    this.#showModel();
  }

  /**
   * What is chosen now.
   * @returns {import("./api.js").Settings}
   */
  read() {
    const objects = byId("objects");
    return {
      masks_per_s: byId("masks-per-s").value,
      threshold: byId("threshold").valueAsNumber,
      objects: objects.checked && !byId("objects-field").hidden,
      model: this.#models.length > 1 && byId("model").value ? byId("model").value : null,
    };
  }

  #showValues() {
    byId("opacity-value").textContent = `${byId("opacity").value} %`;
    byId("threshold-value").textContent = byId("threshold").valueAsNumber.toFixed(2);
  }

  #showModel() {
    const name = byId("model").value;
    const model = this.#models.find((one) => (name ? one.name === name : one.default));
    show(byId("model-about"), Boolean(model));
    if (!model) return;
    show(byId("objects-field"), model.finds_objects);
    byId("model-facts").replaceChildren(...facts(model).flatMap(([term, value]) => [
      make("dt", {}, term),
      make("dd", {}, value),
    ]));
    byId("model-card").replaceChildren(...renderMarkdown(model.card ?? ""));
  }
}

/** @returns {[string, string][]} what is known of a model besides its card */
function facts(model) {
  const own = [
    ["Name", model.name],
    ["Network", model.network],
    ["Checkpoint", String(model.checkpoint).slice(0, 12)],
    ["Sees at once", `${model.num_frames} pictures of ${model.image_size_px} px`],
    ["Classes", classes(model.classes)],
  ];
  return [...own, ...metrics(model.metrics ?? {})];
}

function classes(names) {
  const shown = names.slice(0, 8).join(", ");
  return names.length > 8 ? `${shown} and ${names.length - 8} more` : shown;
}

/** Numbers and words; what is nested is in the card. */
function metrics(values) {
  return Object.entries(values)
    .filter(([, value]) => ["number", "string"].includes(typeof value))
    .map(([name, value]) => [KNOWN_METRICS[name] ?? name.replaceAll("_", " "), rounded(value)]);
}

function rounded(value) {
  return typeof value === "number" && !Number.isInteger(value) ? value.toFixed(3) : String(value);
}
