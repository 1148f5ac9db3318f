#!/usr/bin/env python3
"""compare.py DB DB...: exit 0 if all databases hold the same tables, by content.

The tables of the sync machinery are left out. Each file is opened read-only through plain SQLite.
"""
import sqlite3
import sys

OWN = ("turso_cdc", "turso_cdc_version", "turso_sync_local", "turso_sync_last_change_id", "turso_sync_conflicts")


def tables(path):
    con = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    con.text_factory = bytes
    names = [
        name.decode()
        for (name,) in con.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        if name.decode() not in OWN and not name.startswith(b"sqlite_")
    ]
    content = {}
    for name in names:
        quoted = '"' + name.replace('"', '""') + '"'
        rows = con.execute(f"SELECT * FROM {quoted}").fetchall()
        content[name] = sorted(tuple((type(v).__name__, repr(v)) for v in row) for row in rows)
    check = con.execute("PRAGMA integrity_check").fetchone()[0]
    if check != b"ok":
        sys.exit(f"{path}: integrity check: {check!r}")
    con.close()
    return content


def main(paths):
    first = tables(paths[0])
    for path in paths[1:]:
        other = tables(path)
        if first.keys() != other.keys():
            sys.exit(f"{paths[0]} and {path} have different tables: {sorted(first.keys() ^ other.keys())}")
        for name, rows in first.items():
            if rows != other[name]:
                extra = len([r for r in rows if r not in other[name]]), len([r for r in other[name] if r not in rows])
                sys.exit(f"{paths[0]} and {path} differ in table {name}: {extra[0]} and {extra[1]} rows of their own")
    print(f"{len(paths)} databases, {len(first)} tables, {sum(map(len, first.values()))} rows: all the same")


if __name__ == "__main__":
    main(sys.argv[1:])
