//! Names and values that are hard to get right.

use crate::random::Random;

/// Names of tables. A trigger writes only into tables behind its own in this order, so that chains end.
const TABLES: [&str; 9] = ["a b", "Brü", "c\"d", "drop", "Eq", "f'g", "h", "日本", "zz"];
const COLUMNS: [&str; 16] = [
    "a", "b", "c", "d", "Key", "rowid", "_rowid_", "oid", "sel ect", "index", "Ä", "q\"q", "[x]", "id",
    "values", "n",
];

pub fn table(r: &Random) -> String {
    r.pick(&TABLES).to_owned()
}

pub fn column(r: &Random) -> &'static str {
    let most = if r.chance(60) { 5 } else { COLUMNS.len() };
    COLUMNS[r.below(most)]
}

/// `name` as an identifier, quoted in one of SQLite's ways.
pub fn quoted(r: &Random, name: &str) -> String {
    match r.below(6) {
        0 if !name.contains('`') => format!("`{name}`"),
        1 if !name.contains(']') => format!("[{name}]"),
        2 if ["a", "b", "c", "d", "h", "n", "id", "zz"].contains(&name) => name.to_owned(),
        3 => format!("\"{}\"", name.to_ascii_uppercase().replace('"', "\"\"")),
        _ => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

/// The largest rowid is not among them: behind it SQLite draws rowids.
const VALUES: [&str; 43] = [
    "NULL",
    "0",
    "'0'",
    "'1'",
    "'a'",
    "'A'",
    "'b'",
    "'b  '",
    "''",
    "x''",
    "x'00'",
    "x'0041ff'",
    "zeroblob(3)",
    "9e999",
    "-9e999",
    "-0.0",
    "0.0",
    "1.0",
    "1.5",
    "-2.25",
    "0.1",
    "1e-320",
    "1.7976931348623157e308",
    "9223372036854770000",
    "-9223372036854775808",
    "9223372036854775808.0",
    "9007199254740993",
    "9007199254740993.0",
    "4294967296",
    "'a' || char(0) || 'b'",
    "char(0)",
    "CAST(x'ff41' AS TEXT)",
    "CAST(x'4100ff' AS TEXT)",
    "CAST(x'eda080' AS TEXT)",
    "'ä'",
    "'Ä'",
    "'日本'",
    "char(128512)",
    "hex(zeroblob(300))",
    "'1e3'",
    "' 1'",
    "'+1.0'",
    "'it''s'",
];

/// A literal.
pub fn value(r: &Random) -> String {
    match r.below(100) {
        0..60 => r.below(7).to_string(),
        60 => "hex(zeroblob(3000))".into(),
        _ => r.pick(&VALUES).into(),
    }
}
