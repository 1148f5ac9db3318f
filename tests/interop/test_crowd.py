"""Twenty clients of three kinds at once, beside one that reads a byte per second and one that sends garbage.

CROWD_SECONDS=300 lets them work for five minutes instead of ten seconds; run.sh is as much more patient then.
"""
import os
import random
import shutil
import socket
import sqlite3
import threading
import time

from node_peer import Node
from peers import Official, Ours, patiently
from server import Server

SECONDS = float(os.environ.get("CROWD_SECONDS", 10))
CLIENTS = 20
ROWS = 50
# Nobody may wait that long for anything.
STALLED = 120
STATE = "SELECT id, who, n FROM shared ORDER BY id", "SELECT id, who FROM note ORDER BY id"


class Client(threading.Thread):
    """Writes rows of its own and rows of all, pushes and pulls, until it is told to stop."""

    def __init__(self, number, peer, seed, stop):
        super().__init__(name=f"{number} {peer.name}", daemon=True)
        self.number, self.peer, self.rng, self.stop = number, peer, random.Random(seed), stop
        self.written, self.rounds, self.longest, self.error = set(), 0, 0.0, None

    def run(self):
        try:
            while not self.stop.is_set():
                self.round()
        except BaseException as error:  # shown by the test
            self.error = error

    def round(self):
        for _ in range(self.rng.randint(1, 4)):
            key = (self.number + 1) * 1_000_000 + len(self.written)
            self.peer.execute("INSERT INTO note VALUES (?, ?)", (key, str(self.number)))
            self.written.add(key)
        row = self.rng.randint(1, ROWS)
        self.peer.execute("UPDATE shared SET who = ?, n = n + 1 WHERE id = ?", (str(self.number), row))
        for operation in (self.peer.push, self.peer.pull):
            begin = time.monotonic()
            patiently(operation)
            self.longest = max(self.longest, time.monotonic() - begin)
        self.rounds += 1


def read_slowly(server, stop, state):
    """Asks for the whole database and takes a byte per second of it."""
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(b"POST /pull-updates HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                while not stop.wait(1) and connection.recv(1):
                    state["slow bytes"] += 1
        except OSError:
            state["slow was cut off"] += 1


def send_slowly(server, stop, state):
    """A request of which a byte per second arrives."""
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(b"POST /v2/pipeline HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
                while not stop.wait(1):
                    connection.sendall(b" ")
        except OSError:
            state["slow was cut off"] += 1


def send_garbage(server, stop, state, rng):
    starts = [
        b"",
        b"POST /pull-updates HTTP/1.1\r\nHost: x\r\nContent-Length: 64\r\n\r\n",
        b"POST /v2/pipeline HTTP/1.1\r\nHost: x\r\nContent-Length: 64\r\n\r\n{",
        b"POST /v2/pipeline HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n",
    ]
    while not stop.is_set():
        try:
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                connection.sendall(rng.choice(starts) + rng.randbytes(rng.randint(0, 200)))
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1000)
        except OSError:
            pass
        state["garbage"] += 1
        stop.wait(0.05)


def test_a_crowd_converges(tmp_path, rng):
    database = tmp_path / "server.db"
    with sqlite3.connect(database) as con:
        con.executescript(
            "CREATE TABLE shared (id INTEGER PRIMARY KEY, who TEXT, n INTEGER);"
            "CREATE TABLE note (id INTEGER PRIMARY KEY, who TEXT);"
            "CREATE TABLE large (x); INSERT INTO large VALUES (zeroblob(16000000));"
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
            " INSERT INTO shared SELECT i, 'nobody', 0 FROM n;"
        )
    con.close()
    kinds = [Official, Ours, Official, Ours, Node if shutil.which("node") else Official]
    with Server(database) as server:
        stop, state = threading.Event(), dict.fromkeys(["slow bytes", "slow was cut off", "garbage"], 0)
        clients = []
        for number in range(CLIENTS):
            kind = kinds[number % len(kinds)]
            peer = kind(tmp_path / f"{number}-{kind.name}.db", server.url)
            clients.append(Client(number, peer, rng.random(), stop))
        others = [
            threading.Thread(target=read_slowly, args=(server, stop, state), daemon=True),
            threading.Thread(target=send_slowly, args=(server, stop, state), daemon=True),
            threading.Thread(target=send_garbage, args=(server, stop, state, rng), daemon=True),
        ]
        for thread in [*clients, *others]:
            thread.start()
        stop.wait(SECONDS)
        stop.set()
        for thread in [*clients, *others]:
            thread.join(STALLED)
        stalled = [client.name for client in clients if client.is_alive()]
        failed = [(client.name, client.error) for client in clients if client.error]
        assert not stalled and not failed, (stalled, failed)
        assert all(client.rounds for client in clients), "everybody came to something"
        peers = [client.peer for client in clients]
        for peer in peers:
            patiently(peer.push)
        for _ in range(10):
            if not any([patiently(peer.pull) for peer in peers]):
                break
        con = sqlite3.connect(database)
        expected = [con.execute(sql).fetchall() for sql in STATE]
        con.close()
        for client in clients:
            seen = [client.peer.query(sql) for sql in STATE]
            assert seen == expected, client.name
            client.peer.close()
        written = set().union(*(client.written for client in clients))
        assert {row[0] for row in expected[1]} == written
        rounds = [client.rounds for client in clients]
        print(
            f"{SECONDS:.0f} s: {sum(rounds)} rounds ({min(rounds)} to {max(rounds)} per client), {len(written)} rows, "
            f"longest operation {max(client.longest for client in clients):.2f} s, {state}"
        )
