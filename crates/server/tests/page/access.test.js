// The page for everybody: by the keyboard alone, with a screen reader, in the dark, on a small screen.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { models, serve } from "../served.js";
import { findings, launch, say, texts, visit } from "./harness.js";

let browser;
let server;

before(async () => {
  [browser, server] = await Promise.all([launch(), serve(...models)]);
});
after(async () => {
  await browser?.close();
  await server?.end();
});

// What has the focus, by its name; it must be seen.
async function focused(page) {
  const { name, shown } = await page.evaluate(() => {
    const at = document.activeElement;
    const style = getComputedStyle(at.id === "message" ? at.closest(".composer") : at);
    const label = at.getAttribute("aria-label") ?? at.labels?.[0]?.textContent ?? at.textContent;
    return { name: at === document.body ? "" : label.trim(), shown: at === document.body || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2) };
  });
  assert.ok(shown, `the focus on ${name} is not seen`);
  return name;
}

// Presses Tab until something has the focus.
async function tabTo(page, wanted, key = "Tab") {
  const passed = [];
  for (let i = 0; i < 60; i += 1) {
    await page.keyboard.press(key);
    const name = await focused(page);
    if (name === wanted) return;
    passed.push(name);
  }
  assert.fail(`Tab does not come to ${wanted}: ${passed.join(", ")}`);
}

test("everything is done by the keyboard alone", async () => {
  const { page, close } = await visit(browser, server);
  await page.getByText("connected").waitFor();
  await tabTo(page, "Skip to the message", "Shift+Tab");
  await page.keyboard.press("Enter");
  assert.equal(await focused(page), "Message");
  await page.keyboard.type("A trait is");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("what?");
  await page.keyboard.press("Enter");
  await page.locator("#messages .numbers", { hasText: "seed" }).waitFor();
  assert.equal((await texts(page))[0], "A trait is\nwhat?");
  assert.equal(await focused(page), "Message");
  // An alternative by its keys, and back to the first one.
  await page.keyboard.press("Alt+r");
  await page.getByText("2 of 2").waitFor();
  await page.locator("#messages .numbers", { hasText: "wrote" }).waitFor();
  await tabTo(page, "Earlier version", "Shift+Tab");
  await page.keyboard.press("Enter");
  await page.getByText("1 of 2").waitFor();
  assert.equal(await focused(page), "Later version");
  // An edit that is left, and one that is sent.
  await page.focus("#message");
  await page.keyboard.press("ArrowUp");
  assert.equal(await focused(page), "Edit the message");
  await page.keyboard.press("Escape");
  assert.equal(await focused(page), "Edit");
  await page.keyboard.press("Enter");
  await page.keyboard.type(" Say it.");
  await tabTo(page, "Send as another version");
  await page.keyboard.press("Enter");
  await page.locator("#messages .numbers", { hasText: "wrote" }).waitFor();
  assert.match((await texts(page))[0], /Say it\./);
  // The list of keys, and the views.
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press("?");
  assert.ok(await page.locator("#keys-dialog").isVisible());
  await page.keyboard.press("Escape");
  await page.keyboard.press("Alt+2");
  assert.equal(await focused(page), "Text: paste it here, or drop files");
  await page.keyboard.type("A text of some words.");
  await tabTo(page, "Read the text");
  await page.keyboard.press("Enter");
  await page.getByText("Questions about “A text of some words.”").waitFor();
  assert.equal(await focused(page), "Message");
  await page.keyboard.press("Alt+3");
  assert.equal(await focused(page), "Texts, with an empty line between them: paste them here, or drop files");
  await page.keyboard.press("Alt+n");
  assert.equal(await focused(page), "Message");
  await tabTo(page, "Options", "Shift+Tab");
  await page.keyboard.press("Enter");
  await tabTo(page, "System message");
  await page.keyboard.type("Be brief.");
  for (const name of ["Temperature", "Top-p", "Most tokens of an answer", "Seed", "Show Markdown as plain text", "The API, as OpenAPI"]) await tabTo(page, name);
  await close();
});

test("Stop is where Send was, and has the focus that Send had", async () => {
  const { page, close } = await visit(browser, server, { tokens: 4000 });
  await page.fill("#message", "In this chapter, we");
  await tabTo(page, "Send");
  await page.keyboard.press("Enter");
  await page.getByRole("button", { name: "Stop", exact: true }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByText("Stopped.").waitFor();
  await close();
});

for (const colorScheme of ["light", "dark"]) {
  test(`axe finds nothing, in the ${colorScheme}`, async () => {
    const { page, close } = await visit(browser, server, { colorScheme });
    await page.getByText("connected").waitFor();
    assert.deepEqual(await findings(page), [], "empty");
    await say(page, "# Title\n\n- one\n- two\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n```rust\nfn main() {}\n```\n> quoted `code` [link](https://example.org)");
    await page.keyboard.press("Alt+r");
    await page.getByText("2 of 2").waitFor();
    await page.locator("#messages .numbers", { hasText: "wrote" }).waitFor();
    await page.getByRole("button", { name: "Options", exact: true }).click();
    assert.deepEqual(await findings(page), [], "a conversation");
    await page.getByRole("button", { name: "Edit", exact: true }).first().click();
    assert.deepEqual(await findings(page), [], "an edit");
    await page.evaluate(() => document.activeElement.blur());
    await page.keyboard.press("?");
    assert.deepEqual(await findings(page), [], "the list of keys");
    await page.keyboard.press("Escape");
    await page.getByRole("link", { name: "Documents" }).click();
    await page.fill("#text", "Some text.");
    await page.getByRole("button", { name: "Read the text" }).click();
    await page.getByText("Questions about").waitFor();
    assert.deepEqual(await findings(page), [], "a conversation about a document");
    await page.getByRole("link", { name: "Documents" }).click();
    await page.locator("#states li").first().waitFor();
    assert.deepEqual(await findings(page), [], "documents");
    await page.getByRole("link", { name: "Search" }).click();
    await page.fill("#texts", "One text.\n\nAnother text.");
    await page.fill("#query", "one");
    await page.getByRole("button", { name: "Rank" }).click();
    await page.locator("#results li").first().waitFor();
    assert.deepEqual(await findings(page), [], "search");
    await close();
  });
}

test("axe finds nothing where a key is wanted and where the server is gone", async () => {
  const locked = await serve("--api-key", "secret");
  const { page, close } = await visit(browser, locked);
  await page.getByRole("heading", { name: "The server wants a key" }).waitFor();
  await page.fill("#key", "wrong");
  await page.press("#key", "Enter");
  await page.getByText("The server does not know").waitFor();
  assert.deepEqual(await findings(page), [], "a wrong key");
  await page.fill("#key", "secret");
  await page.press("#key", "Enter");
  await page.getByText("connected").waitFor();
  await locked.end();
  await page.fill("#message", "x");
  await page.press("#message", "Enter");
  await page.locator(".failed").waitFor();
  await page.getByText("no answer").waitFor();
  assert.deepEqual(await findings(page), [], "no server");
  await close();
});

// 320 pixels are also what a screen of 1280 pixels has at 400 %.
test("at 320 pixels nothing is cut off, and all can be done", async () => {
  const { page, close } = await visit(browser, server, { viewport: { width: 320, height: 256 } });
  await page.getByText("connected").waitFor();
  const fits = async (where) => {
    const { wide, beyond } = await page.evaluate(() => ({
      wide: document.documentElement.scrollWidth,
      beyond: [...document.querySelectorAll("button, input, textarea, a, p, select")].filter((one) => {
        const box = one.getBoundingClientRect();
        return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1) && !one.closest(".hidden, .skip, pre, .table");
      }).map((one) => one.outerHTML.slice(0, 80)),
    }));
    assert.deepEqual([wide, beyond], [320, []], where);
  };
  await fits("empty");
  await say(page, `A trait is ${"unbreakable".repeat(30)}\n\n\`\`\`\n${"wide ".repeat(60)}\n\`\`\``);
  await fits("a conversation");
  await page.getByRole("button", { name: "Conversations", exact: true }).click();
  await page.getByRole("button", { name: "New conversation" }).waitFor();
  await fits("the list of conversations");
  await page.getByRole("button", { name: "Options", exact: true }).click();
  await page.fill("#system", "Be brief.");
  await fits("options");
  assert.deepEqual(await findings(page), []);
  await page.getByRole("link", { name: "Documents" }).click();
  await fits("documents");
  await page.getByRole("link", { name: "Search" }).click();
  await fits("search");
  await close();
});

test("who wants less motion gets none", async () => {
  const { page, close } = await visit(browser, server, { reducedMotion: "reduce", tokens: 400 });
  await page.fill("#message", "In this chapter, we");
  await page.press("#message", "Enter");
  await page.locator("#messages > li.waiting").waitFor();
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  await page.keyboard.press("Escape");
  await close();
});
