//! Random schema statements.

use crate::catalog::{Catalog, Column, Table};
use crate::expression::condition;
use crate::mode::Mode;
use crate::names::{self, quoted, value};
use crate::random::Random;

const TYPES: [&str; 12] = [
    "",
    "",
    "INTEGER",
    "INT",
    "TEXT",
    "REAL",
    "BLOB",
    "NUMERIC",
    "VARCHAR(10)",
    "ANY",
    "DOUBLE",
    "BOOLEAN",
];
const STRICT_TYPES: [&str; 6] = ["INT", "INTEGER", "TEXT", "REAL", "BLOB", "ANY"];
const ACTIONS: [&str; 5] = ["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"];

/// CREATE TABLE with `name`.
pub fn create_table(r: &Random, mode: &Mode, catalog: &Catalog, name: &str) -> String {
    let strict = r.chance(12);
    let key = r.below(10);
    let mut columns: Vec<&'static str> = Vec::new();
    for _ in 0..1 + r.below(5) {
        let column = names::column(r);
        if !columns.iter().any(|c| c.eq_ignore_ascii_case(column)) {
            columns.push(column);
        }
    }
    let mut parts = Vec::new();
    for (i, column) in columns.iter().enumerate() {
        let key = if i == 0 { key } else { 9 };
        parts.push(column_definition(r, mode, catalog, &columns, i, (strict, key)));
        debug_assert!(!column.is_empty());
    }
    let mut without_rowid = (0..5).contains(&key) && r.chance(30);
    if key >= 6 && columns.len() > 1 && r.chance(60) {
        let mut key = columns.clone();
        key.rotate_left(r.below(columns.len()));
        key.truncate(1 + r.below(2));
        let key: Vec<_> = key
            .iter()
            .map(|c| {
                format!(
                    "{}{}",
                    quoted(r, c),
                    r.pick(&["", "", " DESC", " COLLATE NOCASE"])
                )
            })
            .collect();
        parts.push(format!(
            "PRIMARY KEY ({}){}",
            key.join(", "),
            mode.constraint_conflict(r)
        ));
        without_rowid = r.chance(40);
    }
    let odd = |part: &String| part.contains(" AS (");
    if columns.len() > 1 && r.chance(15) && (mode.odd_unique || !parts.iter().any(odd)) {
        let (a, b) = (quoted(r, columns[0]), quoted(r, columns[1]));
        parts.push(format!("UNIQUE ({a}, {b}){}", mode.constraint_conflict(r)));
    }
    // See the list in `src/replay/mod.rs`.
    let virtual_real = |part: &String| {
        let generated = part.contains(" AS (") && !part.ends_with(" STORED");
        generated && (part.contains(" REAL AS") || part.contains(" DOUBLE AS"))
    };
    if parts.iter().any(virtual_real) {
        for part in &mut parts {
            if let Some(column) = part.strip_suffix(" STORED") {
                *part = format!("{column} VIRTUAL");
            }
        }
    }
    let options = match (without_rowid, strict) {
        (true, true) => " WITHOUT ROWID, STRICT",
        (true, false) => " WITHOUT ROWID",
        (false, true) => " STRICT",
        (false, false) => "",
    };
    format!("CREATE TABLE {} ({}){options}", quoted(r, name), parts.join(", "))
}

/// One column; `key` below 6 makes it the primary key.
fn column_definition(
    r: &Random,
    mode: &Mode,
    catalog: &Catalog,
    columns: &[&str],
    i: usize,
    (strict, key): (bool, usize),
) -> String {
    let name = quoted(r, columns[i]);
    let on_conflict = mode.constraint_conflict(r);
    match key {
        0 | 1 => return format!("{name} INTEGER PRIMARY KEY{on_conflict}"),
        2 if mode.autoincrement => return format!("{name} INTEGER PRIMARY KEY AUTOINCREMENT"),
        2 => return format!("{name} INTEGER PRIMARY KEY"),
        3 => return format!("{name} INTEGER PRIMARY KEY DESC{on_conflict}"),
        4 => return format!("{name} INT PRIMARY KEY{on_conflict}"),
        5 => return format!("{name} TEXT COLLATE NOCASE PRIMARY KEY{on_conflict}"),
        _ => {}
    }
    let kind = if strict {
        r.pick(&STRICT_TYPES)
    } else {
        r.pick(&TYPES)
    };
    let mut text = format!("{name} {kind}");
    if r.chance(12) && columns.len() > 1 {
        let other = quoted(r, columns[(i + 1) % columns.len()]);
        let expression = match r.below(6) {
            0 => format!("{other} + 1"),
            1 => format!("{other} || 'g'"),
            2 => format!("typeof({other})"),
            3 => format!("coalesce({other}, 0) * 2"),
            4 => format!("length({other})"),
            _ => format!("abs({other})"),
        };
        // A trigger sees the real that an UPDATE copies from a virtual column, and the table has an integer.
        let place = match r.pick(&["VIRTUAL", "STORED", ""]) {
            _ if mode.triggers && ["REAL", "DOUBLE"].contains(&kind) => "STORED",
            place => place,
        };
        return format!("{text} AS ({expression}) {place}");
    }
    match r.below(16) {
        0 => text += &format!(" NOT NULL{on_conflict}"),
        1 if mode.defaults => text += &format!(" NOT NULL{on_conflict} DEFAULT ({})", value(r)),
        1 | 2 => text += &format!(" DEFAULT ({})", value(r)),
        3 => text += &format!(" UNIQUE{on_conflict}"),
        4 => text += &format!(" CHECK ({name} <> 3)"),
        5 => text += &format!(" CHECK (typeof({name}) <> 'blob')"),
        6 => text += " COLLATE NOCASE",
        7 => text += " COLLATE RTRIM UNIQUE",
        8..=11 if mode.foreign_keys => text += &references(r, catalog),
        _ => {}
    }
    text
}

fn references(r: &Random, catalog: &Catalog) -> String {
    let Some(parent) = r.one_of(&catalog.tables) else {
        return String::new();
    };
    let mut text = format!(" REFERENCES {}", quoted(r, &parent.name));
    match (parent.key().as_slice(), parent.columns.first()) {
        ([key], _) if r.chance(70) => text += &format!("({})", quoted(r, key)),
        ([_], _) => {}
        (_, Some(column)) => text += &format!("({})", quoted(r, &column.name)),
        _ => {}
    }
    for event in ["DELETE", "UPDATE"] {
        if r.chance(75) {
            text += &format!(" ON {event} {}", r.pick(&ACTIONS));
        }
    }
    text + r.pick(&["", "", " DEFERRABLE INITIALLY DEFERRED"])
}

pub fn create_index(r: &Random, mode: &Mode, table: &Table) -> String {
    let unique = r.pick(&["", "", "", "UNIQUE "]);
    let plain = !unique.is_empty() && !mode.odd_unique;
    let name = format!("i{} x", r.below(4));
    let mut terms = Vec::new();
    for _ in 0..1 + r.below(2) {
        let Some(column) = r.one_of(&table.columns).filter(|c| !(plain && c.generated)) else {
            continue;
        };
        let column = quoted(r, &column.name);
        let term = match r.below(6) {
            _ if plain => column,
            0 => format!("length({column})"),
            1 => format!("abs({column})"),
            2 => format!("{column} || 'x'"),
            _ => column,
        };
        terms.push(term + r.pick(&["", "", " DESC", " COLLATE NOCASE", " COLLATE BINARY"]));
    }
    let condition = match r.one_of(&table.columns) {
        Some(column) if r.chance(25) => {
            let column = quoted(r, &column.name);
            format!(" WHERE {column} {}", r.pick(&["IS NOT NULL", "> 2", "= 'a'"]))
        }
        _ => String::new(),
    };
    let (name, table) = (quoted(r, &name), quoted(r, &table.name));
    format!(
        "CREATE {unique}INDEX {name} ON {table} ({}){condition}",
        terms.join(", ")
    )
}

pub fn create_view(r: &Random, table: &Table) -> String {
    let name = quoted(r, &format!("v{}", r.below(3)));
    let from = quoted(r, &table.name);
    let (columns, condition) = (table.columns.iter().take(3), condition(r, table));
    let columns: Vec<_> = columns.map(|c| quoted(r, &c.name)).collect();
    format!(
        "CREATE VIEW {name} AS SELECT {} FROM {from} WHERE {condition}",
        columns.join(", ")
    )
}

/// CREATE TRIGGER on a table or view; `None` if there is nothing it could write.
pub fn create_trigger(r: &Random, mode: &Mode, catalog: &Catalog) -> Option<String> {
    if !mode.triggers {
        return None;
    }
    let views = if r.chance(25) {
        catalog.views.as_slice()
    } else {
        &[]
    };
    let table = r.one_of(views).or_else(|| r.one_of(&catalog.tables))?;
    let event = match r.below(3) {
        0 => "INSERT".to_owned(),
        1 => "DELETE".to_owned(),
        _ => match r.one_of(&table.writable()) {
            Some(column) if r.chance(40) => format!("UPDATE OF {}", quoted(r, column)),
            _ => "UPDATE".to_owned(),
        },
    };
    let time = match table.is_view {
        true => "INSTEAD OF",
        false if r.chance(30) && (event == "DELETE" || mode.before_writes()) => "BEFORE",
        false => "AFTER",
    };
    let source = if event == "DELETE" { "old" } else { "new" };
    // Before an insert, a rowid that SQLite will choose is not defined, nor what is generated from it. A column with a name of
    // the rowid may be dropped later, and then the trigger means the rowid.
    let of_rowid = |c: &Column| ["rowid", "_rowid_", "oid"].contains(&c.name.to_ascii_lowercase().as_str());
    let defined =
        |c: &&Column| time != "BEFORE" || event != "INSERT" || c.key == 0 && !c.generated && !of_rowid(c);
    let columns: Vec<_> = table.columns.iter().filter(defined).collect();
    let mut body = String::new();
    for _ in 0..1 + r.below(2) {
        body += &trigger_statement(r, mode, catalog, table, &columns, source)?;
        body += "; ";
    }
    let when = match r.one_of(&columns) {
        Some(column) if r.chance(20) => format!(" WHEN {source}.{} > 1", quoted(r, &column.name)),
        _ => String::new(),
    };
    let name = quoted(r, &format!("t{}", r.below(5)));
    Some(format!(
        "CREATE TRIGGER {name} {time} {event} ON {}{when} BEGIN {body}END",
        quoted(r, &table.name)
    ))
}

fn trigger_statement(
    r: &Random,
    mode: &Mode,
    catalog: &Catalog,
    table: &Table,
    columns: &[&Column],
    source: &str,
) -> Option<String> {
    let column = quoted(r, &r.one_of(columns)?.name);
    let seen = format!("{source}.{column}");
    if r.chance(20) {
        let kind = match r.below(4) {
            0 if mode.ignore => "IGNORE".to_owned(),
            1 if mode.fail => "FAIL, 'f'".to_owned(),
            2 => "ROLLBACK, 'r'".to_owned(),
            _ => "ABORT, 'a'".to_owned(),
        };
        return Some(format!("SELECT RAISE({kind}) WHERE {seen} = {}", value(r)));
    }
    // Only tables behind this one, so that chains of triggers end.
    let behind: Vec<_> = catalog
        .tables
        .iter()
        .filter(|t| table.is_view || t.name > table.name)
        .collect();
    let target = r.one_of(&behind)?;
    let writable = target.writable();
    let set = quoted(r, r.one_of(&writable)?);
    let key = quoted(r, r.one_of(&writable)?);
    let into = quoted(r, &target.name);
    Some(match r.below(8) {
        0 => format!("DELETE FROM {into} WHERE {key} = {seen}"),
        1 | 2 => format!(
            "UPDATE {}{into} SET {set} = {} WHERE {key} = {seen}",
            mode.body_conflict(r),
            value(r)
        ),
        3 => format!("UPDATE {into} SET {set} = {set} + 1 WHERE {key} = {seen}"),
        4 => format!("INSERT INTO {into} ({set}) VALUES ({seen}) ON CONFLICT DO NOTHING"),
        5 => format!(
            "INSERT {}INTO {into} ({set}) SELECT count(*) FROM {into}",
            mode.body_conflict(r)
        ),
        _ => format!(
            "INSERT {}INTO {into} ({set}) VALUES ({seen})",
            mode.body_conflict(r)
        ),
    })
}

/// Any statement that changes the schema.
pub fn ddl(r: &Random, mode: &Mode, catalog: &Catalog) -> String {
    let none = Table {
        name: "none".into(),
        is_view: false,
        without_rowid: false,
        columns: Vec::new(),
    };
    let table = r.one_of(&catalog.tables).unwrap_or(&none);
    let old = quoted(r, &table.name);
    let name = names::table(r);
    let column = r
        .one_of(&table.columns)
        .map_or("a".to_owned(), |c| quoted(r, &c.name));
    match r.below(28) {
        0..=3 => create_table(r, mode, catalog, &name),
        4 => {
            let (new, condition) = (quoted(r, &name), condition(r, table));
            format!("CREATE TABLE {new} AS SELECT * FROM {old} WHERE {condition} LIMIT 20")
        }
        // Nothing happens, but the replica takes the write lock for it.
        5 if !mode.two_connections => format!("CREATE TABLE IF NOT EXISTS {} (a, b)", quoted(r, &name)),
        6 => format!("DROP TABLE {old}"),
        7 if !mode.two_connections => format!("DROP TABLE IF EXISTS {}", quoted(r, &name)),
        8 | 9 => rename_table(r, table),
        // A statement that was prepared before, or a trigger, could come to mean the rowid.
        10..=12 if mode.moves || !hides_rowid(table) => format!(
            "ALTER TABLE {old} RENAME COLUMN {column} TO {}",
            quoted(r, names::column(r))
        ),
        13..=15 => {
            let new = quoted(r, names::column(r));
            let more = match r.below(6) {
                0 => "",
                1 => " INTEGER DEFAULT 4",
                2 if mode.defaults => " TEXT NOT NULL DEFAULT 'x'",
                2 => " TEXT DEFAULT 'x'",
                3 => " COLLATE NOCASE",
                4 => " AS (1 + 1)",
                _ => " REAL CHECK (1)",
            };
            format!("ALTER TABLE {old} ADD COLUMN {new}{more}")
        }
        16 | 17 if mode.moves || !hides_rowid(table) => format!("ALTER TABLE {old} DROP COLUMN {column}"),
        18..=20 => create_index(r, mode, table),
        21 => drop_one(r, "INDEX", &catalog.indexes),
        22 => create_view(r, table),
        23 => {
            let views: Vec<_> = catalog.views.iter().map(|v| v.name.clone()).collect();
            drop_one(r, "VIEW", &views)
        }
        24 => drop_one(r, "TRIGGER", &catalog.triggers),
        _ => create_trigger(r, mode, catalog).unwrap_or_else(|| drop_one(r, "TRIGGER", &catalog.triggers)),
    }
}

fn hides_rowid(table: &Table) -> bool {
    let names = ["rowid", "_rowid_", "oid"];
    let hides = |name: &str| names.iter().any(|alias| name.eq_ignore_ascii_case(alias));
    table.columns.iter().any(|column| hides(&column.name))
}

/// The place of the name in the order of all names stays.
fn rename_table(r: &Random, table: &Table) -> String {
    let new = match table.name.strip_suffix('2') {
        Some(shorter) => shorter.to_owned(),
        None => format!("{}2", table.name),
    };
    format!(
        "ALTER TABLE {} RENAME TO {}",
        quoted(r, &table.name),
        quoted(r, &new)
    )
}

fn drop_one(r: &Random, kind: &str, names: &[String]) -> String {
    match r.one_of(names) {
        Some(name) => format!("DROP {kind} {}", quoted(r, &name.clone())),
        None => format!("DROP {kind} none"),
    }
}
