// A server of the built binary and a Chromium that looks at its page.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const root = fileURLToPath(new URL("../../../../", import.meta.url));
const binary = process.env.LONGREACH ?? `${root}target/release/longreach`;
const axe = readFileSync(new URL("node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

export const models = ["--model", `${root}models/default`, "--model", `${root}crates/engine/tests/goldens/st-bert-mean`];

// Starts a server and waits until it listens.
export async function serve(...args) {
  assert.ok(existsSync(binary), `${binary} is not there: build it, or name another one in LONGREACH`);
  const process = spawn(binary, ["serve", ...(args.includes("--port") ? [] : ["--port", "0"]), ...args], { stdio: ["ignore", "ignore", "pipe"] });
  const address = await new Promise((resolve, reject) => {
    let said = "";
    process.stderr.on("data", (piece) => {
      said += piece;
      const found = said.match(/listening on (http:\S+)\n/);
      if (found) resolve(found[1]);
    });
    process.on("exit", () => reject(new Error(`the server ended: ${said}`)));
  });
  const gone = new Promise((resolve) => process.on("exit", resolve));
  return {
    address,
    port: new URL(address).port,
    end: async () => {
      process.kill("SIGTERM");
      await gone;
    },
    kill: () => process.kill("SIGKILL"),
  };
}

export const launch = () => chromium.launch({
  executablePath: globalThis.process.env.CHROMIUM ?? "/usr/bin/chromium",
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
