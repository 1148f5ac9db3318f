//! Keeps a replica in sync in the background: one thread waits for changes of the remote and applies them, another one
//! pushes what is committed here.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use super::client::Client;
use super::keep_state::{BUSY_PAUSE, Doing, KeepStatus, Side, State, Wanted, needs_decision};
use super::retry::{Backoff, chance};
use super::{DriverConfig, LONGEST_TIMEOUT};
use crate::engine::{DatabaseSyncEngine, Watcher};
use crate::error::{Code, Error, Result};
use crate::io::{Control, Operation};

/// How to keep in sync.
#[derive(Clone)]
pub struct KeepOptions {
    /// Time between a commit and its push, so that what is committed together travels together.
    pub debounce: Duration,
    /// Time between two questions to a remote that has nothing new and does not hold the question (see
    /// `long_poll_timeout_ms` of the replica).
    pub interval: Duration,
    /// Longest pause after failures.
    pub longest_pause: Duration,
    /// Called in a thread of the keeper whenever something of the remote was applied; one's own pushed changes count. It
    /// may use the replica, and of the keeper all but what waits for it.
    pub on_change: Option<Arc<Watcher>>,
}

impl Default for KeepOptions {
    fn default() -> Self {
        KeepOptions {
            debounce: Duration::from_millis(50),
            interval: Duration::from_secs(10),
            longest_pause: Duration::from_secs(60),
            on_change: None,
        }
    }
}

/// A replica being kept in sync. Use it from any thread. Dropping it stops it.
pub struct KeepInSync {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Woken by commits.
    _watcher: Arc<Watcher>,
}

struct Shared {
    engine: DatabaseSyncEngine,
    config: DriverConfig,
    options: KeepOptions,
    backoff: Backoff,
    state: Mutex<State>,
    changed: Condvar,
    /// Held by whoever pushes or applies: they would find each other BUSY.
    turn: Mutex<()>,
}

impl KeepInSync {
    /// Starts to keep `engine`, whose replica must be open, in sync. `config.timeout` has to be longer than the long poll
    /// of the replica; the deadline is for one operation.
    pub fn start(
        engine: &DatabaseSyncEngine,
        config: &DriverConfig,
        mut options: KeepOptions,
    ) -> Result<Self> {
        engine.status()?;
        // Its mistakes are reported here, not later.
        Client::new(config)?;
        for time in [
            &mut options.debounce,
            &mut options.interval,
            &mut options.longest_pause,
        ] {
            *time = (*time).min(LONGEST_TIMEOUT);
        }
        let shared = Arc::new(Shared {
            engine: engine.clone(),
            config: config.clone(),
            backoff: Backoff {
                first: config.backoff,
                longest: options.longest_pause,
            },
            options,
            state: Mutex::new(State::new(Instant::now())),
            changed: Condvar::new(),
            turn: Mutex::new(()),
        });
        let weak = Arc::downgrade(&shared);
        let watcher: Arc<Watcher> = Arc::new(move || {
            if let Some(shared) = weak.upgrade() {
                shared.committed();
            }
        });
        engine.watch(&watcher);
        let mut keeper = KeepInSync {
            shared,
            threads: Vec::new(),
            _watcher: watcher,
        };
        for (name, side) in [("turso-sync-pull", Side::Pull), ("turso-sync-push", Side::Push)] {
            let shared = keeper.shared.clone();
            let thread = std::thread::Builder::new()
                .name(name.into())
                .spawn(move || shared.work(side))
                .map_err(|e| Error::io("start a thread", &e))?;
            keeper.threads.push(thread);
        }
        Ok(keeper)
    }

    /// Stops for a while: cancels what is under way, and returns when no request is being sent, nothing is answered, and
    /// no lock of the keeper is held. Nothing is lost. MISUSE in `on_change`.
    pub fn pause(&self) -> Result<()> {
        self.refuse_own_threads()?;
        self.shared.halt(Wanted::Pause);
        let mut state = self.shared.lock();
        while state.wanted == Wanted::Pause && state.sides.iter().any(|side| side.busy) {
            state = self.shared.wait(state, None);
        }
        Ok(())
    }

    /// Goes on after a pause, at once and without what is left of a pause after a failure.
    pub fn resume(&self) {
        {
            let mut state = self.shared.lock();
            state.wanted = Wanted::Run;
            state.hurry(Instant::now());
        }
        self.shared.changed.notify_all();
    }

    /// The network has changed or come back: asks the remote anew instead of waiting on an old connection, and forgets
    /// pauses after failures. Returns at once; nothing happens while it is paused.
    pub fn wake(&self) {
        self.shared.hurry(&[Doing::Waiting, Doing::Pushing]);
    }

    /// Pushes what is pending and fetches what is new, now; returns when both have been done, or with the first error.
    /// The keeper goes on in either case. BUSY if others have the replica in use for more than some seconds. MISUSE while
    /// paused, and in `on_change`.
    pub fn sync_now(&self) -> Result<()> {
        self.refuse_own_threads()?;
        let targets = self.shared.lock().sides.each_ref().map(|side| side.begun + 1);
        self.shared.hurry(&[Doing::Waiting]);
        let mut state = self.shared.lock();
        loop {
            if state.wanted != Wanted::Run {
                return Err(Error::misuse("keep in sync is paused; resume it first"));
            }
            let mut ended = true;
            for (side, target) in state.sides.iter().zip(targets) {
                match &side.error {
                    Some(e) if side.ended >= target => return Err(e.clone()),
                    _ => ended &= side.ended >= target,
                }
            }
            if ended {
                return Ok(());
            }
            state = self.shared.wait(state, None);
        }
    }

    /// What it is doing, and how it went.
    pub fn status(&self) -> KeepStatus {
        self.shared.lock().status(Instant::now())
    }

    /// Stops for good; returns when its threads have ended.
    pub fn stop(self) {}

    fn refuse_own_threads(&self) -> Result<()> {
        let me = std::thread::current().id();
        if self.threads.iter().any(|thread| thread.thread().id() == me) {
            return Err(Error::misuse(
                "this would wait for itself: do not call it in on_change",
            ));
        }
        Ok(())
    }
}

impl Drop for KeepInSync {
    fn drop(&mut self) {
        self.shared.halt(Wanted::Stop);
        let me: ThreadId = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // In `on_change` it ends as soon as that returns.
            if thread.thread().id() != me {
                thread.join().unwrap_or(());
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, until: Option<Instant>) -> MutexGuard<'a, State> {
        let Some(until) = until else {
            return self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout(state, left);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Cancels what is under way, and begins nothing new.
    fn halt(&self, wanted: Wanted) {
        let running = {
            let mut state = self.lock();
            state.wanted = wanted;
            state.running(&[Doing::Waiting, Doing::Applying, Doing::Pushing])
        };
        self.changed.notify_all();
        running.iter().for_each(|control| control.cancel());
    }

    /// Everything is due now, and what does one of `anew` begins again.
    fn hurry(&self, anew: &[Doing]) {
        let running = {
            let mut state = self.lock();
            state.hurry(Instant::now());
            state.running(anew)
        };
        self.changed.notify_all();
        running.iter().for_each(|control| control.cancel());
    }

    fn committed(&self) {
        self.lock().committed(Instant::now() + self.options.debounce);
        self.changed.notify_all();
    }

    /// What the thread of a side does.
    fn work(&self, side: Side) {
        let mut client = None;
        while let Some(hurry) = self.next(side) {
            let began = Instant::now();
            let step = || match side {
                Side::Pull => self.pull(&mut client, hurry),
                Side::Push => self.push(&mut client),
            };
            let result = catch_unwind(AssertUnwindSafe(step));
            let result = result.unwrap_or_else(|_| Err(Error::internal("keep in sync panicked")));
            let next = match hurry && self.engine.long_poll_timeout_ms() > 0 {
                true => began,
                false => began + self.gap(),
            };
            self.note(side, next, result);
        }
    }

    /// Waits until the side has something to do; `None` when it is to end.
    fn next(&self, side: Side) -> Option<bool> {
        let mut state = self.lock();
        loop {
            let due = match state.wanted {
                Wanted::Stop => return None,
                Wanted::Pause => None,
                Wanted::Run => state.side(side).due,
            };
            if due.is_some_and(|due| due <= Instant::now()) {
                return Some(state.begin(side));
            }
            state = self.wait(state, due);
        }
    }

    /// Least time from one question to the next while nothing is new: the remote may not hold them as long as it is asked
    /// to, or not at all.
    fn gap(&self) -> Duration {
        let long_poll = Duration::from_millis(self.engine.long_poll_timeout_ms().into());
        match long_poll.is_zero() {
            true => self.options.interval,
            false => self.options.interval.min(long_poll),
        }
    }

    /// Notes how a step ended; `next` is when to ask the remote again if it had nothing new.
    fn note(&self, side: Side, next: Instant, result: Result<bool>) {
        let mut state = self.lock();
        let now = Instant::now();
        match result {
            Ok(something) => state.succeeded(side, something, now, next),
            // Paused, stopped, or woken up: not a failure.
            Err(e) if e.code == Code::Interrupt => state.interrupted(side, now),
            // Somebody has moved the base below what was downloaded.
            Err(e) if e.code == Code::BusySnapshot => state.interrupted(side, now + BUSY_PAUSE),
            // Somebody else is at work on the replica.
            Err(e) if e.code == Code::Busy => state.in_use(side, e, now),
            Err(e) => {
                tracing::debug!(?side, "keep in sync: {e}");
                let retry_after = e.retry_after_ms.map(Duration::from_millis);
                let pause = match needs_decision(&e) {
                    true => self.options.longest_pause,
                    false => self
                        .backoff
                        .pause(state.side(side).failures + 1, retry_after, chance()),
                };
                state.failed(side, e, now, now + pause.min(LONGEST_TIMEOUT));
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Downloads and applies what is new; true if something was.
    fn pull(&self, client: &mut Option<Arc<Client>>, hurry: bool) -> Result<bool> {
        let long_poll = match hurry {
            true => 0,
            false => self.engine.long_poll_timeout_ms(),
        };
        let wait = self.engine.wait_within(long_poll);
        let Some(changes) = self.operate(Side::Pull, client, Doing::Waiting, wait)? else {
            return Ok(false);
        };
        {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let apply = self.engine.apply_changes_from_remote(changes);
            self.operate(Side::Pull, client, Doing::Applying, apply)?;
        }
        if let Some(on_change) = &self.options.on_change {
            on_change();
        }
        Ok(true)
    }

    /// Sends what is pending; true if something was.
    fn push(&self, client: &mut Option<Arc<Client>>) -> Result<bool> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.engine.status()?.pending_changes == 0 {
            return Ok(false);
        }
        let push = self.engine.push_changes_to_remote();
        self.operate(Side::Push, client, Doing::Pushing, push)?;
        Ok(true)
    }

    /// Runs an operation so that it can be cancelled by others.
    fn operate<T>(
        &self,
        side: Side,
        client: &mut Option<Arc<Client>>,
        doing: Doing,
        mut operation: Operation<T>,
    ) -> Result<T> {
        let control: Arc<Control> = operation.control().clone();
        {
            let mut state = self.lock();
            if state.wanted != Wanted::Run || (doing == Doing::Waiting && state.is_overdue(side)) {
                return Err(Error::cancelled());
            }
            let side = state.side_mut(side);
            side.running = Some((doing, control.clone()));
            side.operation_began = Some(Instant::now());
        }
        let result = self.drive(client, &control, &mut operation);
        self.lock().side_mut(side).running = None;
        if control.is_cancelled() {
            // Its connections are cut.
            *client = None;
        }
        result
    }

    fn drive<T>(
        &self,
        client: &mut Option<Arc<Client>>,
        control: &Control,
        operation: &mut Operation<T>,
    ) -> Result<T> {
        let client = match client {
            Some(client) => client.clone(),
            None => client.insert(Arc::new(Client::new(&self.config)?)).clone(),
        };
        client.run(self.engine.io(), control, || operation.resume())?;
        operation
            .take_result()
            .ok_or_else(|| Error::internal("the operation has no result"))
    }
}
