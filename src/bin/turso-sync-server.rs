//! Command line of the bundled sync server.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, ValueEnum};
use turso_sync::error::{Error, Result};
use turso_sync::server::{Config, Level, Limits, LogOptions, Server, TokenSource, allow_many_files};

const EXAMPLES: &str = "\
Examples:
  turso-sync-server 127.0.0.1:8080 notes.db
      One database at http://127.0.0.1:8080, for this machine only.

  turso-sync-server 0.0.0.0:8080 --dir /var/lib/turso-sync --create --token-file /etc/turso-sync/tokens
      Each /var/lib/turso-sync/NAME.db at http://HOST:8080/NAME (or http://NAME.HOST:8080), made when somebody
      who may write asks for it.

A file of tokens has a line for each: what it is for, the token, and the databases, if not all:
  read-write 2f1c9a4be07d4dd1a5e1f3a3   # anything
  read-only  8d1b7c1c0c5b4b7e9d5a6f21 notes,tasks
  metrics    6f0a5d9e7b3c4c0fa1b2c3d4   # only /metrics

Signals: SIGTERM and SIGINT stop the server: it accepts nothing more, lets running requests end, and moves all
logs into their files; a second one ends it at once. SIGHUP reads the file of tokens again.

GET /health answers as long as the process runs, GET /health/ready if requests have a chance, GET /metrics has
figures for Prometheus. Every option but the address can be given as a variable instead.";

/// Serves SQLite databases to replicas.
///
/// A database is an ordinary SQLite file with pages of 4096 bytes. What the server knows about its history is kept
/// beside it, in a file whose name ends in -sync.
#[derive(Parser)]
#[command(name = "turso-sync-server", version, args_override_self = true, after_help = EXAMPLES, max_term_width = 110)]
struct Arguments {
    /// Host and port to listen on, such as 127.0.0.1:8080 (port 0: any free one), and a database, which is made if
    /// missing (without one: a temporary one, deleted at the end)
    #[arg(value_name = "ADDRESS] [DATABASE")]
    plain: Vec<String>,

    /// Serve every NAME.db in this folder at /NAME, instead of one database; names consist of a-z, 0-9, - and _
    #[arg(long, value_name = "FOLDER", env = "TURSO_SYNC_DIR")]
    dir: Option<PathBuf>,

    /// Make databases in the folder when somebody who may write asks for them
    #[arg(long, requires = "dir", env = "TURSO_SYNC_CREATE")]
    create: bool,

    /// Let in only who presents one of the tokens in this file
    #[arg(long, value_name = "FILE", env = "TURSO_SYNC_TOKEN_FILE")]
    token_file: Option<PathBuf>,

    /// A token for everything. Other users of this machine can see arguments: better set the variable, or use a file
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TURSO_SYNC_AUTH_TOKEN",
        hide_env_values = true
    )]
    auth_token: Option<String>,

    /// A token for reading everything; the same holds for it
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TURSO_SYNC_READ_TOKEN",
        hide_env_values = true
    )]
    read_token: Option<String>,

    /// How the log on the standard error output looks
    #[arg(long, value_name = "FORM", default_value = "text", env = "TURSO_SYNC_LOG")]
    log: Form,

    /// What is logged: every request with info, why connections end with debug
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        env = "TURSO_SYNC_LOG_LEVEL"
    )]
    log_level: LogLevel,

    #[command(flatten)]
    limits: LimitArguments,

    /// The address, for those who start the server as `tursodb [DATABASE] --sync-server ADDRESS`. Options that begin
    /// with --experimental- are ignored for the same reason
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1)]
    sync_server: Option<Option<String>>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Form {
    Text,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
}

/// The defaults are those of `Limits`; a test compares them.
#[derive(Args)]
#[command(next_help_heading = "Limits")]
struct LimitArguments {
    /// Connections at a time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        env = "TURSO_SYNC_MAX_CONNECTIONS"
    )]
    max_connections: usize,

    /// Connections at a time from one address. Behind a proxy all come from one: set it to the number above
    #[arg(
        long,
        value_name = "N",
        default_value_t = 250,
        env = "TURSO_SYNC_MAX_CONNECTIONS_PER_ADDRESS"
    )]
    max_connections_per_address: usize,

    /// Requests that use SQLite at a time; further ones wait, and after 30 seconds get 503
    #[arg(long, value_name = "N", default_value_t = 64, env = "TURSO_SYNC_MAX_REQUESTS")]
    max_requests: usize,

    /// Databases of a folder open at a time; one that is in use, also by a waiting pull, keeps its place
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        env = "TURSO_SYNC_MAX_DATABASES"
    )]
    max_databases: usize,

    /// Seconds until an unused database of a folder is closed
    #[arg(long, value_name = "S", default_value_t = 300, env = "TURSO_SYNC_IDLE")]
    idle: u64,

    /// Seconds that a client may take to send the head of its next request
    #[arg(
        long,
        value_name = "S",
        default_value_t = 30,
        env = "TURSO_SYNC_HEADER_TIMEOUT"
    )]
    header_timeout: u64,

    /// Seconds that the server waits in all for a client that sends or takes nothing
    #[arg(long, value_name = "S", default_value_t = 30, env = "TURSO_SYNC_PATIENCE")]
    patience: u64,

    /// Bytes per second that a client must send or take when these are used up
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = 1024,
        env = "TURSO_SYNC_MIN_RATE"
    )]
    min_rate: u64,

    /// Seconds that one answer may take to be sent
    #[arg(
        long,
        value_name = "S",
        default_value_t = 3600,
        env = "TURSO_SYNC_ANSWER_TIMEOUT"
    )]
    answer_timeout: u64,

    /// MiB of one request: a pushed transaction travels in one
    #[arg(long, value_name = "MIB", default_value_t = 512, env = "TURSO_SYNC_MAX_BODY")]
    max_body: usize,

    /// MiB of all requests longer than 64 KiB that are in memory; further ones get 503
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 1024,
        env = "TURSO_SYNC_MAX_BODIES"
    )]
    max_bodies: usize,

    /// MiB of rows in one answer
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 128,
        env = "TURSO_SYNC_MAX_RESULT"
    )]
    max_result: usize,

    /// Seconds that one request may work in SQLite
    #[arg(
        long,
        value_name = "S",
        default_value_t = 300,
        env = "TURSO_SYNC_STATEMENT_TIMEOUT"
    )]
    statement_timeout: u64,

    /// MiB of memory for SQLite in all; a statement that needs more fails. 0: no limit
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 1024,
        env = "TURSO_SYNC_SQLITE_MEMORY"
    )]
    sqlite_memory: u64,

    /// MiB of answers that wait in temporary files for slow clients; whoever needs more is cut off
    #[arg(long, value_name = "MIB", default_value_t = 4096, env = "TURSO_SYNC_SPOOL")]
    spool: u64,

    /// Seconds that a pull is held at most until something changes
    #[arg(long, value_name = "S", default_value_t = 60, env = "TURSO_SYNC_LONG_POLL")]
    long_poll: u64,

    /// Seconds that running requests may take to end when the server stops; then they are rolled back
    #[arg(long, value_name = "S", default_value_t = 10, env = "TURSO_SYNC_STOP_TIMEOUT")]
    stop_timeout: u64,
}

impl From<LimitArguments> for Limits {
    fn from(given: LimitArguments) -> Self {
        let seconds = Duration::from_secs;
        Limits {
            connections: given.max_connections,
            connections_per_address: given.max_connections_per_address,
            workers: given.max_requests.max(1),
            header_time: seconds(given.header_timeout),
            patience: seconds(given.patience),
            min_rate: given.min_rate,
            body: given.max_body.saturating_mul(1 << 20),
            bodies: given.max_bodies.saturating_mul(1 << 20),
            statement_time: seconds(given.statement_timeout),
            rows: given.max_result.saturating_mul(1 << 20),
            long_poll: seconds(given.long_poll),
            answer_time: seconds(given.answer_timeout),
            spool: given.spool.saturating_mul(1 << 20),
            stop_time: seconds(given.stop_timeout),
            sqlite_memory: given.sqlite_memory.saturating_mul(1 << 20),
            databases: given.max_databases.max(1),
            idle_time: seconds(given.idle),
            ..Limits::default()
        }
    }
}

fn main() -> ExitCode {
    let given = std::env::args_os().filter(|a| !a.to_string_lossy().starts_with("--experimental-"));
    let arguments = match Arguments::try_parse_from(given.collect::<Vec<OsString>>()) {
        Ok(arguments) => arguments,
        Err(e) => {
            let asked_for = matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            let _ = e.print();
            return ExitCode::from(u8::from(!asked_for));
        }
    };
    match config(arguments).and_then(|config| run(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("turso-sync-server: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: &Config) -> Result<()> {
    allow_many_files();
    let server = Server::start(config)?;
    server.wait_for_signal(|| {
        let mut stdout = std::io::stdout();
        // Whoever started the server may not care for its output: a closed pipe is no reason to stop.
        let _ = writeln!(stdout, "listening on {}", server.url()).and_then(|()| stdout.flush());
    })?;
    server.shutdown();
    Ok(())
}

fn config(arguments: Arguments) -> Result<Config> {
    let mut plain = arguments.plain.into_iter();
    let address = arguments
        .sync_server
        .flatten()
        .or_else(|| plain.next())
        .ok_or_else(|| Error::misuse("no address to listen on; see --help"))?;
    let database = plain.next().filter(|name| name != ":memory:").map(Into::into);
    if let Some(surplus) = plain.next() {
        return Err(Error::misuse(format!(
            "unexpected argument {surplus}; see --help"
        )));
    }
    // A variable that is set to nothing is one that is not set.
    let given = |token: Option<String>| token.filter(|token| !token.is_empty());
    Ok(Config {
        address,
        database,
        folder: arguments.dir,
        create: arguments.create,
        tokens: TokenSource {
            write: given(arguments.auth_token),
            read: given(arguments.read_token),
            file: arguments.token_file,
        },
        limits: arguments.limits.into(),
        log: LogOptions {
            level: match arguments.log_level {
                LogLevel::Off => Level::Off,
                LogLevel::Error => Level::Error,
                LogLevel::Warn => Level::Warn,
                LogLevel::Info => Level::Info,
                LogLevel::Debug => Level::Debug,
            },
            json: arguments.log == Form::Json,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_help_calls_the_default_is_the_default() {
        let arguments = Arguments::try_parse_from(["turso-sync-server", "127.0.0.1:0"]).unwrap();
        let limits = Limits {
            sqlite_memory: 1 << 30,
            ..Limits::default()
        };
        assert_eq!(
            format!("{:?}", Limits::from(arguments.limits)),
            format!("{limits:?}")
        );
    }
}
