//! Backups put back in place, as docs/server.md describes it.
#![cfg(all(feature = "server", feature = "driver"))]

mod server_support;

use std::path::Path;

use server_support::*;
use turso_sync::protocol::pull::PullUpdatesRequest;

fn status(replica: &Pages, client: &Client) -> u16 {
    let request = PullUpdatesRequest {
        client_revision: replica.revision.clone(),
        ..Default::default()
    };
    client.pull(&request).status
}

fn remove(path: &Path, suffixes: &[&str]) {
    for suffix in suffixes {
        let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
    }
}

#[test]
fn a_restored_backup_is_another_history() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let backup = dir.path().join("backup.db");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut before = Pages::default();
    before.pull(&client);
    // As the sqlite3 shell's .backup, while the server runs; VACUUM INTO needs no shell.
    plain(&path)
        .execute_batch(&format!("VACUUM INTO '{}'", backup.display()))
        .unwrap();
    client.write(&["UPDATE t SET b = 'lost' WHERE id = 1"]);
    let mut after = before.clone();
    after.pull(&client);
    server.shutdown();
    std::fs::copy(&backup, &path).unwrap();
    remove(&path, &["-wal", "-shm", "-sync", "-sync-wal"]);
    let server = serve(&path);
    let client = Client::new(server.url());
    assert_eq!((status(&before, &client), status(&after, &client)), (409, 409));
    let mut new = Pages::default();
    new.pull(&client);
    new.assert_equals(&path);
    assert_eq!(client.query("SELECT 1 FROM t WHERE b = 'lost'").len(), 0);
}

#[test]
fn a_snapshot_of_both_keeps_older_replicas() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(&dir, "wal");
    let (saved, saved_history) = (dir.path().join("saved"), dir.path().join("saved-sync"));
    let history = dir.path().join("served.db-sync");
    let server = serve(&path);
    let client = Client::new(server.url());
    let mut older = Pages::default();
    older.pull(&client);
    client.write(&["UPDATE t SET b = 'kept' WHERE id = 1"]);
    server.shutdown();
    std::fs::copy(&path, &saved).unwrap();
    std::fs::copy(&history, &saved_history).unwrap();
    let server = serve(&path);
    let client = Client::new(server.url());
    client.write(&["UPDATE t SET b = 'lost' WHERE id = 2"]);
    let mut newer = older.clone();
    newer.pull(&client);
    server.shutdown();
    std::fs::copy(&saved, &path).unwrap();
    std::fs::copy(&saved_history, &history).unwrap();
    remove(&path, &["-wal", "-shm", "-sync-wal"]);
    let server = serve(&path);
    let client = Client::new(server.url());
    client.write(&["UPDATE t SET b = 'new' WHERE id = 3"]);
    assert_eq!(status(&newer, &client), 409);
    older.pull(&client);
    older.assert_equals(&path);
}
