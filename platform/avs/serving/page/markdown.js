/**
 * The little Markdown of a model card as elements: headings, tables, lists, paragraphs and code.
 * Everything goes in as text, so a card can hold anything.
 */

import { make } from "./dom.js";

/**
 * Elements for a text.
 * @param {string} text
 * @returns {HTMLElement[]}
 */
export function renderMarkdown(text) {
  return blocks(text).map(renderBlock);
}

/**
 * Neighbouring lines of one kind.
 * @param {string} text
 * @returns {{kind: string, lines: string[]}[]}
 */
function blocks(text) {
  const found = [];
  for (const line of text.split(/\r?\n/)) {
    const kind = kindOf(line);
    const last = found.at(-1);
    if (last && last.kind === kind && kind !== "heading") last.lines.push(line);
    else found.push({ kind, lines: [line] });
  }
  return found.filter((block) => block.kind !== "blank");
}

function kindOf(line) {
  if (!line.trim()) return "blank";
  if (/^#{1,6}\s/.test(line)) return "heading";
  if (/^\s*\|/.test(line)) return "table";
  if (/^\s*[-*]\s/.test(line)) return "list";
  return "paragraph";
}

function renderBlock({ kind, lines }) {
  if (kind === "heading") return make("h4", {}, ...inline(lines[0].replace(/^#+\s*/, "")));
  if (kind === "table") return renderTable(lines);
  if (kind === "list") {
    const items = lines.map((line) => make("li", {}, ...inline(line.replace(/^\s*[-*]\s+/, ""))));
    return make("ul", {}, ...items);
  }
  return make("p", {}, ...inline(lines.join(" ")));
}

/** A table without its ruler and without an empty head. */
function renderTable(lines) {
  const rows = lines.map(cells).filter((row) => !row.every((cell) => /^:?-+:?$/.test(cell)));
  const filled = rows.filter((row) => row.some((cell) => cell));
  const body = filled.map((row) => {
    const [first, ...others] = row;
    const head = make("th", { scope: "row" }, ...inline(first));
    return make("tr", {}, head, ...others.map((cell) => make("td", {}, ...inline(cell))));
  });
  return make("table", {}, make("tbody", {}, ...body));
}

function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  const parts = inner.replaceAll("\\|", "\u0000").split("|"); // an escaped bar is no border
  return parts.map((cell) => cell.trim().replaceAll("\u0000", "|"));
}

/** Text with `code` in it. */
function inline(text) {
  return text.split(/(`[^`]+`)/).filter(Boolean).map((part) => {
    const isCode = part.length > 2 && part.startsWith("`") && part.endsWith("`");
    return isCode ? make("code", {}, part.slice(1, -1)) : part.replaceAll("**", "");
  });
}
