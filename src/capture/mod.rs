//! Local SQL on stock SQLite, with every change captured into the change log.

mod connection;
pub mod log;
pub mod state;
mod statement;

pub use connection::{Connection, Observer, OpenOptions};
pub use statement::{Statement, Step, ValueType};
