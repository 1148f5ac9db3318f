//! Makes a failing program as short as it can be made by leaving out statements.

use crate::program::Program;

/// The shortest program found for which `fails` is still true.
pub fn shrink(program: Program, fails: &mut dyn FnMut(&Program) -> bool) -> Program {
    let mut best = program;
    let mut piece = best.actions.len().max(best.base.len()).max(1);
    loop {
        let mut shorter = false;
        let mut at = best.actions.len();
        while at > 0 {
            let from = at.saturating_sub(piece);
            let mut tried = best.clone();
            tried.actions.drain(from..at);
            if fails(&tried) {
                best = tried;
                shorter = true;
            }
            at = from.min(best.actions.len());
        }
        let mut at = best.base.len();
        while at > 0 {
            let from = at.saturating_sub(piece);
            let mut tried = best.clone();
            tried.base.drain(from..at);
            if fails(&tried) {
                best = tried;
                shorter = true;
            }
            at = from.min(best.base.len());
        }
        if piece == 1 && !shorter {
            return best;
        }
        if !shorter {
            piece = (piece / 2).max(1);
        }
    }
}
