/** The API documentation: what /openapi.json says, as a page. */

import { getJson } from "./api.js";
import { byId, make } from "./dom.js";
import { examplesFor } from "./docs-examples.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

async function main() {
  try {
    renderAll(await getJson("openapi.json"));
    document.body.dataset.state = "done";
  } catch (error) {
    byId("message-text").dataset.kind = "error";
    byId("message-text").textContent = `The list of operations cannot be shown: ${error.message}`;
    document.body.dataset.state = "failed";
  }
}

/** @param {any} api an OpenAPI 3 document */
function renderAll(api) {
  byId("version").textContent = api.info?.version ?? "unknown";
  byId("live-address").textContent = new URL("v1/live", document.baseURI).href.replace(/^http/, "ws");
  const operations = operationsOf(api);
  byId("operations").replaceChildren(...operations.map((one) => renderOperation(one, api)));
  const own = [["access", "Access and errors"]];
  const last = [["stream", "The stream"], ["live", "Live"]];
  const middle = operations.map((one) => [one.id, `${one.method.toUpperCase()} ${one.path}`]);
  const links = [...own, ...middle, ...last].map(([id, text]) => make("a", { href: `#${id}` }, text));
  byId("contents").replaceChildren(...links);
}

/**
 * Every method of every path, those that work on videos first.
 * @param {any} api
 * @returns {{id: string, path: string, method: string, operation: any}[]}
 */
function operationsOf(api) {
  const found = Object.entries(api.paths ?? {}).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({
      id: `${method}-${path.replace(/\W+/g, "-")}`,
      path,
      method,
      operation: item[method],
    })),
  );
  const rank = ({ path, method }) => (path.startsWith("/v1/") ? 0 : 2) + (method === "post" ? 0 : 1);
  return found.sort((a, b) => rank(a) - rank(b));
}

function renderOperation({ id, path, method, operation }, api) {
  const badge = make("span", { class: `method ${method}` }, method.toUpperCase());
  const text = operation.description ?? operation.summary ?? "";
  return make(
    "section", { class: "card operation", id },
    make("h2", {}, badge, " ", make("code", {}, path)),
    ...text.split(/\n\s*\n/).filter((part) => part.trim()).map((part) => make("p", {}, part)),
    ...parametersOf(operation, api),
    ...bodyOf(operation, api),
    ...answersOf(operation),
    ...examplesOf(method, path),
  );
}

function parametersOf(operation, api) {
  const rows = (operation.parameters ?? []).map((given) => {
    const parameter = resolve(given, api);
    return [parameter.name, `${typeOf(parameter.schema, api)}, in the ${parameter.in}`, [
      parameter.required ? "Required." : "",
      parameter.description ?? parameter.schema?.description ?? "",
      defaultOf(parameter.schema),
    ]];
  });
  return rows.length ? [make("h3", {}, "Parameters"), table(["name", "type", "meaning"], rows)] : [];
}

function bodyOf(operation, api) {
  const content = resolve(operation.requestBody ?? {}, api).content ?? {};
  return Object.entries(content).flatMap(([mediaType, { schema }]) => {
    const { properties = {}, required = [] } = resolve(schema ?? {}, api);
    const rows = Object.entries(properties).map(([name, property]) => [
      name,
      typeOf(property, api),
      [required.includes(name) ? "Required." : "", property.description ?? "", defaultOf(property)],
    ]);
    const head = make("h3", {}, "Body, as ", make("code", {}, mediaType));
    return rows.length ? [head, table(["field", "type", "meaning"], rows)] : [head];
  });
}

function answersOf(operation) {
  const rows = Object.entries(operation.responses ?? {}).map(([status, answer]) => {
    const types = Object.keys(answer.content ?? {}).join(", ");
    return [status, types || "–", [answer.description ?? ""]];
  });
  return rows.length ? [make("h3", {}, "Answers"), table(["status", "form", "meaning"], rows)] : [];
}

/**
 * The schema that a reference means.
 * @param {any} schema
 * @param {any} api
 * @returns {any}
 */
function resolve(schema, api) {
  if (!schema.$ref) return schema;
  const names = schema.$ref.replace(/^#\//, "").split("/");
  return names.reduce((node, name) => node?.[name], api) ?? {};
}

/** The type of a value in words: "number, 0 to 1". */
function typeOf(given, api) {
  const schema = resolve(given ?? {}, api);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) {
    const words = choices.filter((one) => one.type !== "null").map((one) => typeOf(one, api));
    return [...new Set(words)].join(" or ") || "anything";
  }
  if (schema.enum) return schema.enum.map(String).join(" or ");
  const isFile = schema.format === "binary" || schema.contentMediaType === "application/octet-stream";
  const base = isFile ? "file" : (schema.type ?? "anything");
  const least = schema.minimum ?? schema.exclusiveMinimum;
  const most = schema.maximum ?? schema.exclusiveMaximum;
  if (least !== undefined && most !== undefined) return `${base}, ${least} to ${most}`;
  if (least !== undefined) return `${base}, from ${least}`;
  return most !== undefined ? `${base}, up to ${most}` : base;
}

function defaultOf(schema) {
  const value = schema?.default;
  return value === undefined || value === null ? "" : `Default: ${value}.`;
}

/** @param {string[]} heads @param {[string, string, string[]][]} rows */
function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map(([name, type, texts]) => make(
    "tr", {},
    make("th", { scope: "row" }, make("code", {}, name)),
    make("td", {}, type),
    make("td", {}, texts.filter(Boolean).map(ended).join(" ")),
  ));
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
}

function ended(text) {
  return /[.!?:]$/.test(text) ? text : `${text}.`;
}

function examplesOf(method, path) {
  const origin = new URL(document.baseURI).href.replace(/\/[^/]*$/, "");
  const examples = examplesFor(method, path, origin);
  return [make("h3", {}, examples.length > 1 ? "Examples" : "Example"), ...examples.map(renderExample)];
}

function renderExample({ what, command }) {
  const copy = make("button", { type: "button", class: "button copy" }, "Copy");
  copy.setAttribute("aria-label", `Copy: ${what}`);
  copy.addEventListener("click", () => copyText(command, copy));
  return make(
    "figure", { class: "example" },
    make("figcaption", {}, what),
    make("pre", { tabIndex: 0 }, make("code", {}, command)),
    copy,
  );
}

async function copyText(text, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // not over plain HTTP: then it is at least selected
    getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

main();
