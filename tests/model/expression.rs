//! Expressions and conditions over the columns of a table.

use crate::catalog::Table;
use crate::names::{quoted, value};
use crate::random::Random;

/// A column of `table` or its rowid.
fn column(r: &Random, table: &Table) -> String {
    match (table.rowid(), r.one_of(&table.columns)) {
        (Some(rowid), _) if r.chance(10) => rowid.into(),
        (_, Some(column)) => quoted(r, &column.name),
        _ => "1".into(),
    }
}

pub fn expression(r: &Random, table: &Table) -> String {
    let c = column(r, table);
    match r.below(14) {
        0 => format!("{c} + 1"),
        1 => format!("{c} || {}", value(r)),
        2 => format!("-{c}"),
        3 => format!("abs({c})"),
        4 => format!("coalesce({c}, {})", value(r)),
        5 => format!("CASE WHEN {c} > {} THEN {} ELSE {c} END", value(r), value(r)),
        6 => format!("upper({c})"),
        7 => c,
        8 => format!("(SELECT count(*) FROM {})", quoted(r, &table.name)),
        9 => format!("{c} % 3"),
        _ => value(r),
    }
}

pub fn condition(r: &Random, table: &Table) -> String {
    let c = column(r, table);
    match r.below(12) {
        0 | 1 => format!("{c} = {}", value(r)),
        2 => format!("{c} > {}", value(r)),
        3 => format!("{c} < {}", value(r)),
        4 => format!("{c} IS {}", value(r)),
        5 => format!("{c} IN ({}, {}, {})", value(r), value(r), value(r)),
        6 => format!("{c} IS NOT NULL"),
        7 => format!("{c} LIKE '%a%' OR {c} % 2"),
        8 => format!("typeof({c}) = 'text'"),
        9 => format!("{} AND {}", condition(r, table), condition(r, table)),
        _ => "1".into(),
    }
}
