#!/usr/bin/env python3
"""What a database holds, in a form that can be compared, whoever reads it.

A file is read by plain SQLite in a process of its own (`of_file`): a second copy of SQLite in the process that has the
replica open would drop its locks.
"""
import os
import pickle
import sqlite3
import struct
import subprocess
import sys

OBJECTS = """SELECT type, name, tbl_name, sql FROM sqlite_schema
    WHERE tbl_name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND tbl_name NOT LIKE 'turso\\_%' ESCAPE '\\'
    AND tbl_name NOT LIKE '\\_\\_turso%' ESCAPE '\\' AND sql IS NOT NULL ORDER BY type, name"""


class Text(bytes):
    """Text as SQLite stores it."""


def canonical(value):
    """Type and bytes of a value: what differs here differs in SQLite."""
    if value is None:
        return ("null",)
    if isinstance(value, int):
        return ("integer", value)
    if isinstance(value, float):
        return ("real", struct.pack(">d", value))
    if isinstance(value, str):
        return ("text", value.encode("utf-8", "surrogateescape"))
    return ("text" if isinstance(value, Text) else "blob", bytes(value))


def canonical_rows(rows):
    return sorted(tuple(map(canonical, row)) for row in rows)


def content(query):
    """The user's schema and rows; `query` runs SQL and returns rows."""
    objects = query(OBJECTS)
    found = {"schema": canonical_rows(objects)}
    for kind, name, *_ in objects:
        if canonical(kind)[1] == b"table":
            name = canonical(name)[1].decode()
            found[name] = canonical_rows(query('SELECT * FROM "' + name.replace('"', '""') + '"'))
    return found


def difference(one, other):
    """Says how two contents differ; empty if they do not."""
    lines = []
    for name in sorted(one.keys() | other.keys()):
        a, b = set(one.get(name, [])), set(other.get(name, []))
        if one.get(name) != other.get(name):
            lines.append(f"{name}: only the first has {sorted(a - b)[:3]}, only the second has {sorted(b - a)[:3]}")
    return "\n".join(lines)


def of_file(path):
    """The content of a file, after an integrity check; read by another process."""
    result = subprocess.run([sys.executable, __file__, os.fspath(path)], capture_output=True)
    assert result.returncode == 0, f"{path}: {result.stderr.decode()}"
    return pickle.loads(result.stdout)


def _read(path):
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    con.text_factory = Text
    con.execute("BEGIN")
    check = con.execute("PRAGMA integrity_check").fetchall()
    if check != [(Text(b"ok"),)]:
        sys.exit(f"integrity check: {check}")
    return content(lambda sql: con.execute(sql).fetchall())


if __name__ == "__main__":
    sys.stdout.buffer.write(pickle.dumps(_read(sys.argv[1])))
