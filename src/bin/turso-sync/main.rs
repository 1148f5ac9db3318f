//! `turso-sync`: replicas at the command line.
//!
//! Exit code: 0 = done; 1 = failed; 2 = wrong arguments; 3 = a conflict; 4 = failed, but worth repeating (network, a lock).

mod args;
mod commands;
mod output;
mod progress;
mod replica;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use turso_sync::error::{Category, Error};

use args::Args;
use output::Output;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(e) => return wrong(&e),
    };
    let output = Output { json: args.json };
    match commands::run(&args, &output) {
        Ok(code) => code,
        Err(e) => {
            output.error(&e);
            ExitCode::from(exit_code(&e))
        }
    }
}

/// Help was asked for, or the arguments are wrong: an error like others for scripts.
fn wrong(e: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if !json || !e.use_stderr() {
        e.exit()
    }
    Output { json }.error(&Error::misuse(e.to_string().trim()));
    ExitCode::from(2)
}

fn exit_code(error: &Error) -> u8 {
    match error.category {
        Category::Conflict => 3,
        _ if error.retryable => 4,
        _ => 1,
    }
}
