//! The server, and tasks of the test itself, in processes of their own.
#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use turso_sync::driver::{self, DriverConfig};
use turso_sync::engine::DatabaseSyncEngine;
use turso_sync::error::Result;
use turso_sync::io::Operation;

/// The server as a process of its own.
pub struct Server {
    process: Child,
    pub url: String,
}

impl Server {
    pub fn start(database: &Path) -> Server {
        let mut process = Command::new(env!("CARGO_BIN_EXE_turso-sync-server"))
            .args(["127.0.0.1:0", database.to_str().unwrap()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let url = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
        Server { process, url }
    }

    pub fn sql(&self, sql: &str) -> String {
        remote_sql(&self.url, sql)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a statement on the server; its answer.
pub fn remote_sql(url: &str, sql: &str) -> String {
    let body =
        format!(r#"{{"requests":[{{"type":"execute","stmt":{{"sql":{sql:?}}}}},{{"type":"close"}}]}}"#);
    let mut answer = ureq::post(format!("{url}/v2/pipeline")).send(body).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    assert!(!text.contains("\"error\""), "{text}");
    text
}

/// Runs the ignored test `child` of this binary as a process, with `variables`; what it printed.
pub fn run_child(variables: &[(&str, &str)]) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{variables:?}: {text}\n{errors}");
    text
}

/// Runs an operation with the built-in driver.
pub fn drive<T>(engine: &DatabaseSyncEngine, mut op: Operation<T>) -> Result<T> {
    let control = op.control().clone();
    driver::run(engine.io(), &DriverConfig::default(), &control, || op.resume())?;
    Ok(op.take_result().unwrap())
}
