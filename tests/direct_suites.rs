//! What other files test, in the direct dialect: `support` gives every replica of this binary the option.
#![cfg(feature = "server")]
#![allow(clippy::duplicate_mod)]

#[path = "conflict_rules.rs"]
mod conflict_rules;
#[path = "conflicts.rs"]
mod conflicts;
#[path = "conflicts_review.rs"]
mod conflicts_review;
#[path = "identity.rs"]
mod identity;
#[path = "pains.rs"]
mod pains;
#[path = "sync.rs"]
mod sync;
#[path = "transform.rs"]
mod transform;
