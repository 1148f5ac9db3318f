//! Two-way sync between a stock SQLite file and Turso.

pub mod capture;
pub mod engine;
pub mod error;
pub mod io;
pub mod pages;
pub mod record;
