//! A replica at the command line: the engine and the driver with the settings of the arguments.

use std::time::Duration;

use turso_sync::driver::{self, Auth, DriverConfig};
use turso_sync::engine::{ConflictPolicy, DatabaseSyncEngine, DatabaseSyncEngineOpts};
use turso_sync::error::{Error, Result};
use turso_sync::io::Operation;

use super::args::Place;
use super::progress;

/// Environment variable with the token: other users of the machine cannot see it, as they can see arguments.
const TOKEN_VARIABLE: &str = "TURSO_AUTH_TOKEN";

pub struct Replica {
    pub engine: DatabaseSyncEngine,
    config: DriverConfig,
    quiet: bool,
}

impl Replica {
    /// Reads the settings; opens nothing yet.
    pub fn new(
        place: &Place,
        quiet: bool,
        change: impl FnOnce(&mut DatabaseSyncEngineOpts),
    ) -> Result<Replica> {
        let path = place.db.to_str();
        let path = path.ok_or_else(|| Error::misuse("the path of the database is not UTF-8"))?;
        let mut opts = DatabaseSyncEngineOpts {
            path: path.to_owned(),
            remote_url: place.url.clone(),
            client_name: "turso-sync".to_owned(),
            tables_ignore: place.ignore_tables.clone(),
            ..Default::default()
        };
        change(&mut opts);
        Ok(Replica {
            engine: DatabaseSyncEngine::new(opts)?,
            config: DriverConfig {
                auth: token(place)?.map_or(Auth::None, Auth::Fixed),
                timeout: Duration::from_secs(place.timeout.max(1)),
                ..DriverConfig::default()
            },
            quiet,
        })
    }

    /// Opens the replica that is there.
    pub fn open(place: &Place, quiet: bool, policy: ConflictPolicy) -> Result<Replica> {
        let replica = Replica::new(place, quiet, |opts| opts.conflict_policy = policy)?;
        replica.run("opening", replica.engine.open())?;
        Ok(replica)
    }

    /// Runs an operation to its end and shows its progress under the name `what`.
    pub fn run<T>(&self, what: &'static str, mut operation: Operation<T>) -> Result<T> {
        let control = operation.control().clone();
        let watcher = (!self.quiet).then(|| progress::watch(what, control.clone()));
        let result = driver::run(self.engine.io(), &self.config, &control, || operation.resume());
        drop(watcher);
        result?;
        operation
            .take_result()
            .ok_or_else(|| Error::internal("the operation has no result"))
    }
}

fn token(place: &Place) -> Result<Option<String>> {
    let Some(path) = &place.token_file else {
        return Ok(std::env::var(TOKEN_VARIABLE)
            .ok()
            .filter(|token| !token.is_empty()));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::io(format_args!("read the token from {}", path.display()), &e))?;
    Ok(Some(text.trim().to_owned()))
}
