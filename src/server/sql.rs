//! Runs pipeline requests: batches of SQL with conditions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, ToSql};

use super::store::Store;
use crate::error::{Error, Result};
use crate::protocol::pipeline::{
    BATCH_STEP_ERROR, Batch, BatchResult, Col, Condition, PipelineRequest, PipelineResponse, Stmt, StmtError,
    StmtResult, StreamRequest, StreamResponse, StreamResult, unsendable,
};
use crate::protocol::sqlite_code;
use crate::record::Value;

/// Longest time one pipeline request may run.
const TIME_LIMIT: Duration = Duration::from_secs(300);
/// Most bytes of row data in the answer to one request.
const MAX_ROW_BYTES: usize = 128 << 20;
/// Idle connections kept open.
const POOL_SIZE: usize = 8;
/// Virtual-machine instructions between two looks at the clock.
const PROGRESS_OPS: i32 = 10_000;

/// Connections for pipeline requests, each used by one request at a time.
#[derive(Default)]
pub struct Pool(Mutex<Vec<Session>>);

impl Pool {
    /// Runs `request`; returns the answer and whether anything may have been written.
    pub fn run(&self, store: &Store, request: PipelineRequest) -> Result<(PipelineResponse, bool)> {
        let idle = self.idle().pop();
        let mut session = idle.map_or_else(|| Session::open(store), Ok)?;
        let answer = session.run(request)?;
        if session.reusable() {
            let mut idle = self.idle();
            if idle.len() < POOL_SIZE {
                idle.push(session);
            }
        }
        Ok(answer)
    }

    /// Closes all idle connections.
    pub fn clear(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose statements come from clients.
struct Session {
    conn: Connection,
    /// A statement left something behind that the next request must not see.
    tainted: Arc<AtomicBool>,
    wrote: bool,
    row_bytes: usize,
}

impl Session {
    fn open(store: &Store) -> Result<Self> {
        let conn = store.connect()?;
        let tainted = Arc::new(AtomicBool::new(false));
        let taint = tainted.clone();
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            authorize(&context.action, &taint)
        }))?;
        Ok(Session {
            conn,
            tainted,
            wrote: false,
            row_bytes: 0,
        })
    }

    fn reusable(&self) -> bool {
        !self.tainted.load(Ordering::Relaxed) && self.conn.is_autocommit()
    }

    fn run(&mut self, request: PipelineRequest) -> Result<(PipelineResponse, bool)> {
        let deadline = Instant::now() + TIME_LIMIT;
        self.conn
            .progress_handler(PROGRESS_OPS, Some(move || Instant::now() > deadline))?;
        (self.wrote, self.row_bytes) = (false, 0);
        let results = request.requests.into_iter().map(|r| self.request(r)).collect();
        self.roll_back();
        self.conn.progress_handler(0, None::<fn() -> bool>)?;
        Ok((
            PipelineResponse {
                baton: request.baton,
                base_url: None,
                results,
            },
            self.wrote,
        ))
    }

    fn request(&mut self, request: StreamRequest) -> StreamResult {
        let response = match request {
            StreamRequest::Execute(stmt) => match self.step(&stmt) {
                Ok(result) => StreamResponse::Execute { result },
                Err(e) => {
                    return StreamResult::Error {
                        error: StmtError {
                            code: e
                                .code
                                .filter(|code| code != BATCH_STEP_ERROR)
                                .or_else(|| Some("EXECUTE_ERROR".to_owned())),
                            ..e
                        },
                    };
                }
            },
            StreamRequest::Batch(batch) => StreamResponse::Batch {
                result: self.batch(batch),
            },
            StreamRequest::Close => StreamResponse::Close,
        };
        StreamResult::Ok { response }
    }

    fn batch(&mut self, batch: Batch) -> BatchResult {
        let mut done = BatchResult::default();
        for step in batch.steps {
            let runs = step
                .condition
                .is_none_or(|c| holds(&c, &done, self.conn.is_autocommit()));
            let (result, error) = match runs.then(|| self.step(&step.stmt)) {
                None => (None, None),
                Some(Ok(result)) => (Some(result), None),
                Some(Err(error)) => (None, Some(error)),
            };
            done.step_results.push(result);
            done.step_errors.push(error);
        }
        done
    }

    /// Runs one statement. A failure ends the transaction, because deployed clients go on as long as one is open
    /// and would commit half a batch. They tolerate one failure: adding a column that exists.
    fn step(&mut self, stmt: &Stmt) -> std::result::Result<StmtResult, StmtError> {
        let sql = stmt.sql.as_deref().unwrap_or_default();
        self.execute(sql, stmt).map_err(|e| {
            if !adds_column(sql) {
                self.roll_back();
            }
            let code = e.sqlite_code.and_then(sqlite_code::name_of);
            StmtError {
                message: e.message,
                code: Some(code.unwrap_or(BATCH_STEP_ERROR).to_owned()),
            }
        })
    }

    fn execute(&mut self, sql: &str, stmt: &Stmt) -> Result<StmtResult> {
        if sql.trim().is_empty() {
            return Err(Error::misuse("a statement without SQL"));
        }
        let changes_before = self.conn.total_changes();
        let want_rows = stmt.want_rows.unwrap_or(true);
        // Pushes repeat few statements many times. Where columns are asked for, a cached statement could still
        // describe those of an older schema.
        let (mut cached, mut fresh);
        let statement: &mut Statement<'_> = if want_rows {
            fresh = self.conn.prepare(sql)?;
            &mut fresh
        } else {
            cached = self.conn.prepare_cached(sql)?;
            &mut cached
        };
        bind(statement, stmt)?;
        self.wrote |= !statement.readonly();
        let mut result = StmtResult::default();
        if want_rows {
            result.cols = statement
                .columns()
                .iter()
                .map(|c| Col {
                    name: Some(c.name().to_owned()),
                    decltype: c.decl_type().map(str::to_owned),
                })
                .collect();
        }
        let width = statement.column_count();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            if !want_rows {
                continue;
            }
            let mut values = Vec::with_capacity(width);
            for i in 0..width {
                let value = value_of(row.get_ref(i)?);
                if let Some(reason) = unsendable(&value) {
                    return Err(Error::misuse(reason));
                }
                self.row_bytes += 32 + size_of_value(&value);
                values.push(value);
            }
            if self.row_bytes > MAX_ROW_BYTES {
                return Err(Error::misuse(format!(
                    "the result is larger than {MAX_ROW_BYTES} bytes"
                )));
            }
            result.rows.push(values);
        }
        if self.conn.total_changes() != changes_before {
            result.affected_row_count = self.conn.changes();
            let rowid = self.conn.last_insert_rowid();
            result.last_insert_rowid = (rowid != 0).then(|| rowid.to_string());
        }
        Ok(result)
    }

    fn roll_back(&self) {
        if !self.conn.is_autocommit() && self.conn.execute_batch("ROLLBACK").is_err() {
            // Cannot happen without statements in progress; if it does, nobody else may get this connection.
            self.tainted.store(true, Ordering::Relaxed);
        }
    }
}

fn holds(condition: &Condition, done: &BatchResult, autocommit: bool) -> bool {
    match condition {
        Condition::Ok(step) => done.result(*step).is_some(),
        Condition::Error(step) => done.step_errors.get(*step).is_some_and(Option::is_some),
        Condition::Not(inner) => !holds(inner, done, autocommit),
        Condition::And(all) => all.iter().all(|c| holds(c, done, autocommit)),
        Condition::Or(any) => any.iter().any(|c| holds(c, done, autocommit)),
        Condition::IsAutocommit => autocommit,
    }
}

struct Arg<'a>(&'a Value);

impl ToSql for Arg<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(i) => ValueRef::Integer(*i),
            Value::Real(r) => ValueRef::Real(*r),
            Value::Text(t) => ValueRef::Text(t),
            Value::Blob(b) => ValueRef::Blob(b),
        }))
    }
}

fn bind(statement: &mut Statement<'_>, stmt: &Stmt) -> Result<()> {
    let count = statement.parameter_count();
    if stmt.args.len() > count {
        return Err(Error::misuse(format!(
            "{} arguments for {count} parameters",
            stmt.args.len()
        )));
    }
    for (i, value) in stmt.args.iter().enumerate() {
        statement.raw_bind_parameter(i + 1, Arg(value))?;
    }
    for arg in &stmt.named_args {
        let index = ["", ":", "@", "$"].iter().find_map(|prefix| {
            statement
                .parameter_index(&format!("{prefix}{}", arg.name))
                .ok()
                .flatten()
        });
        let index = index.ok_or_else(|| Error::misuse(format!("no parameter named {}", arg.name)))?;
        statement.raw_bind_parameter(index, Arg(&arg.value))?;
    }
    Ok(())
}

fn value_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(i) => Value::Integer(i),
        ValueRef::Real(r) => Value::Real(r),
        ValueRef::Text(t) => Value::Text(t.to_vec()),
        ValueRef::Blob(b) => Value::Blob(b.to_vec()),
    }
}

fn size_of_value(value: &Value) -> usize {
    match value {
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}

/// Refuses what would reach beyond the database or get between the server and its log.
fn authorize(action: &AuthAction<'_>, tainted: &AtomicBool) -> Authorization {
    let deny_if = |denied: bool| {
        if denied {
            Authorization::Deny
        } else {
            Authorization::Allow
        }
    };
    match action {
        // VACUUM attaches a temporary database without a name; VACUUM INTO and ATTACH name a file.
        AuthAction::Attach { filename } => {
            tainted.store(true, Ordering::Relaxed);
            deny_if(!filename.is_empty())
        }
        AuthAction::Detach { .. } => Authorization::Deny,
        AuthAction::Unknown { code, .. } => deny_if(matches!(
            *code,
            rusqlite::ffi::SQLITE_ATTACH | rusqlite::ffi::SQLITE_DETACH
        )),
        AuthAction::Pragma {
            pragma_name,
            pragma_value,
        } => {
            let allowed = pragma_allowed(&pragma_name.to_ascii_lowercase(), pragma_value.is_some());
            deny_if(!allowed)
        }
        AuthAction::Function { function_name } => {
            deny_if(function_name.eq_ignore_ascii_case("load_extension"))
        }
        AuthAction::Insert { table_name }
        | AuthAction::Delete { table_name }
        | AuthAction::Update { table_name, .. } => deny_if(table_name.eq_ignore_ascii_case("sqlite_dbpage")),
        AuthAction::CreateVtable { module_name, .. } => {
            deny_if(module_name.eq_ignore_ascii_case("sqlite_dbpage"))
        }
        AuthAction::CreateTempTable { .. }
        | AuthAction::CreateTempView { .. }
        | AuthAction::CreateTempTrigger { .. }
        | AuthAction::CreateTempIndex { .. } => {
            tainted.store(true, Ordering::Relaxed);
            Authorization::Allow
        }
        _ => Authorization::Allow,
    }
}

/// Pragmas that only look, and the few that change data inside the transaction like any statement.
fn pragma_allowed(name: &str, with_value: bool) -> bool {
    const LOOKING: [&str; 16] = [
        "table_info",
        "table_xinfo",
        "table_list",
        "index_list",
        "index_info",
        "index_xinfo",
        "foreign_key_list",
        "foreign_key_check",
        "integrity_check",
        "quick_check",
        "user_version",
        "application_id",
        "defer_foreign_keys",
        "data_version",
        "function_list",
        "collation_list",
    ];
    const LOOKING_WITHOUT_VALUE: [&str; 10] = [
        "journal_mode",
        "page_size",
        "page_count",
        "freelist_count",
        "encoding",
        "schema_version",
        "foreign_keys",
        "database_list",
        "auto_vacuum",
        "compile_options",
    ];
    LOOKING.contains(&name) || (!with_value && LOOKING_WITHOUT_VALUE.contains(&name))
}

/// Whether `sql` is `ALTER TABLE name ADD …`.
fn adds_column(sql: &str) -> bool {
    let word = |text: &str, expected: &str| -> Option<usize> {
        let head = text.get(..expected.len())?;
        let next = text[expected.len()..].chars().next()?;
        (head.eq_ignore_ascii_case(expected) && !next.is_alphanumeric() && next != '_')
            .then_some(expected.len())
    };
    let after = || {
        let sql = sql.trim_start();
        let sql = sql[word(sql, "ALTER")?..].trim_start();
        let mut sql = sql[word(sql, "TABLE")?..].trim_start();
        loop {
            sql = skip_name(sql)?.trim_start();
            match sql.strip_prefix('.') {
                Some(rest) => sql = rest.trim_start(),
                None => return word(sql, "ADD"),
            }
        }
    };
    after().is_some()
}

/// What follows a plain or quoted name.
fn skip_name(sql: &str) -> Option<&str> {
    let close = match sql.chars().next()? {
        quote @ ('"' | '`' | '\'') => quote,
        '[' => ']',
        _ => {
            return sql
                .find(|c: char| c.is_whitespace() || c == '.')
                .map(|end| &sql[end..]);
        }
    };
    let mut rest = &sql[1..];
    loop {
        rest = &rest[rest.find(close)? + 1..];
        match rest.strip_prefix(close) {
            Some(after_doubled) if close != ']' => rest = after_doubled,
            _ => return Some(rest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognises_add_column() {
        for sql in [
            "ALTER TABLE n ADD COLUMN w TEXT DEFAULT 'd'",
            " alter\ttable \"a \"\" b\" add w",
            "ALTER TABLE main.[t x] ADD column c",
            "ALTER TABLE `t`ADD c",
        ] {
            assert!(adds_column(sql), "{sql}");
        }
        for sql in [
            "ALTER TABLE t RENAME TO ADD",
            "ALTER TABLE add DROP COLUMN c",
            "INSERT INTO t VALUES ('ALTER TABLE t ADD c')",
            "ALTER TABLE t ADDED x",
            "ALTER TABLE",
            "ALTER TABLE \"t",
            "ALTÉR TABLE t ADD x",
            "",
        ] {
            assert!(!adds_column(sql), "{sql}");
        }
    }
}
