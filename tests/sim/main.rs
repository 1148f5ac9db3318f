//! A deterministic simulation of replicas, server, network and disks in one thread.
//!
//! Everything that happens follows from a seed. `SIM_SEED=n` repeats a run, `SIM_RUNS` and `SIM_STEPS` make it more or
//! longer, `SIM_SKIP=3,5-9` leaves out steps (a failure says which ones do not matter), `SIM_STORY=1` tells what
//! happens, `SIM_ALL=1` goes on after a failure (telling it whole, instead of looking for the steps that matter).
#![cfg(target_os = "linux")]

mod check;
mod copies;
mod crash_points;
mod dangers;
mod disk;
mod ending;
mod host;
mod net;
mod node;
mod restore;
mod rig;
mod rng;
mod scenarios;
mod sql;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod syscalls;
mod wire;
mod workload;
mod world;

use std::collections::BTreeSet;
use std::time::Instant;

use rng::Rng;
use world::{Statistics, World};

/// A share that a run of all tests can afford.
const RUNS: u64 = 60;
const STEPS: u64 = 300;
/// Runs spent on finding out which steps matter.
const SHRINKS: usize = 150;

/// Numbers of steps.
type Steps = BTreeSet<u64>;

struct Failure {
    violation: String,
    story: Vec<String>,
}

struct Success {
    statistics: Statistics,
    story: Vec<String>,
}

fn simulate(seed: u64, steps: u64, skip: &Steps) -> Result<Success, Failure> {
    let mut world = World::new(seed);
    let mut run = || {
        for step in (1..=steps).filter(|step| !skip.contains(step)) {
            world.step(step, &mut Rng::new(seed, step))?;
        }
        world.converge(&mut Rng::new(seed, u64::MAX / 2))
    };
    let result = run();
    let (statistics, story) = (world.statistics, std::mem::take(&mut world.story));
    match result {
        Ok(()) => Ok(Success { statistics, story }),
        Err(violation) => Err(Failure { violation, story }),
    }
}

/// In a thread of its own: what is made once per thread (the keys of hash maps) is the seed's, too.
fn run(seed: u64, steps: u64, skip: &Steps) -> Result<Success, Failure> {
    let skip = skip.clone();
    let thread = std::thread::spawn(move || simulate(seed, steps, &skip));
    thread.join().unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(Failure {
            violation: text.unwrap_or_else(|| "panic".into()),
            story: Vec::new(),
        })
    })
}

/// Leaves out steps, many at a time at first, as long as something still fails.
fn shrink(seed: u64, steps: u64, skip: Steps, mut failure: Failure) -> (Steps, Failure) {
    let mut left_out = skip;
    let mut tries = 0;
    let mut size = steps / 2;
    while size > 0 && tries < SHRINKS {
        // From the end: what comes after the fault goes first.
        let mut end = steps;
        while end > 0 && tries < SHRINKS {
            let start = end.saturating_sub(size);
            let mut skip = left_out.clone();
            skip.extend(start + 1..=end);
            if skip.len() > left_out.len() {
                tries += 1;
                if let Err(smaller) = run(seed, steps, &skip) {
                    (left_out, failure) = (skip, smaller);
                }
            }
            end = start;
        }
        size /= 2;
    }
    (left_out, failure)
}

/// `1,5-9` and back.
fn parse(text: &str) -> Steps {
    let number = |text: &str| text.parse::<u64>().expect("SIM_SKIP");
    let part = |part: &str| match part.split_once('-') {
        Some((first, last)) => number(first)..=number(last),
        None => number(part)..=number(part),
    };
    text.split(',')
        .filter(|text| !text.is_empty())
        .flat_map(part)
        .collect()
}

fn format(steps: &Steps) -> String {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for step in steps {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *step => *last = *step,
            _ => ranges.push((*step, *step)),
        }
    }
    let ranges = ranges.iter().map(|(first, last)| format!("{first}-{last}"));
    ranges.collect::<Vec<_>>().join(",")
}

/// In memory if there is such a place.
fn temporary_folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    folder.unwrap()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

#[test]
fn nothing_is_lost_whatever_dies() {
    let steps = number("SIM_STEPS").unwrap_or(STEPS);
    let seeds = match number("SIM_SEED") {
        Some(seed) => seed..seed + number("SIM_RUNS").unwrap_or(1),
        None => 0..number("SIM_RUNS").unwrap_or(RUNS),
    };
    let skip = parse(&std::env::var("SIM_SKIP").unwrap_or_default());
    let (start, runs) = (Instant::now(), seeds.end - seeds.start);
    let (mut sum, mut failures) = (Statistics::default(), 0);
    for seed in seeds {
        let failure = match run(seed, steps, &skip) {
            Ok(success) => {
                if number("SIM_STORY").is_some() {
                    println!("{}", success.story.join("\n"));
                }
                sum.add(&success.statistics);
                continue;
            }
            Err(failure) => failure,
        };
        failures += 1;
        println!("SIM_SEED={seed} SIM_STEPS={steps}: {}", failure.violation);
        if number("SIM_ALL").is_some() {
            println!("{}", failure.story.join("\n"));
        } else {
            let (skip, failure) = shrink(seed, steps, skip, failure);
            println!("{}", failure.story.join("\n"));
            let skip = format(&skip);
            panic!(
                "SIM_SEED={seed} SIM_STEPS={steps} SIM_SKIP={skip}: {}",
                failure.violation
            );
        }
    }
    println!(
        "{runs} runs, {failures} failures, in {:?}: {sum:?}",
        start.elapsed()
    );
    assert_eq!(failures, 0);
}

/// What is not a function of the seed makes failures that nobody can repeat.
#[test]
fn a_seed_is_always_the_same_run() {
    for seed in [3, 9] {
        let story = || match run(seed, STEPS, &Steps::new()) {
            Ok(success) => success.story,
            Err(failure) => failure.story,
        };
        let (one, two) = (story(), story());
        let pairs = one.iter().zip(&two).map(|(a, b)| (anonymous(a), anonymous(b)));
        pairs.for_each(|(a, b)| assert_eq!(a, b, "seed {seed}"));
        assert_eq!(one.len(), two.len());
    }
}

/// Without the name of the temporary folder.
fn anonymous(line: &str) -> String {
    line.split('/').filter(|part| !part.starts_with(".tmp")).collect()
}
