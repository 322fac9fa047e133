// A Chromium that looks at the page.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

export const launch = () => chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync"],
});

// Opens the page in a browser without a past. What it asks of others than the server, or an error of a script, fails the test in `close`.
export async function visit(browser, server, { path = "/", tokens = 12, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const wrong = [];
  context.on("request", (request) => {
    if (!request.url().startsWith(`${server.address}/`) && !request.url().startsWith(`blob:${server.address}/`)) wrong.push(`asked ${request.url()}`);
  });
  // Answers have as many tokens as are asked for, whatever the model would do.
  await context.addInitScript(() => {
    const real = globalThis.fetch;
    globalThis.fetch = (where, options) => {
      if (!String(where).endsWith("/v1/chat/completions")) return real(where, options);
      return real(where, { ...options, body: JSON.stringify({ ...JSON.parse(options.body), ignore_eos: true }) });
    };
  });
  const page = await context.newPage();
  page.setDefaultTimeout(15000);
  page.on("pageerror", (error) => wrong.push(String(error)));
  page.on("console", (line) => {
    // A policy that was violated is an error of the console.
    if (line.type() === "error" && !/Failed to load resource/.test(line.text())) wrong.push(line.text());
  });
  await page.goto(server.address + path);
  await page.evaluate((n) => { document.getElementById("max_tokens").value = n; }, tokens);
  const close = async () => {
    await context.close();
    assert.deepEqual(wrong, []);
  };
  return { page, context, close };
}

// Sends a message and waits for the end of its answer.
export async function say(page, text) {
  const before = await page.locator("#messages > li").count();
  await page.fill("#message", text);
  await page.press("#message", "Enter");
  await page.locator("#messages > li").nth(before + 1).locator(".numbers", { hasText: "seed" }).waitFor();
}

export const texts = (page) => page.locator("#messages > li > .text").allInnerTexts();

// What axe finds by the rules of WCAG 2.2 to AA and by its best practices.
export async function findings(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map((one) => `${one.id}: ${one.help}: ${one.nodes.map((node) => node.html).join(" ")}`);
}
