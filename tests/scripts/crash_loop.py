#!/usr/bin/env python3
"""crash_loop.py: kills a writing, pushing, pulling C program at random moments, and looks what is left.

Two workers (tests/c/writer_loop.c) with a replica each write transactions of one to five rows into the same remote and note
every committed id in a file. They are killed with SIGKILL, now and then together with the server. After each kill:

* the replica passes an integrity check, holds every id that was noted, and no part of a transaction;
* the remote holds, of each worker, a sequence of whole transactions without gaps, nothing twice.

In the end everything is synced, and the remote must hold every noted id once, and be equal to both replicas.

Environment: KILLS (200), SEED (random, printed).
"""
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tests", "interop"))
os.chdir(ROOT)
sys.dont_write_bytecode = True

from server import Server  # noqa: E402
from turso_c import Replica, TursoError  # noqa: E402

KILLS = int(os.environ.get("KILLS", 200))
SEED = int(os.environ.get("SEED", random.randrange(1 << 32)))


def transaction_size(number):
    """Rows of the transaction `number` (from 0) in the life of a worker; the same rule as in writer_loop.c."""
    return 1 + number * 7 % 5


def read(path, sql, *params):
    """Reads with plain SQLite, which neither changes nor checkpoints the file."""
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return con.execute(sql, params).fetchall()
    finally:
        con.close()


class Worker:
    """A worker process in its many lives."""

    def __init__(self, program, folder, name, url):
        self.name, self.path = name, os.path.join(folder, f"{name}.db")
        self.command = [program, url, self.path, name]
        self.output = os.path.join(folder, f"{name}.out")
        self.process, self.starts = None, [0]

    def start(self):
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(self.command, stdout=output, stderr=subprocess.STDOUT)

    def kill(self):
        """SIGKILL; returns a complaint if the worker had ended by itself."""
        self.process.kill()
        code, self.process = self.process.wait(), None
        with open(self.output) as output:
            said = output.read()
        if ready := re.search(r"^ready (\d+)$", said, re.M):
            self.starts.append(int(ready[1]))
        return None if code == -9 else f"{self.name} ended with {code} by itself: {said[-500:]}"

    def is_boundary(self, count):
        """Can `count` rows of this worker be a whole number of transactions?"""
        end = max(start for start in self.starts if start <= count)
        transaction = 0
        while end < count:
            end += transaction_size(transaction)
            transaction += 1
        return end == count

    def acked(self):
        if not os.path.exists(self.path + ".acked"):
            return []
        with open(self.path + ".acked") as notes:
            lines = notes.read().split("\n")
        return lines[:-1]  # what follows the last newline was not written completely

    def check(self):
        """Complaints about the replica as the dead worker left it."""
        if not os.path.exists(self.path + "-info"):
            return ["ids were noted without a replica"] if self.acked() else []
        if (result := read(self.path, "PRAGMA integrity_check")) != [("ok",)]:
            return [f"integrity check of {self.name}: {result}"]
        complaints = self.check_rows(self.path)
        there = {i for (i,) in read(self.path, "SELECT id FROM events WHERE worker = ?", self.name)}
        if lost := set(self.acked()) - there:
            complaints.append(f"{self.name} lost {len(lost)} noted ids: {sorted(lost)[:5]}")
        return complaints

    def check_rows(self, path):
        """Complaints about this worker's rows in any database: they must be whole transactions without gaps."""
        [(count, last)] = read(path, "SELECT count(*), max(n) FROM events WHERE worker = ?", self.name)
        where = os.path.basename(path)
        if count != (0 if last is None else last + 1):
            return [f"{where}: {count} rows of {self.name}, but the last number is {last}"]
        if not self.is_boundary(count):
            return [f"{where}: part of a transaction of {self.name}: {count} rows; lives began at {self.starts}"]
        return []


class CrashLoop:
    def __init__(self, folder):
        self.rng = random.Random(SEED)
        self.failures, self.kills, self.server_kills = [], 0, 0
        program = os.path.join(folder, "writer_loop")
        # The program looks for the library under its SONAME, which only an installed one has.
        os.symlink(os.path.join(ROOT, "target/release/libturso_sync.so"), os.path.join(folder, "libturso_sync.so.0"))
        subprocess.run(
            [os.environ.get("CC", "cc"), "-O1", "-g", "-Iinclude", "-Ic-examples", "tests/c/writer_loop.c", "-o", program,
             "-Ltarget/release", f"-Wl,-rpath,{folder}", "-lturso_sync"],
            check=True,
        )
        database = os.path.join(folder, "server.db")
        con = sqlite3.connect(database)
        con.execute("CREATE TABLE events (id TEXT PRIMARY KEY, worker, n)")
        con.close()
        self.server = Server(database)
        self.workers = [Worker(program, folder, name, self.server.url) for name in ("first", "second")]

    def run(self):
        """Returns the number of kills after which everything was well."""
        while self.kills < KILLS and not self.failures:
            # The second worker is there for changes that come from elsewhere; it need not always run.
            running = self.workers if self.rng.random() < 0.4 else self.workers[:1]
            for worker in running:
                worker.start()
            self.wait_and_maybe_kill_the_server()
            complaints = [complaint for worker in running if (complaint := worker.kill())]
            for worker in running:
                complaints += worker.check()
            for worker in self.workers:
                complaints += worker.check_rows(self.server.database)
            if complaints:
                self.failures.append(f"after {self.kills} kills: " + "; ".join(complaints))
                break
            self.kills += len(running)
            if self.kills % 50 < len(running):
                print(f"{self.kills} kills, {len(self.workers[0].acked())} ids noted by the first worker", flush=True)
        return self.kills

    def wait_and_maybe_kill_the_server(self):
        pause = self.rng.uniform(0.005, 0.4) if self.rng.random() < 0.95 else self.rng.uniform(0.4, 2)
        if self.rng.random() < 0.1:
            time.sleep(pause * self.rng.random())
            self.server.restart("kill")
            self.server_kills += 1
        time.sleep(pause)

    def sync(self):
        """Pushes and pulls both replicas until nothing moves."""
        replicas = [Replica(worker.path, self.server.url, worker.name).create() for worker in self.workers]
        for replica in replicas:
            replica.push()
        while any([replica.pull() for replica in replicas]):
            pass
        for replica in replicas:
            replica.close()

    def finish(self):
        """Syncs both replicas and compares everything; returns the number of checks that passed."""
        try:
            self.sync()
        except TursoError as error:
            self.failures.append(f"the last sync failed: {error}")
            return 0
        passed = 0
        for worker in self.workers:
            there = read(self.server.database, "SELECT id FROM events WHERE worker = ?", worker.name)
            there, noted = [i for (i,) in there], set(worker.acked())
            complaints = worker.check() + worker.check_rows(self.server.database)
            if len(there) != len(set(there)) or not noted <= set(there):
                complaints.append(f"{worker.name}: {len(noted)} ids noted, {len(set(there))} ids in {len(there)} rows there")
            self.failures += complaints
            passed += not complaints
        paths = [self.server.database, *(worker.path for worker in self.workers)]
        compared = subprocess.run([sys.executable, "tests/scripts/compare.py", *paths])
        if compared.returncode:
            self.failures.append("the databases differ")
        return passed + (compared.returncode == 0)

    def close(self):
        for worker in self.workers:
            if worker.process:
                worker.kill()
        if self.server.process.poll() is None:
            self.server.stop()


def main():
    print(f"SEED={SEED} KILLS={KILLS}", flush=True)
    folder = tempfile.mkdtemp(prefix="turso-sync-crash-")
    loop = CrashLoop(folder)
    try:
        passed = loop.run()
        if not loop.failures:
            passed += loop.finish()
    finally:
        loop.close()
    print(f"{loop.kills} kills of workers, {loop.server_kills} of the server, {len(loop.workers[0].acked())} and "
          f"{len(loop.workers[1].acked())} ids noted")
    for failure in loop.failures:
        print(f"FAILED (SEED={SEED}, files in {folder}): {failure}")
    if not loop.failures:
        shutil.rmtree(folder)
    print(f"{passed} passed, {len(loop.failures)} failed")
    return 1 if loop.failures else 0


if __name__ == "__main__":
    sys.exit(main())
