//! Originals, copies and restored backups at random: nothing is lost, nothing doubled.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use turso_sync::capture::Connection;
use turso_sync::engine::{DatabaseSyncEngine, Environment};
use turso_sync::error::{Category, Error};
use turso_sync::io::HttpRequest;

use super::files::Backup;
use super::support::*;

/// A row without a key shows when a change came twice; so does a trigger's counter.
const SCHEMA: &str = "
CREATE TABLE note (tag);
CREATE TABLE item (id TEXT PRIMARY KEY, n);
CREATE TABLE total (one INTEGER PRIMARY KEY, n INTEGER);
INSERT INTO total VALUES (1, 0);
CREATE TRIGGER counts AFTER INSERT ON note BEGIN UPDATE total SET n = n + 1 WHERE one = 1; END;
";

struct Rng(u64);

impl Rng {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Names that count: the same seed, the same names.
#[derive(Clone, Default)]
struct Names(Arc<AtomicU64>);

impl Environment for Names {
    fn unix_time(&self) -> i64 {
        0
    }

    fn unique_id(&self) -> String {
        format!("{:04}", self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// A place for a replica, with what was written there, here or in what it is a copy of.
struct Site {
    path: PathBuf,
    open: Option<(DatabaseSyncEngine, Connection)>,
    written: BTreeSet<String>,
}

struct World {
    rng: Rng,
    names: Names,
    remote: Remote,
    dir: tempfile::TempDir,
    sites: Vec<Site>,
    backups: Vec<(Backup, BTreeSet<String>)>,
    /// Requests that have not arrived, or may arrive once more.
    late: Vec<HttpRequest>,
    tags: usize,
    said: Vec<String>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut world = World {
            rng: Rng(seed),
            names: Names::default(),
            remote: Remote::start(SCHEMA),
            dir: tempfile::tempdir().unwrap(),
            sites: Vec::new(),
            backups: Vec::new(),
            late: Vec::new(),
            tags: 0,
            said: Vec::new(),
        };
        world.add_site(BTreeSet::new());
        world.open(0);
        world
    }

    fn add_site(&mut self, written: BTreeSet<String>) -> PathBuf {
        let path = self.dir.path().join(format!("{}.db", self.sites.len()));
        self.sites.push(Site {
            path: path.clone(),
            open: None,
            written,
        });
        path
    }

    fn open(&mut self, site: usize) {
        let site = &mut self.sites[site];
        if site.open.is_none() {
            let options = options(&site.path, &self.remote.url);
            let engine = DatabaseSyncEngine::with_environment(options, Box::new(self.names.clone())).unwrap();
            run(&engine, engine.create_db()).unwrap();
            let conn = run(&engine, engine.connect_rw()).unwrap();
            site.open = Some((engine, conn));
        }
    }

    fn step(&mut self) {
        let at = self.rng.below(self.sites.len());
        match self.rng.below(20) {
            0..7 => self.write(at),
            7..11 => self.sync(at, 0),
            11..13 => self.sync(at, 1),
            13..15 => self.sync(at, 2),
            15 => self.sites[at].open = None,
            16 if self.sites.len() < 5 => {
                let written = self.sites[at].written.clone();
                let from = self.sites[at].path.clone();
                let to = self.add_site(written);
                Backup::of(&from).put(&to);
                self.said.push(format!("{at} is copied to {}", to.display()));
            }
            17 => {
                let written = self.sites[at].written.clone();
                self.backups.push((Backup::of(&self.sites[at].path), written));
                self.said
                    .push(format!("backup {} of {at}", self.backups.len() - 1));
            }
            18 if !self.backups.is_empty() => self.restore(at),
            _ if !self.late.is_empty() => {
                let which = self.rng.below(self.late.len());
                self.said.push("a late request arrives".into());
                let _ = forward(&self.late[which]);
            }
            _ => {}
        }
    }

    fn write(&mut self, at: usize) {
        self.open(at);
        let Some((_, conn)) = &self.sites[at].open else {
            return;
        };
        let rows = 1 + self.rng.below(3);
        let rolled_back = self.rng.one_in(8);
        conn.execute_batch("BEGIN").unwrap();
        let mut tags = Vec::new();
        for _ in 0..rows {
            self.tags += 1;
            let tag = format!("t{}", self.tags);
            let shared = self.rng.below(6);
            let sql = format!(
                "INSERT INTO note VALUES ('{tag}'); INSERT INTO item VALUES ('{tag}', 1);
                 INSERT INTO item VALUES ('shared{shared}', 1) ON CONFLICT DO UPDATE SET n = '{tag}'"
            );
            conn.execute_batch(&sql).unwrap();
            tags.push(tag);
        }
        conn.execute_batch(if rolled_back { "ROLLBACK" } else { "COMMIT" })
            .unwrap();
        self.said
            .push(format!("{at} writes {tags:?}, rolled back: {rolled_back}"));
        if !rolled_back {
            self.sites[at].written.extend(tags);
        }
    }

    /// Pushes (0), pulls (1) or both (2) over a network that loses requests and answers, and repeats them later.
    fn sync(&mut self, at: usize, what: usize) {
        self.open(at);
        let Some((engine, _)) = &self.sites[at].open else {
            return;
        };
        let (rng, late) = (&mut self.rng, &mut self.late);
        let unreliable = rng.one_in(2);
        let mut network = |http: &HttpRequest, perform: &dyn Fn() -> (u16, Vec<u8>)| {
            let fate = if unreliable { rng.below(8) } else { 7 };
            if fate < 3 && http.path != "/pull-updates" && http.method == "POST" {
                late.push(http.clone());
            }
            match fate {
                0 => Err("the request is lost".to_owned()),
                1 => {
                    perform();
                    Err("the answer is lost".to_owned())
                }
                _ => Ok(perform()),
            }
        };
        let result = match what {
            0 => drive(engine, engine.push_changes_to_remote(), &mut network),
            1 => drive(engine, engine.pull_changes_from_remote(), &mut network).map(drop),
            _ => drive(engine, engine.sync(), &mut network).map(drop),
        };
        self.said.push(format!("{at} syncs ({what}): {result:?}"));
        if let Err(e) = result {
            self.explain(&e, unreliable);
        }
    }

    fn explain(&self, e: &Error, unreliable: bool) {
        let never = matches!(
            e.category,
            Category::Identity | Category::Internal | Category::Conflict | Category::Usage
        );
        assert!(
            unreliable && !never,
            "unexplained: {e:?}\n{}",
            self.said.join("\n")
        );
    }

    fn restore(&mut self, at: usize) {
        let which = self.rng.below(self.backups.len());
        let (in_place, metadata_too) = (self.rng.one_in(2), self.rng.one_in(2));
        self.sites[at].open = None;
        let (backup, written) = &self.backups[which];
        backup.restore(&self.sites[at].path, in_place, metadata_too);
        self.sites[at].written = written.clone();
        self.said.push(format!("{at} is restored from {which}"));
    }

    /// Everybody syncs; then everything that a file which is left has ever held is there, once.
    fn end(&mut self) {
        for http in std::mem::take(&mut self.late) {
            let _ = forward(&http);
        }
        for round in 0..2 {
            for at in 0..self.sites.len() {
                self.open(at);
                let Some((engine, _)) = &self.sites[at].open else {
                    return;
                };
                if let Err(e) = run(engine, engine.sync()) {
                    panic!("{at} in round {round}: {e:?}\n{}", self.said.join("\n"));
                }
            }
        }
        let story = self.said.join("\n");
        let conn = plain(&self.remote.path);
        let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        let mut tags = conn.prepare("SELECT tag FROM note").unwrap();
        let tags: Vec<String> = tags
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(|tag| tag.unwrap())
            .collect();
        let there: BTreeSet<&String> = tags.iter().collect();
        assert_eq!(tags.len(), there.len(), "doubled\n{story}");
        for site in &self.sites {
            let lost: Vec<_> = site.written.iter().filter(|tag| !there.contains(tag)).collect();
            assert!(lost.is_empty(), "lost: {lost:?}\n{story}");
        }
        assert_eq!(
            count("SELECT n FROM total"),
            tags.len() as i64,
            "triggers\n{story}"
        );
        assert_eq!(
            count("SELECT count(*) FROM item WHERE id NOT LIKE 'shared%'"),
            tags.len() as i64,
            "half transactions\n{story}"
        );
        for site in &self.sites {
            assert_eq!(tables(&site.path), self.remote.tables(), "{story}");
        }
    }
}

/// `IDENTITY_RUNS` runs from the seed `IDENTITY_SEED` on.
pub fn runs() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |n| n.parse().unwrap());
    let first = number("IDENTITY_SEED", 1);
    for seed in first..first + number("IDENTITY_RUNS", 12) {
        println!("IDENTITY_SEED={seed}");
        let mut world = World::new(seed);
        for _ in 0..60 {
            world.step();
        }
        world.end();
    }
}
