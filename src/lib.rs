//! Two-way sync between a stock SQLite file and Turso.

pub mod capture;
pub mod engine;
pub mod error;
pub mod io;
pub mod protocol;
pub mod record;
#[cfg(feature = "server")]
pub mod server;
