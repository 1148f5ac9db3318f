//! IO without IO: requests that the host performs, and operations that wait for their answers.
//!
//! An operation is an `async fn` polled by [`Operation::resume`] with a waker that does nothing. When it needs
//! the network or an atomic file, it puts a [`SyncEngineIoRequest`] into the [`SyncEngineIoQueue`] and returns
//! [`OperationStatus::Io`]. The host takes the item, performs it with whatever it likes, feeds the answer in, and
//! resumes. There is no thread, no clock and no runtime in here.

mod control;
pub mod files;
mod operation;
mod queue;

pub use control::{Control, Driven, Progress, Stage};
pub use operation::{Operation, OperationStatus};
pub use queue::{
    BodySink, HttpRequest, IoItem, MAX_WHOLE_ANSWER, Pending, Response, SyncEngineIo, SyncEngineIoQueue,
    SyncEngineIoRequest,
};
