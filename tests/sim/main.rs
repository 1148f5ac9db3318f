//! A deterministic simulation of replicas, server, network and disks in one thread.
//!
//! Everything that happens follows from a seed. `SIM_SEED=n` repeats a run, `SIM_RUNS` and `SIM_STEPS` make it more or
//! longer, `SIM_SKIP=3,5-9` leaves out steps, as a failure report says.
#![cfg(target_os = "linux")]

mod check;
mod disk;
mod net;
mod node;
mod rng;
#[path = "../support/mod.rs"]
mod support;
mod syscalls;
mod workload;
mod world;

use std::collections::BTreeSet;
use std::time::Instant;

use rng::Rng;
use world::{Statistics, World};

const RUNS: u64 = 100;
const STEPS: u64 = 300;

struct Failure {
    violation: String,
    story: Vec<String>,
}

fn simulate(seed: u64, steps: u64, skip: &BTreeSet<u64>) -> Result<(Statistics, Vec<String>), Failure> {
    let mut world = World::new(seed);
    let mut run = || {
        for step in (1..=steps).filter(|step| !skip.contains(step)) {
            world.step(step, &mut Rng::new(seed, step))?;
        }
        world.converge(&mut Rng::new(seed, steps + 1))
    };
    let result = run();
    let story = std::mem::take(&mut world.story);
    match result {
        Ok(()) => Ok((world.statistics, story)),
        Err(violation) => Err(Failure { violation, story }),
    }
}

/// In a thread of its own: what is made once per thread (the keys of hash maps) is the seed's, too.
fn run(seed: u64, steps: u64, skip: &BTreeSet<u64>) -> Result<(Statistics, Vec<String>), Failure> {
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
    let start = Instant::now();
    let mut sum = Statistics::default();
    for seed in seeds.clone() {
        match run(seed, steps, &BTreeSet::new()) {
            Ok((statistics, story)) => {
                if number("SIM_STORY").is_some() {
                    println!("{}", story.join("\n"));
                }
                sum.add(&statistics);
            }
            Err(failure) if number("SIM_ALL").is_some() => {
                println!("SIM_SEED={seed} SIM_STEPS={steps}: {}", failure.violation);
            }
            Err(failure) => {
                println!("{}", failure.story.join("\n"));
                panic!("SIM_SEED={seed} SIM_STEPS={steps}: {}", failure.violation);
            }
        }
    }
    println!("{} runs in {:?}: {sum:?}", seeds.end - seeds.start, start.elapsed());
}
