//! The SQL texts of the statements that carry row changes.

use crate::replay::clause::{self, Or};
use crate::replay::generator::{Kind, Set};
use crate::replay::table::{Identity, Table, quote};

/// Fails with "integer overflow" on every server if the condition holds.
const OVERFLOW: &str = "abs(-9223372036854775808)";

/// The text of a statement under `or`; `marks` stand for its values in order.
pub(super) fn text(table: &Table, kind: Kind, clause: Or, mask: &[Set], marks: &[&'static str]) -> String {
    let name = quote(&table.name);
    let (or, replaces) = (clause.text(table), clause.replaces());
    let otherwise = clause.otherwise();
    let names: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
    let columns = names.join(", ");
    let (row, rest) = marks.split_at(names.len().min(marks.len()));
    let row = row.join(", ");
    match kind {
        Kind::Upsert if replaces => format!("INSERT {or}INTO {name} ({columns}) VALUES ({row})"),
        Kind::Upsert => {
            let set = |k: &usize| !(table.integer_key && table.key.contains(k));
            let set: Vec<usize> = (0..names.len()).filter(set).collect();
            let upsert = upsert(table, &names, &set);
            format!("INSERT {or}INTO {name} ({columns}) VALUES ({row}) {upsert}{otherwise}")
        }
        Kind::Insert(Identity::Rowid(alias)) => {
            format!(
                "INSERT {or}INTO {name} ({alias}, {columns}) VALUES ({}){otherwise}",
                marks.join(", ")
            )
        }
        Kind::Insert(_) => format!("INSERT {or}INTO {name} ({columns}) VALUES ({row}){otherwise}"),
        Kind::InsertAgain(Identity::Rowid(alias)) => format!(
            "INSERT {or}INTO {name} ({alias}, {columns}) SELECT {} WHERE changes() = 0",
            marks.join(", ")
        ),
        Kind::InsertAgain(_) => {
            format!("INSERT {or}INTO {name} ({columns}) SELECT {row} WHERE changes() = 0")
        }
        Kind::CarriedUpdate(identity) | Kind::CarriedUpdateOnly(identity) => {
            clause::update_text(table, &names, clause, (kind, identity), mask, marks)
        }
        Kind::UpdateAgain(identity) => {
            clause::update_again_text(table, &names, clause, identity, mask, marks)
        }
        Kind::Update(identity) => {
            let mut marks = marks.iter();
            let set = assignments(table, &names, mask, &mut marks);
            let found = found(table, &names, identity, &mut marks);
            format!("UPDATE {or}{name} SET {set} WHERE {found}")
        }
        Kind::Recreate { .. } | Kind::RecreateFirst { .. } => {
            let (again, taken) = recreate_condition(table, kind, clause, &names, mask, rest);
            format!("INSERT {or}INTO {name} ({columns}) SELECT {row} WHERE {again}{taken}")
        }
        Kind::Delete(identity) => {
            let found = condition(table, &names, identity, marks);
            format!("DELETE FROM {name} WHERE {found}")
        }
        Kind::DeleteReplaced(identity) => {
            let left = left_condition(table, &names, identity, marks);
            format!("DELETE FROM {name} WHERE {left}")
        }
        Kind::CheckAbsent => {
            let found = condition(table, &names, Identity::Key, marks);
            fails_if(&format!("EXISTS (SELECT 1 FROM {name} WHERE {found})"))
        }
        Kind::GuardFree | Kind::GuardPresent(_) | Kind::GuardSingle => guard_text(table, kind, &names, marks),
    }
}

/// The text of a statement that takes the same values as the repair `kind`, does nothing, and fails if the repair is needed.
pub(super) fn check_text(
    table: &Table,
    kind: Kind,
    clause: Or,
    mask: &[Set],
    marks: &[&'static str],
) -> String {
    let name = quote(&table.name);
    let names: Vec<String> = table.columns.iter().map(|c| quote(&c.name)).collect();
    if let Kind::DeleteReplaced(identity) = kind {
        let left = left_condition(table, &names, identity, marks);
        return fails_if(&format!("EXISTS (SELECT 1 FROM {name} WHERE {left})"));
    }
    let (row, rest) = marks.split_at(names.len().min(marks.len()));
    let (again, _) = recreate_condition(table, kind, clause, &names, mask, rest);
    format!("WITH image AS (SELECT {}) {}", row.join(", "), fails_if(&again))
}

/// When a replaced row has been left.
fn left_condition(table: &Table, names: &[String], identity: Identity, marks: &[&'static str]) -> String {
    if identity != Identity::Key {
        return condition(table, names, identity, marks);
    }
    let (old, new) = marks.split_at(table.key.len().min(marks.len()));
    format!(
        "{} AND NOT ({})",
        condition(table, names, identity, old),
        condition(table, names, identity, new)
    )
}

/// A query that fails if `failure` holds.
fn fails_if(failure: &str) -> String {
    format!("SELECT CASE WHEN {failure} THEN {OVERFLOW} END")
}

/// When an update has to make its row anew, and what becomes of a row that has the new key already.
fn recreate_condition(
    table: &Table,
    kind: Kind,
    clause: Or,
    names: &[String],
    mask: &[Set],
    old_key: &[&'static str],
) -> (String, String) {
    match kind {
        Kind::RecreateFirst {
            key_changed,
            null_key,
        } => {
            let found = condition(table, names, Identity::Key, old_key);
            let taken = match key_changed && !null_key {
                true => format!(" {}", upsert_changed(table, names, mask)),
                false => String::new(),
            };
            let name = quote(&table.name);
            (format!("NOT EXISTS (SELECT 1 FROM {name} WHERE {found})"), taken)
        }
        Kind::Recreate {
            key_changed: false, ..
        } => (when_missing(table, names, old_key), String::new()),
        // The update of an upsert would not overwrite.
        Kind::Recreate { null_key: false, .. } if !clause.replaces() => {
            let taken = format!(" {}", upsert_changed(table, names, mask));
            ("changes() = 0".to_owned(), taken)
        }
        _ => ("changes() = 0".to_owned(), String::new()),
    }
}

/// What an update sets; takes marks for the new values.
pub(super) fn assignments<'a>(
    table: &Table,
    names: &[String],
    mask: &[Set],
    marks: &mut impl Iterator<Item = &'a &'static str>,
) -> String {
    let mut set: Vec<String> = Vec::new();
    for (name, what) in names.iter().zip(mask) {
        match what {
            Set::Kept => {}
            Set::New => set.extend(marks.next().map(|mark| format!("{name} = {mark}"))),
            Set::Same => set.push(format!("{name} = {name}")),
        }
    }
    if let ([], Some(alias)) = (set.as_slice(), table.rowid) {
        set.push(format!("{alias} = {alias}"));
    }
    set.join(", ")
}

/// The condition that finds the row of an update; takes marks for what identifies it.
pub(super) fn found<'a>(
    table: &Table,
    names: &[String],
    identity: Identity,
    marks: &mut impl Iterator<Item = &'a &'static str>,
) -> String {
    let width = match identity {
        Identity::Key => table.key.len(),
        Identity::Rowid(_) => 1,
        Identity::Content => names.len(),
    };
    let marks: Vec<&str> = marks.take(width).copied().collect();
    match identity {
        // A guard has seen to the content.
        Identity::Rowid(alias) => format!("{alias} = ?"),
        other => condition(table, names, other, &marks),
    }
}

/// The condition under which an update has found no row.
fn when_missing(table: &Table, names: &[String], marks: &[&str]) -> String {
    // A trigger may have deleted the row after the update before this statement: then it was there.
    let missed = if table.has_triggers {
        "changes() = 0 AND "
    } else {
        ""
    };
    let found = condition(table, names, Identity::Key, marks);
    format!(
        "{missed}NOT EXISTS (SELECT 1 FROM {} WHERE {found})",
        quote(&table.name)
    )
}

/// The text of a guard.
fn guard_text(table: &Table, kind: Kind, names: &[String], marks: &[&str]) -> String {
    let name = quote(&table.name);
    let found = |identity| condition(table, names, identity, marks);
    let failure = match kind {
        Kind::GuardFree => {
            let alias = table.rowid.unwrap_or("rowid");
            format!("EXISTS (SELECT 1 FROM {name} WHERE {alias} = ?)")
        }
        Kind::GuardPresent(identity @ Identity::Rowid(_)) => {
            format!("NOT EXISTS (SELECT 1 FROM {name} WHERE {})", found(identity))
        }
        Kind::GuardPresent(identity) => {
            format!("(SELECT count(*) FROM {name} WHERE {}) <> 1", found(identity))
        }
        _ => format!(
            "(SELECT count(*) FROM {name} WHERE {}) > 1",
            found(Identity::Content)
        ),
    };
    fails_if(&failure)
}

/// The upsert that sets the columns in `mask` of a row that has the new key already.
fn upsert_changed(table: &Table, names: &[String], mask: &[Set]) -> String {
    let set = |i: &usize| mask.get(*i) == Some(&Set::New) && !table.key.contains(i);
    let set: Vec<usize> = (0..names.len()).filter(set).collect();
    upsert(table, names, &set)
}

fn upsert(table: &Table, names: &[String], set: &[usize]) -> String {
    let name = |i: &usize| names.get(*i).cloned().unwrap_or_default();
    let key: Vec<String> = table.key.iter().map(name).collect();
    let set: Vec<String> = set
        .iter()
        .map(name)
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    let action = match set.as_slice() {
        [] => "NOTHING".to_owned(),
        _ => format!("UPDATE SET {}", set.join(", ")),
    };
    format!("ON CONFLICT ({}) DO {action}", key.join(", "))
}

/// The condition that finds a row.
pub(super) fn condition(table: &Table, names: &[String], identity: Identity, marks: &[&str]) -> String {
    // Content is compared byte by byte, whatever the collation of the column.
    let content = |marks: &[&str]| -> Vec<String> {
        names
            .iter()
            .zip(marks)
            .map(|(n, mark)| format!("{n} IS {mark} COLLATE BINARY"))
            .collect()
    };
    let terms = match identity {
        Identity::Key => {
            let key = table.key.iter().filter_map(|&k| names.get(k));
            table.key_terms(key, marks.iter().copied())
        }
        Identity::Rowid(alias) => {
            let mut terms = vec![format!("{alias} = ?")];
            terms.extend(content(marks.get(1..).unwrap_or_default()));
            terms
        }
        Identity::Content => content(marks),
    };
    all_of(&terms)
}

/// True if all of `terms` are. Without parentheses SQLite nests them as deep as there are terms, and refuses more than 1000
/// levels, those of queries around them included.
pub(super) fn all_of(terms: &[String]) -> String {
    const MOST: usize = 100;
    if terms.len() <= MOST {
        return terms.join(" AND ");
    }
    let parts = terms.chunks(MOST).map(|part| format!("({})", part.join(" AND ")));
    parts.collect::<Vec<_>>().join(" AND ")
}
