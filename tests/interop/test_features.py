"""What SQLite can do and the official client cannot replicate, between two replicas of ours.

Nobody else writes, so pushing and pulling must leave exactly what the first replica had.
"""
import pytest
from content import content, difference
from peers import Ours, settle

CASES = {
    "WITHOUT ROWID": [
        "CREATE TABLE t (a TEXT, b INTEGER, c, PRIMARY KEY (a, b)) WITHOUT ROWID",
        "INSERT INTO t VALUES ('x', 1, 2), ('y', 2, 3)",
        "UPDATE t SET b = 5 WHERE a = 'x'",
        "DELETE FROM t WHERE a = 'y'",
    ],
    "changed keys": [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "UPDATE t SET id = id + 10",
        "UPDATE t SET id = -id",
    ],
    "NULL in a key": [
        "CREATE TABLE t (a TEXT PRIMARY KEY, v)",
        "INSERT INTO t VALUES (NULL, 1), (NULL, 2), ('x', 3)",
        "UPDATE t SET v = 9 WHERE v = 2",
        "DELETE FROM t WHERE v = 1",
    ],
    "columns named rowid": [
        "CREATE TABLE t (rowid TEXT, _rowid_ TEXT, oid TEXT)",
        "INSERT INTO t VALUES ('a', 'b', 'c'), ('a', 'b', 'd')",
    ],
    "equal rows without a key": [
        "CREATE TABLE t (v)",
        "INSERT INTO t VALUES (1), (1), (1), (2)",
        "DELETE FROM t WHERE rowid = 2",
    ],
    "quoted names": [
        'CREATE TABLE "we""ird ""t" ("a""b" PRIMARY KEY, "select")',
        'INSERT INTO "we""ird ""t" VALUES (1, 2)',
        'UPDATE "we""ird ""t" SET "select" = 3',
    ],
    "renames and dropped columns": [
        "CREATE TABLE s (id INTEGER PRIMARY KEY, v, w DEFAULT 7)",
        "INSERT INTO s (id, v) VALUES (1, 'a')",
        "ALTER TABLE s RENAME TO t",
        "ALTER TABLE t RENAME COLUMN v TO x",
        "INSERT INTO t (id, x) VALUES (2, 'b')",
        "ALTER TABLE t DROP COLUMN x",
        "UPDATE t SET w = 8 WHERE id = 2",
    ],
    "views and triggers": [
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v)",
        "CREATE TABLE log (n)",
        "CREATE VIEW lines AS SELECT count(*) AS n FROM log",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.id); END",
        "INSERT INTO t VALUES (5, 'a'), (6, 'b')",
        "DROP VIEW lines",
    ],
    "generated columns": [
        "CREATE TABLE t (a, b AS (a * 2), c AS (a + 1) STORED)",
        "INSERT INTO t (a) VALUES (1), (2)",
        "UPDATE t SET a = 10 WHERE a = 1",
    ],
    "STRICT": [
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b ANY, c REAL) STRICT",
        "INSERT INTO t VALUES (1, '5', 3), (2, 5, 2.5)",
    ],
    "AUTOINCREMENT": [
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v)",
        "INSERT INTO t (v) VALUES (1), (2)",
        "DELETE FROM t WHERE id = 2",
        "INSERT INTO t (v) VALUES (3)",
    ],
    "CREATE TABLE AS": ["CREATE TABLE t AS SELECT * FROM Artist WHERE ArtistId < 20"],
    "cascades": [
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, p REFERENCES p ON DELETE CASCADE)",
        "PRAGMA foreign_keys = ON",
        "INSERT INTO p VALUES (1), (2)",
        "INSERT INTO t VALUES (1, 1), (2, 2)",
        "DELETE FROM p WHERE id = 1",
    ],
    "savepoints": [
        "CREATE TABLE t (v)",
        "BEGIN",
        "INSERT INTO t VALUES (1)",
        "SAVEPOINT a",
        "INSERT INTO t VALUES (2)",
        "ROLLBACK TO a",
        "INSERT INTO t VALUES (3)",
        "COMMIT",
    ],
    "full-text search": [
        "CREATE VIRTUAL TABLE t USING fts5(body)",
        "INSERT INTO t VALUES ('hello world'), ('good night')",
        "DELETE FROM t WHERE t MATCH 'night'",
    ],
    "R-trees": ["CREATE VIRTUAL TABLE t USING rtree(id, low, high)", "INSERT INTO t VALUES (1, 2, 3)"],
}


@pytest.mark.parametrize("step", ["at the end", "after each statement"])
@pytest.mark.parametrize("name", CASES)
def test_feature(server, clients, ours, name, step):
    other = clients(Ours, server.url, "other")
    in_transaction = False
    for sql in CASES[name]:
        ours.execute(sql)
        in_transaction = (in_transaction or sql == "BEGIN") and sql != "COMMIT"
        if step == "after each statement" and not in_transaction:
            ours.push()
            ours.pull()
            other.pull()
    written = content(ours.query)
    expected = settle(server, ours, other)
    assert not difference(written, expected)


def test_user_version_is_not_lost(server, clients, ours):
    other = clients(Ours, server.url, "other")
    ours.execute("PRAGMA user_version = 7")
    other.execute("INSERT INTO Artist VALUES (900000, 'other')")
    other.push()
    settle(server, ours, other)
    assert ours.query("PRAGMA user_version") == other.query("PRAGMA user_version") == [(7,)]
