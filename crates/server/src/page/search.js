// Search: texts ranked for a query by a reranker, or else by the vectors of an encoder.

import { $, count, element, message, onDrop, textOf } from "./dom.js";
import { page } from "./conversations.js";
import { posted } from "./requests.js";

const asked = async (where, request) => (await posted(where, { model: page.ranker.id, ...request })).json();

async function vectors(input, kind) {
  const all = [];
  for (let at = 0; at < input.length; at += 64) {
    const request = { input: input.slice(at, at + 64), input_type: kind, long: "mean" };
    all.push(...(await asked("/v1/embeddings", request)).data.map((one) => one.embedding));
    if (kind === "document") $("ranking").textContent = `${count(all.length)} of ${count(input.length)} texts embedded`;
  }
  return all;
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b) || 1);
}

async function scored(query, texts) {
  if (page.ranker.longreach.task === "rank") {
    const scores = [];
    for (const { index, relevance_score: score } of (await asked("/v1/rerank", { query, documents: texts })).results) scores[index] = score;
    return scores;
  }
  const [vector] = await vectors([query], "query");
  return (await vectors(texts, "document")).map((other) => cosine(vector, other));
}

function result(text, score, least, most) {
  const share = element("meter", { min: 0, max: 1, value: most > least ? (score - least) / (most - least) : 1, ariaLabel: "Score among the results" });
  return element("li", {}, element("p", { className: "numbers" }, share, ` ${score.toFixed(3)}`), element("div", { className: "text plain" }, text.slice(0, 500)));
}

async function rank() {
  const texts = $("texts").value.split(/\n\s*\n/).map((text) => text.trim()).filter(Boolean);
  const query = $("query").value.trim();
  if (!page.ranker) return;
  if (!texts.length || !query) {
    $("ranking").textContent = texts.length ? "There is no query yet." : "There are no texts yet.";
    return;
  }
  $("rank").disabled = true;
  try {
    const scores = await scored(query, texts);
    const order = texts.map((_, i) => i).sort((a, b) => scores[b] - scores[a]);
    const [most, least] = [scores[order[0]], scores[order.at(-1)]];
    $("results").replaceChildren(...order.slice(0, 20).map((i) => result(texts[i], scores[i], least, most)));
    $("ranking").textContent = `${count(texts.length)} texts ranked by ${page.ranker.id}`;
  } catch (error) {
    $("ranking").textContent = message(error);
  } finally {
    $("rank").disabled = false;
  }
}

async function takeFiles(files) {
  try {
    const texts = await Promise.all(files.map(textOf));
    $("texts").value = [$("texts").value, ...texts].filter((text) => text.trim()).join("\n\n");
  } catch (error) {
    $("ranking").textContent = message(error);
  }
}

export function prepareSearch() {
  $("rank").onclick = rank;
  $("query").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.isComposing) rank();
  });
  onDrop($("search"), takeFiles);
}
