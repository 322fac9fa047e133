// OpenAI's own client for Node against the server.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { models, serve } from "../served.js";

const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: "Hello" }];
let server;
let client;

before(async () => {
  server = await serve("--api-key", "secret", ...models);
  client = new OpenAI({ baseURL: `${server.address}/v1`, apiKey: "secret", maxRetries: 0 });
});
after(() => server?.end());

const failsWith = (kind, code, param = null) => (error) => {
  assert.ok(error instanceof kind, String(error));
  assert.deepEqual([error.code, error.param], [code, param]);
  assert.ok(error.requestID);
  return true;
};

test("models are listed", async () => {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.deepEqual(ids, ["default", "st-bert-mean"]);
  assert.equal((await client.models.retrieve("default")).owned_by, "longreach");
});

test("the pieces of a stream are the whole answer", async () => {
  const settings = { model: "default", messages, max_completion_tokens: 20, seed: 7, n: 2, logprobs: true, top_logprobs: 2 };
  const whole = await client.chat.completions.create(settings);
  assert.equal(whole.choices[0].logprobs.content[0].top_logprobs.length, 2);
  const pieces = ["", ""];
  let usage;
  for await (const chunk of await client.chat.completions.create({ ...settings, stream: true, stream_options: { include_usage: true } })) {
    usage = chunk.usage ?? usage;
    for (const choice of chunk.choices) pieces[choice.index] += choice.delta.content ?? "";
  }
  assert.deepEqual(pieces, whole.choices.map((choice) => choice.message.content));
  assert.equal(usage.total_tokens, whole.usage.total_tokens);
  const helped = client.chat.completions.stream({ model: "default", messages, max_completion_tokens: 8, seed: 7 });
  assert.equal((await helped.finalChatCompletion()).choices[0].finish_reason, "length");
});

test("texts are continued and scored", async () => {
  const text = await client.completions.create({ model: "default", prompt: ["A", "B"], max_tokens: 5, logprobs: 1, echo: true });
  assert.equal(text.choices.length, 2);
  assert.ok(text.choices[1].text.startsWith("B"));
});

test("texts are embedded, with numbers and with base64", async () => {
  // The client asks for base64 by itself.
  const coded = await client.embeddings.create({ model: "st-bert-mean", input: ["A text.", "Another."] });
  const floats = await client.embeddings.create({ model: "st-bert-mean", input: ["A text."], encoding_format: "float" });
  const [a, b] = [coded.data[0].embedding, floats.data[0].embedding];
  assert.equal(a.length, b.length);
  assert.ok(a.every((value, i) => Math.abs(value - b[i]) < 1e-6));
});

test("errors are the exceptions of the client", async () => {
  await assert.rejects(client.chat.completions.create({ model: "default", messages, temperature: 9 }),
    failsWith(OpenAI.BadRequestError, "invalid_value", "temperature"));
  await assert.rejects(client.chat.completions.create({ model: "nobody", messages }), failsWith(OpenAI.NotFoundError, "model_not_found", "model"));
  const stranger = new OpenAI({ baseURL: `${server.address}/v1`, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(async () => stranger.models.list(), failsWith(OpenAI.AuthenticationError, "invalid_api_key"));
});

test("a stream that is left ends on the server", async () => {
  const stream = await client.completions.create({ model: "default", prompt: "x", max_tokens: 4000, stream: true, ignore_eos: true });
  for await (const _ of stream) break;
  const deadline = Date.now() + 10000;
  for (;;) {
    const metrics = await (await fetch(`${server.address}/metrics`, { headers: { authorization: "Bearer secret" } })).text();
    if (/reason="cancelled"\} 1/.test(metrics)) break;
    assert.ok(Date.now() < deadline, `it goes on: ${metrics.match(/longreach_requests_finished.*/g)}`);
  }
});
