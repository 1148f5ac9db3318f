//! Command line of the bundled sync server.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use turso_sync::error::{Error, Result};
use turso_sync::server::{Config, Server, TokenSource};

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
logs into their files; a second one ends it at once. SIGHUP reads the file of tokens again.";

/// Serves SQLite databases to replicas.
///
/// A database is an ordinary SQLite file with pages of 4096 bytes. What the server knows about its history is kept
/// beside it, in a file whose name ends in -sync.
#[derive(Parser)]
#[command(name = "turso-sync-server", version, after_help = EXAMPLES, max_term_width = 110)]
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

    /// The address, for those who start the server as `tursodb [DATABASE] --sync-server ADDRESS`. Options that begin
    /// with --experimental- are ignored for the same reason
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1)]
    sync_server: Option<Option<String>>,
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
        ..Default::default()
    })
}
