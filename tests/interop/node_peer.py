"""Turso's client for JavaScript (@tursodatabase/sync), in a process of its own."""
import json
import os
import subprocess

MODULES = os.path.abspath(os.environ.get("NODE_MODULES_DIR", "target/node"))
SCRIPT = os.path.join(os.path.dirname(__file__), "node", "peer.mjs")


class Node:
    name = "node"

    def __init__(self, path, url, token=""):
        self.path, self.url, self.token = path, url, token
        self.open()

    def open(self):
        command = ["node", SCRIPT, MODULES, str(self.path), self.url, self.token]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._do("open")

    def close(self):
        if self.process.poll() is None:
            self._do("close")
            self.process.stdin.close()
            self.process.wait(timeout=60)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def _do(self, *operation):
        self.process.stdin.write(json.dumps(operation) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the process has ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]

    def execute(self, sql, params=()):
        self._do("execute", sql, list(params))

    def query(self, sql, params=()):
        return [tuple(row) for row in self._do("query", sql, list(params))]

    def transaction(self, *statements):
        self._do("transaction", [[sql, list(params)] for sql, params in statements])

    def pull(self):
        return self._do("pull")

    def push(self):
        self._do("push")

    def checkpoint(self):
        self._do("checkpoint")
