//! Changes that the host transforms before they are pushed (`use_transform`).
#![cfg(feature = "server")]

mod support;

use support::*;
use turso_sync::driver::{self, DriverConfig};
use turso_sync::engine::{
    ConflictPolicy, DatabaseChangeType, DatabaseRowMutation, DatabaseRowTransformResult as Decision,
    DatabaseStatementReplay, DatabaseSyncEngine, DatabaseSyncEngineOpts,
};
use turso_sync::error::{Category, Code, Error, Result};
use turso_sync::io::{HttpRequest, Operation, OperationStatus, SyncEngineIoRequest};
use turso_sync::record::Value;

const SCHEMA: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, n REAL);
    CREATE TABLE audit (who TEXT UNIQUE, n INTEGER);
    INSERT INTO audit VALUES ('total', 0);";

/// What a push did: its result, the portions that the host was asked about, its HTTP requests.
struct Push {
    result: Result<()>,
    asked: Vec<Vec<DatabaseRowMutation>>,
    requests: Vec<HttpRequest>,
}

impl Push {
    fn mutations(&self) -> impl Iterator<Item = &DatabaseRowMutation> {
        self.asked.iter().flatten()
    }

    /// Requests that carry changes.
    fn batches(&self) -> usize {
        self.requests.iter().filter(|http| is_push(http)).count()
    }
}

type Decide<'a> = &'a mut dyn FnMut(&DatabaseRowMutation) -> Decision;

/// Drives a push over `network`; `decide` decides.
fn push_over(engine: &DatabaseSyncEngine, decide: Decide<'_>, network: Network<'_>) -> Push {
    let mut op: Operation<()> = engine.push_changes_to_remote();
    let (mut asked, mut requests) = (Vec::new(), Vec::new());
    let result = loop {
        match op.resume() {
            Ok(OperationStatus::Io) => {}
            Ok(OperationStatus::Done) => break Ok(()),
            Err(e) => break Err(e),
        }
        while let Some(item) = engine.io().take_item() {
            match item.request() {
                SyncEngineIoRequest::Transform(mutations) => {
                    for (index, mutation) in mutations.iter().enumerate() {
                        item.decide(index, decide(mutation)).unwrap();
                    }
                    asked.push(mutations.clone());
                    item.done();
                }
                SyncEngineIoRequest::Http(http) => {
                    requests.push(http.clone());
                    serve(&item, network);
                }
                _ => serve(&item, network),
            }
        }
    };
    Push {
        result,
        asked,
        requests,
    }
}

fn push(replica: &Replica, mut decide: impl FnMut(&DatabaseRowMutation) -> Decision) -> Push {
    push_over(&replica.engine, &mut decide, &mut |http, _| forward(http))
}

fn rewrite(sql: &str, values: Vec<Value>) -> Decision {
    Decision::Rewrite(DatabaseStatementReplay {
        sql: sql.into(),
        values,
    })
}

struct Place {
    remote: Remote,
    dir: tempfile::TempDir,
}

impl Place {
    fn new(schema: &str) -> Place {
        Place {
            remote: Remote::start(schema),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn replica(&self, change: impl FnOnce(&mut DatabaseSyncEngineOpts)) -> Replica {
        let mut opts = options(&self.dir.path().join("a.db"), &self.remote.url);
        opts.use_transform = true;
        change(&mut opts);
        Replica::open_with(opts).unwrap()
    }

    fn remote_text(&self, sql: &str) -> String {
        let sql = format!("SELECT CAST(({sql}) AS TEXT)");
        let row = plain(&self.remote.path).query_row(&sql, [], |row| row.get::<_, Option<String>>(0));
        row.unwrap().unwrap_or_else(|| "NULL".into())
    }
}

const ALL: &str = "SELECT group_concat(id || v, ' ') FROM (SELECT * FROM t ORDER BY id)";

fn text(s: &str) -> Value {
    Value::Text(s.into())
}

#[test]
fn kept_skipped_and_rewritten_changes_and_what_is_here_afterwards() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|_| ());
    a.sql("INSERT INTO t(id, v) VALUES (1, 'keep'), (2, 'skip'), (3, 'rewrite')");
    let decide = |m: &DatabaseRowMutation| match m.value_after("V") {
        Some(Value::Text(v)) if v == b"skip" => Decision::Skip,
        Some(Value::Text(v)) if v == b"rewrite" => rewrite(
            "INSERT INTO t(id, v) VALUES (?, upper(?))",
            vec![Value::Integer(m.id), Value::Text(v.clone())],
        ),
        _ => Decision::Keep,
    };
    let pushed = push(&a, decide);
    pushed.result.unwrap();
    assert_eq!(place.remote_text(ALL), "1keep 3REWRITE");
    // Until the remote's state comes back, everything is here as it was written.
    assert_eq!(a.text(ALL), "1keep 2skip 3rewrite");
    assert_eq!(a.pending(), 0);
    assert!(a.pull().unwrap());
    assert_eq!(a.tables(), place.remote.tables());
    // Nobody is asked about what the remote has acknowledged.
    assert!(push(&a, |_| panic!("asked again")).asked.is_empty());
}

#[test]
fn a_pull_before_the_push_shows_what_was_written_here() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|_| ());
    a.sql("INSERT INTO t(id, v) VALUES (1, 'mine')");
    let other = Replica::open(&place.dir.path().join("b.db"), &place.remote.url);
    other.sql("INSERT INTO t(id, v) VALUES (2, 'theirs')");
    other.push().unwrap();
    assert!(a.pull().unwrap());
    assert_eq!(a.text(ALL), "1mine 2theirs");
    push(&a, |_| Decision::Skip).result.unwrap();
    assert!(a.pull().unwrap());
    assert_eq!(a.text(ALL), "2theirs");
}

#[test]
fn a_mutation_has_everything_about_the_change() {
    let place = Place::new("CREATE TABLE k (b TEXT, x, a INTEGER, g AS (x || 'g'), PRIMARY KEY (a, b))");
    let a = place.replica(|_| ());
    a.sql("INSERT INTO k(b, x, a) VALUES ('b', NULL, 7)");
    a.sql("UPDATE k SET x = 1.5");
    a.sql("ALTER TABLE k ADD COLUMN later DEFAULT x'01'");
    a.sql("BEGIN; UPDATE k SET x = 'text', later = NULL; DELETE FROM k; COMMIT");
    let pushed = push(&a, |_| Decision::Keep);
    pushed.result.as_ref().unwrap();
    let seen: Vec<&DatabaseRowMutation> = pushed.mutations().collect();
    let types: Vec<DatabaseChangeType> = seen.iter().map(|m| m.change_type).collect();
    use DatabaseChangeType::{Delete, Insert, Update};
    assert_eq!(types, [Insert, Update, Update, Delete]);
    assert!(seen.is_sorted_by_key(|m| m.change_id) && seen[0].change_time > 1_700_000_000);
    assert_eq!(seen[2].txn_id, seen[3].txn_id);
    assert_ne!(seen[1].txn_id, seen[2].txn_id);
    for m in &seen {
        assert_eq!(
            (m.table_name.as_str(), m.id, m.key.as_ref()),
            ("k", 1, &[2, 0][..])
        );
    }
    assert_eq!(seen[0].columns.as_ref(), ["b", "x", "a"]);
    let row = vec![text("b"), Value::Null, Value::Integer(7)];
    assert_eq!((&seen[0].before, &seen[0].after), (&None, &Some(row.clone())));
    assert_eq!(seen[0].updates, None);
    assert_eq!(seen[1].before, Some(row));
    assert_eq!(seen[1].updates, Some(vec![None, Some(Value::Real(1.5)), None]));
    assert_eq!(seen[2].columns.as_ref(), ["b", "x", "a", "later"]);
    assert_eq!(seen[2].value_before("later"), Some(&Value::Blob(vec![1])));
    let set = vec![None, Some(text("text")), None, Some(Value::Null)];
    assert_eq!(seen[2].updates, Some(set));
    assert_eq!(
        (seen[3].value_before("x"), &seen[3].after),
        (Some(&text("text")), &None)
    );
    assert_eq!(place.remote.tables(), a.tables());
}

#[test]
fn changes_that_triggers_make_are_not_asked_about_and_schema_changes_go_as_they_are() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|_| ());
    a.sql("CREATE TRIGGER count AFTER INSERT ON t BEGIN UPDATE audit SET n = n + 1; END");
    a.sql("INSERT INTO t(id) VALUES (1); INSERT INTO t(id) VALUES (2)");
    let skip_second = |m: &DatabaseRowMutation| match m.id {
        2 => Decision::Skip,
        _ => Decision::Keep,
    };
    let pushed = push(&a, skip_second);
    pushed.result.as_ref().unwrap();
    assert_eq!(
        pushed
            .mutations()
            .map(|m| m.table_name.as_str())
            .collect::<Vec<_>>(),
        ["t", "t"]
    );
    assert_eq!(a.text("SELECT n FROM audit"), "2");
    a.pull().unwrap();
    // What was skipped fires nothing there.
    assert_eq!(a.text("SELECT n FROM audit"), "1");
}

#[test]
fn a_failed_rewrite_takes_its_transaction_along_and_blames_the_change() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|_| ());
    a.sql("BEGIN; INSERT INTO t(id, v) VALUES (1, 'a'), (2, 'b'), (3, 'c'); COMMIT");
    let bad = |m: &DatabaseRowMutation| match m.id {
        2 => rewrite("INSERT INTO audit(who) VALUES (?)", vec![text("total")]),
        _ => Decision::Keep,
    };
    let e = push(&a, bad).result.unwrap_err();
    assert_eq!(
        (e.category, e.code),
        (Category::Conflict, Code::Constraint),
        "{e}"
    );
    assert_eq!(place.remote_text(ALL), "NULL");
    assert_eq!(a.text(ALL), "1a 2b 3c");
    let conflicts = a.engine.conflicts().unwrap();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(
        (conflicts[0].table.as_str(), conflicts[0].key.as_str()),
        ("t", "{\"id\":2}")
    );
    // With another answer it passes.
    push(&a, |_| Decision::Keep).result.unwrap();
    assert_eq!(place.remote_text(ALL), "1a 2b 3c");
    assert!(a.engine.conflicts().unwrap().is_empty());
}

#[test]
fn a_policy_sets_the_transaction_of_a_failed_rewrite_aside() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|o| o.conflict_policy = ConflictPolicy::SetAside);
    a.sql("INSERT INTO t(id, v) VALUES (1, 'a')");
    a.sql("INSERT INTO t(id, v) VALUES (2, 'b')");
    let bad = |m: &DatabaseRowMutation| match m.id {
        1 => rewrite("INSERT INTO nowhere VALUES (1)", vec![]),
        _ => Decision::Keep,
    };
    push(&a, bad).result.unwrap();
    assert_eq!(place.remote_text(ALL), "2b");
    assert_eq!(a.text(ALL), "2b");
    assert_eq!(a.engine.conflicts().unwrap()[0].change_id, 1);
}

#[test]
fn a_lost_answer_neither_doubles_nor_drops_a_rewrite() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|o| o.push_operations_threshold = 1);
    for i in 1..=6 {
        a.sql(&format!("INSERT INTO t(id) VALUES ({i})"));
    }
    let mut add = |_: &DatabaseRowMutation| rewrite("UPDATE audit SET n = n + ?", vec![Value::Integer(1)]);
    let (mut sent, mut pushes) = (0, 0);
    loop {
        pushes += 1;
        // Every third request is performed, but its answer gets lost.
        let pushed = push_over(&a.engine, &mut add, &mut |http, perform| {
            sent += 1;
            match sent % 3 {
                0 => {
                    perform();
                    Err("lost".into())
                }
                _ => forward(http),
            }
        });
        if pushed.result.is_ok() {
            break;
        }
    }
    assert!(pushes > 2, "{pushes}");
    assert_eq!(place.remote_text("SELECT n FROM audit"), "6");
    assert_eq!(a.pending(), 0);
}

#[test]
fn portions_are_bounded_and_a_transaction_is_one_request() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|o| o.push_operations_threshold = 100);
    a.sql(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 2500)
         INSERT INTO t(id, v) SELECT i, 'x' FROM c",
    );
    for i in 0..250 {
        a.sql(&format!("INSERT INTO t(id, v) VALUES (10000 + {i}, 'y')"));
    }
    let odd = |m: &DatabaseRowMutation| match m.id % 2 {
        1 => Decision::Skip,
        _ => Decision::Keep,
    };
    let pushed = push(&a, odd);
    pushed.result.as_ref().unwrap();
    assert!(pushed.asked.iter().all(|portion| portion.len() <= 1000));
    let shown: Vec<i64> = pushed.mutations().map(|m| m.id).collect();
    assert_eq!(shown, (1..=2500).chain(10000..10250).collect::<Vec<_>>());
    assert_eq!(place.remote_text("SELECT count(*) FROM t"), "1375");
    // One for the large transaction, and three times about a hundred of the small ones.
    assert_eq!(pushed.batches(), 4);
    assert_eq!(a.pending(), 0);
}

#[test]
fn a_replaced_row_goes_also_when_the_new_one_does_not_come() {
    let place = Place::new(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT UNIQUE); CREATE TABLE log (v);
         CREATE TRIGGER d AFTER DELETE ON t BEGIN INSERT INTO log VALUES (old.v); END;
         INSERT INTO t VALUES (1, 'a')",
    );
    let a = place.replica(|_| ());
    a.sql("REPLACE INTO t VALUES (2, 'a')");
    let no_insert = |m: &DatabaseRowMutation| match m.change_type {
        DatabaseChangeType::Insert => Decision::Skip,
        _ => Decision::Keep,
    };
    let pushed = push(&a, no_insert);
    pushed.result.as_ref().unwrap();
    assert_eq!(pushed.mutations().count(), 2);
    assert_eq!(place.remote_text("SELECT count(*) FROM t"), "0");
}

#[test]
fn a_host_that_decides_nothing_sends_nothing() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|_| ());
    a.sql("INSERT INTO t(id, v) VALUES (1, 'secret'), (2, 'secret')");
    for answer in ["part", "poison", "drop"] {
        let mut op = a.engine.push_changes_to_remote();
        let e = loop {
            match op.resume() {
                Ok(status) => assert_eq!(status, OperationStatus::Io),
                Err(e) => break e,
            }
            while let Some(item) = a.engine.io().take_item() {
                match (item.request(), answer) {
                    (SyncEngineIoRequest::Transform(_), "part") => {
                        item.decide(1, Decision::Keep).unwrap();
                        item.done();
                    }
                    (SyncEngineIoRequest::Transform(_), "poison") => item.poison("no key today"),
                    (SyncEngineIoRequest::Transform(_), _) => {}
                    (SyncEngineIoRequest::Http(http), _) => {
                        assert!(!written(http).contains("secret"));
                        serve(&item, &mut |http, _| forward(http));
                    }
                    _ => serve(&item, &mut |http, _| forward(http)),
                }
            }
        };
        assert_eq!(e.category, Category::Usage, "{answer}: {e:?}");
        let said = match answer {
            "part" => "not decided about mutation 0 of 2",
            "poison" => "no key today",
            _ => "without an answer",
        };
        assert!(e.message.contains(said), "{e}");
        assert_eq!(a.pending(), 2);
    }
    push(&a, |_| Decision::Keep).result.unwrap();
    assert_eq!(place.remote.tables(), a.tables());
}

#[test]
fn what_could_not_travel_is_refused_when_it_is_said() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|_| ());
    a.sql("INSERT INTO t(id) VALUES (1)");
    let mut op = a.engine.push_changes_to_remote();
    while op.resume().unwrap() == OperationStatus::Io {
        while let Some(item) = a.engine.io().take_item() {
            let SyncEngineIoRequest::Transform(_) = item.request() else {
                assert_eq!(item.decide(0, Decision::Keep).unwrap_err().code, Code::Misuse);
                serve(&item, &mut |http, _| forward(http));
                continue;
            };
            for sql in [
                "COMMIT",
                "SELECT 1; COMMIT",
                "SELECT ?",
                "PRAGMA user_version = 3",
            ] {
                let refused = item.decide(0, rewrite(sql, vec![])).unwrap_err();
                assert_eq!(refused.code, Code::Misuse, "{sql}");
            }
            assert_eq!(item.decide(1, Decision::Keep).unwrap_err().code, Code::Misuse);
            // The last word counts.
            item.decide(0, Decision::Skip).unwrap();
            item.decide(0, Decision::Keep).unwrap();
            item.done();
        }
    }
    assert_eq!(place.remote.tables(), a.tables());
}

#[test]
fn the_driver_asks_a_callback() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|_| ());
    a.sql("INSERT INTO t(id, v) VALUES (1, 'a'), (2, 'b')");
    let run = |config: &DriverConfig| {
        let mut op = a.engine.push_changes_to_remote();
        let control = op.control().clone();
        driver::run(a.engine.io(), config, &control, || op.resume())
    };
    let with = |transform| DriverConfig {
        transform: Some(transform),
        ..DriverConfig::default()
    };
    let e = run(&DriverConfig::default()).unwrap_err();
    assert!(e.message.contains("no transform callback"), "{e}");
    let e = run(&with(driver::transform_with(|_| Err(Error::busy("no key"))))).unwrap_err();
    assert!(e.message.contains("no key") && e.code == Code::Busy, "{e}");
    let e = run(&with(driver::transform_with(|_| panic!("oh")))).unwrap_err();
    assert!(e.message.contains("panicked"), "{e}");
    assert_eq!(a.pending(), 2);
    run(&with(driver::transform_with(|m| {
        Ok(match m.id {
            1 => Decision::Skip,
            _ => Decision::Keep,
        })
    })))
    .unwrap();
    assert_eq!(place.remote_text(ALL), "2b");
}

#[test]
fn without_the_option_nobody_is_asked() {
    let place = Place::new(SCHEMA);
    let a = place.replica(|o| o.use_transform = false);
    a.sql("INSERT INTO t(id, v) VALUES (1, 'a')");
    let pushed = push(&a, |_| panic!("asked"));
    pushed.result.unwrap();
    assert_eq!(place.remote.tables(), a.tables());
}

#[test]
fn a_rewrite_that_takes_the_rowid_of_a_later_insert_stops_nothing_but_its_own_transaction() {
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY, v); CREATE TABLE bag (x);";
    let decide = |m: &DatabaseRowMutation| match m.table_name.as_str() {
        "t" => rewrite("INSERT INTO bag VALUES ('rewritten')", Vec::new()),
        _ => Decision::Keep,
    };
    let open = |remote: &Remote, policy| {
        let dir = tempfile::tempdir().unwrap();
        let mut opts = options(&dir.path().join("a.db"), &remote.url);
        (opts.use_transform, opts.conflict_policy) = (true, policy);
        (Replica::open_with(opts).unwrap(), dir)
    };
    for policy in [ConflictPolicy::Stop, ConflictPolicy::Overwrite] {
        let remote = Remote::start(schema);
        let (ours, _dir) = open(&remote, policy);
        ours.sql("INSERT INTO t VALUES (1, 'a')");
        ours.sql("INSERT INTO bag VALUES ('kept')");
        push(&ours, decide).result.unwrap();
        assert_eq!(remote.tables()["bag"].len(), 2);
        assert!(remote.tables()["t"].is_empty());
    }
    let remote = Remote::start(schema);
    let (ours, _dir) = open(&remote, ConflictPolicy::Stop);
    ours.sql("BEGIN; INSERT INTO t VALUES (1, 'a'); INSERT INTO bag VALUES ('kept'); COMMIT");
    let refused = push(&ours, decide).result.unwrap_err();
    assert_eq!(refused.category, Category::Conflict, "{refused}");
    assert!(remote.tables()["bag"].is_empty());
    assert_eq!(ours.engine.conflicts().unwrap().len(), 1);
    push(&ours, |_| Decision::Keep).result.unwrap();
}
