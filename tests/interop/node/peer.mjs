// A replica of @tursodatabase/sync that does what its standard input says, one JSON array per line, and answers each
// with a line: {"ok": value} or {"error": text}.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [, , modules, path, url, token] = process.argv;
const entry = createRequire(`${modules}/package.json`).resolve("@tursodatabase/sync");
const { connect } = await import(pathToFileURL(entry));

let db = null;
const operations = {
  async open() {
    db = await connect({ path, url, clientName: "interop-node", authToken: token || undefined });
  },
  execute: async (sql, values) => void (await (await db.prepare(sql)).run(...values)),
  query: async (sql, values) => (await (await db.prepare(sql)).all(...values)).map(Object.values),
  transaction: async (statements) => {
    await db.exec("BEGIN IMMEDIATE");
    for (const [sql, values] of statements) await (await db.prepare(sql)).run(...values);
    await db.exec("COMMIT");
  },
  pull: () => db.pull(),
  push: () => db.push(),
  checkpoint: () => db.checkpoint(),
  close: () => db.close(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const [name, ...values] = JSON.parse(line);
  let answer;
  try {
    answer = { ok: (await operations[name](...values)) ?? null };
  } catch (e) {
    answer = { error: String(e.message ?? e) };
  }
  process.stdout.write(JSON.stringify(answer) + "\n");
}
