//! Local SQL on stock SQLite, with every change captured into the change log.
//!
//! | module | |
//! |---|---|
//! | `connection`, `statement` | the handles: locking, life times |
//! | `session` | stepping, implicit transactions, when the log is written |
//! | `hooks`, `buffer` | what SQLite reports while a statement runs |
//! | `flush`, `table` | from reported values to log rows |
//! | `programs`, `clause` | which trigger made a change, who will redo it, and under which conflict clause |
//! | `virtual_table`, `module` | from what virtual tables store to their rows |
//! | `reals` | reals that SQLite stores as integers |
//! | `outcome` | what a failed statement left behind |
//! | `ddl` | schema changes |
//! | `authorizer`, `attach` | what is refused |
//! | `ignored` | tables that stay local |
//! | `log`, `state` | the local tables: change log, and what the replica knows about itself |
//! | `lineage` | who gave out which change ids |
//! | `sqlite` | the C interface |

mod attach;
mod authorizer;
mod buffer;
pub(crate) mod clause;
mod connection;
mod ddl;
mod flush;
mod hooks;
mod ignored;
pub mod lineage;
pub mod log;
pub(crate) mod module;
mod outcome;
mod programs;
mod reals;
mod session;
mod sqlite;
pub mod state;
mod statement;
mod table;
mod virtual_table;

pub use connection::{Connection, Observer, OpenOptions};
pub use ignored::IgnoredTables;
pub(crate) use ignored::not_a_table;
pub use statement::{Statement, Step, ValueType};
