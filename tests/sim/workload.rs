//! Random local transactions that keep invariants.

use super::check::ACCOUNTS;
use super::node::{Committed, Kind, Node, Txn};
use super::rng::Rng;

/// Appends the statements of one transaction, without its BEGIN and COMMIT.
pub fn transaction(node: &mut Node, rng: &mut Rng, sql: &mut Vec<String>) -> Txn {
    let n = node.number;
    node.next_tag += 1;
    if rng.one_in(4) {
        sql.push(format!("UPDATE clock SET n = n + 1 WHERE owner = {n}"));
        return Txn {
            tag: format!("tick {}", node.next_tag),
            committed: Committed::Unknown,
            kind: Kind::Tick,
        };
    }
    let kind = rng.below(10);
    let risky = kind < 3;
    let tag = format!("{}{n}.{}", if risky { "u" } else { "t" }, node.next_tag);
    let amount = 1 + rng.below(50);
    sql.push(format!("INSERT INTO ledger VALUES ('{tag}a', '{tag}', {amount})"));
    if risky {
        let id = 1_000_000 * (n as u64 + 1) + node.next_tag;
        sql.push(format!(
            "INSERT INTO uniq VALUES ({id}, 'name{}', '{tag}')",
            node.next_tag as usize / 2 + rng.below(2)
        ));
        if rng.one_in(4) {
            sql.push(format!(
                "DELETE FROM uniq WHERE id < {id} AND id > {}",
                1_000_000 * (n + 1)
            ));
        }
    }
    sql.push(format!("INSERT INTO event VALUES ('{tag}')"));
    sql.push(format!(
        "INSERT INTO ledger VALUES ('{tag}b', '{tag}', -{amount})"
    ));
    if node.has_cache() {
        sql.push(format!("INSERT INTO cache VALUES ('{tag}')"));
    }
    // Not in one that may be taken out: balances are written as absolute values.
    if (3..6).contains(&kind) {
        let (from, to) = (rng.below(ACCOUNTS as usize), rng.below(ACCOUNTS as usize));
        let base = n * ACCOUNTS as usize;
        sql.push(format!(
            "UPDATE account SET balance = balance - {amount} WHERE id = {}",
            base + from
        ));
        sql.push(format!(
            "UPDATE account SET balance = balance + {amount} WHERE id = {}",
            base + to
        ));
    }
    // What builds on a transaction that is taken out is taken out with it.
    for _ in 0..if risky { 0 } else { rng.below(4) } {
        document(node, rng, sql);
    }
    if kind == 9 {
        schema(node, rng, sql);
    }
    Txn {
        tag,
        committed: Committed::Unknown,
        kind: if risky { Kind::Risky } else { Kind::Plain },
    }
}

/// Before the first download there are no tables but those that the node makes itself.
pub fn early(node: &mut Node, sql: &mut Vec<String>) -> Txn {
    let n = node.number;
    node.next_tag += 1;
    sql.push(format!(
        "CREATE TABLE IF NOT EXISTS early{n} (id INTEGER PRIMARY KEY, v)"
    ));
    sql.push(format!("INSERT INTO early{n} (v) VALUES (1)"));
    sql.push(format!("INSERT INTO early{n} (v) VALUES (hex(zeroblob(3000)))"));
    Txn {
        tag: format!("early {}", node.next_tag),
        committed: Committed::Unknown,
        kind: Kind::Early,
    }
}

/// What another program writes: rows of its own, some of everybody's, and now and then a table.
pub fn stray(node: &mut Node, rng: &mut Rng, sql: &mut Vec<String>) -> Txn {
    node.next_tag += 1;
    let tag = format!("f{}.{}", node.number, node.next_tag);
    sql.push("BEGIN IMMEDIATE".into());
    sql.push(format!("INSERT INTO event VALUES ('{tag}')"));
    for _ in 0..rng.below(3) {
        document(node, rng, sql);
    }
    if rng.one_in(6) {
        let name = format!("foreign{}_{}", node.number, node.next_tag);
        sql.push(format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY, v)"));
        sql.push(format!("INSERT INTO {name} (v) VALUES (1), (zeroblob(5000))"));
    }
    sql.push(format!("INSERT INTO stray VALUES ('{tag}', 1)"));
    sql.push("COMMIT".into());
    Txn {
        tag,
        committed: Committed::Unknown,
        kind: Kind::Stray,
    }
}

/// A change of rows that everybody changes.
fn document(node: &Node, rng: &mut Rng, sql: &mut Vec<String>) {
    let id = rng.below(40);
    let value = rng.below(1000);
    let size = *rng.pick(&[1, 10, 500, 9000]);
    let column = rng.pick(&["a", "b", "c"]);
    sql.push(match rng.below(8) {
        0 => format!("DELETE FROM doc WHERE id = {id}"),
        1 | 2 => format!(
            "INSERT OR REPLACE INTO doc (id, a, b, c) VALUES ({id}, {value}, hex(zeroblob({size})), {})",
            node.number
        ),
        3 => format!("DELETE FROM doc WHERE id % 7 = {}", id % 7),
        4 => format!("INSERT OR IGNORE INTO doc (id, a) VALUES ({id}, {value})"),
        5 => format!(
            "INSERT INTO doc (id, c) VALUES ({id}, {value}) ON CONFLICT (id) DO UPDATE SET c = excluded.c"
        ),
        _ => format!(
            "UPDATE doc SET {column} = {value} WHERE id BETWEEN {id} AND {}",
            id + rng.below(4)
        ),
    });
}

/// A change of tables that belong to this node.
fn schema(node: &mut Node, rng: &mut Rng, sql: &mut Vec<String>) {
    let name = format!("own{}_{}", node.number, node.next_tag);
    match rng.below(3) {
        0 => {
            sql.push(format!("CREATE TABLE {name} (id INTEGER PRIMARY KEY, v)"));
            sql.push(format!("INSERT INTO {name} (v) VALUES (1), (zeroblob(5000))"));
        }
        1 => sql.push(format!("CREATE INDEX {name} ON doc (a, b)")),
        _ => sql.push(format!("ALTER TABLE doc ADD COLUMN {name} DEFAULT 7")),
    }
}
