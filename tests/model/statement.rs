//! Random statements that change rows.

use crate::catalog::{Catalog, Table};
use crate::expression::{condition, expression};
use crate::mode::Mode;
use crate::names::{quoted, value};
use crate::random::Random;

/// INSERT, UPDATE or DELETE of a table or view.
pub fn write(r: &Random, mode: &Mode, catalog: &Catalog) -> String {
    let views = if r.chance(10) {
        catalog.views.as_slice()
    } else {
        &[]
    };
    let Some(table) = r.one_of(views).or_else(|| r.one_of(&catalog.tables)) else {
        return "DELETE FROM none".into();
    };
    match r.below(20) {
        0..=8 => insert(r, mode, catalog, table),
        9..=15 => update(r, mode, catalog, table),
        _ => delete(r, catalog, table),
    }
}

/// What a REPLACE removes for its rowid alone fires DELETE triggers there, if it has a key.
fn removes_for_rowid(mode: &Mode, table: &Table) -> bool {
    mode.triggers && mode.replace && !table.key().is_empty()
}

/// A statement that INSERTs into `table`.
pub fn insert(r: &Random, mode: &Mode, catalog: &Catalog, table: &Table) -> String {
    let into = quoted(r, &table.name);
    let mut columns: Vec<&str> = table.writable();
    if r.chance(25) && columns.len() > 1 {
        columns.remove(r.below(columns.len()));
    }
    match table.rowid() {
        Some(rowid) if r.chance(12) && !removes_for_rowid(mode, table) => {
            columns.push(rowid);
        }
        _ => {}
    }
    let names: Vec<_> = columns.iter().map(|c| quoted(r, c)).collect();
    let or = mode.conflict(r);
    let (mut with, mut upsert) = (String::new(), String::new());
    let source = match r.below(14) {
        0 => "DEFAULT VALUES".to_owned(),
        1 => {
            let from = r.one_of(&catalog.tables).unwrap_or(table);
            let terms: Vec<_> = columns.iter().map(|_| expression(r, from)).collect();
            let (name, condition) = (quoted(r, &from.name), condition(r, from));
            format!(
                "SELECT {} FROM {name} WHERE {condition} LIMIT 6",
                terms.join(", ")
            )
        }
        2 => {
            with = format!(
                "WITH RECURSIVE n(x) AS (SELECT {} UNION ALL SELECT x + 1 FROM n LIMIT 4) ",
                r.below(5)
            );
            let terms: Vec<_> = columns
                .iter()
                .map(|_| if r.chance(50) { "x".into() } else { value(r) })
                .collect();
            format!("SELECT {} FROM n WHERE 1", terms.join(", "))
        }
        _ => {
            let row = |r: &Random| {
                let values: Vec<_> = columns.iter().map(|_| value(r)).collect();
                format!("({})", values.join(", "))
            };
            let rows: Vec<_> = (0..1 + r.below(3)).map(|_| row(r)).collect();
            format!("VALUES {}", rows.join(", "))
        }
    };
    if source == "DEFAULT VALUES" {
        return format!("INSERT {or}INTO {into} {source}");
    }
    if r.chance(20) {
        upsert = on_conflict(r, mode, table);
    }
    format!(
        "{with}INSERT {or}INTO {into} ({}) {source}{upsert}",
        names.join(", ")
    )
}

fn on_conflict(r: &Random, mode: &Mode, table: &Table) -> String {
    let key = table.key();
    let target: Vec<_> = key.iter().map(|c| quoted(r, c)).collect();
    let target = match target.is_empty() || r.chance(30) {
        true => String::new(),
        false => format!(" ({})", target.join(", ")),
    };
    if r.chance(35) {
        return format!(" ON CONFLICT{target} DO NOTHING");
    }
    let set = assignments(r, mode, table);
    let condition = if r.chance(30) {
        format!(" WHERE {}", condition(r, table))
    } else {
        String::new()
    };
    format!(" ON CONFLICT{target} DO UPDATE SET {set}{condition}")
}

fn assignments(r: &Random, mode: &Mode, table: &Table) -> String {
    let mut columns = table.writable();
    let mut set = Vec::new();
    for _ in 0..1 + r.below(2) {
        if columns.is_empty() {
            break;
        }
        let column = columns.remove(r.below(columns.len()));
        let (name, new) = (quoted(r, column), expression(r, table));
        set.push(format!("{name} = {new}"));
    }
    match table.rowid() {
        Some(rowid) if (mode.moves || table.has_keys()) && r.chance(6) && !removes_for_rowid(mode, table) => {
            set.push(format!("{rowid} = {rowid} + {}", r.below(3)))
        }
        _ => {}
    }
    set.join(", ")
}

fn update(r: &Random, mode: &Mode, catalog: &Catalog, table: &Table) -> String {
    let (name, or) = (quoted(r, &table.name), mode.conflict(r));
    match (r.below(10), r.one_of(&catalog.tables)) {
        (0, Some(from)) if !from.columns.is_empty() => {
            let writable = table.writable();
            let column = quoted(r, r.one_of(&writable).copied().unwrap_or("a"));
            let seen = quoted(r, &from.columns[0].name.clone());
            let (other, condition) = (quoted(r, &from.name), condition(r, from));
            format!(
                "UPDATE {or}{name} SET {column} = s.x FROM (SELECT {seen} AS x FROM {other} WHERE {condition} LIMIT 3) AS s \
                 WHERE {column} IS NOT s.x"
            )
        }
        (1, Some(from)) => {
            let (set, other) = (assignments(r, mode, table), quoted(r, &from.name));
            format!(
                "WITH s(n) AS (SELECT count(*) FROM {other}) UPDATE {or}{name} SET {set} WHERE (SELECT n FROM s) > 1"
            )
        }
        _ => {
            let (set, condition) = (assignments(r, mode, table), condition(r, table));
            format!("UPDATE {or}{name} SET {set} WHERE {condition}")
        }
    }
}

fn delete(r: &Random, catalog: &Catalog, table: &Table) -> String {
    let name = quoted(r, &table.name);
    match (r.below(8), r.one_of(&catalog.tables)) {
        (0, _) => format!("DELETE FROM {name}"),
        (1, Some(other)) => {
            let (column, other) = (expression(r, table), quoted(r, &other.name));
            format!("DELETE FROM {name} WHERE {column} > (SELECT count(*) FROM {other})")
        }
        _ => format!("DELETE FROM {name} WHERE {}", condition(r, table)),
    }
}
