// Documents: texts that the server reads once, and whose states it keeps.

import { $, button, count, download, element, megabytes, message, onDrop, textOf } from "./dom.js";
import { page } from "./conversations.js";
import { begin } from "./chat.js";
import { events, fetched, posted } from "./requests.js";

const nameOf = (state) => state.name || state.id;
const tell = (text) => { $("reading").textContent = text; };
const told = (work) => () => work().catch((error) => tell(message(error)));

export async function listStates() {
  const { data } = await (await fetched("/v1/states")).json();
  $("no-states").hidden = data.length > 0;
  $("states").replaceChildren(...data.map((state) => {
    const tool = (name, work) => button(name, told(work), { label: `${name}: ${nameOf(state)}`, kind: name === "Ask" ? "strong" : "" });
    return element("li", {}, element("strong", {}, nameOf(state)),
      element("p", { className: "numbers" }, `${count(state.tokens)} tokens · a state of ${megabytes(state.bytes)} · ${state.model}`),
      element("p", { className: "tools" },
        tool("Ask", async () => askAbout(state)),
        tool("Download", async () => download(`${nameOf(state)}.state`, await (await fetched(`/v1/states/${state.id}/content`)).blob())),
        tool("Delete", async () => {
          await fetched(`/v1/states/${state.id}`, { method: "DELETE" });
          await listStates();
          $("text").focus();
        })));
  }));
}

// A conversation of its own, whose questions go on behind the state.
function askAbout(state) {
  begin({ state: { id: state.id, name: nameOf(state), tokens: state.tokens, model: state.model } });
}

let reading = null; // the AbortController of the text that is being read

export const haltReading = () => reading?.abort();

async function readText(text, name) {
  const model = page.models.find((one) => one.id === $("model").value);
  const request = { model: model?.id, name: name || text.trim().slice(0, 60), stream: true };
  // Models for conversations get the text as a message.
  if (model?.longreach.chat_template === "plain") request.prompt = text;
  else request.messages = [{ role: "user", content: text }, { role: "assistant", content: "I have read it." }];
  const start = performance.now();
  let before = null; // what a kept state had read
  let state = null;
  await events(await posted("/v1/states", request, reading.signal), (data) => {
    if (data.object === "state") {
      state = data;
      return;
    }
    before ??= data.read;
    $("progress").value = data.read / Math.max(1, data.of);
    const speed = (data.read - before) / ((performance.now() - start) / 1000);
    const left = speed > 0 ? ` · ${count(speed)} a second · ${count(Math.ceil((data.of - data.read) / speed))} s left` : "";
    tell(`${request.name}: read ${count(data.read)} of ${count(data.of)} tokens${left}`);
  });
  return state;
}

function busy(yes) {
  $("read").disabled = yes;
  $("halt").hidden = !yes;
  $("progress").hidden = !yes;
  $("progress").value = 0;
}

// Does some reading, which Stop ends; one at a time.
async function whileReading(work) {
  if (reading) return;
  reading = new AbortController();
  busy(true);
  try {
    await work();
  } catch (error) {
    tell(error.name === "AbortError" ? "Stopped." : message(error));
  } finally {
    reading = null;
    busy(false);
    await listStates().catch(() => {});
  }
}

export function readPasted() {
  const text = $("text").value;
  if (!text.trim()) {
    tell("There is no text yet.");
    $("text").focus();
    return undefined;
  }
  return whileReading(async () => {
    const state = await readText(text, $("title").value);
    $("text").value = $("title").value = "";
    tell(`${nameOf(state)} was read.`);
    askAbout(state);
  });
}

// Files are read one behind the other; the file of a state is uploaded.
export function takeFiles(files) {
  return whileReading(async () => {
    for (const file of files) {
      if (file.name.endsWith(".state")) {
        const name = encodeURIComponent(file.name.replace(/\.state$/, ""));
        await fetched(`/v1/states?name=${name}`, {
          method: "POST", headers: { "content-type": "application/octet-stream" }, body: file, signal: reading.signal,
        });
      } else {
        await readText(await textOf(file), file.name);
      }
      tell(`${file.name} was read.`);
      await listStates();
    }
  });
}

export function prepareDocuments() {
  $("choose").onclick = () => $("document").click();
  $("document").onchange = () => takeFiles([...$("document").files]).then(() => { $("document").value = ""; });
  $("read").onclick = readPasted;
  $("halt").onclick = haltReading;
  onDrop($("documents"), takeFiles);
}
