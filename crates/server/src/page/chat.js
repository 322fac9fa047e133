// Messages and answers.

import { $, button, copy, count, element, message, say } from "./dom.js";
import { add, childrenOf, fresh, page, path, save, titleOf } from "./conversations.js";
import { events, posted } from "./requests.js";
import { markdown } from "./markdown.js";
import { goTo } from "./views.js";

let answering = null; // the AbortController of the answer under way, and its message

export const isAnswering = () => answering !== null;
export const stop = () => answering?.controller.abort();

// Options of sampling; a seed is drawn here, so that the answer can be had again.
export function body(messages, more = {}) {
  const { system, state } = page.current;
  const request = { model: $("model").value || undefined, messages: system ? [{ role: "system", content: system }, ...messages] : messages, ...more };
  if (state) Object.assign(request, { model: state.model, state: state.id });
  const options = { temperature: "temperature", top_p: "top_p", max_tokens: "max_completion_tokens", seed: "seed" };
  for (const [name, field] of Object.entries(options)) {
    if ($(name).value !== "") request[field] = Number($(name).value);
  }
  return request;
}

export const asMessage = (node) => ({ role: node.role, content: node.content, ...(node.thinking ? { reasoning_content: node.thinking } : {}) });

async function answer(node, messages, more = {}) {
  stop();
  const mine = (answering = { controller: new AbortController(), node });
  const conversation = page.current;
  busy(true);
  say("The model is answering.");
  delete node.error;
  const start = performance.now();
  let first = null;
  try {
    const request = { seed: crypto.getRandomValues(new Uint32Array(1))[0], ...body(messages, more) };
    node.seed = request.seed;
    const stream = { stream: true, stream_options: { include_usage: true, progress: true } };
    const response = await posted("/v1/chat/completions", { ...request, ...stream }, mine.controller.signal);
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
    }, (read) => say(`The model has read ${read} tokens of the prompt.`));
    node.numbers = numbers(node, (performance.now() - (first ?? start)) / 1000);
    say(node.finish === "length" ? "The answer was cut at the most tokens: Continue goes on." : "");
    $("spoken").textContent = `The answer: ${node.content}`;
  } catch (error) {
    // What was written so far stays.
    if (error.name === "AbortError") {
      node.numbers = `stopped · seed ${node.seed}`;
      say("Stopped.");
    } else {
      node.error = message(error);
      say("");
    }
  } finally {
    if (answering === mine) {
      answering = null;
      busy(false);
    }
    await save(conversation);
    if (page.current === conversation) show();
  }
}

// `seconds` are those since the first piece.
function numbers({ usage, seed }, seconds) {
  if (!usage) return `seed ${seed}`;
  const { prompt_tokens: of, completion_tokens: written, prompt_tokens_details: details } = usage;
  const kept = details?.cached_tokens ?? 0;
  // Short answers may come in one piece, whose speed is not known.
  const speed = written > 1 && seconds > 0.005 ? ` at ${((written - 1) / seconds).toFixed(1)} a second` : "";
  return `read ${count(of - kept)} of ${count(of)} tokens; ${count(kept)} were kept · wrote ${count(written)}${speed} · seed ${seed}`;
}

function busy(yes) {
  // Whoever has the focus keeps it: the two buttons stand at the same place.
  const focused = document.activeElement === $(yes ? "send" : "stop");
  $("stop").hidden = !yes;
  $("send").hidden = yes;
  if (focused) $(yes ? "stop" : "send").focus();
  $("messages").setAttribute("aria-busy", String(yes));
  controls();
}

function controls() {
  const last = path(page.current).at(-1);
  $("again").disabled = !last || isAnswering();
  $("more").disabled = last?.role !== "assistant" || !last.content || isAnswering();
}

export function send(text) {
  reply(add(page.current, path(page.current).at(-1)?.id ?? null, "user", text));
}

function reply(question) {
  const shown = path(page.current);
  const messages = shown.slice(0, shown.indexOf(question) + 1).map(asMessage);
  const node = add(page.current, question.id, "assistant", "");
  save();
  const done = answer(node, messages);
  show();
  toEnd();
  return done;
}

export function regenerate() {
  const last = path(page.current).at(-1);
  const question = last?.role === "assistant" ? page.current.nodes[last.parent] : last;
  if (question && !isAnswering()) reply(question);
}

export function goOn() {
  const shown = path(page.current);
  const last = shown.at(-1);
  if (last?.role !== "assistant" || !last.content || isAnswering()) return;
  answer(last, shown.map(asMessage), { continue_final_message: true });
  show();
}

// What is shown

function formatted(text) {
  if ($("plain").checked) return element("div", { className: "text plain" }, text);
  return element("div", { className: "text" }, ...markdown(text));
}

function shownMessage(node) {
  const names = { user: "You", assistant: "Model" };
  const item = element("li", { id: `m${node.id}`, className: node.role === "user" ? "user" : "" }, element("h3", {}, names[node.role] ?? node.role));
  const waits = answering?.node === node;
  item.classList.toggle("waiting", waits);
  if (node.thinking) {
    const thoughts = element("details", { open: waits && !node.content }, element("summary", {}, "Thoughts"), element("div", { className: "thought" }, node.thinking));
    item.append(thoughts);
  }
  item.append(formatted(node.content));
  if (node.error) {
    const again = node.content ? button("Continue", goOn, { key: `${node.id} go` }) : button("Try again", regenerate, { key: `${node.id} go` });
    item.append(element("div", { className: "failed bad" }, node.error, ...(path(page.current).at(-1) === node ? [again] : [])));
  }
  if (node.numbers && !waits) item.append(element("p", { className: "numbers" }, node.numbers));
  item.append(tools(node, item, waits));
  return item;
}

function tools(node, item, waits) {
  const list = element("p", { className: "tools" });
  const siblings = childrenOf(page.current, node.parent);
  if (siblings.length > 1) {
    const at = siblings.indexOf(node.id);
    const turn = (to, key) => () => {
      page.current.chosen[node.parent ?? ""] = siblings[to];
      save();
      show();
      // The button of the same name in the message that is shown now, or the other one at the end of the list.
      const buttons = [...document.querySelectorAll(`#m${siblings[to]} button`)];
      (buttons.find((one) => one.textContent === key) ?? buttons[0])?.focus();
    };
    if (at > 0) list.append(button("‹", turn(at - 1, "‹"), { label: "Earlier version" }));
    list.append(element("span", { className: "numbers" }, `${at + 1} of ${siblings.length}`));
    if (at + 1 < siblings.length) list.append(button("›", turn(at + 1, "›"), { label: "Later version" }));
  }
  if (!waits) {
    list.append(button("Copy", () => copy(node.content), { key: `${node.id} copy` }), button("Edit", () => edit(node), { key: `${node.id} edit` }));
  }
  return list;
}

export function edit(node) {
  const item = $(`m${node.id}`);
  const rows = Math.min(12, node.content.split("\n").length + 1);
  const field = element("textarea", { value: node.content, rows, ariaLabel: "Edit the message" });
  const leave = () => {
    show();
    document.querySelector(`[data-key="${node.id} edit"]`)?.focus();
  };
  const done = () => {
    const branch = add(page.current, node.parent, node.role, field.value);
    save();
    if (node.role === "user") reply(branch);
    else show();
    $("message").focus();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      leave();
    }
    if (event.key === "Enter" && event.ctrlKey) done();
  });
  const name = node.role === "user" ? "Send as another version" : "Keep as another version";
  item.replaceChildren(field, element("p", { className: "tools" }, button(name, done, { kind: "strong" }), button("Cancel", leave, { kind: "" })));
  field.focus();
}

export function show() {
  const current = page.current;
  const key = document.activeElement?.dataset?.key;
  const shown = path(current);
  $("messages").replaceChildren(...shown.map(shownMessage));
  $("welcome").hidden = shown.length > 0 || Boolean(current.state);
  if (document.activeElement !== $("system")) $("system").value = current.system;
  $("behind").hidden = !current.state;
  if (current.state) $("behind").textContent = `Questions about “${current.state.name}”, whose ${count(current.state.tokens)} tokens were read and are kept.`;
  showList();
  controls();
  if (key) document.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
}

function showList() {
  page.conversations.sort((a, b) => b.changed - a.changed);
  const listed = page.conversations.filter((c) => c.roots.length || c === page.current);
  $("list").replaceChildren(...listed.map((c) => {
    const one = button(titleOf(c), () => choose(c), { key: `c${c.id}` });
    one.setAttribute("aria-current", String(c === page.current));
    return element("li", {}, one);
  }));
}

export function toEnd() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
  // Where the page scrolls as a whole.
  if (document.documentElement.scrollHeight > innerHeight + 1) $("form").scrollIntoView({ block: "end", behavior: "instant" });
}

// A piece came: only the answer is drawn again, at most once a frame, and less often where drawing it takes long.
let waiting = false;
function refresh(node) {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    const start = performance.now();
    const item = $(`m${node.id}`);
    const scroll = $("scroll");
    const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60 && innerHeight + scrollY >= document.body.scrollHeight - 60;
    if (item && !item.querySelector("textarea")) item.replaceWith(shownMessage(node));
    if (atEnd) toEnd();
    setTimeout(() => { waiting = false; }, 4 * (performance.now() - start));
  });
}

export function choose(conversation) {
  if (page.current !== conversation) stop();
  page.current = conversation;
  show();
  say("");
  goTo("chat");
  toEnd();
}

export function begin(more) {
  // One empty conversation is enough.
  const empty = more ? null : page.conversations.find((c) => !c.roots.length && !c.state);
  const conversation = empty ?? fresh(more);
  if (!empty) page.conversations.push(conversation);
  choose(conversation);
}
