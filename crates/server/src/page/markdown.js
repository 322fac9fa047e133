// Markdown as elements: headings, lists, quotes, tables, code, emphasis and links. Text that is none of these stays as it is, and HTML within it is text.

import { button, copy, element } from "./dom.js";

// Deeper lists and quotes are shown as text.
const DEEPEST = 6;
// Longer paragraphs are shown without emphasis, whose search takes the square of their length.
const LONGEST = 20000;

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])(\s+|$)/;
const DELIMITERS = /^ *\|?(?: *:?-+:? *\|)+(?: *:?-+:? *)?\|? *$/;

const INLINE = /(`+)([^`][^]*?)\1(?!`)|\*\*(?=\S)([^]+?)\*\*|__(?=\S)([^]+?)__(?!\w)|\*(?=[^\s*])([^*]+?)\*|(?<!\w)_(?=\S)([^_]+?)_(?!\w)|~~(?=\S)([^]+?)~~|\[([^\]\n]+)\]\(([^()\s]+)\)|(https?:\/\/[^\s<>()"'`]*[^\s<>()"'`.,;:!?*_])/;

function link(text, to) {
  if (!/^(?:https?:\/\/|mailto:)/i.test(to)) return text;
  return element("a", { href: to, target: "_blank", rel: "noopener noreferrer" }, text);
}

function inline(text, depth = 0) {
  const nodes = [];
  if (text.length > LONGEST || depth > DEEPEST) return [text];
  while (text) {
    const found = text.match(INLINE);
    if (!found) break;
    if (found.index) nodes.push(text.slice(0, found.index));
    const [whole, , code, bold, strong, italic, slanted, struck, label, to, url] = found;
    const within = (name, content) => element(name, {}, ...inline(content, depth + 1));
    if (code !== undefined) nodes.push(element("code", {}, code.replace(/^ (.*) $/, "$1")));
    else if (bold ?? strong) nodes.push(within("strong", bold ?? strong));
    else if (italic ?? slanted) nodes.push(within("em", italic ?? slanted));
    else if (struck) nodes.push(within("del", struck));
    else nodes.push(label ? link(label, to) : link(url, url));
    text = text.slice(found.index + whole.length);
  }
  if (text) nodes.push(text);
  return nodes;
}

function code(text, language) {
  const name = language || "code";
  const pre = element("pre", { tabIndex: 0 }, element("code", {}, text));
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", name);
  return element("div", { className: "code" }, element("div", {}, name, button("Copy", () => copy(text), { label: `Copy ${name}` })), pre);
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

function table(head, rows) {
  const row = (line, name) => element("tr", {}, ...cells(line).map((cell) => element(name, {}, ...inline(cell))));
  const inner = element("table", {}, element("thead", {}, row(head, "th")), element("tbody", {}, ...rows.map((line) => row(line, "td"))));
  const box = element("div", { className: "table", tabIndex: 0 }, inner);
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "table");
  return box;
}

// The items of a list that begins at `at`, each as its lines, and the line behind it.
function items(lines, at) {
  const [, indent, mark] = lines[at].match(ITEM);
  const ordered = /\d/.test(mark);
  const found = [];
  while (at < lines.length) {
    const next = lines[at].match(ITEM);
    const deep = lines[at].search(/\S/);
    if (next && next[1].length <= indent.length + 1 && !RULE.test(lines[at])) {
      if (/\d/.test(next[2]) !== ordered) break;
      found.push([lines[at].slice(next[0].length)]);
    } else if (deep < 0) {
      // An empty line ends the list unless the next one belongs to it.
      const after = lines.slice(at + 1).find((line) => line.trim());
      const more = after?.match(ITEM);
      if (!after || !(after.search(/\S/) > indent.length || (more && /\d/.test(more[2]) === ordered))) break;
      found.at(-1).push("");
    } else if (deep > indent.length || (found.at(-1).at(-1).trim() && !starts(lines, at))) {
      found.at(-1).push(lines[at].slice(Math.min(deep, indent.length + mark.length + 1)));
    } else {
      break;
    }
    at += 1;
  }
  return { ordered, first: parseInt(mark, 10), found, at };
}

const starts = (lines, at) => FENCE.test(lines[at]) || HEADING.test(lines[at]) || RULE.test(lines[at]) || QUOTE.test(lines[at]) || /^ {0,3}(?:[-*+]|1[.)])\s+\S/.test(lines[at])
  || (lines[at].includes("|") && DELIMITERS.test(lines[at + 1] ?? ""));

function blocks(lines, depth) {
  const nodes = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const fence = line.match(FENCE);
    if (!line.trim()) {
      at += 1;
    } else if (fence) {
      const ends = (other) => other.trim().startsWith(fence[1]) && !other.trim().replaceAll(fence[1][0], "");
      let end = at + 1;
      while (end < lines.length && !ends(lines[end])) end += 1;
      nodes.push(code(lines.slice(at + 1, end).join("\n"), fence[2]));
      at = end + 1;
    } else if (HEADING.test(line)) {
      nodes.push(element("h4", {}, ...inline(line.match(HEADING)[1])));
      at += 1;
    } else if (RULE.test(line)) {
      nodes.push(element("hr"));
      at += 1;
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      let end = at;
      while (end < lines.length && QUOTE.test(lines[end])) end += 1;
      nodes.push(element("blockquote", {}, ...blocks(lines.slice(at, end).map((one) => one.replace(QUOTE, "")), depth + 1)));
      at = end;
    } else if (ITEM.test(line) && depth < DEEPEST) {
      const list = items(lines, at);
      const node = element(list.ordered ? "ol" : "ul", {}, ...list.found.map((item) => element("li", {}, ...tight(blocks(item, depth + 1)))));
      if (list.ordered && list.first !== 1) node.start = list.first;
      nodes.push(node);
      at = list.at;
    } else if (line.includes("|") && DELIMITERS.test(lines[at + 1] ?? "")) {
      let end = at + 2;
      while (end < lines.length && lines[end].includes("|")) end += 1;
      nodes.push(table(line, lines.slice(at + 2, end)));
      at = end;
    } else {
      let end = at + 1;
      while (end < lines.length && lines[end].trim() && !starts(lines, end)) end += 1;
      nodes.push(element("p", {}, ...inline(lines.slice(at, end).join("\n"))));
      at = end;
    }
  }
  return nodes;
}

// An item of one paragraph is its text.
const tight = (nodes) => (nodes[0]?.tagName === "P" ? [element("span", {}, ...nodes[0].childNodes), ...nodes.slice(1)] : nodes);

export const markdown = (text) => blocks(text.replaceAll("\r\n", "\n").split("\n"), 0);
