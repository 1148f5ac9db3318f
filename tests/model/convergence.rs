//! Several replicas of one real server under random interleavings: in the end all hold the same, nothing is lost or
//! doubled, and nobody ever sees half a transaction.

use std::collections::BTreeSet;

use tempfile::TempDir;
use turso_sync::error::{Category, Error};

use crate::random::Random;
use crate::support::{Remote, Replica, drive, forward, plain};

/// Accounts of a client; their amounts add up to 0 after each of its transactions.
const ACCOUNTS: usize = 4;

const SCHEMA: &str = "
CREATE TABLE account (owner INTEGER, n INTEGER, amount INTEGER NOT NULL, PRIMARY KEY (owner, n)) WITHOUT ROWID;
CREATE TABLE tag (what TEXT);
CREATE TABLE shared (k TEXT PRIMARY KEY, v, w);
CREATE TABLE note (id INTEGER PRIMARY KEY, body);
CREATE TABLE counter (n INTEGER);
INSERT INTO counter VALUES (0);
CREATE TRIGGER counts AFTER INSERT ON tag BEGIN UPDATE counter SET n = n + 1; END;
";

/// Fails if the connection sees half a transaction.
const BROKEN: &str =
    "SELECT count(*) FROM (SELECT 1 FROM account GROUP BY owner HAVING sum(amount) <> 0 OR count(*) <> 4)";

/// One replica and what it has been told.
struct Client {
    id: usize,
    replica: Option<Replica>,
    dir: TempDir,
    made: usize,
}

/// One history: clients, a server, and what must be there in the end.
struct History {
    r: Random,
    remote: Remote,
    clients: Vec<Client>,
    /// Tags that are there in the end, exactly once.
    tags: BTreeSet<String>,
    inserted: usize,
    log: Vec<String>,
}

type Outcome = Result<(), String>;

fn told(what: &str) -> impl Fn(Error) -> String {
    move |e| format!("{what}: {e}")
}

impl Client {
    fn replica(&self) -> &Replica {
        self.replica.as_ref().expect("open between events")
    }

    fn restart(&mut self, url: &str) {
        drop(self.replica.take());
        self.replica = Some(Replica::open(&self.dir.path().join("replica.db"), url));
    }
}

impl History {
    fn new(seed: u64) -> History {
        let r = Random::new(seed);
        let count = 2 + r.below(4);
        let mut sql = SCHEMA.to_owned();
        for id in 0..count {
            for n in 0..ACCOUNTS {
                sql += &format!("INSERT INTO account VALUES ({id}, {n}, 0);");
            }
        }
        let remote = Remote::start(&sql);
        let client = |id| {
            let dir = tempfile::tempdir().unwrap();
            let mut client = Client {
                id,
                replica: None,
                dir,
                made: 0,
            };
            client.restart(&remote.url);
            client
        };
        History {
            clients: (0..count).map(client).collect(),
            r,
            remote,
            tags: BTreeSet::new(),
            inserted: 0,
            log: Vec::new(),
        }
    }

    /// One statement of client `c`; tags that it makes and removes are added to the lists.
    fn statement(&mut self, c: usize, made: &mut Vec<String>, gone: &mut Vec<String>) -> String {
        let (r, client) = (&self.r, &mut self.clients[c]);
        let id = client.id;
        client.made += 1;
        let unique = format!("{id}-{}", client.made);
        let own: Vec<&String> = self
            .tags
            .iter()
            .filter(|t| t.starts_with(&format!("{id}-")))
            .collect();
        match r.below(16) {
            0..4 => {
                made.push(unique.clone());
                format!("INSERT INTO tag(what) VALUES ('{unique}')")
            }
            4 => match r.one_of(&own) {
                Some(tag) if !gone.contains(tag) => {
                    gone.push((*tag).clone());
                    format!("DELETE FROM tag WHERE what = '{tag}'")
                }
                _ => "DELETE FROM note WHERE id % 5 = 0".into(),
            },
            5 => match r.one_of(&own) {
                Some(tag) if !gone.contains(tag) => {
                    gone.push((*tag).clone());
                    made.push(unique.clone());
                    format!("UPDATE tag SET what = '{unique}' WHERE what = '{tag}'")
                }
                _ => "UPDATE note SET body = body || '!' WHERE id % 3 = 0".into(),
            },
            6..9 => format!(
                "INSERT INTO shared(k, v) VALUES ('k{}', '{unique}') ON CONFLICT (k) DO UPDATE SET v = excluded.v",
                r.below(5)
            ),
            9 => format!("UPDATE shared SET w = '{unique}' WHERE k = 'k{}'", r.below(5)),
            10 => format!("DELETE FROM shared WHERE k = 'k{}'", r.below(5)),
            11 | 12 => format!("INSERT INTO note(body) VALUES ('{unique}')"),
            13 => format!(
                "CREATE TABLE \"t {unique}\" (a INTEGER PRIMARY KEY, b); INSERT INTO \"t {unique}\"(b) VALUES (1), (2)"
            ),
            14 => format!(
                "ALTER TABLE shared ADD COLUMN \"c {unique}\" DEFAULT {}",
                r.below(3)
            ),
            _ => format!("CREATE INDEX \"i {unique}\" ON note(body)"),
        }
    }

    /// A transaction of client `c`: a transfer between its accounts, and whatever else.
    fn write(&mut self, c: usize) -> Outcome {
        let (from, to) = (self.r.below(ACCOUNTS), self.r.below(ACCOUNTS));
        let amount = 1 + self.r.below(9);
        let id = self.clients[c].id;
        let (mut made, mut gone) = (Vec::new(), Vec::new());
        let mut sql = format!(
            "BEGIN; UPDATE account SET amount = amount - {amount} WHERE owner = {id} AND n = {from};"
        );
        for _ in 0..self.r.below(4) {
            sql += &self.statement(c, &mut made, &mut gone);
            sql += ";";
        }
        sql += &format!("UPDATE account SET amount = amount + {amount} WHERE owner = {id} AND n = {to};");
        let commits = self.r.chance(85);
        sql += if commits { "COMMIT" } else { "ROLLBACK" };
        self.log.push(format!("client {id}: {sql}"));
        self.clients[c]
            .replica()
            .conn
            .execute_batch(&sql)
            .map_err(told("write"))?;
        if commits {
            let updates = made
                .iter()
                .filter(|tag| sql.contains(&format!("SET what = '{tag}'")))
                .count();
            self.inserted += made.len() - updates;
            self.tags.extend(made);
            self.tags.retain(|tag| !gone.contains(tag));
        }
        Ok(())
    }

    /// A push, pull or sync of client `c`, over a network that fails at some request with a chance.
    fn exchange(&mut self, c: usize) -> Outcome {
        let what = self.r.pick(&["push", "push", "pull", "pull", "sync"]);
        let fails_at = if self.r.chance(25) {
            self.r.below(3)
        } else {
            usize::MAX
        };
        let loses_answer = self.r.chance(50);
        self.log.push(format!(
            "client {c}: {what}, fails at {fails_at}, answer lost: {loses_answer}"
        ));
        let mut requests = 0;
        let mut network = |http: &turso_sync::io::HttpRequest, perform: &dyn Fn() -> (u16, Vec<u8>)| {
            requests += 1;
            if requests <= fails_at {
                return forward(http);
            }
            if loses_answer {
                perform();
            }
            Err("the network failed".to_owned())
        };
        let engine = &self.clients[c].replica().engine;
        let result = match what {
            "push" => drive(engine, engine.push_changes_to_remote(), &mut network),
            "pull" => drive(engine, engine.pull_changes_from_remote(), &mut network).map(drop),
            _ => drive(engine, engine.sync(), &mut network).map(drop),
        };
        match result {
            Err(e) if e.category == Category::Network && fails_at != usize::MAX => Ok(()),
            result => result.map_err(told(what)),
        }
    }

    fn event(&mut self) -> Outcome {
        let c = self.r.below(self.clients.len());
        match self.r.below(20) {
            0..9 => self.write(c)?,
            9 => {
                self.log.push(format!("client {c}: restart"));
                let url = self.remote.url.clone();
                self.clients[c].restart(&url);
            }
            10 => {
                self.log.push(format!("client {c}: checkpoint"));
                let engine = &self.clients[c].replica().engine;
                drive(engine, engine.checkpoint(), &mut |http, _| forward(http))
                    .map_err(told("checkpoint"))?;
            }
            _ => self.exchange(c)?,
        }
        self.check_whole(c)
    }

    /// Neither client `c` nor the server shows half a transaction.
    fn check_whole(&self, c: usize) -> Outcome {
        let seen = [&self.clients[c].replica().path, &self.remote.path].map(|path| {
            let broken: i64 = plain(path).query_row(BROKEN, [], |row| row.get(0)).unwrap();
            broken
        });
        match seen {
            [0, 0] => Ok(()),
            _ => Err(format!(
                "half a transaction: on the replica {}, on the remote {}",
                seen[0], seen[1]
            )),
        }
    }

    /// Everybody pushes and pulls twice.
    fn settle(&mut self) -> Outcome {
        for _ in 0..2 {
            for client in &self.clients {
                client.replica().push().map_err(told("last push"))?;
                client.replica().pull().map_err(told("last pull"))?;
            }
        }
        Ok(())
    }

    fn check_equal(&self) -> Outcome {
        let remote = self.remote.tables();
        for client in &self.clients {
            let tables = client.replica().tables();
            if tables != remote {
                let names = remote
                    .keys()
                    .chain(tables.keys())
                    .filter(|t| remote.get(*t) != tables.get(*t));
                let differences = names.map(|t| format!("{t}: {:?} / {:?}", tables.get(t), remote.get(t)));
                return Err(format!(
                    "client {} < > remote: {}",
                    client.id,
                    differences.collect::<Vec<_>>().join("\n")
                ));
            }
        }
        let conn = plain(&self.remote.path);
        let mut tags = conn.prepare("SELECT what FROM tag ORDER BY what").unwrap();
        let tags: Vec<String> = tags
            .query_map([], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        if !tags.iter().eq(&self.tags) {
            return Err(format!("tags {tags:?}, expected {:?}", self.tags));
        }
        let counted: i64 = conn
            .query_row("SELECT n FROM counter", [], |row| row.get(0))
            .unwrap();
        match counted == self.inserted as i64 {
            true => Ok(()),
            false => Err(format!(
                "the trigger counted {counted} of {} inserts",
                self.inserted
            )),
        }
    }
}

/// Runs the history of `seed`; an error tells all events.
pub fn check(seed: u64) -> Outcome {
    let mut history = History::new(seed);
    let events = 20 + history.r.below(60);
    let mut result = Ok(());
    for _ in 0..events {
        result = result.and_then(|()| history.event());
    }
    let result = result
        .and_then(|()| history.settle())
        .and_then(|()| history.check_equal());
    result.map_err(|e| format!("MODEL_SEED={seed}\n{}\n{e}\n", history.log.join("\n")))
}
