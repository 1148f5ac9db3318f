"""Every value arrives bit for bit, in both directions, under every kind of key."""
import struct

import pytest
from content import canonical_rows
from peers import Ours, settle

TABLES = {
    "by_integer": "CREATE TABLE by_integer (k INTEGER PRIMARY KEY, v, w)",
    "by_text": "CREATE TABLE by_text (k TEXT PRIMARY KEY, v, w)",
    "by_both": "CREATE TABLE by_both (a INTEGER, b TEXT, v, w, PRIMARY KEY (a, b))",
    "by_nothing": "CREATE TABLE by_nothing (k INTEGER, v, w)",
}
KEYS = {"by_integer": ["k"], "by_text": ["k"], "by_both": ["a", "b"], "by_nothing": ["k"]}
ROWS = 250

INTEGERS = sorted({sign * (1 << bits) + d for bits in (0, 7, 8, 15, 16, 23, 24, 31, 32, 47, 48, 53, 62)
                   for d in (-1, 0, 1) for sign in (1, -1)} | {2**63 - 1, -(2**63), -(2**63) + 1})
REALS = [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1e308, 1.7976931348623157e308, -1e308, 0.1, 1 / 3,
         9007199254740993.0, 1e15, 1e16, 123456789012345680.0, 9.2233720368547758e18, -3.5]
TEXTS = ["", "\0", "a\0b", "\0\0", "ünïcödé", "日本語", "\U0001f3b5\U0001f469‍\U0001f680", "￿\ufeff", "'\"\\/\n\r\t\x01\x7f\u2028",
         "123", "1e5", "NULL", "  ", "x" * 5000]
BLOBS = [b"", b"\0", b"\xff\xfe\0", bytes(range(256)), b"{}", b"text"]


def random_value(rng):
    kind = rng.randrange(9)
    if kind == 0:
        return None
    if kind <= 2:
        return rng.choice(INTEGERS) if rng.random() < 0.7 else rng.randint(-(2**63), 2**63 - 1)
    if kind <= 4:
        if rng.random() < 0.7:
            return rng.choice(REALS)
        number = struct.unpack(">d", rng.randbytes(8))[0]
        return number if abs(number) < float("inf") else 0.5
    if kind <= 6:
        return rng.choice(TEXTS) if rng.random() < 0.7 else random_text(rng)
    if rng.random() < 0.7:
        return rng.choice(BLOBS)
    return rng.randbytes(rng.choice([1, 100, 4000, 4096, 5000]))


def random_text(rng):
    ranges = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return "".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(0, 40)))


def random_rows(rng, table):
    """Rows of a table by their key; among them one blob of 100 KB."""
    rows = {}
    while len(rows) < ROWS:
        number = rng.choice(INTEGERS) if rng.random() < 0.3 else rng.randint(-(2**63), 2**63 - 1)
        text = rng.choice(TEXTS) if rng.random() < 0.3 else random_text(rng)
        key = {"by_integer": (number,), "by_text": (text,), "by_both": (number, text), "by_nothing": (len(rows),)}[table]
        rows[key] = (random_value(rng), random_value(rng))
    rows[rng.choice(list(rows))] = (rng.randbytes(100 * 1024), None)
    return rows


def insert(peer, table, rows):
    marks = ", ".join("?" * (len(KEYS[table]) + 2))
    with peer.transaction():
        for key, values in rows.items():
            peer.execute(f"INSERT INTO {table} VALUES ({marks})", key + values)


def expected_rows(tables):
    return {table: canonical_rows(key + values for key, values in rows.items()) for table, rows in tables.items()}


def assert_holds(content, tables):
    for table, rows in expected_rows(tables).items():
        wrong = [pair for pair in zip(rows, content[table]) if pair[0] != pair[1]]
        assert len(rows) == len(content[table]) and not wrong, f"{table}: {wrong[:3]}"


@pytest.mark.parametrize("direction", ["from_us", "to_us"])
def test_values(server, ours, official, rng, direction):
    """1,000 rows from one client, changed and deleted by the other."""
    writer, reader = (ours, official) if direction == "from_us" else (official, ours)
    for sql in TABLES.values():
        writer.execute(sql)
    tables = {table: random_rows(rng, table) for table in TABLES}
    for table, rows in tables.items():
        insert(writer, table, rows)
    assert_holds(settle(server, writer, reader), tables)

    for table, rows in tables.items():
        where = " AND ".join(f"{key} IS ?" for key in KEYS[table])
        for key in rng.sample(list(rows), 60):
            if rng.random() < 0.3:
                reader.execute(f"DELETE FROM {table} WHERE {where}", key)
                del rows[key]
            else:
                rows[key] = (random_value(rng), rows[key][1])
                reader.execute(f"UPDATE {table} SET v = ? WHERE {where}", (rows[key][0], *key))
    assert_holds(settle(server, reader, writer), tables)


def test_infinities_from_us(server, ours, official):
    """JSON has no infinity; ours arrives all the same, and the official client reads it."""
    infinity = float("inf")
    ours.execute("CREATE TABLE extreme (k INTEGER PRIMARY KEY, v)")
    ours.execute("INSERT INTO extreme VALUES (1, ?), (2, ?)", (infinity, -infinity))
    ours.execute("CREATE TABLE extreme_key (k REAL PRIMARY KEY, v)")
    ours.execute("INSERT INTO extreme_key VALUES (?, 'old')", (infinity,))
    ours.push()
    ours.execute("UPDATE extreme SET v = -v")
    ours.execute("UPDATE extreme_key SET v = 'new' WHERE k = ?", (infinity,))
    settle(server, ours, official)
    assert official.query("SELECT v FROM extreme ORDER BY k") == [(-infinity,), (infinity,)]
    assert official.query("SELECT * FROM extreme_key") == [(infinity, "new")]


def test_text_that_is_not_utf8(server, clients, ours):
    """SQLite stores any bytes as text, JSON cannot carry them. (The official client does not read such text.)"""
    ours.execute("CREATE TABLE bytes (k INTEGER PRIMARY KEY, v)")
    ours.execute("INSERT INTO bytes VALUES (1, CAST(x'ff00fe' AS TEXT))")
    content = settle(server, ours, clients(Ours, server.url, "second"))
    assert content["bytes"] == [(("integer", 1), ("text", b"\xff\x00\xfe"))]
