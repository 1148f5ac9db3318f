//! Bootstrap, push and pull against the raw disk and plain SQLite, in the same run: ratios, because machines differ.
//! `cargo bench --features server --bench sync`

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use support::{Remote, Replica, options, plain};
use turso_sync::engine::DatabaseSyncEngineOpts;

const ROWS: u32 = 20_000;
const ROUNDS: usize = 3;

fn timed<R>(f: impl FnOnce() -> R) -> (Duration, R) {
    let start = Instant::now();
    let result = f();
    (start.elapsed(), result)
}

/// Writes the file's content once more, and syncs it: what the disk alone takes.
fn raw_copy(path: &std::path::Path, to: &std::path::Path) -> Duration {
    let bytes = std::fs::read(path).unwrap();
    timed(|| {
        let mut file = std::fs::File::create(to).unwrap();
        bytes.chunks(4096).for_each(|page| file.write_all(page).unwrap());
        file.sync_all().unwrap();
    })
    .0
}

fn fill(conn: impl Fn(&str)) {
    conn(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO t(a, b) SELECT 'name ' || i, hex(randomblob(40)) FROM n"
    ));
}

/// Time of a pull of [`ROWS`] rows by a replica that has a local table of `local` rows.
fn pull_beside_local(local: u32) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::start("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT);");
    let opts = DatabaseSyncEngineOpts {
        tables_ignore: vec!["cache".into()],
        ..options(&dir.path().join("a.db"), &remote.url)
    };
    let a = Replica::open_with(opts).unwrap();
    let b = Replica::open(&dir.path().join("b.db"), &remote.url);
    a.sql(&format!(
        "CREATE TABLE cache (id INTEGER PRIMARY KEY, v TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {local})
         INSERT INTO cache SELECT i, hex(randomblob(30)) FROM n WHERE i <= {local}"
    ));
    fill(|sql| b.sql(sql));
    b.push().unwrap();
    timed(|| a.pull().unwrap()).0
}

fn main() {
    let best_pull = |local| {
        (0..ROUNDS)
            .map(|_| pull_beside_local(local))
            .min()
            .unwrap_or_default()
    };
    let beside_local = best_pull(100_000).as_secs_f64() / best_pull(0).as_secs_f64();
    let mut best = [f64::MAX; 4];
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let remote = Remote::start(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT); CREATE TABLE big (x);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000)
             INSERT INTO big SELECT randomblob(4000) FROM n;",
        );
        let raw = raw_copy(&remote.path, &dir.path().join("raw"));
        let (bootstrap, a) = timed(|| Replica::open(&dir.path().join("a.db"), &remote.url));
        let b = Replica::open(&dir.path().join("b.db"), &remote.url);

        let model = plain(&dir.path().join("plain.db"));
        model
            .execute_batch(
                "PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)",
            )
            .unwrap();
        let (insert, ()) = timed(|| fill(|sql| model.execute_batch(sql).unwrap()));
        fill(|sql| a.sql(sql));
        let (push, ()) = timed(|| a.push().unwrap());
        // Pull below as many pending changes of its own as come in.
        fill(|sql| b.sql(&sql.replace("t(a, b) SELECT", "t SELECT i + 1000000,")));
        let (pull, _) = timed(|| b.pull().unwrap());
        let (apply_only, _) = timed(|| a.pull().unwrap());
        let ratios = [
            (bootstrap, raw),
            (push, insert),
            (pull, insert),
            (apply_only, insert),
        ];
        for (best, (ours, plain)) in best.iter_mut().zip(ratios) {
            *best = best.min(ours.as_secs_f64() / plain.as_secs_f64());
        }
    }
    println!(
        "bootstrap of 205 MB                        {:6.1} x raw write + fsync",
        best[0]
    );
    println!(
        "push of {ROWS} rows                         {:6.1} x plain insert of them",
        best[1]
    );
    println!(
        "pull of them below {ROWS} pending rows      {:6.1} x plain insert of them",
        best[2]
    );
    println!(
        "pull of one's own pushed rows              {:6.1} x plain insert of them",
        best[3]
    );
    println!("pull beside 100,000 rows of a local table  {beside_local:6.1} x the same pull without");
}
