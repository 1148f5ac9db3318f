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
        match self.json {
            true => eprintln!("{}", json!({ "error": describe(e) })),
            false => eprintln!("turso-sync: {e}"),
        }
    }
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
