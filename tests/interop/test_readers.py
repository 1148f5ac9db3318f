"""Readers see whole states only, while a pull rewrites the file beneath 1,000 pending changes."""
import json
import subprocess
import sys
import threading

import pytest
from content import of_file
from peers import settle

ACCOUNTS = 200  # each peer moves money between its own half
START = 1000
LONG_READER = """
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
look = lambda: db.execute('SELECT total(balance), count(*), sum(moves) FROM account').fetchone()
db.execute('BEGIN')
print(json.dumps(look()), flush=True)
sys.stdin.readline()
print(json.dumps(look()), flush=True)
db.execute('COMMIT')
print(json.dumps(look()), flush=True)
sys.stdin.readline()
"""
LOOPING_READER = """
import json, os, select, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
states, looks = set(), 0
print('"ready"', flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    db.execute('BEGIN')
    one = db.execute('SELECT total(balance), count(*), sum(moves) FROM account').fetchone()
    other = db.execute('SELECT total(balance), count(*), sum(moves) FROM account NOT INDEXED').fetchone()
    assert one == other, (one, other)
    db.execute('COMMIT')
    states.add(one)
    looks += 1
    if looks % 20 == 0:
        assert db.execute('PRAGMA integrity_check').fetchone() == ('ok',)
print(json.dumps([looks, sorted(states)]), flush=True)
"""


class Reader:
    """Plain SQLite in a process of its own."""

    def __init__(self, script, path):
        command = [sys.executable, "-c", script, str(path)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def says(self):
        line = self.process.stdout.readline()
        assert line, "the reader has failed"
        return json.loads(line)

    def nudge(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(timeout=30) == 0


@pytest.fixture
def bank(server, ours, official):
    """Accounts of half a page each, so that moved money lies on many pages."""
    ours.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER, moves INTEGER, pad BLOB)")
    ours.execute("CREATE INDEX account_balance ON account (balance, moves)")
    with ours.transaction():
        for i in range(ACCOUNTS):
            ours.execute("INSERT INTO account VALUES (?, ?, 0, zeroblob(2000))", (i, START))
    settle(server, ours, official)


def move(peer, rng, first):
    """One transaction that moves money between two accounts of a half that begins at `first`."""
    giver, taker = rng.sample(range(first, first + ACCOUNTS // 2), 2)
    amount = rng.randint(1, 50)
    with peer.transaction():
        for account, change in ((giver, -amount), (taker, amount)):
            peer.execute(
                "UPDATE account SET balance = balance + ?, moves = moves + 1 WHERE id = ?", (change, account)
            )


def test_readers_see_whole_states(server, ours, official, bank, rng):
    for _ in range(500):
        move(ours, rng, 0)  # two changes each
    with official.transaction():
        for account in range(ACCOUNTS // 2, ACCOUNTS, 2):
            official.execute("UPDATE account SET balance = balance - 10, moves = moves + 1 WHERE id = ?", (account,))
            official.execute("UPDATE account SET balance = balance + 10, moves = moves + 1 WHERE id = ?", (account + 1,))
    official.push()

    patient, busy = Reader(LONG_READER, ours.path), Reader(LOOPING_READER, ours.path)
    own = ours.replica.connect()
    own.execute("BEGIN")
    look = "SELECT total(balance), count(*), sum(moves) FROM account"
    total, before, after = float(ACCOUNTS * START), 1000, 1000 + ACCOUNTS // 2
    assert patient.says() == [total, ACCOUNTS, before] and own.query(look) == [(total, ACCOUNTS, before)]
    assert busy.says() == "ready"

    assert ours.replica.stats()["cdc_operations"] >= 1000
    assert ours.pull()
    assert ours.query(look) == [(total, ACCOUNTS, after)]
    patient.nudge()
    assert patient.says() == [total, ACCOUNTS, before], "a transaction saw the pull"
    assert patient.says() == [total, ACCOUNTS, after], "a new transaction does not see the pull"
    assert own.query(look) == [(total, ACCOUNTS, before)]
    own.execute("COMMIT")
    assert own.query(look) == [(total, ACCOUNTS, after)]
    of_file(ours.path)

    # Now all at once: writes and pulls of ours, pushes of the official client, and the looping reader.
    failures = []

    def theirs():
        try:
            for _ in range(15):
                move(official, rng, ACCOUNTS // 2)
                official.push()
        except Exception as error:  # the test shall report it
            failures.append(error)

    thread = threading.Thread(target=theirs)
    thread.start()
    while thread.is_alive():
        move(ours, rng, 0)
        ours.pull()
    thread.join()
    assert not failures
    busy.nudge()
    looks, states = busy.says()
    assert looks > 0 and all(state[:2] == [total, ACCOUNTS] and state[2] % 2 == 0 for state in states), states
    patient.nudge()
    patient.end()
    busy.end()
    content = settle(server, ours, official)
    assert sum(row[1][1] for row in content["account"]) == total
