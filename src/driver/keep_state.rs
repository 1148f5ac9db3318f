//! What a keeper knows: what is wanted, what each side does and when it is due, how it went. No threads, no IO.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Category, Error};
use crate::io::Control;

/// Time until the next attempt after one that found the replica in use. Even the beginning of a wait uses it for a moment.
pub(super) const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// How long the replica may be in use before that is told; about as long as the engine waits for a lock of SQLite.
const LONGEST_USE: Duration = Duration::from_secs(5);

/// What a keeper is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepState {
    /// In sync, or at work.
    Running,
    /// Paused, or about to pause.
    Paused,
    /// The last attempt of a side has failed; it will try again.
    Retrying,
}

/// How keeping in sync goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepStatus {
    /// What it is doing.
    pub state: KeepState,
    /// Pushes that have sent something.
    pub pushes: u64,
    /// Times that something of the remote was applied.
    pub pulls: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Time until the next attempt after a failure; `None` if nothing has failed, or if it waits for a change.
    pub retry_in: Option<Duration>,
    /// The error of the last push or else the last pull; `None` if both went well.
    pub error: Option<Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Run,
    Pause,
    Stop,
}

/// The two threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Pull,
    Push,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Pull => Side::Push,
            Side::Push => Side::Pull,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// For changes of the remote.
    Waiting,
    /// What needs no network.
    Applying,
    Pushing,
}

/// True if trying again is useless until somebody has decided what is to be done.
pub(super) fn needs_decision(e: &Error) -> bool {
    matches!(e.category, Category::Conflict | Category::Foreign)
}

#[derive(Default)]
pub(super) struct SideState {
    /// When the next step is to begin; `None` = when something happens.
    pub due: Option<Instant>,
    /// When the last operation of the step began.
    pub operation_began: Option<Instant>,
    /// Since when every step has found the replica in use.
    in_use_since: Option<Instant>,
    /// A pause after a failure; only a hurry ends it before.
    held_until: Option<Instant>,
    /// The next step must not wait for news.
    hurry: bool,
    /// A step is under way.
    pub busy: bool,
    /// Its operation.
    pub running: Option<(Doing, Arc<Control>)>,
    /// Number of the last step that has begun, and of the last that went to its end, well or not.
    pub begun: u64,
    pub ended: u64,
    /// Steps of the other side that had ended when the last one began.
    others_ended: u64,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last step failed.
    pub error: Option<Error>,
}

impl SideState {
    /// Only a decision helps, about a conflict or about what another program has written.
    fn is_undecided(&self) -> bool {
        self.error.as_ref().is_some_and(needs_decision)
    }

    /// Begins a step no later than `at`, but not in a pause after a failure.
    fn due_by(&mut self, at: Instant) {
        let at = self.held_until.map_or(at, |held| held.max(at));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Something has changed that may have been the decision, or does without it.
    fn release_undecided(&mut self) {
        if self.is_undecided() {
            self.held_until = None;
        }
    }
}

pub(super) struct State {
    pub wanted: Wanted,
    pub sides: [SideState; 2],
    pushes: u64,
    pulls: u64,
    failures: u64,
}

impl State {
    pub fn new(now: Instant) -> Self {
        let mut state = State {
            wanted: Wanted::Run,
            sides: Default::default(),
            pushes: 0,
            pulls: 0,
            failures: 0,
        };
        state.hurry(now);
        state
    }

    pub fn side(&self, side: Side) -> &SideState {
        let [pull, push] = &self.sides;
        match side {
            Side::Pull => pull,
            Side::Push => push,
        }
    }

    pub fn side_mut(&mut self, side: Side) -> &mut SideState {
        let [pull, push] = &mut self.sides;
        match side {
            Side::Pull => pull,
            Side::Push => push,
        }
    }

    /// Everything is due now, whatever has failed before.
    pub fn hurry(&mut self, now: Instant) {
        for side in &mut self.sides {
            side.held_until = None;
            side.failures = 0;
            side.hurry = true;
            side.due = Some(now);
        }
    }

    /// Something may be there to push; a decision may have been made.
    pub fn committed(&mut self, at: Instant) {
        let [pull, push] = &mut self.sides;
        push.release_undecided();
        push.due_by(at);
        if pull.is_undecided() {
            pull.release_undecided();
            pull.due_by(at);
        }
    }

    /// Begins a step; true if it must not wait for news.
    pub fn begin(&mut self, side: Side) -> bool {
        let others_ended = self.side(side.other()).ended;
        let side = self.side_mut(side);
        side.others_ended = others_ended;
        side.busy = true;
        side.begun += 1;
        (side.due, side.held_until, side.operation_began) = (None, None, None);
        // After a failure, a quick answer tells that all is well again.
        std::mem::take(&mut side.hurry) || side.failures > 0
    }

    /// True if the side became due again after its step had begun.
    pub fn is_overdue(&self, side: Side) -> bool {
        self.side(side).hurry
    }

    /// A step ended well; `something` was there to do. Without, the next question to the remote is not before `later`.
    pub fn succeeded(&mut self, side: Side, something: bool, now: Instant, later: Instant) {
        let done = self.side_mut(side);
        (done.busy, done.ended) = (false, done.begun);
        (done.failures, done.error, done.in_use_since) = (0, None, None);
        match side {
            Side::Pull => {
                self.pulls += u64::from(something);
                let next = if something { now } else { later };
                let [pull, push] = &mut self.sides;
                pull.due_by(next);
                // Another process may have committed; if a decision is missing, only something new helps.
                if something {
                    push.release_undecided();
                }
                if !push.is_undecided() || something {
                    push.due_by(now);
                }
            }
            Side::Push => {
                self.pushes += u64::from(something);
                let [pull, _] = &mut self.sides;
                if pull.is_undecided() {
                    pull.release_undecided();
                    pull.due_by(now);
                }
            }
        }
    }

    /// A step found the replica in use, which is no failure unless it stays so: then it must be told, or whoever waits would
    /// wait without end, perhaps for a transaction of its own.
    pub fn in_use(&mut self, side: Side, error: Error, now: Instant) {
        let again = now + BUSY_PAUSE;
        // A push of the keeper may take its time.
        let own = matches!(self.side(side.other()).running, Some((Doing::Pushing, _)));
        let user = self.side_mut(side);
        let began = user.operation_began.unwrap_or(now);
        let since = *user.in_use_since.get_or_insert(began);
        if own {
            user.in_use_since = None;
        }
        match own || now.saturating_duration_since(since) < LONGEST_USE {
            true => self.interrupted(side, again),
            false => self.failed(side, error, now, again),
        }
    }

    /// A step was broken off, and begins again.
    pub fn interrupted(&mut self, side: Side, again: Instant) {
        let side = self.side_mut(side);
        side.busy = false;
        side.due_by(again);
    }

    /// A step failed. The next attempt is at `again`; that of a push that needs a decision, when something has
    /// changed.
    pub fn failed(&mut self, side: Side, error: Error, now: Instant, again: Instant) {
        self.failures += 1;
        let undecided = needs_decision(&error);
        let waits = side == Side::Push && undecided;
        // A pull that saw a conflict just before a push settled it must not wait for the next one.
        let settled = undecided && self.side(side.other()).ended != self.side(side).others_ended;
        let again = if settled && side == Side::Pull { now } else { again };
        let failed = self.side_mut(side);
        (failed.busy, failed.ended) = (false, failed.begun);
        failed.failures = failed.failures.saturating_add(1);
        (failed.error, failed.in_use_since) = (Some(error), None);
        // Who has asked for another attempt meanwhile, or changed something, has set `due`.
        if !failed.hurry && !waits {
            failed.held_until = Some(again);
            failed.due = Some(again);
        }
    }

    /// The operations under way that do one of these.
    pub fn running(&self, doing: &[Doing]) -> Vec<Arc<Control>> {
        let running = self.sides.iter().filter_map(|side| side.running.as_ref());
        let chosen = running.filter(|(what, _)| doing.contains(what));
        chosen.map(|(_, control)| control.clone()).collect()
    }

    pub fn status(&self, now: Instant) -> KeepStatus {
        let [pull, push] = &self.sides;
        let error = push.error.as_ref().or(pull.error.as_ref());
        let held = self.sides.iter().filter_map(|side| side.held_until).min();
        KeepStatus {
            state: match (self.wanted, error) {
                (Wanted::Pause | Wanted::Stop, _) => KeepState::Paused,
                (Wanted::Run, Some(_)) => KeepState::Retrying,
                (Wanted::Run, None) => KeepState::Running,
            },
            pushes: self.pushes,
            pulls: self.pulls,
            failures: self.failures,
            retry_in: held.map(|held| held.saturating_duration_since(now)),
            error: error.cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn conflict() -> Error {
        Error::new(Category::Conflict, Code::Constraint, "no")
    }

    /// A lock that comes and goes is no failure; one that stays is, until it is gone.
    #[test]
    fn a_replica_in_use_is_a_failure_only_after_a_while() {
        let began = Instant::now();
        let mut state = State::new(began);
        let attempt = |state: &mut State, after: Duration| {
            state.begin(Side::Push);
            state.in_use(Side::Push, Error::busy("no"), began + after);
            let push = state.side(Side::Push);
            assert_eq!(push.due, Some(began + after + BUSY_PAUSE));
            (push.error.is_some(), push.ended)
        };
        assert_eq!(attempt(&mut state, Duration::ZERO), (false, 0));
        assert_eq!(attempt(&mut state, LONGEST_USE / 2), (false, 0));
        assert_eq!(attempt(&mut state, LONGEST_USE), (true, 3));
        // It is told again, not with every attempt.
        assert_eq!(attempt(&mut state, LONGEST_USE + BUSY_PAUSE), (true, 3));
        assert_eq!(attempt(&mut state, LONGEST_USE * 3), (true, 5));
        state.begin(Side::Push);
        state.succeeded(Side::Push, true, began, began);
        assert_eq!((state.side(Side::Push).error.clone(), state.failures), (None, 2));

        // However long a push of the keeper takes, a pull does not blame it.
        state.side_mut(Side::Push).running = Some((Doing::Pushing, Arc::default()));
        for now in [began, began + LONGEST_USE, began + LONGEST_USE * 2] {
            state.begin(Side::Pull);
            state.in_use(Side::Pull, Error::busy("no"), now);
            assert_eq!(state.side(Side::Pull).error, None);
        }
        state.side_mut(Side::Push).running = None;

        // A wait for a lock within one operation counts.
        state.begin(Side::Pull);
        state.side_mut(Side::Pull).operation_began = Some(began);
        state.in_use(Side::Pull, Error::busy("no"), began + LONGEST_USE);
        assert!(state.side(Side::Pull).error.is_some());
    }

    /// Whichever of the two is noticed first.
    #[test]
    fn a_pull_goes_on_when_a_push_has_settled_its_conflict() {
        let now = Instant::now();
        let later = now + Duration::from_secs(3600);
        for pull_ends_first in [true, false] {
            let mut state = State::new(now);
            state.begin(Side::Pull);
            state.begin(Side::Push);
            if pull_ends_first {
                state.failed(Side::Pull, conflict(), now, later);
                assert_eq!(state.side(Side::Pull).due, Some(later));
                state.succeeded(Side::Push, true, now, later);
            } else {
                state.succeeded(Side::Push, true, now, later);
                state.failed(Side::Pull, conflict(), now, later);
            }
            assert_eq!(state.side(Side::Pull).due, Some(now), "{pull_ends_first}");
        }
    }
}
