//! Makes a failing program as short as it can be made by leaving out statements.

use crate::program::{Phase, Program};

/// A list of a program.
#[derive(Clone, Copy)]
enum Part {
    Base,
    Actions(Phase),
}

const PARTS: [Part; 4] = [
    Part::Actions(Phase::Later),
    Part::Actions(Phase::Others),
    Part::Actions(Phase::Local),
    Part::Base,
];

fn len(program: &Program, part: Part) -> usize {
    match part {
        Part::Base => program.base.len(),
        Part::Actions(phase) => program.actions(phase).len(),
    }
}

fn without(program: &Program, part: Part, range: std::ops::Range<usize>) -> Program {
    let mut shorter = program.clone();
    match part {
        Part::Base => drop(shorter.base.drain(range)),
        Part::Actions(phase) => drop(shorter.actions_mut(phase).drain(range)),
    }
    shorter
}

/// The shortest program found for which `fails` is still true.
pub fn shrink(program: Program, fails: &mut dyn FnMut(&Program) -> bool) -> Program {
    let mut best = program;
    let mut piece = PARTS
        .map(|part| len(&best, part))
        .into_iter()
        .max()
        .unwrap_or(1)
        .max(1);
    loop {
        let mut shorter = false;
        for part in PARTS {
            let mut at = len(&best, part);
            while at > 0 {
                let from = at.saturating_sub(piece);
                let tried = without(&best, part, from..at);
                if fails(&tried) {
                    best = tried;
                    shorter = true;
                }
                at = from;
            }
        }
        if piece == 1 && !shorter {
            return best;
        }
        if !shorter {
            piece /= 2;
        }
    }
}
