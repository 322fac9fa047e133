// The page of the server as people use it, in a real Chromium.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { models, serve } from "../served.js";
import { launch, say, texts, visit } from "./harness.js";

let browser;
let server;

before(async () => {
  [browser, server] = await Promise.all([launch(), serve(...models)]);
});
after(async () => {
  await browser?.close();
  await server?.end();
});

const button = (page, name) => page.getByRole("button", { name, exact: true });

test("a first message is answered, and is there after the page is loaded again", async () => {
  const { page, close } = await visit(browser, server);
  await page.getByText("a state of 1.0 MB").waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "message");
  await say(page, "A trait is");
  const [question, answer] = await texts(page);
  assert.equal(question, "A trait is");
  assert.ok(answer.length > 5, answer);
  const numbers = await page.locator("#messages .numbers").innerText();
  assert.match(numbers, /^read \d+ of \d+ tokens; \d+ were kept · wrote 12( at [\d.]+ a second)? · seed \d+$/);
  // What a screen reader says is the whole answer, once.
  assert.ok((await page.locator("#spoken").textContent()).startsWith("The answer: "));
  await page.reload();
  await page.locator("#list button", { hasText: "A trait is" }).click();
  assert.deepEqual(await texts(page), [question, answer]);
  await close();
});

test("the second turn does not read the first one again, and the seed repeats an answer", async () => {
  const { page, close } = await visit(browser, server, { tokens: 16 });
  const long = "A lifetime is the time for which a reference is valid. ".repeat(20);
  await say(page, long);
  await page.fill("#message", "And an owner is");
  await page.press("#message", "Enter");
  await page.locator("#messages > li").nth(3).locator(".numbers").waitFor();
  const numbers = await page.locator("#messages > li").nth(3).locator(".numbers").innerText();
  const [, read, of] = numbers.match(/^read (\d+) of (\d+) tokens/).map(Number);
  assert.ok(read < of / 2, numbers);
  const seed = numbers.match(/seed (\d+)/)[1];
  const before = (await texts(page))[3];
  await button(page, "Options").click();
  await page.fill("#seed", seed);
  await button(page, "Regenerate").click();
  await page.locator("#messages > li").nth(3).getByText("2 of 2").waitFor();
  await page.locator("#messages > li").nth(3).locator(".numbers", { hasText: `seed ${seed}` }).waitFor();
  assert.equal((await texts(page))[3], before);
  await close();
});

test("Escape stops an answer, which keeps what it has and can be continued", async () => {
  const { page, close } = await visit(browser, server, { tokens: 4000 });
  await page.fill("#message", "In this chapter, we");
  await page.press("#message", "Enter");
  await page.waitForFunction(() => (document.querySelectorAll("#messages > li > .text")[1]?.textContent.length ?? 0) > 80);
  assert.ok(await button(page, "Stop").isVisible());
  await page.keyboard.press("Escape");
  await page.getByText("Stopped.").waitFor();
  const written = () => page.evaluate(() => document.querySelectorAll("#messages > li > .text")[1].textContent);
  const stopped = await written();
  await page.waitForTimeout(300);
  assert.equal(await written(), stopped);
  assert.ok(stopped.length > 40);
  await page.evaluate(() => { document.getElementById("max_tokens").value = 5; });
  const requested = page.waitForRequest("**/v1/chat/completions");
  await button(page, "Continue").click();
  assert.equal((await requested).postDataJSON().continue_final_message, true);
  await page.locator("#messages .numbers", { hasText: "wrote 5" }).waitFor();
  assert.ok((await written()).startsWith(stopped.slice(0, 40)) && (await written()).length >= stopped.length);
  await close();
});

test("an edited message is a branch, and the first one is not lost", async () => {
  const { page, close } = await visit(browser, server);
  await say(page, "The first question");
  const first = await texts(page);
  const mine = page.locator("#messages > li").first();
  await mine.getByRole("button", { name: "Edit" }).click();
  await page.getByLabel("Edit the message").fill("Another question");
  await button(page, "Send as another version").click();
  await mine.getByText("2 of 2").waitFor();
  await page.locator("#messages > li").nth(1).locator(".numbers", { hasText: "seed" }).waitFor();
  assert.equal((await texts(page))[0], "Another question");
  await mine.getByRole("button", { name: "Earlier version" }).click();
  assert.deepEqual(await texts(page), first);
  // The focus is in the message that is shown now.
  assert.ok(await page.evaluate(() => document.activeElement.closest("li") === document.querySelector("#messages > li")));
  await page.reload();
  await page.locator("#list button", { hasText: "The first question" }).click();
  assert.deepEqual(await texts(page), first);
  await close();
});

test("a document that is dropped is read once, asked about, saved, taken back and deleted", async () => {
  const { page, close } = await visit(browser, server);
  await page.getByRole("link", { name: "Documents" }).click();
  const text = "Every value has one owner, and is dropped when its owner goes out of scope. ".repeat(60);
  await page.evaluate((content) => {
    const data = new DataTransfer();
    data.items.add(new File([content], "owners.txt", { type: "text/plain" }));
    document.getElementById("text").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  }, text);
  await page.getByText("owners.txt was read.").waitFor();
  const row = page.locator("#states li");
  const tokens = Number((await row.locator(".numbers").innerText()).match(/^([\d,]+) tokens/)[1].replace(",", ""));
  assert.ok(tokens > 500, tokens);
  const saved = page.waitForEvent("download");
  await row.getByRole("button", { name: "Download" }).click();
  const file = await readFile(await (await saved).path());
  await row.getByRole("button", { name: "Ask" }).click();
  await page.getByText("Questions about “owners.txt”").waitFor();
  await say(page, "An owner is");
  const numbers = await page.locator("#messages .numbers").innerText();
  const [, read, of] = numbers.replaceAll(",", "").match(/^read (\d+) of (\d+) tokens/).map(Number);
  assert.ok(read < 100 && of > tokens, numbers);
  await page.getByRole("link", { name: "Documents" }).click();
  await row.getByRole("button", { name: "Delete" }).click();
  await page.getByText("Nothing yet.").waitFor();
  await page.setInputFiles("#document", { name: "back.state", mimeType: "application/octet-stream", buffer: file });
  await page.locator("#states", { hasText: "back" }).waitFor();
  await page.setInputFiles("#document", { name: "picture.png", mimeType: "image/png", buffer: Buffer.from([0x89, 0x50, 0xff, 0]) });
  await page.getByText("picture.png is no text in UTF-8").waitFor();
  await row.getByRole("button", { name: "Delete" }).click();
  await page.getByText("Nothing yet.").waitFor();
  await close();
});

test("texts are ranked", async () => {
  const { page, close } = await visit(browser, server);
  await page.getByRole("link", { name: "Search" }).click();
  await page.fill("#texts", "The river is long.\n\nA bicycle has two wheels.\n\nThe river is long.");
  await page.fill("#query", "The river is long.");
  await page.press("#query", "Enter");
  await page.getByText("3 texts ranked by st-bert-mean").waitFor();
  const results = await page.locator("#results li").allInnerTexts();
  assert.equal(results.length, 3);
  assert.match(results[0], /^\s*0\.\d{3}\s+The river is long\.$/);
  assert.match(results[2], /bicycle/);
  await close();
});

test("a key is asked for, a wrong one is said to be wrong, and it is kept for the tab alone", async () => {
  const locked = await serve("--api-key", "secret");
  const { page, context, close } = await visit(browser, locked);
  await page.getByRole("heading", { name: "The server wants a key" }).waitFor();
  // Without it, nothing is asked again and again.
  await button(page, "Cancel").click();
  await page.getByText("and none was given").waitFor();
  await page.waitForTimeout(2000);
  assert.ok(await page.locator("#key-dialog").isHidden());
  await button(page, "Enter the key").click();
  await page.fill("#key", "guessed");
  await page.press("#key", "Enter");
  await page.getByText("The server does not know the key that was sent.").waitFor();
  await page.fill("#key", "secret");
  await page.press("#key", "Enter");
  await page.getByText("connected").waitFor();
  await say(page, "A trait is");
  assert.ok(!JSON.stringify(await page.evaluate(() => ({ ...localStorage }))).includes("secret"));
  assert.ok(!(await page.evaluate(() => document.documentElement.outerHTML)).includes("secret"));
  const other = await context.newPage();
  await other.goto(locked.address);
  await other.getByRole("heading", { name: "The server wants a key" }).waitFor();
  await close();
  await locked.end();
});

test("while the server is gone conversations are read, and what was sent is tried again when it is back", async () => {
  let mine = await serve();
  const { page, close } = await visit(browser, mine);
  await say(page, "A trait is");
  const before = await texts(page);
  await page.evaluate(() => navigator.serviceWorker.ready);
  await mine.end();
  await page.fill("#message", "And a lifetime is");
  await page.press("#message", "Enter");
  await button(page, "Try again").waitFor();
  await page.getByText("no answer").waitFor();
  // Also from the beginning.
  await page.reload();
  await page.locator("#list button", { hasText: "A trait is" }).click();
  assert.deepEqual((await texts(page)).slice(0, 2), before);
  mine = await serve("--port", mine.port);
  await page.getByText("connected").waitFor();
  await page.evaluate(() => { document.getElementById("max_tokens").value = 5; });
  await button(page, "Try again").click();
  await page.locator("#messages .numbers", { hasText: "wrote 5" }).waitFor();
  await close();
  await mine.end();
});

test("an answer that breaks off keeps what was written and can be continued", async () => {
  let mine = await serve();
  const { page, close } = await visit(browser, mine, { tokens: 4000 });
  await page.fill("#message", "In this chapter, we");
  await page.press("#message", "Enter");
  await page.waitForFunction(() => (document.querySelectorAll("#messages > li > .text")[1]?.textContent.length ?? 0) > 40);
  mine.kill();
  await page.locator(".failed").waitFor();
  assert.ok((await texts(page))[1].length > 40);
  mine = await serve("--port", mine.port);
  await page.getByText("connected").waitFor();
  await page.evaluate(() => { document.getElementById("max_tokens").value = 5; });
  await page.locator(".failed").getByRole("button", { name: "Continue" }).click();
  await page.locator("#messages .numbers", { hasText: "wrote 5" }).waitFor();
  assert.equal(await page.locator(".failed").count(), 0);
  await close();
  await mine.end();
});

test("conversations are exported, deleted, taken back and imported", async () => {
  const { page, close } = await visit(browser, server);
  await say(page, "A trait is");
  const before = await texts(page);
  const saved = page.waitForEvent("download");
  await button(page, "Export").click();
  const file = await readFile(await (await saved).path());
  await button(page, "Delete").click();
  assert.equal(await page.locator("#messages > li").count(), 0);
  await button(page, "Undo").click();
  assert.deepEqual(await texts(page), before);
  await button(page, "Delete").click();
  await page.setInputFiles("#file", { name: "all.json", mimeType: "application/json", buffer: file });
  await page.getByText("Imported: 1 conversation.").waitFor();
  assert.deepEqual(await texts(page), before);
  for (const bad of ["no JSON", "[{}]", '[{"id": "x", "nodes": {"a": {"content": "", "children": ["a"]}}, "roots": ["a"]}]']) {
    await page.setInputFiles("#file", { name: "bad.json", mimeType: "application/json", buffer: Buffer.from(bad) });
    await page.getByText("The file cannot be imported").waitFor();
    await page.evaluate(() => document.getElementById("notice").replaceChildren());
  }
  await close();
});

test("Markdown is shown, and HTML within it is text", async () => {
  const { page, close } = await visit(browser, server);
  const content = [
    "# A title", "Some **bold**, *slanted* and `code <b>`, <img src=x onerror=alert(1)>.", "", "- one", "- two", "  1. deeper", "", "> quoted", "",
    "| a | b |", "| - | - |", "| 1 | 2 |", "", "```rust", "fn main() {}", "```", "[here](https://example.org/a) [not](javascript:alert(1))", "",
    "> ".repeat(3000) + "deep", "", "*".repeat(5000), "", "[".repeat(3000), "", "- ".repeat(3000) + "x", "", "a_b".repeat(3000), "", `x ${"`".repeat(3001)}`, "`".repeat(3001),
  ].join("\n");
  const node = (id, parent, role, children) => ({ id, parent, role, content, thinking: content, children });
  const one = { id: "markdown", changed: 1, system: "", roots: ["q"], chosen: {}, nodes: { q: node("q", null, "user", ["a"]), a: node("a", "q", "assistant", []) } };
  const start = Date.now();
  await page.setInputFiles("#file", { name: "all.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify([one])) });
  await page.getByText("Imported: 1 conversation.").waitFor();
  const answer = page.locator("#messages > li").nth(1).locator(".text");
  assert.equal(await answer.locator("h4").innerText(), "A title");
  assert.equal(await answer.locator("strong").first().innerText(), "bold");
  assert.equal(await answer.locator("code").first().innerText(), "code <b>");
  assert.equal(await answer.locator("ul > li").nth(1).locator("ol > li").innerText(), "deeper");
  assert.equal(await answer.locator("blockquote").first().innerText(), "quoted");
  assert.equal(await answer.locator("td").nth(1).innerText(), "2");
  assert.equal(await answer.locator("pre").first().innerText(), "fn main() {}");
  assert.deepEqual(await answer.locator("a").evaluateAll((all) => all.map((link) => link.getAttribute("href"))), ["https://example.org/a"]);
  assert.equal(await page.locator("#messages img, #messages script, #messages b").count(), 0);
  assert.ok(Date.now() - start < 5000, "hostile text takes too long");
  await button(page, "Options").click();
  await page.getByLabel("Show Markdown as plain text").check();
  assert.equal(await answer.evaluate((box) => box.textContent), content);
  await close();
});
