//! SQLite's result codes by name, which is how SQL over HTTP carries them (<https://www.sqlite.org/rescode.html>).

const NAMES: [(&str, i32); 34] = [
    ("SQLITE_ERROR", 1),
    ("SQLITE_INTERNAL", 2),
    ("SQLITE_PERM", 3),
    ("SQLITE_ABORT", 4),
    ("SQLITE_BUSY", 5),
    ("SQLITE_LOCKED", 6),
    ("SQLITE_NOMEM", 7),
    ("SQLITE_READONLY", 8),
    ("SQLITE_INTERRUPT", 9),
    ("SQLITE_IOERR", 10),
    ("SQLITE_CORRUPT", 11),
    ("SQLITE_NOTFOUND", 12),
    ("SQLITE_FULL", 13),
    ("SQLITE_CANTOPEN", 14),
    ("SQLITE_PROTOCOL", 15),
    ("SQLITE_SCHEMA", 17),
    ("SQLITE_TOOBIG", 18),
    ("SQLITE_CONSTRAINT", 19),
    ("SQLITE_MISMATCH", 20),
    ("SQLITE_MISUSE", 21),
    ("SQLITE_AUTH", 23),
    ("SQLITE_RANGE", 25),
    ("SQLITE_NOTADB", 26),
    ("SQLITE_CONSTRAINT_CHECK", 275),
    ("SQLITE_CONSTRAINT_COMMITHOOK", 531),
    ("SQLITE_CONSTRAINT_FOREIGNKEY", 787),
    ("SQLITE_CONSTRAINT_FUNCTION", 1043),
    ("SQLITE_CONSTRAINT_NOTNULL", 1299),
    ("SQLITE_CONSTRAINT_PRIMARYKEY", 1555),
    ("SQLITE_CONSTRAINT_TRIGGER", 1811),
    ("SQLITE_CONSTRAINT_UNIQUE", 2067),
    ("SQLITE_CONSTRAINT_VTAB", 2323),
    ("SQLITE_CONSTRAINT_ROWID", 2579),
    ("SQLITE_CONSTRAINT_DATATYPE", 3091),
];

/// Name of the extended result code `code`, or of its primary one; `None` if SQLite has no such error.
pub fn name_of(code: i32) -> Option<&'static str> {
    let find = |code| NAMES.iter().find(|(_, c)| *c == code).map(|(name, _)| *name);
    find(code).or_else(|| find(code & 0xff))
}

/// The result code called `name`; `None` for other words, such as the reference server's.
pub fn code_of(name: &str) -> Option<i32> {
    NAMES.iter().find(|(n, _)| *n == name).map(|(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_belong_together() {
        for (name, code) in NAMES {
            assert_eq!((name_of(code), code_of(name)), (Some(name), Some(code)));
        }
        assert_eq!(name_of(5 | (2 << 8)), Some("SQLITE_BUSY"));
        assert_eq!((name_of(0), name_of(16)), (None, None));
        assert_eq!((code_of("BATCH_STEP_ERROR"), code_of("")), (None, None));
    }
}
