//! Operations: futures that the host drives by hand.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::control::{Control, Stage};
use crate::error::{Code, Error, Result};

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
    control: Arc<Control>,
}

impl<T> Operation<T> {
    /// Wraps a future; it does not run yet.
    pub fn new(future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self::controlled(Arc::default(), future)
    }

    /// The same for a future that tells its progress.
    pub fn controlled(
        control: Arc<Control>,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Self {
        Operation {
            state: State::Running(Box::pin(future)),
            control,
        }
    }

    /// For those who watch the operation or stop it, from any thread.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Runs until the operation ends or needs IO. After the end it repeats its answer.
    pub fn resume(&mut self) -> Result<OperationStatus> {
        if let State::Running(future) = &mut self.state {
            if self.control.is_cancelled() {
                return self.end(State::Failed(Error::cancelled()));
            }
            if self.control.progress().stage == Stage::NotStarted {
                self.control.enter(Stage::Working);
            }
            let mut context = Context::from_waker(Waker::noop());
            // A panicking future must not be polled again; it is replaced by an error before anybody can.
            let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
            let ended = match polled {
                Ok(Poll::Pending) => return Ok(OperationStatus::Io),
                Ok(Poll::Ready(Ok(value))) => State::Done(Some(value)),
                // SQLite, or a request, has said it in its own words.
                Ok(Poll::Ready(Err(e))) if e.code == Code::Interrupt && self.control.is_cancelled() => {
                    State::Failed(Error::cancelled())
                }
                Ok(Poll::Ready(Err(e))) => State::Failed(e),
                Err(_) => State::Failed(Error::internal(
                    "the operation panicked; this is a fault of turso-sync",
                )),
            };
            return self.end(ended);
        }
        self.answer()
    }

    fn end(&mut self, state: State<T>) -> Result<OperationStatus> {
        self.control.enter(Stage::Ended);
        self.state = state;
        self.answer()
    }

    fn answer(&self) -> Result<OperationStatus> {
        match &self.state {
            State::Failed(e) => Err(e.clone()),
            _ => Ok(OperationStatus::Done),
        }
    }

    /// Why the operation failed; `None` if it has not.
    pub fn error(&self) -> Option<&Error> {
        match &self.state {
            State::Failed(e) => Some(e),
            _ => None,
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
    fn a_cancelled_operation_ends_and_one_that_has_ended_does_not_change() {
        let mut op = Operation::<()>::new(std::future::pending());
        assert_eq!(op.control().progress().stage, Stage::NotStarted);
        assert_eq!(op.resume(), Ok(OperationStatus::Io));
        assert_eq!(op.control().progress().stage, Stage::Working);
        op.control().clone().cancel();
        let error = op.resume().unwrap_err();
        assert_eq!(error.code, crate::error::Code::Interrupt);
        assert_eq!(op.resume(), Err(error));
        assert_eq!(op.control().progress().stage, Stage::Ended);
        let mut op = Operation::new(async { Ok(7) });
        assert_eq!(op.resume(), Ok(OperationStatus::Done));
        op.control().cancel();
        assert_eq!(op.resume(), Ok(OperationStatus::Done));
    }

    #[test]
    fn a_panic_becomes_an_error_that_stays() {
        let mut op = Operation::<()>::new(async { panic!("boom") });
        assert!(op.resume().is_err());
        assert!(op.resume().is_err());
    }
}
