//! What is fuzzed: each function takes any bytes and must return. It panics if the library did something wrong.
//!
//! `fuzz_targets` are the same functions for libFuzzer; `tests/corpus.rs` of the library runs them on the committed
//! corpora and on mutations of them.

mod c_abi;
mod decoders;
mod direct;
mod input;
mod log;
mod pages;
mod server;
mod stream;

pub use c_abi::c_abi;
pub use decoders::{metadata_json, pipeline_answer, record};
pub use direct::direct_requests;
pub use log::change_log;
pub use pages::{changes_file, revert_file};
pub use server::server_requests;
pub use stream::page_stream;
