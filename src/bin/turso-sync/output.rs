//! What is printed: tables and sentences for people, JSON for scripts.

use std::io::{ErrorKind, Write};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Value, json};
use turso_sync::error::{Error, Result};

pub struct Output {
    pub json: bool,
}

impl Output {
    /// One result: `text` for people, `value` for scripts.
    pub fn result(&self, text: &str, value: &Value) -> Result<()> {
        match self.json {
            true => print(&value.to_string()),
            false => print(text),
        }
    }

    /// Rows of a table: with a frame for people, an object per row and line for scripts.
    pub fn rows(&self, names: &[String], rows: Vec<Vec<Value>>) -> Result<()> {
        if self.json {
            let names = distinct(names);
            return rows.into_iter().try_for_each(|row| {
                let object: serde_json::Map<String, Value> = names.iter().cloned().zip(row).collect();
                print(&Value::Object(object).to_string())
            });
        }
        let mut table = Table::new();
        table
            .load_preset(UTF8_HORIZONTAL_ONLY)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(names);
        for row in rows {
            table.add_row(row.iter().map(cell));
        }
        print(&table.to_string())
    }

    /// Why the command failed, on the error stream.
    pub fn error(&self, e: &Error) {
        let text = match self.json {
            true => json!({ "error": describe(e) }).to_string(),
            false => format!("turso-sync: {e}"),
        };
        // If nobody reads it, the exit code has to do.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// Names for an object, which has room for one value per name: the second `id` becomes `id:1`, as in SQLite's own shell.
fn distinct(names: &[String]) -> Vec<String> {
    let mut distinct = Vec::with_capacity(names.len());
    for name in names {
        let others = (1..).map(|number| format!("{name}:{number}"));
        let mut candidates = std::iter::once(name.clone()).chain(others);
        let free = |c: &String| !distinct.contains(c) && (c == name || !names.contains(c));
        distinct.extend(candidates.find(free));
    }
    distinct
}

/// An error in a form that a script can act on.
pub fn describe(e: &Error) -> Value {
    json!({
        "code": format!("{:?}", e.code),
        "category": format!("{:?}", e.category),
        "sqlite_code": e.sqlite_code,
        "http_status": e.http_status,
        "retryable": e.retryable,
        "retry_after_ms": e.retry_after_ms,
        "message": e.message,
    })
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "NULL".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn print(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        // Whoever reads the output has seen enough.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("write to stdout", &e)),
        _ => Ok(()),
    }
}
