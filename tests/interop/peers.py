"""The two clients behind one face: `Ours` is this project through its C interface, `Official` is Turso's own."""
import contextlib
import time

import turso.sync
from content import content, difference, of_file
from turso_c import Replica, TursoError

BUSY_ATTEMPTS = 50


class Ours:
    name = "ours"

    def __init__(self, path, url, **options):
        self.path, self.url, self.options = path, url, options
        self.open()

    def open(self):
        self.replica = Replica(self.path, self.url, "interop-ours", **self.options).create()
        self.db = self.replica.connect()
        self.execute, self.query, self.transaction = self.db.execute, self.db.query, self.db.transaction
        self.pull, self.push = self.replica.pull, self.replica.push

    def close(self):
        self.replica.close()

    def check(self, expected):
        """The replica's own view and that of plain SQLite must both be `expected`."""
        assert not difference(expected, content(self.query)), difference(expected, content(self.query))
        seen = of_file(self.path)
        assert not difference(expected, seen), difference(expected, seen)


class Official:
    name = "official"

    def __init__(self, path, url, token=None):
        self.path, self.url, self.token = path, url, token
        self.open()

    def open(self):
        self.db = turso.sync.connect(
            str(self.path),
            self.url,
            auth_token=self.token,
            client_name="interop-official",
            isolation_level=None,
        )
        self.pull, self.push, self.close = self.db.pull, self.db.push, self.db.close

    def execute(self, sql, params=()):
        cursor = self.db.execute(sql, tuple(params))
        cursor.close()

    def query(self, sql, params=()):
        cursor = self.db.execute(sql, tuple(params))
        rows = [tuple(row) for row in cursor.fetchall()]
        cursor.close()
        return rows

    @contextlib.contextmanager
    def transaction(self):
        self.execute("BEGIN IMMEDIATE")
        try:
            yield self
            self.execute("COMMIT")
        except BaseException:
            if self.db.in_transaction:
                self.execute("ROLLBACK")
            raise

    def check(self, expected):
        assert not difference(expected, content(self.query)), difference(expected, content(self.query))


def reopen(peer):
    """Closes a peer and opens its replica again."""
    peer.close()
    peer.open()


def patiently(operation):
    """Runs a sync operation of ours, again if it was only BUSY (other clients were faster)."""
    for _ in range(BUSY_ATTEMPTS):
        try:
            return operation()
        except TursoError as error:
            if error.name != "BUSY":
                raise
            time.sleep(0.02)
    raise AssertionError(f"still busy after {BUSY_ATTEMPTS} attempts")


def settle(server, *peers):
    """Pushes and pulls until nothing moves; then everybody must hold what the server's file holds."""
    for peer in peers:
        peer.push()
    for _ in range(10):
        if not any([peer.pull() for peer in peers]):
            break
    else:
        raise AssertionError("after ten rounds there is still something to pull")
    expected = of_file(server.database)
    for peer in peers:
        peer.check(expected)
    return expected
