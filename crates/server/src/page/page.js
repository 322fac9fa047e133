// The page of `longreach serve`: its controls. Nothing is loaded from elsewhere, and conversations stay in this browser.

import { $, button, copy, download, message, say } from "./dom.js";
import { forget, imported, keep, page, path, save, stored } from "./conversations.js";
import { address } from "./requests.js";
import { asMessage, begin, body, choose, edit, goOn, isAnswering, regenerate, send, show, stop } from "./chat.js";
import { listStates, prepareDocuments } from "./documents.js";
import { prepareSearch } from "./search.js";
import { aboutModel, startStatus } from "./status.js";
import { goTo, showView } from "./views.js";

const EXAMPLES = {
  plain: ["In this chapter, we", "A trait is", "To read a file line by line,"],
  chat: ["Explain recursion with an example.", "Write a haiku about a long river.", "What should I ask before I buy a used bicycle?"],
};

// Panels and models

function panel(name) {
  const opener = $(`${name}-button`);
  opener.onclick = () => {
    const open = $(name).classList.toggle("open");
    opener.setAttribute("aria-expanded", String(open));
    if (name === "options") localStorage.setItem("options", open ? "open" : "");
  };
  if (name === "options" && localStorage.getItem("options") && innerWidth > 960) opener.click();
}

function modelsChanged() {
  const model = aboutModel();
  $("views").querySelector("[href='#search']").hidden = !page.ranker;
  $("views").querySelector("[href='#documents']").hidden = !page.models.length;
  if (!model) return;
  const { defaults, chat_template: template } = model.longreach;
  $("temperature").placeholder = `the model's: ${defaults.temperature}`;
  $("top_p").placeholder = `the model's: ${defaults.top_p}`;
  const examples = EXAMPLES[template === "plain" ? "plain" : "chat"];
  $("examples").replaceChildren(...examples.map((text) => button(text, () => submit(text), { kind: "" })));
}

// The message

function submit(text) {
  if (!text.trim() || isAnswering()) return;
  $("message").value = "";
  send(text);
  $("message").focus();
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  submit($("message").value);
});
$("message").addEventListener("keydown", (event) => {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    submit($("message").value);
  }
  if (event.key === "ArrowUp" && !$("message").value && !isAnswering()) {
    const mine = path(page.current).findLast((node) => node.role === "user");
    if (!mine) return;
    event.preventDefault();
    edit(mine);
  }
});
$("stop").onclick = stop;
$("again").onclick = regenerate;
$("more").onclick = goOn;
$("curl").onclick = () => {
  const text = $("message").value || "Hello";
  const request = body([...path(page.current).map(asMessage), { role: "user", content: text }]);
  const quoted = JSON.stringify(request).replaceAll("'", "'\\''");
  const key = sessionStorage.getItem("key") ? " -H \"authorization: Bearer $KEY\"" : "";
  copy(`curl ${address()}/v1/chat/completions -H 'content-type: application/json'${key} -d '${quoted}'`);
};

// Conversations

async function deleteCurrent() {
  const gone = page.current;
  page.conversations = page.conversations.filter((c) => c !== gone);
  begin();
  await forget(gone.id).catch(() => {});
  if (!gone.roots.length) return;
  const undo = button("Undo", () => {
    page.conversations.push(gone);
    keep(gone);
    choose(gone);
  }, { kind: "" });
  say("The conversation is deleted.", { tools: [undo] });
}

async function importFile() {
  try {
    const list = JSON.parse(await $("file").files[0].text());
    const all = (Array.isArray(list) ? list : [list]).map(imported);
    for (const one of all) {
      page.conversations = [...page.conversations.filter((c) => c.id !== one.id), one];
      await keep(one);
    }
    choose(page.conversations.find((c) => c.id === all[0]?.id) ?? page.current);
    say(`Imported: ${all.length} ${all.length === 1 ? "conversation" : "conversations"}.`);
  } catch (error) {
    say(`The file cannot be imported: ${message(error)}`, { bad: true });
  }
  $("file").value = "";
}

$("new").onclick = () => begin();
$("delete").onclick = deleteCurrent;
$("export").onclick = () => {
  const all = page.conversations.filter((c) => c.roots.length);
  download("longreach-conversations.json", new Blob([JSON.stringify(all)], { type: "application/json" }));
};
$("import").onclick = () => $("file").click();
$("file").onchange = importFile;
$("system").onchange = () => {
  page.current.system = $("system").value;
  save();
};
$("plain").onchange = show;

// Keys and dialogs

$("keys").onclick = () => $("keys-dialog").showModal();
$("key-cancel").onclick = () => $("key-dialog").close();
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") stop();
  const typing = /^(?:INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
  if (event.key === "?" && !typing) $("keys-dialog").showModal();
  // By the place of the key: with Alt, some systems give letters other meanings.
  const alone = event.altKey && !event.ctrlKey && !event.metaKey;
  const commands = { KeyN: () => begin(), KeyR: regenerate, Digit1: () => goTo("chat"), Digit2: () => goTo("documents"), Digit3: () => goTo("search") };
  if (alone && Object.hasOwn(commands, event.code)) {
    event.preventDefault();
    commands[event.code]();
  }
});

panel("side");
panel("options");
prepareDocuments();
prepareSearch();
const follow = () => {
  if (showView() === "documents") listStates().catch((error) => { $("reading").textContent = message(error); });
};
addEventListener("hashchange", follow);
try {
  page.conversations = await stored();
} catch {
  say("This browser keeps no conversations: they are gone when the page is closed.", { bad: true });
}
const view = location.hash;
begin();
location.hash = view || "#chat";
follow();
startStatus(modelsChanged);
// The worker keeps the page itself, so that conversations can be read while the server is stopped.
navigator.serviceWorker?.register("/worker.js", { type: "module" }).catch(() => {});
