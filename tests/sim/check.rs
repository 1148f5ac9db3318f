//! What must be true.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rusqlite::Connection;
use turso_sync::capture::state::{self, FileKind};
use turso_sync::pages::{BaseHealth, BaseState, PageStore};
use turso_sync::protocol::pull::{PullDecoder, PullEvent};

use super::node::{Committed, Kind, Node, Txn};
use super::support::plain;

/// Why a run is a failure.
pub type Violation = String;
pub type Checked = Result<(), Violation>;

pub const ACCOUNTS: i64 = 4;
const START: i64 = 100;

pub const SCHEMA: &str = "
CREATE TABLE account (id INTEGER PRIMARY KEY, owner INTEGER, balance INTEGER);
CREATE TABLE ledger (id TEXT PRIMARY KEY, txn TEXT, amount INTEGER);
CREATE TABLE event (tag TEXT);
CREATE TABLE stray (tag TEXT PRIMARY KEY, v);
CREATE TABLE doc (id INTEGER PRIMARY KEY, a, b, c);
CREATE TABLE uniq (id INTEGER PRIMARY KEY, name TEXT UNIQUE, txn TEXT);
CREATE TABLE total (id INTEGER PRIMARY KEY, n INTEGER);
INSERT INTO total VALUES (1, 0);
CREATE TABLE clock (owner INTEGER PRIMARY KEY, n INTEGER);
CREATE TRIGGER counts AFTER INSERT ON ledger BEGIN UPDATE total SET n = n + 1 WHERE id = 1; END;
";

/// The rows of the accounts and clocks of who writes: `nodes` numbers.
pub fn accounts(nodes: usize) -> String {
    let account = |owner: usize| {
        (0..ACCOUNTS).map(move |i| {
            format!(
                "INSERT INTO account VALUES ({}, {owner}, {START});",
                owner as i64 * ACCOUNTS + i
            )
        })
    };
    let clock = |owner| format!("INSERT INTO clock VALUES ({owner}, 0);");
    (0..nodes)
        .flat_map(account)
        .chain((0..nodes).map(clock))
        .collect()
}

fn texts(conn: &Connection, sql: &str) -> Result<BTreeSet<String>, Violation> {
    let run = || -> rusqlite::Result<BTreeSet<String>> {
        conn.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
    };
    run().map_err(|e| format!("{sql}: {e}"))
}

fn none(conn: &Connection, what: &str, sql: &str) -> Checked {
    let found = texts(conn, sql)?;
    match found.is_empty() {
        true => Ok(()),
        false => Err(format!("{what}: {found:?}")),
    }
}

/// What is true in every database at every time: on the remote, on a replica, after whatever.
pub fn database(conn: &Connection) -> Checked {
    let integrity: String = conn
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(|e| format!("integrity_check: {e}"))?;
    if integrity != "ok" {
        return Err(format!("integrity_check: {integrity}"));
    }
    invariants(conn)
}

fn has_table(conn: &Connection, name: &str) -> Result<bool, Violation> {
    let sql = format!("SELECT name FROM sqlite_schema WHERE type = 'table' AND name = '{name}'");
    Ok(!texts(conn, &sql)?.is_empty())
}

/// What transactions keep true.
pub fn invariants(conn: &Connection) -> Checked {
    if !has_table(conn, "event")? {
        return Ok(());
    }
    if has_table(conn, "cache")? {
        none(
            conn,
            "an ignored row without its event",
            "SELECT tag FROM cache WHERE tag LIKE 't%' EXCEPT SELECT tag FROM event",
        )?;
    }
    none(
        conn,
        "doubled",
        "SELECT tag FROM event GROUP BY tag HAVING count(*) > 1",
    )?;
    none(
        conn,
        "half a transaction in the ledger",
        "SELECT txn FROM ledger GROUP BY txn HAVING count(*) <> 2 OR sum(amount) <> 0",
    )?;
    none(
        conn,
        "a ledger without its event",
        "SELECT txn FROM ledger EXCEPT SELECT tag FROM event",
    )?;
    none(
        conn,
        "an event without its ledger",
        "SELECT tag FROM event WHERE tag NOT LIKE 's%' AND tag NOT LIKE 'f%' EXCEPT SELECT txn FROM ledger",
    )?;
    none(
        conn,
        "half of what another program has written",
        "SELECT * FROM (SELECT tag FROM event WHERE tag LIKE 'f%' EXCEPT SELECT tag FROM stray)
         UNION SELECT * FROM (SELECT tag FROM stray EXCEPT SELECT tag FROM event)",
    )?;
    let sum = ACCOUNTS * START;
    none(
        conn,
        "money made or lost",
        &format!("SELECT CAST(owner AS TEXT) FROM account GROUP BY owner HAVING sum(balance) <> {sum}"),
    )?;
    none(
        conn,
        "the trigger's counter",
        "SELECT CAST(n AS TEXT) FROM total WHERE n <> (SELECT count(*) FROM ledger)",
    )
}

/// What the remote has acknowledged, by client.
pub fn watermarks(conn: &Connection) -> Result<BTreeSet<String>, Violation> {
    match has_table(conn, "turso_sync_last_change_id")? {
        true => texts(
            conn,
            "SELECT client_id || ' ' || change_id FROM turso_sync_last_change_id",
        ),
        false => Ok(BTreeSet::new()),
    }
}

pub fn tags(conn: &Connection) -> Result<BTreeSet<String>, Violation> {
    texts(conn, "SELECT tag FROM event")
}

/// How often node `owner` has ticked. Nobody else writes its row, so it never goes back.
pub fn clock(conn: &Connection, owner: usize) -> Result<i64, Violation> {
    conn.query_row("SELECT n FROM clock WHERE owner = ?1", [owner as i64], |row| {
        row.get(0)
    })
    .map_err(|e| format!("the clock of node {owner}: {e}"))
}

/// What node `node` wrote before its first download.
pub fn early(conn: &Connection, node: &Node) -> Checked {
    let table = format!("early{}", node.number);
    let mut rows = 0;
    if has_table(conn, &table)? {
        let count = conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
        rows = count.map_err(|e| format!("{table}: {e}"))?;
    }
    match rows >= node.early && rows % 2 == 0 {
        true => Ok(()),
        false => Err(format!("{table} has {rows} rows; {} were promised", node.early)),
    }
}

/// What a node has besides its tags.
fn own_tables(conn: &Connection, node: &mut Node, least: i64) -> Checked {
    early(conn, node)?;
    if !has_table(conn, "event")? {
        return match (node.txns.is_empty(), least) {
            (true, 0) => Ok(()),
            _ => Err("the tables are gone".into()),
        };
    }
    if node.has_cache() && has_table(conn, "cache")? {
        let mine = format!(
            "SELECT tag FROM event WHERE tag LIKE 't{}.%' EXCEPT SELECT tag FROM cache",
            node.number
        );
        // What a loss of power has taken may come back from a copy that had it, and comes without.
        let sure = |txn: &Txn| txn.committed != Committed::Unknown;
        let known = |tag: &String| node.txns.iter().any(|txn| sure(txn) && txn.tag == *tag);
        if let Some(tag) = texts(conn, &mine)?.into_iter().find(known) {
            return Err(format!("the event {tag} without its ignored row"));
        }
    }
    clock_at_least(conn, node, least)
}

fn clock_at_least(conn: &Connection, node: &mut Node, least: i64) -> Checked {
    let n = clock(conn, node.number)?;
    if n < least {
        return Err(format!(
            "node {}: the clock went back from {least} to {n}",
            node.number
        ));
    }
    node.clock = n;
    Ok(())
}

/// What a replica has just before it is opened: nothing yet, or a connection to it.
pub fn replica(path: &Path) -> Result<Option<Connection>, Violation> {
    match state::inspect(path, Duration::ZERO) {
        Ok(FileKind::Replica(_)) => Ok(Some(plain(path))),
        Ok(_) => Ok(None),
        Err(e) => Err(format!("the main file cannot be read: {e}")),
    }
}

/// The revision of the base, if there is a replica.
pub fn revision(path: &Path) -> Result<Option<String>, Violation> {
    match state::inspect(path, Duration::ZERO) {
        Ok(FileKind::Replica(state)) => Ok(Some(state.revision)),
        Ok(_) => Ok(None),
        Err(e) => Err(format!("the state cannot be read: {e}")),
    }
}

/// The number of the base; 0 if there is no replica.
pub fn epoch(path: &Path) -> Result<i64, Violation> {
    match state::inspect(path, Duration::ZERO) {
        Ok(FileKind::Replica(state)) => Ok(state.epoch),
        Ok(_) => Ok(0),
        Err(e) => Err(format!("the state cannot be read: {e}")),
    }
}

fn epoch_at_least(node: &Node) -> Checked {
    let epoch = epoch(&node.path)?;
    match epoch >= node.epoch {
        true => Ok(()),
        false => Err(format!(
            "node {}: base {epoch} has come back after {}",
            node.number, node.epoch
        )),
    }
}

/// Looks what is left of the transactions of a node that died, and forgets what may be gone.
pub fn after_death(node: &mut Node, power_lost: bool) -> Checked {
    let Some(conn) = replica(&node.path)? else {
        return match node.txns.is_empty() {
            true => Ok(()),
            false => Err(format!("node {}: the replica is gone", node.number)),
        };
    };
    database(&conn)?;
    let least = if power_lost {
        node.durable_clock
    } else {
        node.clock
    };
    own_tables(&conn, node, least)?;
    epoch_at_least(node)?;
    if power_lost {
        node.durable_clock = node.clock;
    }
    if node.txns.is_empty() {
        return Ok(());
    }
    let tags = tags(&conn)?;
    let mut lost: Option<String> = None;
    let mut left = Vec::new();
    for mut txn in std::mem::take(&mut node.txns) {
        let there = tags.contains(&txn.tag);
        if node.may_take_out(txn.kind) && !there {
            // Taken out, or lost.
            if power_lost && txn.committed != Committed::Durable {
                txn.committed = Committed::Unknown;
            }
            left.push(txn);
            continue;
        }
        match (there, txn.committed) {
            (true, _) => {
                if let Some(lost) = &lost {
                    return Err(format!("{} is there, but the earlier {lost} is gone", txn.tag));
                }
                txn.committed = match (power_lost, txn.committed) {
                    // It was read from the disk.
                    (true, _) => Committed::Durable,
                    (false, Committed::Unknown) => Committed::Yes,
                    (false, committed) => committed,
                };
                left.push(txn);
            }
            (false, Committed::Unknown) => {}
            (false, Committed::Yes) if power_lost => lost = Some(txn.tag),
            (false, committed) => {
                return Err(format!("{} is gone; it was committed: {committed:?}", txn.tag));
            }
        }
    }
    node.txns = left;
    Ok(())
}

/// What is committed is there, on a replica that lives.
pub fn node(node: &mut Node) -> Checked {
    let Some(conn) = replica(&node.path)? else {
        return Ok(());
    };
    database(&conn)?;
    own_tables(&conn, node, node.clock)?;
    epoch_at_least(node)?;
    if node.txns.is_empty() {
        return Ok(());
    }
    let tags = tags(&conn)?;
    if let Some(gone) = gone(node, &tags) {
        return Err(format!("node {}: {gone} is gone", node.number));
    }
    let back = |txn: &&Txn| txn.kind == Kind::Discarded && tags.contains(&txn.tag);
    match node.txns.iter().find(back) {
        None => Ok(()),
        Some(txn) => Err(format!(
            "node {}: {} was discarded, and is there",
            node.number, txn.tag
        )),
    }
}

/// A transaction of the node that must be there and is not among `tags`.
pub fn gone<'a>(node: &'a Node, tags: &BTreeSet<String>) -> Option<&'a str> {
    let gone = |txn: &&Txn| {
        !node.may_take_out(txn.kind) && txn.committed != Committed::Unknown && !tags.contains(&txn.tag)
    };
    node.txns.iter().find(gone).map(|txn| txn.tag.as_str())
}

/// The remote's pages by revision.
pub type Bases = HashMap<String, Rc<Vec<Vec<u8>>>>;

/// The pages of a database as it is now.
pub fn pages(conn: &Connection) -> Rc<Vec<Vec<u8>>> {
    let mut statement = conn
        .prepare("SELECT data FROM sqlite_dbpage ORDER BY pgno")
        .unwrap();
    let pages = statement.query_map([], |row| row.get(0)).unwrap();
    Rc::new(pages.map(|page| page.unwrap()).collect())
}

/// Remembers `pages`, what the remote looks like now, under the revision that the answer to a pull names.
pub fn remember(bases: &mut Bases, answer: &[u8], pages: Rc<Vec<Vec<u8>>>) -> Result<String, Violation> {
    let mut revision = None;
    let decoded = PullDecoder::new().push(answer, &mut |event| {
        if let PullEvent::Header(header) = event {
            revision = Some(header.server_revision);
        }
        Ok(())
    });
    decoded.map_err(|e| format!("the server's own answer: {e}"))?;
    let revision = revision.ok_or("an answer without header")?;
    // A pinned revision was remembered when it was the newest.
    bases.entry(revision.clone()).or_insert(pages);
    Ok(revision)
}

/// Files of a replica that nobody has open: no log, a revert file that is not larger than the base, and no leftovers.
pub fn quiet(path: &Path) -> Checked {
    let folder = path.parent().ok_or("no folder")?;
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = entry.metadata().map_err(|e| e.to_string())?.len();
        sizes.insert(name, size);
    }
    let main = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let size = |suffix: &str| sizes.get(&format!("{main}{suffix}")).copied().unwrap_or(0);
    let known = ["", "-wal", "-shm", "-info", "-wal-revert", "-lock"].map(|suffix| format!("{main}{suffix}"));
    let leftover = sizes.keys().any(|name| !known.contains(name));
    match size("-wal") == 0 && size("-wal-revert") <= 3 * size("") + 64 * 4112 + 4096 && !leftover {
        true => Ok(()),
        false => Err(format!(
            "files that should not be there, or not be so large: {sizes:?}"
        )),
    }
}

/// The base of the replica is the remote at its revision. False if the base is lost.
pub fn base(path: &Path, bases: &Bases) -> Result<bool, Violation> {
    let state = match state::inspect(path, Duration::ZERO) {
        Ok(FileKind::Replica(state)) => state,
        Ok(_) => return Ok(true),
        Err(e) => return Err(format!("the state cannot be read: {e}")),
    };
    if state.revision.is_empty() {
        return Ok(true);
    }
    let revert = format!("{}-wal-revert", path.display());
    let store = PageStore::new(path, revert.as_ref());
    let base = BaseState {
        epoch: state.epoch,
        base_pages: state.base_pages,
    };
    let failed = |e| format!("the base cannot be read: {e}");
    if let BaseHealth::Lost { .. } = store.recover(&base).map_err(failed)? {
        return Ok(false);
    }
    let Some(remote) = bases.get(&state.revision) else {
        return Err(format!("nobody ever had revision {}", state.revision));
    };
    let ours = store.with_base(&base, |conn| Ok(pages(conn))).map_err(failed)?;
    if (remote.len(), remote.len()) != (base.base_pages as usize, ours.len()) {
        return Err(format!(
            "the base has {} pages, the remote {}",
            base.base_pages,
            remote.len()
        ));
    }
    for (at, (ours, theirs)) in ours.iter().zip(remote.iter()).enumerate() {
        // The first page's read and write version: WAL here, whatever there.
        let same = match at {
            0 => ours[..18] == theirs[..18] && ours[20..] == theirs[20..],
            _ => ours == theirs,
        };
        if !same {
            return Err(format!(
                "base page {} is not the remote's at {}",
                at + 1,
                state.revision
            ));
        }
    }
    Ok(true)
}
