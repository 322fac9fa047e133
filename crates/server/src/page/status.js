// What the server is and does: its models, its numbers, and whether it answers.

import { $, button, count, element, megabytes, message, say } from "./dom.js";
import { page } from "./conversations.js";
import { NoKey, fetched, headers, address } from "./requests.js";

let there = null; // whether the server answered the last time

// To call when models have come or another one is chosen.
let changed = () => {};

export async function loadModels() {
  try {
    const all = (await (await fetched("/v1/models")).json()).data;
    page.models = all.filter((model) => model.longreach.task === "write");
    page.ranker = all.find((model) => model.longreach.task === "rank") ?? all.find((model) => model.longreach.task === "embed");
    const chosen = $("model").value || localStorage.getItem("model");
    $("model").replaceChildren(...page.models.map((model) => element("option", { value: model.id }, model.id)));
    if (page.models.some((model) => model.id === chosen)) $("model").value = chosen;
    show(true);
    changed();
    return true;
  } catch (error) {
    if (error instanceof NoKey) {
      say(error.message, { bad: true, tools: [button("Enter the key", loadModels, { kind: "" })] });
    } else {
      show(false, message(error));
    }
    return false;
  }
}

// Says whether the server answers.
function show(answers, why = "") {
  if (there === false && answers) say("The server is back.");
  if (there !== false && !answers) say(`The server does not answer. Conversations can be read meanwhile. ${why}`, { bad: true });
  if (there !== answers) $("state").textContent = answers ? "connected" : "no answer";
  $("state").classList.toggle("bad", !answers);
  there = answers;
}

export function aboutModel() {
  const model = page.models.find((one) => one.id === $("model").value);
  $("about").textContent = "";
  if (!model) return null;
  const { parameters, dtype, max_input: most, chat_template: template, state_bytes: bytes } = model.longreach;
  const size = parameters >= 1e9 ? `${(parameters / 1e9).toFixed(1)} billion` : `${count(parameters / 1e6)} million`;
  const length = most ? `texts of up to ${count(most)} tokens` : "texts of any length";
  $("about").textContent = `${model.id}: ${size} parameters in ${dtype}, ${length}, ${bytes ? `a state of ${megabytes(bytes)}` : "keys and values that grow with the text"}.`
    + (template === "plain" ? " It was not trained for conversations: it continues the text of the messages." : "");
  return model;
}

const NUMBER = /^([a-z_]+)(?:\{([^}]*)\})? ([0-9.e+-]+)$/;

// Metrics by name, those of all models together; tiers apart.
function parsed(text) {
  const numbers = {};
  for (const line of text.split("\n")) {
    const [, name, labels, value] = line.match(NUMBER) ?? [];
    if (!name) continue;
    const tier = labels?.match(/tier="([a-z]+)"/)?.[1];
    const key = tier ? `${name} ${tier}` : name;
    numbers[key] = (numbers[key] ?? 0) + Number(value);
  }
  return numbers;
}

async function status() {
  // The key is asked for elsewhere; without it there are no numbers.
  const response = await fetch(`${address()}/metrics`, { headers: headers() });
  if (response.status === 503) throw new Error("It loads its models, or it ends.");
  if (!response.ok) return;
  const n = parsed(await response.text());
  const kept = (tier) => `${count(n[`longreach_cache_states ${tier}`] ?? 0)} · ${megabytes(n[`longreach_cache_bytes ${tier}`])}`;
  const prompt = n.longreach_prompt_tokens_total ?? 0;
  const share = prompt ? `${count((100 * (n.longreach_cached_prompt_tokens_total ?? 0)) / prompt)} %` : "–";
  const rows = [
    ["Running", count(n.longreach_requests_running ?? 0)],
    ["Waiting", count(n.longreach_requests_waiting ?? 0)],
    ["Written", `${count(n.longreach_generation_tokens_total ?? 0)} tokens`],
    ["Kept in memory", kept("ram")],
    ["Kept on disk", kept("disk")],
    ["Found kept", `${share} of prompts`],
    ["Memory", megabytes(n.process_resident_memory_bytes)],
  ];
  $("status").replaceChildren(...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

// Asks again for as long as the page is open: more often while nobody answers.
async function watch() {
  if (!document.hidden) {
    try {
      await status();
      if (there === false) await loadModels();
    } catch (error) {
      show(false, error instanceof TypeError ? "" : message(error));
    }
  }
  setTimeout(watch, there === false ? 1500 : 5000);
}

export function startStatus(onChange) {
  changed = onChange;
  $("model").onchange = () => {
    localStorage.setItem("model", $("model").value);
    changed();
  };
  $("openapi").onclick = async (event) => {
    // A link sends no key.
    if (!sessionStorage.getItem("key")) return;
    event.preventDefault();
    const blob = await (await fetched("/openapi.json")).blob();
    open(URL.createObjectURL(blob), "_blank", "noopener");
  };
  loadModels().then(watch);
}
