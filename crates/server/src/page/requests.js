// Requests to the server, with its key where it wants one.

import { $ } from "./dom.js";

export const address = () => location.origin;

export function headers(more = {}) {
  const key = sessionStorage.getItem("key");
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

let asking = null; // the dialog that is open, for all requests that wait for a key

// Asks for the key; false if none is given.
function askKey(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    $("key-wrong").hidden = !wrong;
    $("key").value = "";
    dialog.returnValue = "";
    dialog.addEventListener("close", () => {
      const key = dialog.returnValue === "use" ? $("key").value : "";
      $("key").value = "";
      if (key) sessionStorage.setItem("key", key);
      asking = null;
      resolve(Boolean(key));
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

export class NoKey extends Error {
  constructor() {
    super("The server wants a key, and none was given.");
  }
}

// The answer to a request; the key is asked for where the server wants one.
export async function ask(where, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem("key");
    const response = await fetch(address() + where, { ...options, headers: headers(options.headers) });
    if (response.status !== 401) return response;
    // Another request may have got a key meanwhile.
    if (key !== sessionStorage.getItem("key")) continue;
    if (!(await askKey(key !== null))) throw new NoKey();
  }
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
}

// The same; an answer other than a success is an error with what the server says.
export async function fetched(where, options) {
  const response = await ask(where, options);
  if (!response.ok) throw new Error(await failure(response));
  return response;
}

export const posted = (where, request, signal) =>
  fetched(where, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(request), signal });

// Calls `each` with every event of a stream, and `progress` with what is said while a prompt is read.
export async function events(response, each, progress = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the answer broke off: the server is gone");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith(": read ")) progress(part.slice(7));
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      const data = JSON.parse(part.slice(6));
      if (data.error) throw new Error(data.error.message);
      each(data);
    }
  }
}
