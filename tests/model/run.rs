//! Executes actions on the connections of one database and tells what was seen.

use turso_sync::capture::{Connection, OpenOptions, Statement, Step, ValueType};
use turso_sync::error::{Code, Error};

use crate::catalog::Catalog;
use crate::compare::DAMAGED;
use crate::mode::SEVERAL_HALF_WAY_WRITES;
use crate::program::{Act, Action};

/// Most rows that a statement is read for.
const MAX_ROWS: usize = 500;

struct Open {
    statement: Statement,
    connection: usize,
    writes: bool,
    /// It has begun, and not ended.
    half_way: bool,
}

/// The connections of one database with their open statements.
pub struct Side {
    connections: Vec<Connection>,
    open: Vec<Open>,
}

impl Side {
    pub fn open(path: &str, capture: bool, connections: usize) -> Side {
        let options = OpenOptions {
            capture,
            ..Default::default()
        };
        let open = || {
            let connection = Connection::open(path, options.clone()).unwrap();
            connection.set_busy_timeout(std::time::Duration::ZERO);
            if !capture {
                connection
                    .execute_batch("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0")
                    .unwrap();
            }
            connection
        };
        Side {
            connections: (0..connections).map(|_| open()).collect(),
            open: Vec::new(),
        }
    }

    pub fn catalog(&self, connection: usize) -> Catalog {
        Catalog::read(&self.connections[connection])
    }

    /// False for what SQLite, or the library by its documentation, does not define.
    pub fn allows(&self, action: &Action) -> bool {
        let half_way = |o: &Open| o.writes && o.half_way && o.connection == action.connection;
        if action.connection >= self.connections.len() {
            return false;
        }
        // Within a transaction a replica still holds the other database.
        if matches!(&action.act, Act::Run(sql) if sql.starts_with("DETACH"))
            && !self.connections[action.connection].is_autocommit()
        {
            return false;
        }
        // SQLite 3.53 may go on with a statement whose tables it has freed, and crash.
        let is_ddl = |sql: &String| {
            ["CREATE", "DROP", "ALTER"]
                .iter()
                .any(|verb| sql.starts_with(verb))
        };
        if self.open.iter().any(|o| o.half_way) && matches!(&action.act, Act::Run(sql) if is_ddl(sql)) {
            return false;
        }
        if SEVERAL_HALF_WAY_WRITES || !self.open.iter().any(half_way) {
            return true;
        }
        match &action.act {
            Act::Run(sql) | Act::Open(sql, _) => sql.starts_with("SELECT") || sql.starts_with("COMMIT"),
            Act::Step(i) => self
                .index(*i, action.connection)
                .is_none_or(|i| self.open[i].half_way || !self.open[i].writes),
            Act::Reset(_) | Act::Close(_) => true,
            // The reset that follows could not write the log: it fails, where SQLite's does not.
            Act::Interrupt => false,
        }
    }

    /// The `i`th open statement of `connection`.
    fn index(&self, i: usize, connection: usize) -> Option<usize> {
        let of: Vec<_> = (0..self.open.len())
            .filter(|&k| self.open[k].connection == connection)
            .collect();
        of.get(i % of.len().max(1)).copied()
    }

    /// True if SQLite has left an index that does not fit its table; nothing is exact from then on.
    pub fn is_damaged(&self) -> bool {
        self.connections.iter().any(|connection| {
            let (mut statement, _) = connection.prepare(DAMAGED).unwrap().unwrap();
            statement.step() == Ok(Step::Row)
        })
    }

    /// Does `action` and returns all that can be observed.
    pub fn act(&mut self, action: &Action) -> Vec<String> {
        // A crash leaves no other trace.
        if std::env::var_os("MODEL_SEED").is_some() {
            eprintln!("{action}");
        }
        let mut seen = Vec::new();
        let connection = action.connection;
        match &action.act {
            Act::Run(sql) => self.run(connection, sql, None, &mut seen),
            Act::Open(sql, steps) => self.run(connection, sql, Some(*steps), &mut seen),
            Act::Step(i) => {
                if let Some(i) = self.index(*i, connection) {
                    let open = &mut self.open[i];
                    open.half_way = step(&mut open.statement, &mut seen) != Ended::Yes;
                }
            }
            Act::Reset(i) => {
                if let Some(i) = self.index(*i, connection) {
                    // SQLite's own reset repeats an error that a step reported; only success is compared.
                    let _ = self.open[i].statement.reset(false);
                    self.open[i].half_way = false;
                }
            }
            Act::Close(i) => {
                if let Some(i) = self.index(*i, connection) {
                    drop(self.open.remove(i));
                }
            }
            Act::Interrupt => self.connections[connection].interrupt(),
        }
        let connection = &self.connections[connection];
        seen.push(format!(
            "autocommit {}, last id {}",
            connection.is_autocommit(),
            connection.last_insert_rowid()
        ));
        seen
    }

    fn run(&mut self, connection: usize, sql: &str, steps: Option<usize>, seen: &mut Vec<String>) {
        let (mut statement, _) = match self.connections[connection].prepare(sql) {
            Ok(None) => return,
            Ok(Some(prepared)) => prepared,
            Err(e) => return failed(&e, seen),
        };
        let mut half_way = false;
        for _ in 0..steps.unwrap_or(MAX_ROWS) {
            let ended = step(&mut statement, seen);
            half_way = ended != Ended::Yes;
            if ended != Ended::Row {
                // With foreign keys SQLite counts the rows of a dropped table.
                if sql.starts_with("DROP") {
                    seen.retain(|s| !s.ends_with("changes"));
                }
                break;
            }
        }
        if steps.is_some() {
            self.open.push(Open {
                statement,
                connection,
                writes: !sql.starts_with("SELECT"),
                half_way,
            });
        }
    }

    /// Ends everything and closes.
    pub fn finish(mut self) -> Vec<String> {
        self.open.clear();
        let mut seen = Vec::new();
        for connection in &self.connections {
            for sql in ["COMMIT", "ROLLBACK"] {
                if !connection.is_autocommit() {
                    seen.push(format!(
                        "{:?}",
                        connection.execute_batch(sql).map_err(|e| e.message)
                    ));
                }
            }
            connection.close().unwrap();
        }
        seen
    }
}

/// Where a step led to.
#[derive(PartialEq)]
enum Ended {
    Row,
    Yes,
    /// It goes on when it is stepped again.
    Busy,
}

fn step(statement: &mut Statement, seen: &mut Vec<String>) -> Ended {
    match statement.step() {
        Ok(Step::Row) => {
            let values: Vec<_> = (0..statement.column_count())
                .map(|i| show(statement, i))
                .collect();
            seen.push(values.join("|"));
            Ended::Row
        }
        Ok(Step::Done) => {
            seen.push(format!("done, {} changes", statement.changes()));
            Ended::Yes
        }
        Err(e) => {
            failed(&e, seen);
            match e.code {
                Code::Busy | Code::BusySnapshot => Ended::Busy,
                _ => Ended::Yes,
            }
        }
    }
}

fn failed(e: &Error, seen: &mut Vec<String>) {
    seen.push(format!(
        "{:?} {:?} {}",
        e.code,
        e.sqlite_code.unwrap_or(1),
        e.message
    ));
}

fn show(statement: &Statement, i: usize) -> String {
    match statement.value_type(i) {
        Some(ValueType::Integer) => statement.value_integer(i).to_string(),
        Some(ValueType::Real) => format!("r{:x}", statement.value_real(i).to_bits()),
        Some(ValueType::Null) | None => "NULL".into(),
        Some(ValueType::Text) => format!(
            "'{}'",
            statement.value_bytes(i).unwrap_or_default().escape_ascii()
        ),
        Some(ValueType::Blob) => format!(
            "x'{}'",
            statement.value_bytes(i).unwrap_or_default().escape_ascii()
        ),
    }
}
