//! Death at every point: each call that changes a disk, before and behind each request of the host.
//!
//! An undisturbed run of a scenario counts the points and shows the state at the end. Then the scenario is repeated,
//! dying once per point and kind of loss; afterwards nothing that was promised may be missing, and repeating and
//! finishing what was interrupted must lead to the same state. `CRASH_ALL=1` takes every kind of loss at each
//! point, otherwise they take turns at a share of the points; `CRASH_SCENARIO=name` runs one scenario, `CRASH_POINT='Call(7)'` one point of it.

use std::time::Instant;

use super::check::Violation;
use super::disk::Survival;
use super::rig::{Final, Point, Victim};
use super::rng::Rng;
use super::scenarios::{self, Scenario};

/// Without `CRASH_ALL` only each so many-th point is tried.
const SHARE: usize = 4;
/// Losses of power of which chance decides what they leave, in a full run.
const CHANCES: u64 = 4;

/// What the death is: that of a process, or of the power.
#[derive(Clone, Copy, Debug)]
struct Loss {
    power: Option<Survival>,
    seed: u64,
}

fn losses() -> Vec<Loss> {
    let fixed = [None, Some(Survival::Nothing), Some(Survival::Everything)];
    let chances = (1..=CHANCES).map(|seed| (Some(Survival::Chance), seed));
    let all = fixed.into_iter().map(|power| (power, 0)).chain(chances);
    all.map(|(power, seed)| Loss { power, seed }).collect()
}

struct Reference {
    points: Vec<Point>,
    end: Final,
}

/// Without a death.
fn undisturbed(scenario: &Scenario) -> Result<Reference, Violation> {
    let mut rig = (scenario.prepare)();
    rig.arm(scenario.victim, None);
    (scenario.operation)(&mut rig).map_err(|e| format!("undisturbed: {e}"))?;
    let points = rig.points(scenario.victim);
    rig.check()?;
    let end = rig.settle()?;
    Ok(Reference { points, end })
}

fn disturbed(scenario: &Scenario, point: Point, loss: Loss, end: &Final) -> Result<(), Violation> {
    let mut rig = (scenario.prepare)();
    rig.arm(scenario.victim, Some(point));
    // Who dies in its last call may have done its work.
    let ended = (scenario.operation)(&mut rig);
    if point == Point::End {
        ended.map_err(|e| format!("undisturbed: {e}"))?;
        rig.die_at_end(scenario.victim)?;
    }
    if !rig.dead(scenario.victim) {
        return Err("the point was not reached: this is not the same run".into());
    }
    rig.rise(scenario.victim, loss.power, &mut Rng::new(loss.seed, 0))?;
    if rig.engine.is_none() {
        rig.create().map_err(|e| format!("open: {:?} {e}", e.category))?;
        rig.check()?;
    }
    // Perhaps there is nothing left to do.
    let _ = (scenario.operation)(&mut rig);
    rig.check()?;
    let now = rig.settle()?;
    for (whose, now, end) in [("replica", &now.0, &end.0), ("remote", &now.1, &end.1)] {
        if now != end {
            return Err(format!(
                "the {whose} is not what it should be:{}",
                scenarios::difference(end, now)
            ));
        }
    }
    Ok(())
}

/// In a thread of its own, like every run.
fn apart<T: Send>(run: impl FnOnce() -> Result<T, Violation> + Send) -> Result<T, Violation> {
    std::thread::scope(|scope| {
        let panicked = |panic: Box<dyn std::any::Any + Send>| {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.unwrap_or_else(|| "panic".into()))
        };
        scope.spawn(run).join().unwrap_or_else(panicked)
    })
}

/// Runs a scenario with all its deaths: points, runs, violations.
fn every_death(scenario: &Scenario, all: bool) -> (usize, usize, Vec<Violation>) {
    let reference = match apart(|| undisturbed(scenario)) {
        Ok(reference) => reference,
        Err(violation) => return (0, 1, vec![format!("{}: {violation}", scenario.name)]),
    };
    let only = std::env::var("CRASH_POINT").ok();
    let (mut runs, mut violations) = (0, Vec::new());
    let last = reference.points.len() - 1;
    for (at, point) in reference.points.iter().enumerate() {
        if !all && at % SHARE != 0 && at != last {
            continue;
        }
        if only.as_ref().is_some_and(|only| *only != format!("{point:?}")) {
            continue;
        }
        for (number, loss) in losses().into_iter().enumerate() {
            if !all && number != at / SHARE % losses().len() {
                continue;
            }
            runs += 1;
            if let Err(violation) = apart(|| disturbed(scenario, *point, loss, &reference.end)) {
                violations.push(format!("{}, {point:?}, {loss:?}: {violation}", scenario.name));
            }
        }
    }
    (reference.points.len(), runs, violations)
}

#[test]
fn every_crash_point() {
    let all = super::number("CRASH_ALL").is_some() || std::env::var("CRASH_POINT").is_ok();
    let only = std::env::var("CRASH_SCENARIO").ok();
    let (start, mut sums, mut failures) = (Instant::now(), (0, 0, 0), Vec::new());
    for scenario in scenarios::all() {
        if only.as_ref().is_some_and(|only| only != scenario.name) {
            continue;
        }
        let (points, runs, violations) = every_death(&scenario, all);
        let whose = match scenario.victim {
            Victim::Replica => "",
            Victim::Server => " of the server",
        };
        println!(
            "{}: {points} points{whose}, {runs} deaths, {} failures",
            scenario.name,
            violations.len()
        );
        sums = (sums.0 + 1, sums.1 + points, sums.2 + runs);
        failures.extend(violations);
    }
    let (scenarios, points, runs) = sums;
    println!(
        "{scenarios} scenarios, {points} points, {runs} deaths in {:?}",
        start.elapsed()
    );
    failures.iter().take(20).for_each(|failure| println!("{failure}"));
    assert_eq!(failures.len(), 0, "{}", failures[0]);
}
