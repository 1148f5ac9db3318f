//! The C ABI: argument checks, the panic boundary, translation. Nothing else lives here.
//!
//! One file per C object. The documentation of the functions is written for C developers: `build.rs` turns these
//! files into `include/turso.h` and `include/turso_sync.h`. Names, layouts and values are those of the SDK kit of
//! Turso, so that bindings written for it run unchanged; they never change.
//!
//! Three rules hold in every function. The body runs inside [`boundary::status`] or [`boundary::value`], which
//! stop panics. Pointers are turned into references only by the helpers of [`boundary`]. Outputs are written only
//! on success.

// The names are C's.
#![allow(non_camel_case_types)]
// The rules for pointers are the same for all functions and stand once, at the top of the header.
#![allow(clippy::missing_safety_doc)]

pub mod binding;
mod boundary;
pub mod changes;
pub mod conflict_types;
pub mod conflicts;
pub mod connection;
pub mod database;
#[cfg(feature = "driver")]
mod driver_config;
pub mod foreign;
pub mod io_item;
pub mod keeper;
pub mod observe;
pub mod observe_types;
pub mod operation;
mod options;
pub mod row;
pub mod run;
pub mod setup;
pub mod statement;
pub mod sync_database;
pub mod sync_types;
pub mod transform;
pub mod transform_types;
pub mod types;

#[cfg(test)]
mod tests;
