//! Helpers of the capture tests.
#![allow(dead_code)]

use tempfile::TempDir;
use turso_sync::capture::log::{self, ChangeType, LogEntry};
use turso_sync::capture::{Connection, OpenOptions, Statement, Step, ValueType};
use turso_sync::error::{Error, Result};
use turso_sync::record::{self, Value};

/// A replica in a directory of its own.
pub struct Replica {
    pub dir: TempDir,
    pub path: String,
}

impl Replica {
    /// A replica whose base is what `schema` creates, without foreign-key enforcement.
    pub fn new(schema: &str) -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("main.db").to_str().unwrap().to_owned();
        let plain = rusqlite::Connection::open(&path).unwrap();
        plain.pragma_update(None, "foreign_keys", false).unwrap();
        plain.execute_batch("PRAGMA journal_mode = WAL").unwrap();
        plain.execute_batch(schema).unwrap();
        log::create_local_tables(&plain).unwrap();
        Replica { dir, path }
    }

    pub fn open(&self) -> Connection {
        Connection::open(
            &self.path,
            OpenOptions {
                capture: true,
                ..Default::default()
            },
        )
        .unwrap()
    }

    pub fn plain(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(&self.path).unwrap()
    }

    pub fn entries(&self) -> Vec<LogEntry> {
        log::read_entries(&self.plain(), 0, usize::MAX >> 2).unwrap()
    }

    /// The log in a compact form: `+t#1[values]@depth`.
    pub fn log(&self) -> Vec<String> {
        self.entries().iter().map(show).collect()
    }
}

pub fn show(e: &LogEntry) -> String {
    let sign = match e.change_type {
        ChangeType::Insert => '+',
        ChangeType::Update => '~',
        ChangeType::Delete => '-',
    };
    let mut text = format!("{sign}{}#{}", e.table, e.rowid);
    for (mark, record) in [("<", &e.before), (">", &e.after), ("!", &e.updates)] {
        if let Some(record) = record {
            text += &format!("{mark}{}", show_values(&record::decode(record).unwrap()));
        }
    }
    if e.depth != 0 {
        text += &format!("@{}", e.depth);
    }
    text
}

pub fn show_values(values: &[Value]) -> String {
    let texts = values.iter().map(|v| match v {
        Value::Null => "NULL".to_owned(),
        Value::Integer(v) => v.to_string(),
        Value::Real(v) => format!("{v:?}"),
        Value::Text(v) => format!("'{}'", String::from_utf8_lossy(v)),
        Value::Blob(v) => format!("x{v:02x?}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

pub fn prepare(c: &Connection, sql: &str) -> Statement {
    c.prepare(sql).unwrap().unwrap().0
}

pub fn run(c: &Connection, sql: &str) {
    c.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

pub fn fails(c: &Connection, sql: &str) -> Error {
    match c.execute_batch(sql) {
        Err(e) => e,
        Ok(()) => panic!("no error: {sql}"),
    }
}

pub fn value(s: &Statement, i: usize) -> Value {
    match s.value_type(i).unwrap() {
        ValueType::Null => Value::Null,
        ValueType::Integer => Value::Integer(s.value_integer(i)),
        ValueType::Real => Value::Real(s.value_real(i)),
        ValueType::Text => Value::Text(s.value_bytes(i).unwrap().to_vec()),
        ValueType::Blob => Value::Blob(s.value_bytes(i).unwrap().to_vec()),
    }
}

/// All rows of the first statement of `sql`.
pub fn rows(c: &Connection, sql: &str) -> Result<Vec<String>> {
    let Some((mut s, _)) = c.prepare(sql)? else {
        return Ok(Vec::new());
    };
    let mut rows = Vec::new();
    while s.step()? == Step::Row {
        let values: Vec<Value> = (0..s.column_count()).map(|i| value(&s, i)).collect();
        rows.push(show_values(&values));
    }
    Ok(rows)
}

pub fn one(c: &Connection, sql: &str) -> String {
    rows(c, sql).unwrap().remove(0)
}
