// The page of `longreach serve`: conversations with the models, kept in this browser alone. Nothing is loaded from elsewhere, and answers of a model are put
// into the document as text, never as HTML.

const $ = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

// Pages that are not from this machine have no `crypto.randomUUID` and no clipboard unless they come over TLS.
const freshId = () => Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(16).padStart(8, "0")).join("");

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied.");
  } catch {
    say(text);
  }
}

// Conversations: a tree of messages. Each message knows its parent; editing and regenerating add a sibling, and `chosen` says which child is shown.

const store = {
  open() {
    return new Promise((resolve, reject) => {
      const request = indexedDB.open("longreach", 1);
      request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  },
  async run(mode, work) {
    const database = await (this.database ??= this.open());
    return new Promise((resolve, reject) => {
      const transaction = database.transaction("conversations", mode);
      const request = work(transaction.objectStore("conversations"));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = () => reject(transaction.error);
    });
  },
  all() { return this.run("readonly", (s) => s.getAll()); },
  put(conversation) { return this.run("readwrite", (s) => s.put(conversation)); },
  remove(id) { return this.run("readwrite", (s) => s.delete(id)); },
};

let conversations = [];
let current = null;
let answering = null; // the AbortController of the answer under way
let models = [];

const fresh = () => ({ id: freshId(), changed: Date.now(), system: "", nodes: {}, roots: [], chosen: {} });

const childrenOf = (c, id) => (id ? c.nodes[id].children : c.roots);

function path(c) {
  const shown = [];
  let at = null;
  for (;;) {
    const children = childrenOf(c, at);
    if (!children.length) return shown;
    at = children.includes(c.chosen[at ?? ""]) ? c.chosen[at ?? ""] : children[children.length - 1];
    shown.push(c.nodes[at]);
  }
}

function add(c, parent, role, content) {
  const node = { id: freshId(), parent, role, content, thinking: "", children: [] };
  c.nodes[node.id] = node;
  childrenOf(c, parent).push(node.id);
  c.chosen[parent ?? ""] = node.id;
  return node;
}

async function save() {
  if (!current) return;
  current.changed = Date.now();
  try {
    // A copy: it may change while it is written.
    await store.put(structuredClone(current));
  } catch (error) {
    say(`The browser could not keep the conversation: ${error}`, true);
  }
}

function say(text, bad = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("bad", bad);
}

// Requests

const address = () => location.origin;

function headers(more = {}) {
  const key = sessionStorage.getItem("key");
  return key ? { ...more, authorization: `Bearer ${key}` } : more;
}

async function ask(where, options = {}) {
  for (;;) {
    const response = await fetch(where, { ...options, headers: headers(options.headers) });
    if (response.status !== 401) return response;
    const dialog = $("key-dialog");
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    const key = $("key").value;
    $("key").value = "";
    if (!key) throw new Error("the server wants a key");
    sessionStorage.setItem("key", key);
  }
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `status ${response.status}`;
  }
}

function body(messages, more = {}) {
  const all = current.system ? [{ role: "system", content: current.system }, ...messages] : messages;
  const request = { model: $("model").value || undefined, messages: all, ...more };
  if (current.state) Object.assign(request, { model: current.state.model, state: current.state.id });
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if ($(name).value !== "") request[name === "max_tokens" ? "max_completion_tokens" : name] = Number($(name).value);
  }
  return request;
}

const asMessage = (node) => ({ role: node.role, content: node.content, ...(node.thinking ? { reasoning_content: node.thinking } : {}) });

// Calls `each` with every event of a stream.
async function events(response, each) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the answer broke off: the server is gone");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith(": read ")) say(`The prompt is being ${part.slice(2)} tokens`);
      if (!part.startsWith("data: ")) continue;
      if (part === "data: [DONE]") return;
      const data = JSON.parse(part.slice(6));
      if (data.error) throw new Error(data.error.message);
      each(data);
    }
  }
}

async function answer(node, messages, more = {}) {
  answering?.abort();
  const controller = (answering = new AbortController());
  const conversation = current;
  busy(true);
  say("");
  const start = performance.now();
  let first = null;
  try {
    const request = body(messages, { ...more, stream: true, stream_options: { include_usage: true, progress: true } });
    const response = await ask(`${address()}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(request),
      signal: controller.signal,
    });
    if (!response.ok) throw new Error(await failure(response));
    await events(response, (data) => {
      const choice = data.choices[0];
      if (choice) {
        const { content, reasoning_content: thought } = choice.delta;
        if (content || thought) first ??= performance.now();
        node.content += content ?? "";
        node.thinking += thought ?? "";
        if (choice.finish_reason) node.finish = choice.finish_reason;
      }
      if (data.usage) node.usage = data.usage;
      refresh(node);
    });
    const seconds = (performance.now() - (first ?? start)) / 1000;
    const { prompt_tokens: of, completion_tokens: written, prompt_tokens_details: details } = node.usage;
    const read = of - details.cached_tokens;
    node.numbers = `read ${read} of ${of} tokens, ${details.cached_tokens} were kept; wrote ${written}, ${(written / seconds).toFixed(1)} a second`
      + (node.finish === "length" ? "; cut at the most tokens: Continue goes on" : "");
    say("The answer is complete.");
  } catch (error) {
    // What was written so far stays.
    node.numbers = error.name === "AbortError" ? "stopped" : "broke off: Continue goes on";
    say(error.name === "AbortError" ? "Stopped." : String(error.message ?? error), error.name !== "AbortError");
  } finally {
    if (answering === controller) {
      answering = null;
      busy(false);
    }
    if (current === conversation) {
      await save();
      show();
    } else {
      await store.put(structuredClone(conversation)).catch(() => {});
    }
  }
}

function busy(yes) {
  $("stop").disabled = !yes;
  $("send").disabled = yes;
  $("messages").setAttribute("aria-busy", String(yes));
}

function send(text) {
  const last = path(current).at(-1);
  const message = add(current, last?.id ?? null, "user", text);
  reply(message);
}

function reply(message) {
  const before = path(current);
  const messages = before.slice(0, before.indexOf(message) + 1).map(asMessage);
  const node = add(current, message.id, "assistant", "");
  show();
  save();
  answer(node, messages);
}

function regenerate() {
  const last = path(current).at(-1);
  const message = last?.role === "assistant" ? current.nodes[last.parent] : last;
  if (message) reply(message);
}

function goOn() {
  const shown = path(current);
  const last = shown.at(-1);
  if (last?.role !== "assistant" || !last.content) return;
  answer(last, shown.map(asMessage), { continue_final_message: true });
}

// What is shown

// Fenced blocks and code within lines; everything else as it is.
function formatted(text) {
  const box = element("div", { className: "text" });
  text.split(/```(?:[^\n`]*\n)?/).forEach((part, i) => {
    if (i % 2) {
      box.append(element("pre", { tabIndex: 0 }, element("code", {}, part)));
    } else {
      part.split(/`([^`\n]+)`/).forEach((piece, k) => box.append(k % 2 ? element("code", {}, piece) : piece));
    }
  });
  return box;
}

function shownMessage(node) {
  const names = { user: "You", assistant: "Model" };
  const item = element("li", { id: node.id }, element("h3", {}, names[node.role] ?? node.role));
  if (node.thinking) {
    item.append(element("details", {}, element("summary", {}, "Thoughts"), element("div", { className: "thought" }, node.thinking)));
  }
  item.append(formatted(node.content));
  if (node.numbers) item.append(element("p", { className: "numbers" }, node.numbers));
  const tools = element("p", { className: "tools" });
  const tool = (name, action) => tools.append(element("button", { type: "button", onclick: action }, name));
  tool("Copy", () => copy(node.content));
  tool("Edit", () => edit(node, item));
  const siblings = childrenOf(current, node.parent);
  if (siblings.length > 1) {
    const at = siblings.indexOf(node.id);
    const turn = (to) => () => {
      current.chosen[node.parent ?? ""] = siblings[to];
      save();
      show();
    };
    if (at > 0) tool("‹ Earlier", turn(at - 1));
    tools.append(element("span", { className: "numbers" }, `${at + 1} of ${siblings.length}`));
    if (at + 1 < siblings.length) tool("Later ›", turn(at + 1));
  }
  item.append(tools);
  return item;
}

function edit(node, item) {
  const field = element("textarea", { value: node.content, rows: Math.min(12, node.content.split("\n").length + 1), ariaLabel: "Edit the message" });
  const done = element("button", { type: "button" }, node.role === "user" ? "Send as another branch" : "Keep as another branch");
  const cancel = element("button", { type: "button", onclick: show }, "Cancel");
  done.onclick = () => {
    const branch = add(current, node.parent, node.role, field.value);
    save();
    if (node.role === "user") reply(branch);
    else show();
  };
  item.replaceChildren(field, element("p", { className: "tools" }, done, cancel));
  field.focus();
}

function show() {
  $("messages").replaceChildren(...path(current).map(shownMessage));
  $("system").value = current.system;
  $("behind").textContent = current.state ? `Questions about: ${current.state.name}, of which ${current.state.tokens} tokens are kept` : "";
  const title = (c) => path(c)[0]?.content.slice(0, 60) || "New conversation";
  conversations.sort((a, b) => b.changed - a.changed);
  $("list").replaceChildren(...conversations.map((c) => {
    const button = element("button", { type: "button", onclick: () => choose(c) }, title(c));
    button.setAttribute("aria-current", String(c === current));
    return element("li", {}, button);
  }));
}

// A piece came: only the answer is drawn again, at most once a frame.
let waiting = false;
function refresh(node) {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    const item = $(node.id);
    if (!item) return;
    const atEnd = innerHeight + scrollY >= document.body.scrollHeight - 80;
    item.replaceWith(shownMessage(node));
    if (atEnd) scrollTo(0, document.body.scrollHeight);
  });
}

function choose(conversation) {
  answering?.abort();
  current = conversation;
  show();
  say("");
}

function begin() {
  const empty = conversations.find((c) => !c.roots.length);
  const conversation = empty ?? fresh();
  if (!empty) conversations.push(conversation);
  choose(conversation);
  $("message").focus();
}

// Documents: texts whose states the server keeps

const nameOf = (state) => state.name || state.id;

async function listStates() {
  const response = await ask(`${address()}/v1/states`);
  if (!response.ok) throw new Error(await failure(response));
  const { data } = await response.json();
  $("states").replaceChildren(...data.map((state) => {
    const item = element("li", {}, element("div", {}, nameOf(state)),
      element("p", { className: "numbers" }, `${state.tokens} tokens, ${(state.bytes / 1e6).toFixed(1)} MB, ${state.model}`));
    const tools = element("p", { className: "tools" });
    const tool = (name, action) => {
      const button = element("button", { type: "button", onclick: () => action().catch((error) => say(String(error.message ?? error), true)) }, name);
      button.setAttribute("aria-label", `${name}: ${nameOf(state)}`);
      tools.append(button);
    };
    tool("Ask", async () => askAbout(state));
    tool("Download", () => download(state));
    tool("Delete", async () => {
      const gone = await ask(`${address()}/v1/states/${state.id}`, { method: "DELETE" });
      if (!gone.ok) throw new Error(await failure(gone));
      await listStates();
    });
    item.append(tools);
    return item;
  }));
}

// A conversation of its own, whose questions go on behind the state.
function askAbout(state) {
  const conversation = { ...fresh(), state: { id: state.id, name: nameOf(state), tokens: state.tokens, model: state.model } };
  conversations.push(conversation);
  choose(conversation);
  $("message").focus();
}

async function download(state) {
  const response = await ask(`${address()}/v1/states/${state.id}/content`);
  if (!response.ok) throw new Error(await failure(response));
  const link = element("a", { href: URL.createObjectURL(await response.blob()), download: `${nameOf(state)}.state` });
  link.click();
  URL.revokeObjectURL(link.href);
}

let reading = null; // the AbortController of the text that is being read

async function readText() {
  const text = $("text").value;
  if (!text.trim() || reading) return;
  const model = models.find((one) => one.id === $("model").value);
  const request = { model: model?.id, name: $("title").value || text.trim().slice(0, 60), stream: true };
  // Models for conversations get the text as a message.
  if (model?.longreach.chat_template === "plain") request.prompt = text;
  else request.messages = [{ role: "user", content: text }, { role: "assistant", content: "I have read it." }];
  reading = new AbortController();
  readingBusy(true);
  const start = performance.now();
  let before = null; // what a kept state had read
  try {
    const response = await ask(`${address()}/v1/states`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(request),
      signal: reading.signal,
    });
    if (!response.ok) throw new Error(await failure(response));
    let state = null;
    await events(response, (data) => {
      if (data.object === "state") {
        state = data;
        return;
      }
      before ??= data.read;
      $("progress").value = data.read / Math.max(1, data.of);
      const speed = (data.read - before) / ((performance.now() - start) / 1000);
      const left = speed > 0 ? `, ${speed.toFixed(0)} a second, ${Math.ceil((data.of - data.read) / speed)} s left` : "";
      $("reading").textContent = `read ${data.read} of ${data.of} tokens${left}`;
    });
    $("reading").textContent = `${nameOf(state)}: read.`;
    $("text").value = $("title").value = "";
    askAbout(state);
  } catch (error) {
    $("reading").textContent = error.name === "AbortError" ? "Stopped." : String(error.message ?? error);
  } finally {
    reading = null;
    readingBusy(false);
    await listStates().catch(() => {});
  }
}

function readingBusy(yes) {
  $("read").disabled = yes;
  $("halt").disabled = !yes;
  $("progress").hidden = !yes;
  $("progress").value = 0;
}

// The file of a state is uploaded, any other is taken as a text.
async function takeFile(file) {
  if (!file) return;
  try {
    if (!file.name.endsWith(".state")) {
      $("text").value = await file.text();
      $("title").value = file.name;
      return;
    }
    const name = encodeURIComponent(file.name.replace(/\.state$/, ""));
    const options = { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file };
    const response = await ask(`${address()}/v1/states?name=${name}`, options);
    if (!response.ok) throw new Error(await failure(response));
    await listStates();
  } catch (error) {
    $("reading").textContent = String(error.message ?? error);
  }
}

// Search: texts ranked for a query by a reranker, or else by the vectors of an encoder

let ranker = null;

async function posted(where, request) {
  const response = await ask(`${address()}${where}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: ranker.id, ...request }),
  });
  if (!response.ok) throw new Error(await failure(response));
  return response.json();
}

async function vectors(input, kind) {
  const all = [];
  for (let at = 0; at < input.length; at += 64) {
    const request = { input: input.slice(at, at + 64), input_type: kind, long: "mean" };
    all.push(...(await posted("/v1/embeddings", request)).data.map((one) => one.embedding));
    $("ranking").textContent = `${Math.min(at + 64, input.length)} of ${input.length} embedded`;
  }
  return all;
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b) || 1);
}

async function rank() {
  const texts = $("texts").value.split(/\n\s*\n/).map((text) => text.trim()).filter(Boolean);
  const query = $("query").value.trim();
  if (!texts.length || !query || !ranker) return;
  $("rank").disabled = true;
  try {
    let scores = [];
    if (ranker.longreach.task === "rank") {
      for (const { index, relevance_score: score } of (await posted("/v1/rerank", { query, documents: texts })).results) scores[index] = score;
    } else {
      const [asked] = await vectors([query], "query");
      scores = (await vectors(texts, "document")).map((vector) => cosine(asked, vector));
    }
    const order = texts.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
    $("results").replaceChildren(...order.slice(0, 20).map((i) => element("li", {},
      element("p", { className: "numbers" }, scores[i].toFixed(3)), element("div", { className: "text" }, texts[i].slice(0, 500)))));
    $("ranking").textContent = `${texts.length} texts ranked by ${ranker.id}`;
  } catch (error) {
    $("ranking").textContent = String(error.message ?? error);
  } finally {
    $("rank").disabled = false;
  }
}

// Status

async function loadModels() {
  try {
    const response = await ask(`${address()}/v1/models`);
    if (!response.ok) throw new Error(await failure(response));
    const all = (await response.json()).data;
    models = all.filter((model) => model.longreach.task === "write");
    ranker = all.find((model) => model.longreach.task === "rank") ?? all.find((model) => model.longreach.task === "embed");
    $("search").hidden = !ranker;
    $("documents").hidden = !models.length;
    const chosen = $("model").value;
    $("model").replaceChildren(...models.map((model) => element("option", { value: model.id }, model.id)));
    if (models.some((model) => model.id === chosen)) $("model").value = chosen;
    aboutModel();
  } catch (error) {
    say(`The server does not answer: ${error.message}. Conversations can be read meanwhile.`, true);
    setTimeout(loadModels, 3000);
  }
}

function aboutModel() {
  const model = models.find((one) => one.id === $("model").value);
  if (!model) return;
  const { parameters, dtype, max_input: most, chat_template: template, state_bytes: bytes } = model.longreach;
  const size = parameters >= 1e9 ? `${(parameters / 1e9).toFixed(1)} B` : `${(parameters / 1e6).toFixed(0)} M`;
  $("about").textContent = `${size} parameters, ${dtype}, ${most ? `texts of up to ${most} tokens` : "texts of any length"}, a state of ${(bytes / 1e6).toFixed(1)} MB`
    + (template === "plain" ? ". It was not trained for conversations: it continues the text of the messages" : "");
}

async function status() {
  if (document.hidden) return;
  try {
    const response = await fetch(`${address()}/metrics`, { headers: headers() });
    if (!response.ok) return;
    const numbers = {};
    for (const line of (await response.text()).split("\n")) {
      const [, name, value] = line.match(/^([a-z_]+(?:\{tier="[a-z]+"\})?) ([0-9.e+-]+)$/) ?? [];
      if (name) numbers[name] = Number(value);
    }
    const mega = (bytes) => `${((bytes ?? 0) / 1e6).toFixed(1)} MB`;
    const rows = [
      ["Running", numbers.longreach_requests_running],
      ["Waiting", numbers.longreach_requests_waiting],
      ["States in memory", `${numbers['longreach_cache_states{tier="ram"}'] ?? 0}, ${mega(numbers['longreach_cache_bytes{tier="ram"}'])}`],
      ["States on disk", `${numbers['longreach_cache_states{tier="disk"}'] ?? 0}, ${mega(numbers['longreach_cache_bytes{tier="disk"}'])}`],
      ["Memory", mega(numbers.process_resident_memory_bytes)],
    ];
    $("status").replaceChildren(...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value ?? 0))]));
  } catch {
    $("status").replaceChildren(element("dt", {}, "Server"), element("dd", {}, "does not answer"));
  }
}

// Controls

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value;
  if (!text.trim() || answering) return;
  $("message").value = "";
  send(text);
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
$("stop").onclick = () => answering?.abort();
$("again").onclick = regenerate;
$("more").onclick = goOn;
$("new").onclick = begin;
$("keys").onclick = () => $("keys-dialog").showModal();
$("model").onchange = aboutModel;
$("system").onchange = () => {
  current.system = $("system").value;
  save();
};
$("curl").onclick = () => {
  const text = $("message").value || "Hello";
  const request = body([...path(current).map(asMessage), { role: "user", content: text }]);
  const quoted = JSON.stringify(request).replaceAll("'", "'\\''");
  const line = `curl ${address()}/v1/chat/completions -H 'content-type: application/json' -d '${quoted}'`;
  copy(line);
};
$("delete").onclick = async () => {
  if (!confirm("Delete this conversation?")) return;
  const gone = current;
  conversations = conversations.filter((c) => c !== gone);
  begin();
  await store.remove(gone.id);
};
$("export").onclick = () => {
  const file = new Blob([JSON.stringify(conversations)], { type: "application/json" });
  const link = element("a", { href: URL.createObjectURL(file), download: "longreach-conversations.json" });
  link.click();
  URL.revokeObjectURL(link.href);
};
$("import").onclick = () => $("file").click();
$("file").onchange = async () => {
  try {
    for (const one of JSON.parse(await $("file").files[0].text())) {
      if (typeof one.id !== "string" || !one.nodes || !Array.isArray(one.roots)) throw new Error("it is no list of conversations");
      conversations = [...conversations.filter((c) => c.id !== one.id), one];
      await store.put(one);
    }
    show();
    say("Imported.");
  } catch (error) {
    say(`The file cannot be imported: ${error.message}`, true);
  }
};
$("choose").onclick = () => $("document").click();
$("document").onchange = () => takeFile($("document").files[0]);
$("read").onclick = readText;
$("halt").onclick = () => reading?.abort();
$("rank").onclick = rank;
$("text").addEventListener("dragover", (event) => event.preventDefault());
$("text").addEventListener("drop", (event) => {
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  takeFile(event.dataTransfer.files[0]);
});
$("documents").addEventListener("toggle", () => {
  if ($("documents").open) listStates().catch((error) => say(String(error.message ?? error), true));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && answering) answering.abort();
  if (event.altKey && event.key === "n") begin();
  if (event.altKey && event.key === "r") regenerate();
  const typing = /^(?:INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "?" && !typing) $("keys-dialog").showModal();
});

try {
  conversations = await store.all();
} catch {
  say("This browser keeps no conversations: they are gone when the page is closed.", true);
}
begin();
await loadModels();
status();
setInterval(status, 5000);
