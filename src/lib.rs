//! Two-way sync between a stock SQLite file and Turso.

pub mod capi;
pub mod capture;
#[cfg(feature = "driver")]
pub mod driver;
pub mod engine;
pub mod error;
pub mod io;
pub mod pages;
pub mod protocol;
pub mod record;
pub mod replay;
#[cfg(feature = "server")]
pub mod server;
