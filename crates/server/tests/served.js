// A server of the built binary, for the tests in JavaScript.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const binary = process.env.LONGREACH ?? `${root}target/release/longreach`;

// A decoder and an encoder.
export const models = ["--model", `${root}models/default`, "--model", `${root}crates/engine/tests/goldens/st-bert-mean`];

// Starts a server and waits until it listens.
export async function serve(...args) {
  assert.ok(existsSync(binary), `${binary} is not there: build it, or name another one in LONGREACH`);
  const server = spawn(binary, ["serve", ...(args.includes("--port") ? [] : ["--port", "0"]), ...args], { stdio: ["ignore", "ignore", "pipe"] });
  const gone = new Promise((resolve) => server.on("exit", resolve));
  const address = await new Promise((resolve, reject) => {
    let said = "";
    server.stderr.on("data", (piece) => {
      said += piece;
      const found = said.match(/listening on (http:\S+)\n/);
      if (found) resolve(found[1]);
    });
    server.on("exit", () => reject(new Error(`the server ended: ${said}`)));
  });
  return {
    address,
    port: new URL(address).port,
    kill: () => server.kill("SIGKILL"),
    end: async () => {
      server.kill("SIGTERM");
      await gone;
    },
  };
}
