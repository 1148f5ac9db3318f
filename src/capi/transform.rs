//! Transform requests: what the host reads of them and how it decides.

use std::ffi::c_char;

use super::boundary::{Handle, VersionedOut, array_in, bytes_in, slice_in, slice_out, status, value};
use super::io_item::{turso_sync_io_item_t, with, wrong_kind};
use super::transform_types::{
    turso_sync_mutation_column_t, turso_sync_mutation_t, turso_sync_mutation_type_t, turso_sync_value_t,
};
use super::types::{turso_slice_ref_t, turso_status_code_t, turso_type_t};
use crate::error::{Error, Result};
use crate::io::SyncEngineIoRequest;
use crate::record::Value;
use crate::transform::{
    DatabaseChangeType, DatabaseRowMutation, DatabaseRowTransformResult, DatabaseStatementReplay,
};

impl turso_sync_io_item_t {
    fn mutations(&self) -> Result<&[DatabaseRowMutation]> {
        match self.item.request() {
            SyncEngineIoRequest::Transform(mutations) => Ok(mutations),
            _ => Err(wrong_kind()),
        }
    }

    fn mutation(&self, index: usize) -> Result<&DatabaseRowMutation> {
        let found = self.mutations()?.get(index);
        found.ok_or_else(|| Error::misuse("the index of the mutation is out of range"))
    }
}

/// Number of row changes that a TURSO_SYNC_IO_TRANSFORM item asks about; 0 for NULL and for an item of another kind. Not
/// part of the SDK kit of Turso.
///
/// For each of them the host calls one of turso_sync_database_io_transform_keep, `_skip` and `_rewrite`, then
/// turso_sync_database_io_done; the operation fails with MISUSE if one was left out. The last word about a change counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_transform_count(item: *const turso_sync_io_item_t) -> usize {
    value(0, || {
        // SAFETY: the pointer rules of the header.
        let item = unsafe { turso_sync_io_item_t::borrow(item) }?;
        Ok(Some(item.mutations()?.len()))
    })
}

/// Fills `mutation` with the row change at `index` (from 0). Set `mutation->size` before the call. Not part of the SDK kit
/// of Turso.
///
/// Errors: MISUSE for NULL, another kind of item, an index out of range and a wrong size; nothing is written then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_transform_mutation(
    item: *const turso_sync_io_item_t,
    index: usize,
    mutation: *mut turso_sync_mutation_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        // SAFETY: the pointer rules of the header.
        let out = unsafe { VersionedOut::new(mutation) }?;
        let found = item.mutation(index)?;
        out.put(turso_sync_mutation_t {
            size: size_of::<turso_sync_mutation_t>(),
            change_id: found.change_id,
            transaction_id: found.txn_id,
            unix_time: found.change_time,
            rowid: found.id,
            table: slice_out(found.table_name.as_bytes()),
            columns: found.columns.len(),
            mutation_type: match found.change_type {
                DatabaseChangeType::Insert => turso_sync_mutation_type_t::TURSO_SYNC_MUTATION_INSERT,
                DatabaseChangeType::Update => turso_sync_mutation_type_t::TURSO_SYNC_MUTATION_UPDATE,
                DatabaseChangeType::Delete => turso_sync_mutation_type_t::TURSO_SYNC_MUTATION_DELETE,
            },
        });
        Ok(())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// Fills `column` with column number `column_index` (from 0) of the row change at `index`. Set `column->size` before the
/// call. Not part of the SDK kit of Turso.
///
/// Errors: MISUSE for NULL, another kind of item, an index out of range and a wrong size; nothing is written then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_transform_column(
    item: *const turso_sync_io_item_t,
    index: usize,
    column_index: usize,
    column: *mut turso_sync_mutation_column_t,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| {
        // SAFETY: the pointer rules of the header.
        let out = unsafe { VersionedOut::new(column) }?;
        let found = item.mutation(index)?;
        let name = found.columns.get(column_index);
        let name = name.ok_or_else(|| Error::misuse("the index of the column is out of range"))?;
        let of = |row: &Option<Vec<Value>>| row.as_ref().and_then(|row| row.get(column_index)).map(value_out);
        let update = found.updates.as_ref().and_then(|row| row.get(column_index));
        out.put(turso_sync_mutation_column_t {
            size: size_of::<turso_sync_mutation_column_t>(),
            name: slice_out(name.as_bytes()),
            before: of(&found.before).unwrap_or_else(turso_sync_value_t::none),
            after: of(&found.after).unwrap_or_else(turso_sync_value_t::none),
            update: update
                .and_then(Option::as_ref)
                .map_or_else(turso_sync_value_t::none, value_out),
            is_key: found.key.contains(&column_index).into(),
        });
        Ok(())
    };
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

fn value_out(value: &Value) -> turso_sync_value_t {
    let none = turso_sync_value_t::none();
    let (value_type, rest) = match value {
        Value::Null => (turso_type_t::TURSO_TYPE_NULL, none),
        Value::Integer(integer) => (
            turso_type_t::TURSO_TYPE_INTEGER,
            turso_sync_value_t {
                integer: *integer,
                ..none
            },
        ),
        Value::Real(real) => (
            turso_type_t::TURSO_TYPE_REAL,
            turso_sync_value_t { real: *real, ..none },
        ),
        Value::Text(bytes) => (
            turso_type_t::TURSO_TYPE_TEXT,
            turso_sync_value_t {
                bytes: slice_out(bytes),
                ..none
            },
        ),
        Value::Blob(bytes) => (
            turso_type_t::TURSO_TYPE_BLOB,
            turso_sync_value_t {
                bytes: slice_out(bytes),
                ..none
            },
        ),
    };
    turso_sync_value_t {
        value_type: value_type as u32,
        ..rest
    }
}

/// # Safety
/// The bytes of a TEXT or BLOB follow the pointer rules of the header.
unsafe fn value_in(value: &turso_sync_value_t) -> Result<Value> {
    // SAFETY: the same contract.
    let bytes = || unsafe { bytes_in(value.bytes.ptr, value.bytes.len) }.map(<[u8]>::to_vec);
    let is = |known: turso_type_t| value.value_type == known as u32;
    if is(turso_type_t::TURSO_TYPE_NULL) {
        Ok(Value::Null)
    } else if is(turso_type_t::TURSO_TYPE_INTEGER) {
        Ok(Value::Integer(value.integer))
    } else if is(turso_type_t::TURSO_TYPE_REAL) {
        Ok(Value::Real(value.real))
    } else if is(turso_type_t::TURSO_TYPE_TEXT) {
        Ok(Value::Text(bytes()?))
    } else if is(turso_type_t::TURSO_TYPE_BLOB) {
        Ok(Value::Blob(bytes()?))
    } else {
        Err(Error::misuse(format!("unknown value_type: {}", value.value_type)))
    }
}

/// The row change at `index` is sent as it is. Not part of the SDK kit of Turso.
///
/// Errors, as in the functions below: MISUSE for NULL, another kind of item and an index out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_transform_keep(
    item: *const turso_sync_io_item_t,
    index: usize,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| item.item.decide(index, DatabaseRowTransformResult::Keep);
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// The row change at `index` is not sent. It counts as acknowledged with its transaction: with the next pull it is gone
/// here, too. Not part of the SDK kit of Turso.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_transform_skip(
    item: *const turso_sync_io_item_t,
    index: usize,
) -> turso_status_code_t {
    let body = |item: &turso_sync_io_item_t| item.item.decide(index, DatabaseRowTransformResult::Skip);
    // SAFETY: the pointer rules of the header.
    unsafe { with(item, body) }
}

/// In place of the row change at `index` a statement is sent; with the next pull its outcome is what is here. Not part of
/// the SDK kit of Turso.
///
/// `sql` is one statement in UTF-8 that begins with INSERT, REPLACE, UPDATE, DELETE, SELECT or WITH; its parameters are
/// plain question marks, and `values` are their `count` values. Everything is copied. Errors: in addition MISUSE for NULL
/// pointers, for a statement that is not like that, for numbers that are not finite and text that is not UTF-8; nothing is
/// decided then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn turso_sync_database_io_transform_rewrite(
    item: *const turso_sync_io_item_t,
    index: usize,
    sql: *const turso_slice_ref_t,
    values: *const turso_sync_value_t,
    count: usize,
    error_opt_out: *mut *const c_char,
) -> turso_status_code_t {
    let body = || {
        // SAFETY: the pointer rules of the header.
        let item = unsafe { turso_sync_io_item_t::borrow(item) }?;
        // SAFETY: the pointer rules of the header.
        let (sql, values) = unsafe { (slice_in(sql)?, array_in(values, count)?) };
        let sql = std::str::from_utf8(sql).map_err(|_| Error::misuse("expected a UTF-8 string"))?;
        // SAFETY: the pointer rules of the header.
        let values: Result<Vec<Value>> = values.iter().map(|value| unsafe { value_in(value) }).collect();
        let statement = DatabaseStatementReplay {
            sql: sql.to_owned(),
            values: values?,
        };
        item.item
            .decide(index, DatabaseRowTransformResult::Rewrite(statement))?;
        Ok(turso_status_code_t::TURSO_OK)
    };
    // SAFETY: the pointer rules of the header.
    unsafe { status(error_opt_out, body) }
}
