//! Values as parameters and literals of statements.

use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};

use crate::record::Value;

/// A value as the argument of a statement.
pub(super) struct Bound<'a>(pub &'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(i) => ValueRef::Integer(*i),
            Value::Real(r) => ValueRef::Real(*r),
            Value::Text(t) => ValueRef::Text(t),
            Value::Blob(b) => ValueRef::Blob(b),
        }))
    }
}

/// Copies a value out of a result row.
pub(super) fn from_column(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(i) => Value::Integer(i),
        ValueRef::Real(r) => Value::Real(r),
        ValueRef::Text(t) => Value::Text(t.to_vec()),
        ValueRef::Blob(b) => Value::Blob(b.to_vec()),
    }
}

/// The values of a statement in the order of their places in the text: for each its mark in the text, and the
/// argument if the mark needs one.
#[derive(Debug, Default)]
pub(super) struct Slots {
    marks: Vec<&'static str>,
    args: Vec<Value>,
    special: bool,
}

impl Slots {
    /// Appends `value`. What JSON cannot say goes into the text: infinities as literals, text that is not UTF-8 as
    /// the cast of a blob.
    pub(super) fn push(&mut self, value: &Value) {
        let (mark, arg) = match value {
            Value::Real(r) if r.is_infinite() => (if *r > 0.0 { "9e999" } else { "-9e999" }, None),
            Value::Real(r) if r.is_nan() => ("?", Some(Value::Null)),
            Value::Text(t) if std::str::from_utf8(t).is_err() => {
                ("CAST(? AS TEXT)", Some(Value::Blob(t.clone())))
            }
            other => ("?", Some(other.clone())),
        };
        self.special |= mark != "?";
        self.marks.push(mark);
        self.args.extend(arg);
    }

    /// Appends all of `values`.
    pub(super) fn extend<'a>(&mut self, values: impl IntoIterator<Item = &'a Value>) {
        values.into_iter().for_each(|v| self.push(v));
    }

    /// The marks if they are not all `?`: with them the text differs from that of other rows.
    pub(super) fn shape(&self) -> Vec<&'static str> {
        if self.special {
            self.marks.clone()
        } else {
            Vec::new()
        }
    }

    /// The marks.
    pub(super) fn marks(&self) -> &[&'static str] {
        &self.marks
    }

    /// Marks and arguments.
    pub(super) fn into_parts(self) -> (Vec<&'static str>, Vec<Value>) {
        (self.marks, self.args)
    }
}
