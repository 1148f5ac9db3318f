//! Operations: futures that the host drives by hand.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};

/// What [`Operation::resume`] tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationStatus {
    /// The operation waits for requests in the queue; perform them and resume.
    Io,
    /// The operation has ended successfully.
    Done,
}

enum State<T> {
    Running(Pin<Box<dyn Future<Output = Result<T>> + Send>>),
    /// Ended well; the value is there until somebody takes it.
    Done(Option<T>),
    Failed(Error),
}

/// A sync operation in progress. Nothing happens before the first [`resume`](Operation::resume); dropping it at
/// any point cancels it and leaves the database valid. Use it from one thread at a time.
pub struct Operation<T> {
    state: State<T>,
}

impl<T> Operation<T> {
    /// Wraps a future; it does not run yet.
    pub fn new(future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Operation {
            state: State::Running(Box::pin(future)),
        }
    }

    /// Runs until the operation ends or needs IO. After the end it repeats its answer.
    pub fn resume(&mut self) -> Result<OperationStatus> {
        if let State::Running(future) = &mut self.state {
            let mut context = Context::from_waker(Waker::noop());
            // A panicking future must not be polled again; it is replaced by an error before anybody can.
            let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
            self.state = match polled {
                Ok(Poll::Pending) => return Ok(OperationStatus::Io),
                Ok(Poll::Ready(Ok(value))) => State::Done(Some(value)),
                Ok(Poll::Ready(Err(e))) => State::Failed(e),
                Err(_) => State::Failed(Error::internal(
                    "the operation panicked; this is a fault of turso-sync",
                )),
            };
        }
        match &self.state {
            State::Failed(e) => Err(e.clone()),
            _ => Ok(OperationStatus::Done),
        }
    }

    /// The result, while nobody has taken it.
    pub fn result(&self) -> Option<&T> {
        match &self.state {
            State::Done(value) => value.as_ref(),
            _ => None,
        }
    }

    /// Takes the result out; `None` before the end, after an error, or the second time.
    pub fn take_result(&mut self) -> Option<T> {
        match &mut self.state {
            State::Done(value) => value.take(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_operation_repeats_its_answer() {
        let mut op = Operation::new(async { Ok(7) });
        assert!(op.result().is_none());
        assert_eq!(op.resume(), Ok(OperationStatus::Done));
        assert_eq!(op.take_result(), Some(7));
        assert_eq!(op.take_result(), None);
        assert_eq!(op.resume(), Ok(OperationStatus::Done));
        let mut op = Operation::<()>::new(async { Err(Error::busy("b")) });
        assert_eq!(op.resume(), op.resume());
    }

    #[test]
    fn a_panic_becomes_an_error_that_stays() {
        let mut op = Operation::<()>::new(async { panic!("boom") });
        assert!(op.resume().is_err());
        assert!(op.resume().is_err());
    }
}
