// Elements of the page, what it says, and the clipboard. What comes from a model or a file is put into the document as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// `key` names the button when it is drawn again, so that it keeps the focus.
export function button(name, action, { key = "", label = "", kind = "quiet" } = {}) {
  const node = element("button", { type: "button", className: kind, onclick: action }, name);
  if (key) node.dataset.key = key;
  if (label) node.setAttribute("aria-label", label);
  return node;
}

export function say(text, { bad = false, tools = [] } = {}) {
  $("notice").replaceChildren(text, ...tools.flatMap((tool) => [" ", tool]));
  $("notice").classList.toggle("bad", bad);
}

export const message = (error) => String(error.message ?? error);

export const count = (n) => Math.round(n).toLocaleString("en");

export const megabytes = (bytes) => `${((bytes ?? 0) / 1e6).toFixed(1)} MB`;

// Pages that are not from this machine have no `crypto.randomUUID` unless they come over TLS.
export const freshId = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16).padStart(8, "0")).join("");

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // There is no clipboard for pages from another machine without TLS, but there is the old way.
    const before = document.activeElement;
    const field = element("textarea", { value: text, className: "hidden" });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    before?.focus();
    if (!done) return say(text);
  }
  say("Copied.");
}

export function download(name, blob) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Files that are dropped anywhere in `area`.
export function onDrop(area, take) {
  area.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    area.classList.add("over");
  });
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    area.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    take([...event.dataTransfer.files]);
  });
}

// The text of a file; an error if it is none.
export async function textOf(file) {
  const bytes = await file.arrayBuffer();
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    if (!text.includes("\0")) return text;
  } catch {
    // Said below.
  }
  throw new Error(`${file.name} is no text in UTF-8`);
}
