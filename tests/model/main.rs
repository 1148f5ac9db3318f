//! Random programs on replicas, compared with plain SQLite.
//!
//! `MODEL_SEED=7` runs one program and prints it; `MODEL_RUNS` and `MODEL_JOBS` set the number of programs and threads,
//! `MODEL_FIRST` the first seed. A failure prints its seed, and the shortest program that was found for it, at once; after
//! `MODEL_FAILURES` of them (3 by default) a run ends.

mod catalog;
mod compare;
#[cfg(feature = "server")]
mod convergence;
mod exact;
mod expression;
mod mode;
mod names;
mod place;
mod prediction;
mod program;
mod random;
mod remote;
mod run;
mod schema;
mod shrink;
mod source;
mod statement;
#[cfg(feature = "server")]
#[path = "../support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use place::Place;
use program::Program;
use source::Source;

/// A check of one program: where, from what, under which seed; tells what was run.
type Check = fn(&Place, Source<'_>, u64, &mut Program) -> Result<(), String>;

/// After so many seeds a run tells how far it is.
const PROGRESS: u64 = 10_000;

fn number(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |v| {
        v.parse().unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

/// Runs `check`; a panic is a failure, too, and costs the place.
fn attempt(
    check: Check,
    place: &mut Place,
    source: Source<'_>,
    seed: u64,
    done: &mut Program,
) -> Result<(), String> {
    let result = catch_unwind(AssertUnwindSafe(|| check(place, source, seed, done)));
    result.unwrap_or_else(|panic| {
        *place = Place::new();
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "panic".into()))
    })
}

/// What a failure has in common with those of shorter programs.
fn kind(failure: &str) -> String {
    let line = failure.lines().next().unwrap_or_default();
    line.split_once(':').map_or(line, |(kind, _)| kind).to_owned()
}

/// Runs one seed; a failure is told with the shortest program for it.
fn run_seed(check: Check, place: &mut Place, seed: u64) -> Option<String> {
    let mut done = Program::default();
    let failure = attempt(check, place, Source::draw(seed), seed, &mut done).err()?;
    let shortest = shrink::shrink(done, &mut |tried| {
        let mut done = Program::default();
        let result = attempt(check, place, Source::Replay(tried), seed, &mut done);
        result.is_err_and(|e| kind(&e) == kind(&failure))
    });
    let mut done = Program::default();
    let failure = attempt(check, place, Source::Replay(&shortest), seed, &mut done)
        .err()
        .unwrap_or(failure);
    Some(format!("MODEL_SEED={seed}\n{shortest}{failure}\n"))
}

/// Runs the seeds that the environment asks for, else `share` of them.
fn run_seeds(check: Check, share: u64) {
    if let Ok(seed) = std::env::var("MODEL_SEED") {
        let seed = seed.parse().expect("MODEL_SEED is a number");
        let mut done = Program::default();
        let mut place = Place::new();
        let result = attempt(check, &mut place, Source::draw(seed), seed, &mut done);
        println!("{done}{result:?}");
        if let Some(failure) = run_seed(check, &mut place, seed) {
            panic!("{failure}");
        }
        return;
    }
    let (first, runs, jobs) = (
        number("MODEL_FIRST", 1),
        number("MODEL_RUNS", share),
        number("MODEL_JOBS", 1),
    );
    let failures = Mutex::new(Vec::new());
    let most = number("MODEL_FAILURES", 3) as usize;
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let failures = &failures;
            scope.spawn(move || {
                let mut place = Place::new();
                for seed in (first + job..first + runs).step_by(jobs as usize) {
                    if let Some(failure) = run_seed(check, &mut place, seed) {
                        eprintln!("{failure}");
                        failures.lock().unwrap().push((seed, failure));
                    }
                    if (seed + 1 - first).is_multiple_of(PROGRESS) {
                        eprintln!("seeds up to {seed}: {} failures", failures.lock().unwrap().len());
                    }
                    if failures.lock().unwrap().len() >= most {
                        return;
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let (seeds, texts): (Vec<_>, Vec<_>) = failures.into_iter().unzip();
    assert!(
        seeds.is_empty(),
        "{} failures, seeds {seeds:?}\n\n{}",
        seeds.len(),
        texts.join("\n")
    );
}

#[test]
fn a_replica_behaves_like_plain_sqlite_and_its_log_is_exact() {
    run_seeds(exact::check, 1500);
}

#[test]
fn a_pull_predicts_the_push() {
    run_seeds(prediction::check, 700);
}

#[cfg(feature = "server")]
#[test]
fn replicas_of_one_server_converge() {
    let seed = std::env::var("MODEL_SEED").ok().map(|_| number("MODEL_SEED", 1));
    let runs = seed.map_or(number("MODEL_RUNS", 1500) / 100, |_| 1);
    let first = seed.unwrap_or(number("MODEL_FIRST", 1));
    for seed in first..first + runs {
        convergence::check(seed).unwrap_or_else(|failure| panic!("{failure}"));
    }
}
