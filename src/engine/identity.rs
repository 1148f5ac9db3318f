//! Is this file the one that the remote knows under its client id?
//!
//! A client id belongs to one file. If the file was copied, or an old state of it was put back, the remote has
//! acknowledged changes under that id that this file does not have, or has under the same numbers made others. The
//! lineage tells which changes they share (see [`crate::capture::lineage`]). What the remote has of them is acknowledged;
//! everything else travels under a new client id.
//!
//! Copies may share changes that the original never had. So the new client id is made from the old one, and number and token
//! of the first change that is not acknowledged: who shares that change takes the same name, and whoever pushes it first
//! acknowledges it for all.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::{Environment, Inner};
use crate::capture::lineage::{Agreement, Claim, Lineage, Writer};
use crate::error::{Category, Error, Result};

/// Which remotes a replica takes for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// The one that its base came from.
    Own,
    /// Any, because the user has said so. One that cannot be its own is met for the first time, under a new client id.
    Any,
}

impl Admission {
    /// What counts instead of `e`, if it says that the remote cannot be the replica's own.
    pub fn or_any<T>(self, e: Error, newcomer: impl FnOnce() -> T) -> Result<T> {
        match self == Admission::Any && e.category == Category::Identity {
            true => Ok(newcomer()),
            false => Err(e),
        }
    }
}

/// What a remote says about a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// The change id up to which the remote has the changes of this file.
    pub acknowledged: i64,
    /// The client id has become another file's.
    pub displaced: bool,
}

/// Compares what the remote says `now` with a file whose base said `before`, whose changes are `ours` and whose largest
/// change id is `last`. Refuses a remote that cannot be the one that the base came from.
pub(super) fn standing(
    before: Option<(i64, i64)>,
    now: &Claim,
    ours: &Lineage,
    last: i64,
) -> Result<Standing> {
    let watermark = check_watermark(before, now.watermark)?;
    let known = before.map_or(0, |(_, known)| known);
    let agreed = match ours.agreement(&now.lineage, known, watermark) {
        Agreement::UpTo(agreed) => agreed,
        Agreement::Unknown(agreed) => {
            return Err(Error::identity(format!(
                "this file is a copy or an old backup of a replica that was written by so many others since that the remote \
                 no longer knows which of the changes from {} on it has; nothing was changed: {WAYS_ON}",
                agreed + 1
            )));
        }
    };
    if agreed < known {
        return Err(forgotten());
    }
    Ok(Standing {
        acknowledged: agreed.min(last),
        displaced: agreed < watermark || watermark > last,
    })
}

/// The watermark that a remote holds, if it may follow on the one of the base.
pub(super) fn check_watermark(before: Option<(i64, i64)>, now: Option<(i64, i64)>) -> Result<i64> {
    let (pull_gen, watermark) = now.unwrap_or((0, 0));
    if pull_gen != 0 || watermark < 0 {
        return Err(Error::identity(format!(
            "the remote has acknowledged change {watermark} of generation {pull_gen} to this replica, which only another \
             implementation of Turso sync does; {WAYS_ON}"
        )));
    }
    if before.is_some_and(|(_, before)| watermark < before) {
        return Err(forgotten());
    }
    Ok(watermark)
}

fn forgotten() -> Error {
    Error::identity(format!(
        "the remote no longer knows changes of this replica that it had acknowledged: it is another database, or it \
         was restored from a backup; nothing was changed: {WAYS_ON}"
    ))
}

/// What a user can do whose replica and remote do not belong together.
const WAYS_ON: &str = "give the URL of the right remote, accept this one as it is, or create a new replica";

/// What a file is to the remote from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its client id.
    pub client_id: String,
    /// The first change that can travel under it.
    pub begins: i64,
    /// The remote has the changes of this file up to this one.
    pub has: i64,
    /// What the remote has acknowledged under that client id.
    pub acknowledged: i64,
}

/// Finds the client id of a file that was known as `client_id`, and how far the remote has its changes. `claim` tells what
/// the remote says about a client id, `new_id` makes one for a file that shares nothing with others.
pub(super) fn place(
    client_id: &str,
    before: Option<(i64, i64)>,
    (ours, last): (&Lineage, i64),
    claim: impl Fn(&str) -> Result<Claim>,
    new_id: impl FnOnce() -> String,
) -> Result<Place> {
    let (mut name, mut begins) = (client_id.to_owned(), 1);
    let mut standing = standing(before, &claim(&name)?, ours, last)?;
    let mut has = standing.acknowledged;
    while standing.displaced {
        let token = ours.token(has + 1).filter(|_| has < last);
        let Some(token) = token else {
            // It has nothing but what the remote has.
            return Ok(Place {
                client_id: new_id(),
                begins: has + 1,
                has,
                acknowledged: 0,
            });
        };
        begins = has + 1;
        name = successor(&name, token, begins);
        standing = self::standing(None, &claim(&name)?, &ours.since(begins), last)?;
        if standing.displaced && standing.acknowledged <= has {
            return Err(Error::identity(format!(
                "the remote contradicts itself about who has made changes of this replica; nothing was changed: {WAYS_ON}"
            )));
        }
        has = has.max(standing.acknowledged);
    }
    Ok(Place {
        client_id: name,
        begins,
        has,
        acknowledged: standing.acknowledged,
    })
}

/// The client id of those who share the change `id` of the writer `token`, the first that is not acknowledged under
/// `client_id`. Nobody else has that change; so whoever comes here, on whatever way, takes the same name.
fn successor(client_id: &str, token: i64, id: i64) -> String {
    let stem = client_id.split_once('~').map_or(client_id, |(stem, _)| stem);
    format!("{stem}~{token:016x}-{id}")
}

/// An engine as a writer.
pub(super) fn writer(environment: Arc<dyn Environment>) -> Writer {
    Writer::new(move || {
        let mut hasher = DefaultHasher::new();
        environment.unique_id().hash(&mut hasher);
        hasher.finish() as i64
    })
}

impl Inner {
    pub(super) fn new_client_id(&self) -> String {
        format!("{}-{}", self.opts.client_name, self.environment.unique_id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::lineage::Segment;

    fn lineage(segments: &[(i64, i64)]) -> Lineage {
        let segments = segments.iter();
        Lineage::new(segments.map(|&(first, token)| Segment { first, token }).collect())
    }

    fn claim(change_id: i64, segments: &[(i64, i64)]) -> Claim {
        Claim {
            watermark: Some((0, change_id)),
            lineage: lineage(segments),
        }
    }

    #[test]
    fn copies_and_old_states_keep_what_is_theirs() {
        let ours = lineage(&[(1, 11), (4, 12)]);
        for (now, last, acknowledged, displaced) in [
            (Claim::default(), 5, 0, false),
            (claim(3, &[(1, 11)]), 5, 3, false),
            (claim(5, &[(1, 11), (4, 12)]), 5, 5, false),
            // The original has gone on, here or under another writer.
            (claim(7, &[(1, 11), (4, 12)]), 5, 5, true),
            (claim(7, &[(1, 11), (4, 12), (6, 13)]), 5, 5, true),
            // Both have.
            (claim(5, &[(1, 11), (5, 13)]), 5, 3, true),
            (claim(5, &[(1, 11)]), 5, 3, true),
        ] {
            let standing = standing(Some((0, 0)), &now, &ours, last).unwrap();
            assert_eq!(
                standing,
                Standing {
                    acknowledged,
                    displaced
                },
                "{now:?}"
            );
        }
    }

    #[test]
    fn copies_that_share_changes_share_the_name_they_take() {
        // The original pushed 5 (13); copies share 4 (12), and have made 6 and 7 each.
        let remote = |name: &str| {
            Ok(match name {
                "c" => claim(5, &[(1, 11), (4, 13)]),
                "c~000000000000000c-4" => claim(6, &[(4, 12), (6, 14)]),
                _ => Claim::default(),
            })
        };
        let place = |segments: &[(i64, i64)], last| {
            let place = place("c", Some((0, 3)), (&lineage(segments), last), remote, || {
                "new".into()
            });
            let place = place.unwrap();
            (place.client_id, place.has, place.acknowledged)
        };
        let shared = || "c~000000000000000c-4".to_owned();
        assert_eq!(place(&[(1, 11), (4, 12), (6, 14)], 7), (shared(), 6, 6));
        assert_eq!(
            place(&[(1, 11), (4, 12), (6, 15)], 7),
            ("c~000000000000000f-6".into(), 5, 0)
        );
        // One that has made nothing of its own takes any name.
        assert_eq!(place(&[(1, 11), (4, 12)], 5), ("new".into(), 5, 0));
        assert_eq!(place(&[(1, 11)], 3), ("new".into(), 3, 0));
    }

    #[test]
    fn remotes_that_cannot_be_ours_are_refused() {
        let ours = lineage(&[(1, 11), (4, 12)]);
        for now in [
            Claim::default(),
            claim(2, &[(1, 11)]),
            claim(-1, &[]),
            claim(5, &[(1, 13)]),
            Claim {
                watermark: Some((1, 4)),
                ..Claim::default()
            },
        ] {
            let e = standing(Some((0, 3)), &now, &ours, 5).unwrap_err();
            assert_eq!(e.category, Category::Identity, "{now:?}");
        }
    }
}
