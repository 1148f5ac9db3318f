"""Two to five clients, ours and the official one mixed, write, push, pull and restart in any order: in the end all
hold the same, and it is what the written rules say.

CONVERGENCE=n runs n seeds instead of a few; SEED=n starts with that one, CONVERGENCE=1 SEED=n repeats one.
"""
import os
import random
import sqlite3

import pytest
from peers import Official, Ours, reopen, settle
from server import Server

RUNS = int(os.environ.get("CONVERGENCE", 40))
FIRST = int(os.environ.get("SEED", random.randrange(1 << 32)))
STEPS = 60
ROWS = 20  # rows that everybody changes and deletes, of each table
SCHEMA = f"""
CREATE TABLE shared (id INTEGER PRIMARY KEY, who TEXT, a, b);
CREATE TABLE unique_value (id INTEGER PRIMARY KEY, value TEXT UNIQUE, n INTEGER);
CREATE TABLE note (id INTEGER PRIMARY KEY, who TEXT, body);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
    INSERT INTO shared SELECT i, 'nobody', 0, 0 FROM n;
"""
# What the official client carries unchanged; infinities, for one, it does not.
VALUES = [None, 0, -1, 1 << 62, 1.5, -0.25, "text", "ä♫", "", b"", b"\0\xff"]


class Client:
    """A peer, and what it knows it has written into rows that nobody else touches."""

    def __init__(self, number, peer, rng):
        self.number, self.peer, self.rng = number, peer, rng
        self.next_key = (number + 1) * 1_000_000
        self.mine = {}

    def step(self):
        weighted = {self.write: 5, self.several: 2, self.peer.push: 2, self.peer.pull: 2, self.restart: 0.3}
        self.rng.choices(list(weighted), weights=weighted.values())[0]()

    def several(self):
        """One transaction, which may be rolled back."""
        before = dict(self.mine)
        try:
            with self.peer.transaction():
                for _ in range(self.rng.randint(2, 6)):
                    self.write()
                if self.rng.random() < 0.2:
                    raise Changed
        except Changed:
            self.mine = before

    def write(self):
        self.rng.choice([self.insert, self.change, self.remove, self.update, self.delete, self.claim])()

    def insert(self):
        self.next_key += 1
        self.mine[self.next_key] = value = self.rng.choice(VALUES)
        self.peer.execute("INSERT INTO note VALUES (?, ?, ?)", (self.next_key, str(self.number), value))

    def change(self):
        """A row of one's own."""
        if self.mine:
            key = self.rng.choice(sorted(self.mine))
            self.mine[key] = value = self.rng.choice(VALUES)
            self.peer.execute("UPDATE note SET body = ? WHERE id = ?", (value, key))

    def remove(self):
        if self.mine and self.rng.random() < 0.5:
            key = self.rng.choice(sorted(self.mine))
            del self.mine[key]
            self.peer.execute("DELETE FROM note WHERE id = ?", (key,))

    def update(self):
        """A row that others change as well."""
        column = self.rng.choice("ab")
        values = (str(self.number), self.rng.randint(1, 1000), self.rng.randint(1, ROWS))
        self.peer.execute(f"UPDATE shared SET who = ?, {column} = ? WHERE id = ?", values)

    def delete(self):
        if self.rng.random() < 0.3:
            self.peer.execute("DELETE FROM shared WHERE id = ?", (self.rng.randint(1, ROWS),))

    def claim(self):
        """A unique value that nobody else takes."""
        self.next_key += 1
        values = (self.next_key, f"value {self.next_key}", self.rng.randint(1, 9))
        self.peer.execute("INSERT INTO unique_value VALUES (?, ?, ?)", values)

    def restart(self):
        reopen(self.peer)


class Changed(Exception):
    """The transaction has changed its mind."""


def converge(directory, seed):
    """One run; returns the kinds of the clients that took part."""
    rng = random.Random(seed)
    database = directory / "server.db"
    with sqlite3.connect(database) as con:
        con.executescript(SCHEMA)
    con.close()
    kinds = [rng.choice([Ours, Official]) for _ in range(rng.randint(2, 5))]
    if Ours not in kinds:
        kinds[0] = Ours
    with Server(database) as server:
        clients = []
        try:
            for number, kind in enumerate(kinds):
                peer = kind(directory / f"{number}-{kind.name}.db", server.url)
                clients.append(Client(number, peer, rng))
            for _ in range(STEPS):
                rng.choice(clients).step()
                if rng.random() < 0.02:
                    server.restart(rng.choice(["stop", "kill"]))
            expected = settle(server, *(client.peer for client in clients))
        finally:
            for client in clients:
                client.peer.close()
    written = {key: value for client in clients for key, value in client.mine.items()}
    arrived = {row[0][1]: row[2] for row in expected["note"]}
    assert arrived.keys() == written.keys(), "rows were lost, or came back"
    check_values(directory, written)
    return kinds


def check_values(directory, written):
    """Every row that has one writer is what that one wrote last."""
    con = sqlite3.connect(directory / "server.db")
    found = dict(con.execute("SELECT id, body FROM note"))
    con.close()
    assert found == written
    assert all(type(found[key]) is type(written[key]) for key in written)


@pytest.mark.parametrize("run", range(RUNS))
def test_convergence(tmp_path, run):
    seed = FIRST + run
    print(f"SEED={seed} CONVERGENCE=1")
    converge(tmp_path, seed)
