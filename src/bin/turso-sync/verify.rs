//! Compares a replica with its remote: a fresh download of the remote, table by table.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use turso_sync::capture::{Connection, OpenOptions, Step, ValueType};
use turso_sync::engine::ConflictPolicy;
use turso_sync::error::{Error, Result};

use super::args::Place;
use super::commands::texts;
use super::output::Output;
use super::replica::Replica;

/// Tables that every replica has for itself.
const OWN_TABLES: [&str; 5] = [
    "turso_cdc",
    "turso_cdc_version",
    "turso_sync_local",
    "turso_sync_conflicts",
    "turso_sync_last_change_id",
];

/// Rows of a table, whatever their order: their number and a sum of their hashes.
#[derive(PartialEq, Eq, Clone, Copy, Default)]
struct Content {
    rows: u64,
    sum: [u64; 2],
}

/// Downloads the remote into a temporary directory and compares. Exit code 1 if there is a difference.
pub fn run(place: &Place, quiet: bool, output: &Output) -> Result<ExitCode> {
    let replica = Replica::open(place, quiet, ConflictPolicy::Stop)?;
    let pending = replica.engine.status()?.pending_changes;
    let url = replica.engine.remote_url()?;
    let directory = Temporary::new()?;
    let copy = Place {
        db: directory.0.join("remote.db"),
        url,
        token_file: place.token_file.clone(),
        timeout: place.timeout,
        ignore_tables: Vec::new(),
    };
    let fresh = Replica::new(&copy, quiet, |opts| opts.bootstrap_if_empty = true)?;
    fresh.run("download", fresh.engine.create_db())?;
    let (here, there) = (open(&place.db)?, open(&copy.db)?);
    let damage = texts(&here, "PRAGMA integrity_check")?;
    let mut equal = true;
    let mut rows = Vec::new();
    for table in names(&here, place)?.union(&names(&there, place)?) {
        let (local, remote) = (content(&here, table)?, content(&there, table)?);
        let count = |content: Option<Content>| content.map(|content| content.rows);
        equal &= local == remote;
        rows.push(vec![
            json!(table),
            json!(count(local)),
            json!(count(remote)),
            json!(if local == remote { "equal" } else { "different" }),
        ]);
    }
    output.rows(&["table", "here", "remote", "result"].map(String::from), rows)?;
    if !output.json && pending > 0 {
        let text = format!("{pending} changes are pending: differences are to be expected before a sync");
        output.result(&text, &json!(null))?;
    }
    if damage != ["ok"] {
        let text = format!("the local file is damaged: {}", damage.join("; "));
        return Err(Error::corrupt(text));
    }
    Ok(if equal {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn open(path: &Path) -> Result<Connection> {
    let path = path.to_str();
    let path = path.ok_or_else(|| Error::misuse("the path of the database is not UTF-8"))?;
    let options = OpenOptions {
        read_only: true,
        ..OpenOptions::default()
    };
    let conn = Connection::open(path, options)?;
    // One state from the first table to the last.
    conn.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema")?;
    Ok(conn)
}

/// The tables to compare. What virtual tables keep their content in may differ where the content does not.
fn names(conn: &Connection, place: &Place) -> Result<BTreeSet<String>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'virtual')
               AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'";
    let own = |name: &String| {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        OWN_TABLES.iter().any(|own| is(own)) || place.ignore_tables.iter().any(|ignored| is(ignored))
    };
    Ok(texts(conn, sql)?.into_iter().filter(|name| !own(name)).collect())
}

/// `None` if there is no such table.
fn content(conn: &Connection, table: &str) -> Result<Option<Content>> {
    let name = table.replace('"', "\"\"");
    let exists = format!(
        "SELECT name FROM sqlite_schema WHERE name = '{}'",
        table.replace('\'', "''")
    );
    if texts(conn, &exists)?.is_empty() {
        return Ok(None);
    }
    let Some((mut statement, _)) = conn.prepare(&format!("SELECT * FROM main.\"{name}\""))? else {
        return Ok(None);
    };
    let mut content = Content::default();
    while statement.step()? == Step::Row {
        content.rows += 1;
        for (seed, sum) in content.sum.iter_mut().enumerate() {
            let mut hasher = DefaultHasher::new();
            hasher.write_usize(seed);
            for i in 0..statement.column_count() {
                let kind = statement.value_type(i).unwrap_or(ValueType::Null);
                hasher.write_u8(kind as u8);
                match kind {
                    ValueType::Integer => hasher.write_i64(statement.value_integer(i)),
                    ValueType::Real => hasher.write_u64(statement.value_real(i).to_bits()),
                    ValueType::Text | ValueType::Blob => {
                        let bytes = statement.value_bytes(i).unwrap_or_default();
                        hasher.write_usize(bytes.len());
                        hasher.write(bytes);
                    }
                    ValueType::Null => {}
                }
            }
            *sum = sum.wrapping_add(hasher.finish());
        }
    }
    Ok(Some(content))
}

/// A directory that goes when this does. Nobody else may look into it: a replica may be closed to others, too.
struct Temporary(std::path::PathBuf);

impl Temporary {
    fn new() -> Result<Temporary> {
        let path = std::env::temp_dir().join(format!("turso-sync-verify-{}", uuid::Uuid::new_v4().simple()));
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&path)
            .map_err(|e| Error::io(format_args!("create directory {}", path.display()), &e))?;
        Ok(Temporary(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed is in nobody's way.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_copy_of_the_remote_is_closed_to_other_users() {
        let directory = Temporary::new().unwrap();
        let mode = std::fs::metadata(&directory.0).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
