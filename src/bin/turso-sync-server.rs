//! Command line of the bundled sync server.

use std::io::Write;
use std::process::ExitCode;

use turso_sync::error::{Error, Result};
use turso_sync::server::{Config, Server};

const HELP: &str = "\
Serves a SQLite database to replicas.

Usage: turso-sync-server [OPTIONS] ADDRESS [DATABASE]
       turso-sync-server [DATABASE] --sync-server ADDRESS [OPTIONS]

  ADDRESS   host and port to listen on, such as 127.0.0.1:8080; port 0 takes any free port
  DATABASE  an SQLite file with 4096-byte pages; created if missing. Without it, or with :memory:,
            a temporary database that is deleted at the end. What the server knows about the
            file's history is kept next to it in DATABASE-sync

Options:
  --auth-token TOKEN  answer only requests with `Authorization: Bearer TOKEN`; other users of this
                      machine can see arguments, so better set TURSO_SYNC_AUTH_TOKEN instead
  --experimental-...  accepted and ignored
  --help, --version

SIGINT or SIGTERM stops the server after the running requests.
";

enum Command {
    Serve(Config),
    Print(&'static str),
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("turso-sync-server: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    let mut stdout = std::io::stdout();
    let config = match command {
        Command::Serve(config) => config,
        Command::Print(text) => {
            return stdout
                .write_all(text.as_bytes())
                .map_err(|e| Error::io("write to stdout", &e));
        }
    };
    let server = Server::start(&config)?;
    server.wait_for_signal(|| {
        // Whoever started the server may not care for its output: a closed pipe is no reason to stop.
        let _ = writeln!(stdout, "listening on {}", server.url()).and_then(|()| stdout.flush());
    })?;
    server.shutdown();
    Ok(())
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Command> {
    let mut arguments = arguments.peekable();
    let mut address = None;
    let mut plain = Vec::new();
    let mut auth_token = std::env::var("TURSO_SYNC_AUTH_TOKEN")
        .ok()
        .filter(|token| !token.is_empty());
    while let Some(argument) = arguments.next() {
        let (name, mut value) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        match name {
            "--help" | "-h" => return Ok(Command::Print(HELP)),
            "--version" => {
                return Ok(Command::Print(concat!(
                    "turso-sync-server ",
                    env!("CARGO_PKG_VERSION"),
                    "\n"
                )));
            }
            "--sync-server" => address = value.or_else(|| arguments.next_if(|next| !next.starts_with('-'))),
            "--auth-token" => {
                value = value.or_else(|| arguments.next());
                auth_token = Some(value.ok_or_else(|| Error::misuse("--auth-token needs a token"))?);
            }
            _ if name.starts_with("--experimental-") => {}
            _ if name.starts_with('-') => {
                return Err(Error::misuse(format!("unknown option {name}; see --help")));
            }
            _ => plain.push(argument),
        }
    }
    let mut plain = plain.into_iter();
    let address = address
        .or_else(|| plain.next())
        .ok_or_else(|| Error::misuse("no address to listen on; see --help"))?;
    let database = plain.next().filter(|name| name != ":memory:").map(Into::into);
    if let Some(surplus) = plain.next() {
        return Err(Error::misuse(format!(
            "unexpected argument {surplus}; see --help"
        )));
    }
    Ok(Command::Serve(Config {
        address,
        database,
        auth_token,
    }))
}
