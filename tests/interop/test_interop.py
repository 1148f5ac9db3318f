"""The official client and ours on one server: whoever writes, in the end everybody holds the same."""
import os
import subprocess
import sys
import threading

from peers import Official, Ours, patiently, reopen, settle

MORE_TABLES = [
    "CREATE TABLE setting (name TEXT PRIMARY KEY, value)",
    "CREATE TABLE note (author TEXT, body TEXT, stars REAL)",
]


class Writer:
    """Writes at random through one peer: inserts under keys of its own, changes rows of everybody."""

    def __init__(self, peer, rng, first_key):
        self.peer, self.rng, self.key = peer, rng, first_key

    def write(self):
        """One to four changes, half the time in one transaction."""
        actions = self.rng.choices(
            [self.artist, self.rename, self.remove, self.setting, self.note, self.playlist, self.price],
            weights=[4, 3, 1, 3, 4, 3, 2], k=self.rng.randint(1, 4),
        )
        if self.rng.random() < 0.5:
            with self.peer.transaction():
                for action in actions:
                    action()
        else:
            for action in actions:
                action()

    def artist(self):
        self.key += 1
        self.peer.execute("INSERT INTO Artist VALUES (?, ?)", (self.key, f"Artist {self.key} ♫"))

    def rename(self):
        self.peer.execute(
            "UPDATE Artist SET Name = ? WHERE ArtistId = ?", (f"Renamed by {self.peer.name}", self.rng.randint(1, 60))
        )

    def remove(self):
        self.peer.execute("DELETE FROM Artist WHERE ArtistId = ?", (self.rng.randint(1, 60),))

    def setting(self):
        self.peer.execute(
            "INSERT INTO setting VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (f"key {self.rng.randint(1, 20)}", self.rng.choice([None, 1, 1.5, "x", b"\0"])),
        )

    def note(self):
        self.key += 1
        self.peer.execute("INSERT INTO note VALUES (?, ?, ?)", (self.peer.name, f"note {self.key}", self.rng.random()))

    def playlist(self):
        self.peer.execute(
            "INSERT OR IGNORE INTO PlaylistTrack VALUES (?, ?)", (self.rng.randint(1, 12), self.rng.randint(1, 300))
        )

    def price(self):
        low = self.rng.randint(1, 1400)
        self.peer.execute(
            "UPDATE Track SET UnitPrice = ? WHERE TrackId BETWEEN ? AND ?", (self.rng.choice([0.79, 2]), low, low + 9)
        )


def prepared(server, ours, official, rng):
    """Both peers with the additional tables, and a writer for each."""
    for sql in MORE_TABLES:
        ours.execute(sql)
    settle(server, ours, official)
    return Writer(ours, rng, 1_000_000), Writer(official, rng, 2_000_000)


def test_both_start_with_the_same_database(server, ours, official):
    expected = settle(server, ours, official)
    assert len(expected["Artist"]) >= 60


def test_in_turn(server, ours, official, rng):
    writers = prepared(server, ours, official, rng)
    for _ in range(40):
        writer = rng.choice(writers)
        for _ in range(rng.randint(0, 3)):
            writer.write()
        for step in rng.sample(["push", "pull", "checkpoint"], k=rng.randint(0, 3)):
            if step == "checkpoint":
                (writer.peer.replica if writer.peer is ours else writer.peer.db).checkpoint()
            else:
                getattr(writer.peer, step)()
    expected = settle(server, ours, official)
    bodies = [row[1] for row in expected["note"]]
    assert len(bodies) == len(set(bodies)), "a note exists twice"


def test_at_the_same_time(server, clients, rng):
    """Two of ours and one official client, each in a thread."""
    peers = [clients(Ours, server.url), clients(Ours, server.url, "second"), clients(Official, server.url)]
    prepared(server, peers[0], peers[2], rng)
    settle(server, *peers)
    failures, written = [], []

    def work(number, peer, seed):
        own = type(rng)(seed)
        writer = Writer(peer, own, (number + 1) * 1_000_000)
        try:
            for _ in range(25):
                writer.write()
                for step in own.sample([peer.push, peer.pull], k=own.randint(0, 2)):
                    patiently(step)
            written.append(peer.query("SELECT count(*) FROM note WHERE body GLOB ?", (f"note {number + 1}*",))[0][0])
        except Exception as error:  # whatever it is, the test shall report it
            failures.append((peer.name, repr(error)))

    threads = [threading.Thread(target=work, args=(i, p, rng.random())) for i, p in enumerate(peers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    expected = settle(server, *peers)
    assert len(expected["note"]) == sum(written), "notes were lost or doubled"


def test_servers_and_replicas_come_and_go(server, ours, official, rng):
    """The server is stopped and killed between rounds, our replica checkpointed, closed, and left by a dying process."""
    writers = prepared(server, ours, official, rng)
    endings = ["stop", "kill", "stop", "kill", "kill"]
    for round_number, how in enumerate(endings):
        for writer in writers:
            writer.write()
        ours.push()
        if round_number % 2 == 0:
            official.push()
            ours.pull()
        server.restart(how)
        writers[0].write()
        ours.replica.checkpoint()
        ours.close()
        a_process_that_dies(ours, 5_000_000 + round_number)
        ours.open()
        ours.pull()
        if round_number % 2 == 1:
            reopen(official)
            official.pull()
    expected = settle(server, ours, official)
    left = [row for row in expected["Artist"] if row[1] == ("text", b"left behind")]
    assert len(left) == len(endings)
    server.stop()
    server.start()
    settle(server, ours, official)


def a_process_that_dies(ours, key):
    """Writes a row into the replica of ours, in a process that ends without closing anything."""
    script = (
        "import os, sys; from turso_c import Replica\n"
        "path, url, key = sys.argv[1:]\n"
        "db = Replica(path, url, 'interop-ours').create().connect()\n"
        "db.execute('INSERT INTO Artist VALUES (?, ?)', (int(key), 'left behind'))\n"
        "os._exit(7)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", script, str(ours.path), ours.url, str(key)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 7, ended.stderr


def test_nothing_is_pending_after_a_push(ours):
    ours.execute("INSERT INTO Artist VALUES (900000, 'one')")
    with ours.transaction():
        ours.execute("UPDATE Artist SET Name = 'two' WHERE ArtistId = 900000")
        ours.execute("DELETE FROM Artist WHERE ArtistId = 3")
    assert ours.replica.stats()["cdc_operations"] == 3
    ours.push()
    assert ours.replica.stats()["cdc_operations"] == 0


def test_a_change_that_changes_nothing_does_not_stay_pending(ours):
    ours.execute("UPDATE Artist SET Name = Name WHERE ArtistId = 1")
    ours.push()
    assert ours.replica.stats()["cdc_operations"] == 0


def test_schema_changes_travel_from_us(server, ours, official):
    schema_changes(server, ours, official)


def test_schema_changes_travel_to_us(server, ours, official):
    schema_changes(server, official, ours)


def schema_changes(server, writer, reader):
    """Tables, columns and indexes made by `writer`, with rows in between, reach `reader`, which writes into them."""
    writer.execute("CREATE TABLE gig (id INTEGER PRIMARY KEY, city TEXT)")
    writer.execute("INSERT INTO gig VALUES (1, 'Oslo')")
    writer.execute("ALTER TABLE gig ADD COLUMN seats INTEGER DEFAULT 50")
    writer.execute("INSERT INTO gig VALUES (2, 'Kraków', 900)")
    writer.execute("CREATE INDEX gig_city ON gig (city)")
    writer.execute("ALTER TABLE Artist ADD COLUMN Founded INTEGER")
    writer.execute("UPDATE Artist SET Founded = 1973 WHERE ArtistId = 1")
    settle(server, writer, reader)
    assert reader.query("SELECT * FROM gig ORDER BY id") == [(1, "Oslo", 50), (2, "Kraków", 900)]
    assert reader.query("SELECT Founded FROM Artist WHERE ArtistId < 3 ORDER BY 1") == [(None,), (1973,)]
    reader.execute("INSERT INTO gig VALUES (3, 'Lisboa', 70)")
    expected = settle(server, writer, reader)
    assert len(expected["gig"]) == 3
    assert any(row[1] == ("text", b"gig_city") for row in expected["schema"])
