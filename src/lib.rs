//! Two-way sync between a stock SQLite file and Turso, without network IO of its own.
//!
//! A *replica* is an ordinary SQLite file that follows a *remote* database. Local SQL works offline, and every change
//! is captured. A *push* sends what is pending, a *pull* brings what is new on the remote below what is pending. The
//! library does not talk to the network: it queues requests, and the host performs them with whatever it has.
//!
//! # The poll loop
//!
//! Every sync operation is an [`Operation`](io::Operation) that the host resumes until it is done. In between it
//! serves the queue: HTTP requests as it likes, file requests with [`io::files::perform`] or by the contract of
//! [`SyncEngineIoRequest`](io::SyncEngineIoRequest).
//!
//! ```
//! use turso_sync::engine::{DatabaseSyncEngine, DatabaseSyncEngineOpts};
//! use turso_sync::io::{Operation, OperationStatus, SyncEngineIoRequest, files};
//!
//! fn run<T>(engine: &DatabaseSyncEngine, mut op: Operation<T>) -> turso_sync::error::Result<T> {
//!     while op.resume()? == OperationStatus::Io {
//!         while let Some(item) = engine.io().take_item() {
//!             match item.request() {
//!                 // The host's networking stack goes here. This remote is empty: revision "0", no pages.
//!                 SyncEngineIoRequest::Http(_) => {
//!                     item.status(200);
//!                     item.push_buffer(&[7, 0x0a, 1, b'0', 0x1a, 0, 0x40, 1]);
//!                     item.done();
//!                 }
//!                 _ => files::perform(&item)?,
//!             }
//!         }
//!     }
//!     Ok(op.take_result().expect("a finished operation has a result"))
//! }
//!
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("app.db").to_str().unwrap().to_owned();
//! let engine = DatabaseSyncEngine::new(DatabaseSyncEngineOpts {
//!     path,
//!     remote_url: Some("https://db.example.com".into()),
//!     client_name: "my-app".into(),
//!     bootstrap_if_empty: true,
//!     ..Default::default()
//! })?;
//! run(&engine, engine.create_db())?;
//! let conn = run(&engine, engine.connect_rw())?;
//! conn.execute_batch("CREATE TABLE note (text); INSERT INTO note VALUES ('written offline')")?;
//! assert_eq!(run(&engine, engine.stats())?.cdc_operations, 2);
//! # Ok::<(), turso_sync::error::Error>(())
//! ```
//!
//! With the feature `driver`, [`driver::run`] is that loop on `ureq`.
//!
//! # Where things are
//!
//! | module | |
//! |---|---|
//! | [`engine`] | the operations: create, wait, apply, push, checkpoint |
//! | [`io`] | requests to the host, operations, durable files |
//! | [`capture`] | connections and statements; the change log |
//! | [`replay`] | change log → SQL, for pull and push alike |
//! | [`pages`] | the base below the local changes |
//! | [`protocol`] | what goes over the wire |
//! | [`capi`] | the C ABI |
//! | `driver`, `server` | features: a blocking driver, the bundled server |

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
pub mod transform;
