//! Runs pipeline requests: batches of SQL with conditions.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement, ToSql};

use super::direct_push;
use super::http::Refusal;
use super::limits::Limits;
use super::store::Store;
use crate::error::{Error, Result};
use crate::protocol::pipeline::{
    BATCH_STEP_ERROR, Batch, BatchResult, Col, Condition, PipelineRequest, PipelineResponse, Stmt, StmtError,
    StmtResult, StreamRequest, StreamResponse, StreamResult, unsendable,
};
use crate::protocol::push::{Push, PushAnswer};
use crate::protocol::sqlite_code;
use crate::record::Value;

/// Idle connections kept open.
const POOL_SIZE: usize = 8;
/// How long one is kept without being used.
const KEEP_IDLE: Duration = Duration::from_secs(60);
/// Page cache of a session that may write, in KiB. A push touches pages all over an index; those that do not fit are written
/// to the log and read again in the midst of the transaction.
const WRITER_CACHE_KIB: i64 = 16 << 10;
/// Rows changed by one request from which on it gives its page cache back.
const MANY_CHANGES: u64 = 1000;
/// Virtual-machine instructions between two looks at the clock.
const PROGRESS_OPS: i32 = 10_000;

/// What holds for every session of a pool.
#[derive(Clone)]
struct Terms {
    /// Statements that write are refused.
    read_only: bool,
    /// What a request leaves open, the next one goes on in, also after a step has failed.
    keeps_transactions: bool,
    /// Longest time one request may run.
    time: Duration,
    /// Most bytes of row data in the answer to one request.
    rows: usize,
    /// Becomes true when running requests must end.
    cut: Arc<AtomicBool>,
}

/// Connections for pipeline requests, each used by one request at a time.
pub struct Pool {
    terms: Terms,
    /// With the time since when they are idle.
    idle: Mutex<Vec<(Instant, Session)>>,
}

impl Pool {
    /// For clients that may do everything. Requests end early when `cut` becomes true.
    pub fn writing(limits: &Limits, cut: &Arc<AtomicBool>) -> Self {
        Self::new(false, limits, cut)
    }

    /// For clients that may only read.
    pub fn reading(limits: &Limits, cut: &Arc<AtomicBool>) -> Self {
        Self::new(true, limits, cut)
    }

    pub fn keeps_transactions(&self) -> bool {
        self.terms.keeps_transactions
    }

    /// For requests that come one after another, of clients that must be able to end their transactions themselves: they
    /// all use the same connection, and no failure ends a transaction.
    pub fn keeping_transactions(mut self) -> Self {
        self.terms.keeps_transactions = true;
        self
    }

    fn new(read_only: bool, limits: &Limits, cut: &Arc<AtomicBool>) -> Self {
        let terms = Terms {
            read_only,
            keeps_transactions: false,
            time: limits.statement_time,
            rows: limits.rows,
            cut: cut.clone(),
        };
        Pool {
            terms,
            idle: Mutex::default(),
        }
    }

    /// Runs `request`; returns the answer and whether anything may have been written.
    pub fn run(
        &self,
        store: &Store,
        request: PipelineRequest,
    ) -> std::result::Result<(PipelineResponse, bool), Refusal> {
        self.with_session(store, |session| session.run(request))
    }

    /// Runs the steps of a push in one transaction; whether they were committed is in the answer.
    pub fn push(&self, store: &Store, push: &Push) -> std::result::Result<PushAnswer, Refusal> {
        self.with_session(store, |session| session.push(push))
    }

    fn with_session<T, E: From<Error>>(
        &self,
        store: &Store,
        work: impl FnOnce(&mut Session) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let idle = self.idle().pop();
        let mut session = match idle {
            Some((_, session)) => session,
            None => Session::open(store, self.terms.clone())?,
        };
        let answer = work(&mut session)?;
        if session.reusable() {
            let mut idle = self.idle();
            if idle.len() < POOL_SIZE {
                idle.push((Instant::now(), session));
            }
        }
        Ok(answer)
    }

    /// Closes connections that nobody has used for a while, and has the others give back what memory they can.
    pub fn drop_idle(&self) {
        self.idle()
            .retain(|(since, session)| since.elapsed() < KEEP_IDLE && session.conn.release_memory().is_ok());
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Session)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection whose statements come from clients.
struct Session {
    conn: Connection,
    /// A statement left something behind that the next request must not see.
    tainted: Arc<AtomicBool>,
    /// The transaction is the server's: no statement may end it.
    guarded: Arc<AtomicBool>,
    terms: Terms,
    /// When the running request must have ended.
    deadline: Instant,
    /// A statement of the running request would have written, and must not.
    forbidden: bool,
    /// The running request was ended because the server stops.
    cut_off: bool,
    wrote: bool,
    row_bytes: usize,
}

impl Session {
    fn open(store: &Store, terms: Terms) -> Result<Self> {
        let conn = store.connect()?;
        // No writing of the schema table, of full-text indexes behind their backs, or of pages.
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        if !terms.read_only {
            conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
        }
        // Whoever may only read is stopped before; this is for what nobody has thought of.
        conn.pragma_update(None, "query_only", terms.read_only)?;
        let tainted = Arc::new(AtomicBool::new(false));
        let guarded = Arc::new(AtomicBool::new(false));
        let (taint, guard) = (tainted.clone(), guarded.clone());
        conn.authorizer(Some(move |context: AuthContext<'_>| match context.action {
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. }
                if guard.load(Ordering::Relaxed) =>
            {
                Authorization::Deny
            }
            action => authorize(&action, &taint),
        }))?;
        Ok(Session {
            conn,
            tainted,
            guarded,
            terms,
            deadline: Instant::now(),
            forbidden: false,
            cut_off: false,
            wrote: false,
            row_bytes: 0,
        })
    }

    fn reusable(&self) -> bool {
        let clean = !self.tainted.load(Ordering::Relaxed) && self.conn.is_autocommit();
        clean || self.terms.keeps_transactions
    }

    /// Runs `work` under the limits; whatever transaction it leaves is rolled back.
    fn within_limits<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> Result<T> {
        self.deadline = Instant::now() + self.terms.time;
        let (deadline, cut) = (self.deadline, self.terms.cut.clone());
        let over = move || Instant::now() > deadline || cut.load(Ordering::Relaxed);
        self.conn.progress_handler(PROGRESS_OPS, Some(over))?;
        (self.wrote, self.forbidden, self.cut_off, self.row_bytes) = (false, false, false, 0);
        let changes_before = self.conn.total_changes();
        let done = work(self);
        self.roll_back();
        if self.conn.total_changes() - changes_before >= MANY_CHANGES {
            // The session may be idle for long now.
            self.conn.release_memory()?;
        }
        self.conn.progress_handler(0, None::<fn() -> bool>)?;
        Ok(done)
    }

    fn push(&mut self, push: &Push) -> std::result::Result<PushAnswer, Refusal> {
        let answer = self.within_limits(|session| {
            let guard = |guarded| session.guarded.store(guarded, Ordering::Relaxed);
            direct_push::run(&session.conn, push, guard, || session.in_time())
        })?;
        let answer = answer.map_err(|e| Refusal::bad_request(e.message))?;
        match answer.committed == 0 && self.terms.cut.load(Ordering::Relaxed) {
            true => Err(Refusal::busy("the server stops and has ended the request")),
            false => Ok(answer),
        }
    }

    fn run(&mut self, request: PipelineRequest) -> std::result::Result<(PipelineResponse, bool), Refusal> {
        let results = self.within_limits(|session| {
            let requests = request.requests.into_iter();
            requests.map(|r| session.request(r)).collect()
        })?;
        if self.forbidden {
            return Err(Refusal::forbidden(
                "the token is for reading only, and a statement writes",
            ));
        }
        if self.cut_off {
            return Err(Refusal::busy("the server stops and has ended the request"));
        }
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
        let executed = self.in_time().and_then(|()| self.execute(sql, stmt));
        executed.map_err(|e| {
            self.cut_off |= self.terms.cut.load(Ordering::Relaxed);
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

    /// An interrupted statement ends; those after it must not begin.
    fn in_time(&self) -> Result<()> {
        if self.forbidden || self.terms.cut.load(Ordering::Relaxed) {
            return Err(Error::cancelled());
        }
        match Instant::now() > self.deadline {
            true => Err(Error::misuse(format!(
                "the request has taken longer than the {} seconds it may take",
                self.terms.time.as_secs()
            ))),
            false => Ok(()),
        }
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
        if self.terms.read_only && !statement.readonly() {
            self.forbidden = true;
            return Err(Error::cancelled());
        }
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
            // A short statement can have many columns, and a request many statements.
            let name_len = |col: &Col| col.name.as_ref().map_or(0, String::len);
            self.row_bytes += result.cols.iter().map(|col| 64 + name_len(col)).sum::<usize>();
            fits(self.row_bytes, self.terms.rows)?;
        }
        // A result may be refused when the rows are written already: then they must go as well.
        let own = want_rows && !result.cols.is_empty() && !statement.readonly() && self.conn.is_autocommit();
        if own {
            self.conn.execute_batch("BEGIN")?;
        }
        let ran = rows_of(statement, want_rows, &mut self.row_bytes, self.terms.rows);
        let ended = ran.and_then(|rows| {
            result.rows = rows;
            match own {
                true => Ok(self.conn.execute_batch("COMMIT")?),
                false => Ok(()),
            }
        });
        if ended.is_err() && own && !self.conn.is_autocommit() {
            self.conn.execute_batch("ROLLBACK")?;
        }
        ended?;
        if self.conn.total_changes() != changes_before {
            result.affected_row_count = self.conn.changes();
            let rowid = self.conn.last_insert_rowid();
            result.last_insert_rowid = (rowid != 0).then(|| rowid.to_string());
        }
        Ok(result)
    }

    fn roll_back(&self) {
        let open = !self.terms.keeps_transactions && !self.conn.is_autocommit();
        if open && self.conn.execute_batch("ROLLBACK").is_err() {
            // Cannot happen without statements in progress; if it does, nobody else may get this connection.
            self.tainted.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs `statement`; its rows, if somebody wants them. `bytes` counts those of the request, of which `most` are sent.
fn rows_of(
    statement: &mut Statement<'_>,
    want_rows: bool,
    bytes: &mut usize,
    most: usize,
) -> Result<Vec<Vec<Value>>> {
    let width = statement.column_count();
    let (mut all, mut rows) = (Vec::new(), statement.raw_query());
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
            *bytes += 32 + size_of_value(&value);
            values.push(value);
        }
        fits(*bytes, most)?;
        all.push(values);
    }
    Ok(all)
}

fn fits(bytes: usize, most: usize) -> Result<()> {
    match bytes > most {
        true => Err(Error::misuse(format!("the result is larger than {most} bytes"))),
        false => Ok(()),
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

/// A value on its way into a statement.
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
        // Free pages hold what was deleted.
        AuthAction::Read { table_name, .. } => deny_if(table_name.eq_ignore_ascii_case("sqlite_dbpage")),
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
