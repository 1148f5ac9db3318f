//! What two databases must have in common.

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::mode::SEQUENCES;

/// Gives rows if SQLite (3.53) has left an index that does not fit its table: a failed REPLACE of a STRICT table does, and a
/// whole number that an UPDATE copies from a VIRTUAL column of type REAL.
pub const DAMAGED: &str = "SELECT 1 FROM pragma_integrity_check AS problem
    WHERE problem.integrity_check LIKE '%missing from index%'
       OR problem.integrity_check LIKE '%wrong # of entries%'
       OR problem.integrity_check LIKE '%non-unique entry%'";

/// Schema and rows of everything but the local tables, in an order that tells nothing. Rows of tables
/// without a key come with their rowid.
pub fn dump(conn: &Connection) -> Vec<String> {
    let mut out = Vec::new();
    let mut objects = conn
        .prepare_cached(
            "SELECT type, name, coalesce(sql, '') FROM sqlite_schema WHERE tbl_name NOT LIKE 'turso!_%' ESCAPE '!'
             ORDER BY type, name",
        )
        .unwrap();
    let mut objects = objects.query([]).unwrap();
    while let Some(row) = objects.next().unwrap() {
        let [kind, name, sql] = [0, 1, 2].map(|i| row.get::<_, String>(i).unwrap());
        if kind == "table" && (!name.starts_with("sqlite_") || SEQUENCES) {
            rows(conn, &name, &mut out);
        }
        if name != "sqlite_sequence" {
            out.push(format!("{kind} {name}: {sql}"));
        }
    }
    let version: i64 = conn
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    out.push(format!("user_version {version}"));
    out.sort();
    out
}

fn rows(conn: &Connection, table: &str, out: &mut Vec<String>) {
    let quoted = table.replace('"', "\"\"");
    let mut info = conn
        .prepare_cached("SELECT name, pk FROM pragma_table_xinfo(?1)")
        .unwrap();
    let columns: Vec<(String, i64)> = info
        .query_map([table], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    // The rowids of a table that has other keys are not carried over, not even where a part of the key is NULL.
    let keyless = columns.iter().all(|(_, key)| *key == 0);
    let has = |alias: &str| columns.iter().any(|(name, _)| name.eq_ignore_ascii_case(alias));
    let without_rowid: bool = conn
        .prepare_cached("SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ?1")
        .unwrap()
        .query_row([table], |r| r.get(0))
        .unwrap();
    let alias = ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|alias| !has(alias) && !without_rowid);
    let sql = format!("SELECT *, {} FROM main.\"{quoted}\"", alias.unwrap_or("0"));
    let mut rows = conn.prepare(&sql).unwrap();
    let n = columns.len();
    let mut rows = rows.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let value = |i| row.get_ref(i).unwrap();
        let values = (0..if keyless { n + 1 } else { n }).map(|i| show(value(i)));
        out.push(format!(
            "row of {table}: {}",
            values.collect::<Vec<_>>().join("|")
        ));
    }
}

fn show(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "NULL".into(),
        ValueRef::Integer(i) => i.to_string(),
        ValueRef::Real(r) => format!("r{r:?}"),
        ValueRef::Text(t) => format!("'{}'", t.escape_ascii()),
        ValueRef::Blob(b) => format!("x'{}'", b.escape_ascii()),
    }
}

/// An error that lists what only one of the two has.
pub fn same(what: &str, a: &[String], b: &[String]) -> Result<(), String> {
    if a == b {
        return Ok(());
    }
    let mut text = format!("{what}\n");
    for (mark, a, b) in [('<', a, b), ('>', b, a)] {
        // Rows may be there several times.
        let mut b = b.to_vec();
        for line in a {
            match b.iter().position(|other| other == line) {
                Some(i) => drop(b.swap_remove(i)),
                None => text += &format!("  {mark} {line}\n"),
            }
        }
    }
    Err(text)
}
