//! The command line.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use turso_sync::engine::{ConflictPolicy, ForeignPolicy, Resolution};

/// Keep a local SQLite database in sync with Turso.
///
/// A replica is an ordinary SQLite file. Change it with `turso-sync sql` or with a program that links the library: what plain
/// SQLite writes is noticed by the next sync, which asks what to do about it (see `foreign`). The token is read from TURSO_AUTH_TOKEN or from --token-file.
#[derive(Parser)]
#[command(name = "turso-sync", version, propagate_version = true)]
pub struct Args {
    /// Print one JSON object, or one per row, for scripts; errors on the error stream, too
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a replica: download the remote, or start empty with --offline
    Init {
        #[command(flatten)]
        place: Place,
        /// Start empty, and meet the remote with the first sync
        #[arg(long)]
        offline: bool,
        /// Make the ordinary SQLite database that is there the replica; all that it holds is pending then
        #[arg(long, conflicts_with = "offline")]
        adopt: bool,
        /// First part of the name under which the remote knows this replica
        #[arg(long, default_value = "turso-sync")]
        client_name: String,
    },
    /// Fetch what is new on the remote, and put it below the pending local changes
    Pull {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        conflicts: OnConflict,
    },
    /// Send the pending local changes to the remote
    Push {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        conflicts: OnConflict,
    },
    /// Push, then pull
    Sync {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        conflicts: OnConflict,
    },
    /// Tell what is pending, what is in conflict, and when the last sync was
    Status {
        #[command(flatten)]
        place: Place,
    },
    /// List conflicts, or resolve one of them
    Conflicts {
        #[command(flatten)]
        place: Place,
        /// Number of the conflict to resolve
        #[arg(long, requires = "with")]
        resolve: Option<i64>,
        /// What to do about it
        #[arg(long, value_enum, requires = "resolve")]
        with: Option<How>,
    },
    /// List the tables that another program has changed without capture, or decide about its changes
    Foreign {
        #[command(flatten)]
        place: Place,
        /// What to do about them
        #[arg(long, value_enum)]
        with: Option<Decision>,
    },
    /// Go on with a remote that is another one than before, or was restored from a backup
    ///
    /// Pending changes stay pending. Without --with it stops if anything else here is not on the remote, and lists the tables.
    Accept {
        #[command(flatten)]
        place: Place,
        /// What to do about what is here and not on the remote
        #[arg(long, value_enum)]
        with: Option<Decision>,
    },
    /// Move the write-ahead log into the database file
    Checkpoint {
        #[command(flatten)]
        place: Place,
    },
    /// Compare the replica with the remote, table by table; needs room for a copy in the temporary directory
    Verify {
        #[command(flatten)]
        place: Place,
    },
    /// Run SQL on the replica; changes are captured and travel with the next push
    ///
    /// Statements run one after the other until one fails; what ran before stays, unless it is in a transaction. SQL that begins a
    /// transaction must end it.
    Sql {
        #[command(flatten)]
        place: Place,
        /// One or more statements
        sql: String,
    },
}

/// Which replica, and where its remote is.
#[derive(Group)]
pub struct Place {
    /// The database file
    pub db: PathBuf,
    /// URL of the remote; `init` remembers it
    #[arg(long, env = "TURSO_SYNC_URL")]
    pub url: Option<String>,
    /// File with the token
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// Longest silence of the remote, in seconds
    #[arg(long, default_value_t = 60)]
    pub timeout: u64,
    /// Keep this table local; may be repeated, and must be the same every time
    #[arg(long = "ignore-table", value_name = "TABLE")]
    pub ignore_tables: Vec<String>,
}

/// What to do about conflicts on the way.
#[derive(Group)]
pub struct OnConflict {
    /// What to do about a transaction that the remote does not take
    #[arg(long = "conflicts", value_enum, default_value = "stop")]
    pub policy: Policy,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Policy {
    /// Stop; everything stays pending
    Stop,
    /// The last push wins
    Overwrite,
    /// Keep the transaction aside, and go on
    SetAside,
}

impl From<Policy> for ConflictPolicy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Stop => ConflictPolicy::Stop,
            Policy::Overwrite => ConflictPolicy::Overwrite,
            Policy::SetAside => ConflictPolicy::SetAside,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum How {
    /// Try it again
    Retry,
    /// Overwrite what is in its way
    Overwrite,
    /// Take it out of the database, and keep it
    SetAside,
    /// Take it out of the database, and forget it
    Drop,
}

impl From<How> for Resolution {
    fn from(how: How) -> Self {
        match how {
            How::Retry => Resolution::Retry,
            How::Overwrite => Resolution::Overwrite,
            How::SetAside => Resolution::SetAside,
            How::Drop => Resolution::Drop,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Decision {
    /// They become pending, and travel with the next push
    Adopt,
    /// They are undone
    Discard,
}

impl From<Decision> for ForeignPolicy {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Adopt => ForeignPolicy::Adopt,
            Decision::Discard => ForeignPolicy::Discard,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
