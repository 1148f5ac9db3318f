use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use super::*;

const RECORD: u64 = PAGE_SIZE as u64 + 8;

fn title(from: &str, to: &str) -> Title {
    Title {
        client_id: "c".into(),
        epoch: 3,
        base: "0".into(),
        from: from.into(),
        to: to.into(),
        id: "any".into(),
    }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("x-changes")
    }

    fn delta(&self, limit: u32) -> Delta {
        Delta::resume(&self.path(), title("0", ""), limit).unwrap()
    }

    fn damage(&self, record: u64) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        file.write_all_at(&[0x55; 9], record * RECORD + 100).unwrap();
    }
}

fn page(page_no: u32, version: u8) -> Page {
    [version ^ page_no as u8; PAGE_SIZE]
}

/// An answer of our server: pages with these ids, at this version, and so many are left.
fn answer(delta: &mut Delta, revision: &str, size: u64, ids: &[u32], left: u64) -> Result<()> {
    let version = revision.as_bytes()[0];
    delta.header(&PullHeader {
        server_revision: revision.into(),
        db_size: size,
        page_count: Some(ids.len() as u64),
        remaining: Some(left),
        ..Default::default()
    })?;
    ids.iter()
        .try_for_each(|id| delta.page(id + 1, &page(id + 1, version)))
}

/// What is asked for: between which revisions, from which id on up to which, at most how many.
fn asked(delta: &mut Delta) -> (String, String, Option<(u32, u32)>, u32) {
    let request = delta.next_request(0).unwrap().unwrap();
    let ids = match request.server_pages_selector.as_slice() {
        [] => None,
        bytes => {
            let ids = selector::decode(bytes).unwrap();
            Some((ids.min().unwrap(), ids.max().unwrap()))
        }
    };
    (
        request.client_revision,
        request.server_revision,
        ids,
        request.max_pages,
    )
}

fn question(
    from: &str,
    to: &str,
    ids: Option<(u32, u32)>,
    most: u32,
) -> (String, String, Option<(u32, u32)>, u32) {
    (from.into(), to.into(), ids, most)
}

fn gone() -> Error {
    let mut e = Error::new(Category::Remote, Code::Error, "gone");
    e.http_status = Some(409);
    e
}

fn versions(delivery: &Delivery) -> Vec<(u32, u8)> {
    let changes = delivery.changes.as_ref().unwrap();
    let mut data = [0; PAGE_SIZE];
    changes
        .page_numbers()
        .map(|page_no| {
            assert!(changes.read(page_no, &mut data).unwrap());
            (page_no, data[0] ^ page_no as u8)
        })
        .collect()
}

#[test]
fn parts_follow_one_another_and_leave_nothing_behind() {
    let place = Place::new();
    let mut delta = place.delta(2);
    assert_eq!(asked(&mut delta), question("0", "", None, 2));
    answer(&mut delta, "a", 100, &[0, 9], 2).unwrap();
    delta.answered();
    assert_eq!(asked(&mut delta), question("0", "a", Some((10, 99)), 2));
    answer(&mut delta, "a", 100, &[40, 41], 0).unwrap();
    delta.answered();
    assert_eq!(delta.next_request(0).unwrap(), None);
    let delivery = delta.finish().unwrap();
    assert_eq!((delivery.revision.as_str(), delivery.pages), ("a", 100));
    assert_eq!(
        versions(&delivery),
        [(1, b'a'), (10, b'a'), (41, b'a'), (42, b'a')]
    );
    assert!(place.path().exists());
    delivery.changes.unwrap().discard();
    assert!(!place.path().exists());
}

#[test]
fn who_waits_for_news_has_no_file() {
    let place = Place::new();
    let mut delta = place.delta(0);
    let request = delta.next_request(700).unwrap().unwrap();
    assert_eq!((request.long_poll_timeout_ms, request.max_pages), (700, 0));
    answer(&mut delta, "a", 100, &[], 0).unwrap();
    delta.answered();
    assert_eq!(delta.next_request(700).unwrap(), None);
    let delivery = delta.finish().unwrap();
    assert!(delivery.changes.is_none() && delivery.counted);
    assert_eq!(std::fs::read_dir(place.0.path()).unwrap().count(), 0);
}

/// What had arrived is brought up to date, and the rest is asked for.
#[test]
fn an_interrupted_download_ends_at_the_newest_revision() {
    let place = Place::new();
    let mut delta = place.delta(0);
    asked(&mut delta);
    answer(&mut delta, "a", 100, &[0, 5, 9, 20], 0).unwrap();
    drop(delta);
    let mut delta = place.delta(2);
    assert_eq!(delta.next_request(700).unwrap().unwrap().long_poll_timeout_ms, 0);
    assert_eq!(asked(&mut delta), question("a", "", Some((0, 20)), 2));
    answer(&mut delta, "b", 90, &[0, 7], 1).unwrap();
    drop(delta);
    // Now there are three states: b, a, and that of the base.
    let mut delta = place.delta(0);
    assert_eq!(asked(&mut delta), question("b", "", Some((0, 7)), u32::MAX));
    answer(&mut delta, "c", 80, &[0], 0).unwrap();
    delta.answered();
    assert_eq!(asked(&mut delta), question("a", "c", Some((8, 20)), u32::MAX));
    answer(&mut delta, "c", 80, &[9], 0).unwrap();
    delta.answered();
    assert_eq!(asked(&mut delta), question("0", "c", Some((21, 79)), u32::MAX));
    answer(&mut delta, "c", 80, &[60], 0).unwrap();
    delta.answered();
    assert_eq!(delta.next_request(0).unwrap(), None);
    let delivery = delta.finish().unwrap();
    assert_eq!(
        versions(&delivery),
        [
            (1, b'c'),
            (6, b'a'),
            (8, b'b'),
            (10, b'c'),
            (21, b'a'),
            (61, b'c')
        ]
    );
}

#[test]
fn nothing_new_means_that_only_the_rest_is_asked_for() {
    let place = Place::new();
    let mut delta = place.delta(0);
    asked(&mut delta);
    answer(&mut delta, "a", 100, &[0, 5], 0).unwrap();
    drop(delta);
    let mut delta = place.delta(0);
    asked(&mut delta);
    answer(&mut delta, "a", 100, &[], 0).unwrap();
    delta.answered();
    assert_eq!(asked(&mut delta), question("0", "a", Some((6, 99)), u32::MAX));
}

/// The remote has got smaller: what lies behind its end is nothing, also if it grows again.
#[test]
fn pages_behind_the_end_are_left_out() {
    let place = Place::new();
    let mut delta = place.delta(0);
    asked(&mut delta);
    answer(&mut delta, "a", 100, &[0, 50, 99], 0).unwrap();
    delta.answered();
    drop(delta);
    let mut delta = place.delta(0);
    assert_eq!(asked(&mut delta), question("a", "", Some((0, 99)), u32::MAX));
    answer(&mut delta, "b", 60, &[0], 0).unwrap();
    delta.answered();
    assert_eq!(delta.next_request(0).unwrap(), None);
    assert_eq!(versions(&delta.finish().unwrap()), [(1, b'b'), (51, b'a')]);
}

#[test]
fn what_the_disk_has_lost_is_asked_for_again() {
    let download = |place: &Place| {
        let mut delta = place.delta(0);
        asked(&mut delta);
        answer(&mut delta, "a", 100, &[0, 5, 9, 20], 0).unwrap();
    };
    // Title, target, and then the pages.
    for (record, known) in [
        (5, Some(9)),
        (4, Some(5)),
        (3, Some(0)),
        (2, None),
        (1, None),
        (0, None),
    ] {
        let place = Place::new();
        download(&place);
        place.damage(record);
        let expected = match known {
            Some(last) => question("a", "", Some((0, last)), u32::MAX),
            None => question("0", "", None, 0),
        };
        let mut delta = place.delta(0);
        assert_eq!(asked(&mut delta), expected, "record {record}");
        // What was damaged is gone: it does not come back with what is written now.
        drop(delta);
        assert_eq!(place.path().exists(), known.is_some());
    }
    for cut in [1, RECORD - 1, RECORD, RECORD + 1] {
        let place = Place::new();
        download(&place);
        let file = OpenOptions::new().write(true).open(place.path()).unwrap();
        file.set_len(6 * RECORD - cut).unwrap();
        let last = if cut > RECORD { 5 } else { 9 };
        let expected = question("a", "", Some((0, last)), u32::MAX);
        assert_eq!(asked(&mut place.delta(0)), expected, "{cut}");
    }
}

/// The disk has kept blocks of an older file in the place of those of the newer one.
#[test]
fn pages_of_another_download_never_count() {
    let place = Place::new();
    let mut delta = place.delta(0);
    asked(&mut delta);
    answer(&mut delta, "a", 100, &[0, 5, 9, 20], 0).unwrap();
    drop(delta);
    let old = std::fs::read(place.path()).unwrap();
    std::fs::remove_file(place.path()).unwrap();
    let again = Title {
        id: "another".into(),
        ..title("0", "")
    };
    let mut delta = Delta::resume(&place.path(), again, 0).unwrap();
    asked(&mut delta);
    answer(&mut delta, "b", 100, &[0, 5], 0).unwrap();
    drop(delta);
    let file = OpenOptions::new().write(true).open(place.path()).unwrap();
    let end = 4 * RECORD;
    file.write_all_at(&old[end as usize..], end).unwrap();
    assert_eq!(
        asked(&mut place.delta(0)),
        question("b", "", Some((0, 5)), u32::MAX)
    );
}

#[test]
fn only_the_same_base_goes_on_with_it() {
    let others = [
        Title {
            client_id: "d".into(),
            ..title("0", "")
        },
        Title {
            epoch: 4,
            ..title("0", "")
        },
        Title {
            base: "1".into(),
            ..title("0", "")
        },
        title("", ""),
        title("0", "a"),
    ];
    for other in others {
        let place = Place::new();
        let mut delta = place.delta(0);
        asked(&mut delta);
        answer(&mut delta, "a", 100, &[0, 5], 0).unwrap();
        drop(delta);
        remove_foreign(&place.path(), |title| title.epoch == 3).unwrap();
        assert!(place.path().exists());
        let mut delta = Delta::resume(&place.path(), other.clone(), 0).unwrap();
        assert_eq!(
            asked(&mut delta),
            question(&other.from, &other.to, None, 0),
            "{other:?}"
        );
        assert!(!place.path().exists());
    }
    let place = Place::new();
    std::fs::write(place.path(), b"something else").unwrap();
    remove_foreign(&place.path(), |_| true).unwrap();
    assert!(!place.path().exists());
    remove_foreign(&place.path(), |_| true).unwrap();
}

#[test]
fn a_file_that_somebody_has_is_left_alone() {
    let place = Place::new();
    let mut first = place.delta(0);
    asked(&mut first);
    answer(&mut first, "a", 100, &[0, 5], 0).unwrap();
    remove_foreign(&place.path(), |_| false).unwrap();
    let mut second = place.delta(0);
    assert_eq!(asked(&mut second), question("0", "", None, 0));
    answer(&mut second, "b", 100, &[0, 6], 0).unwrap();
    second.answered();
    second.next_request(0).unwrap();
    let delivery = second.finish().unwrap();
    assert_eq!(versions(&delivery), [(1, b'b'), (7, b'b')]);
    delivery.changes.unwrap().discard();
    drop(first);
    assert_eq!(
        asked(&mut place.delta(0)),
        question("a", "", Some((0, 5)), u32::MAX)
    );
}

/// The order of its pages is not known, so that nothing is known of an incomplete answer.
#[test]
fn a_remote_that_promises_no_order_is_asked_once() {
    let place = Place::new();
    let mut delta = place.delta(7);
    asked(&mut delta);
    let header = PullHeader {
        server_revision: "a".into(),
        db_size: 100,
        ..Default::default()
    };
    delta.header(&header).unwrap();
    delta.page(10, &page(10, b'a')).unwrap();
    delta.page(1, &page(1, b'a')).unwrap();
    assert_eq!(std::fs::read_dir(place.0.path()).unwrap().count(), 0);
    delta.answered();
    assert_eq!(delta.next_request(0).unwrap(), None);
    assert_eq!(versions(&delta.finish().unwrap()), [(1, b'a'), (10, b'a')]);
    // It has taken the place of one that does.
    let mut delta = place.delta(0);
    asked(&mut delta);
    answer(&mut delta, "a", 100, &[0, 5], 0).unwrap();
    drop(delta);
    let mut delta = place.delta(0);
    asked(&mut delta);
    let e = delta.header(&header).unwrap_err();
    assert!(delta.recovers(&e));
    assert_eq!(asked(&mut delta), question("0", "", None, 0));
    assert!(!place.path().exists());
}

#[test]
fn a_revision_that_is_gone_costs_what_has_changed_and_no_endless_loop() {
    let place = Place::new();
    let mut delta = place.delta(1);
    let mut restarts = 0;
    asked(&mut delta);
    answer(&mut delta, "v0", 100, &[3], 5).unwrap();
    delta.answered();
    loop {
        let (from, to, ids, most) = asked(&mut delta);
        if most == 0 || ids.is_none() {
            assert_eq!(
                (from.as_str(), to.as_str(), most),
                ("0", "", 0),
                "everything at once"
            );
            break;
        }
        assert_eq!((to.as_str(), most), (format!("v{restarts}").as_str(), 1));
        assert!(delta.recovers(&gone()));
        restarts += 1;
        if restarts == NEW_PASSES {
            continue;
        }
        assert_eq!(asked(&mut delta).2, Some((0, 3)));
        answer(&mut delta, &format!("v{restarts}"), 100, &[3], 5).unwrap();
        delta.answered();
    }
    assert_eq!(restarts, NEW_PASSES);
    // The base's own revision is not known any more.
    assert!(!delta.recovers(&gone()));

    // Nor is that of what has arrived.
    let place = Place::new();
    let mut delta = place.delta(1);
    asked(&mut delta);
    answer(&mut delta, "a", 100, &[3], 5).unwrap();
    drop(delta);
    let mut delta = place.delta(1);
    asked(&mut delta);
    assert!(delta.recovers(&gone()));
    assert_eq!(asked(&mut delta), question("0", "", None, 1));
}

#[test]
fn errors_that_prove_nothing_against_what_is_there_keep_it() {
    let network = Error::new(Category::Network, Code::Error, "cut").retry();
    let full = Error::new(Category::Storage, Code::DatabaseFull, "full");
    let broken = Error::protocol("nonsense");
    for (e, behind_header, kept) in [
        (&network, true, true),
        (&broken, false, true),
        (&broken, true, false),
        (&full, true, false),
    ] {
        let place = Place::new();
        let mut delta = place.delta(1);
        asked(&mut delta);
        answer(&mut delta, "a", 100, &[3], 5).unwrap();
        delta.answered();
        asked(&mut delta);
        if behind_header {
            answer(&mut delta, "a", 100, &[], 5).unwrap();
        }
        assert!(!delta.recovers(e));
        drop(delta);
        assert_eq!(place.path().exists(), kept, "{e} {behind_header}");
    }
}

#[test]
fn a_wanted_revision_is_pinned_from_the_beginning() {
    let place = Place::new();
    let begin = || Delta::resume(&place.path(), title("", "w"), 0).unwrap();
    let mut delta = begin();
    assert_eq!(asked(&mut delta), question("", "w", None, 0));
    answer(&mut delta, "w", 100, &[0, 1, 2], 0).unwrap();
    drop(delta);
    let mut delta = begin();
    assert_eq!(asked(&mut delta), question("w", "w", Some((0, 2)), u32::MAX));
    answer(&mut delta, "w", 100, &[], 0).unwrap();
    delta.answered();
    assert_eq!(asked(&mut delta), question("", "w", Some((3, 99)), u32::MAX));
    assert!(
        answer(&mut delta, "x", 100, &[], 0)
            .unwrap_err()
            .message
            .contains("another revision")
    );
    assert!(!delta.recovers(&gone()));
    assert!(!place.path().exists());
}

#[test]
fn a_file_of_which_most_is_out_of_date_is_given_up() {
    let place = Place::new();
    let mut passes = 0;
    loop {
        let mut delta = place.delta(0);
        if asked(&mut delta).2.is_none() && passes > 0 {
            break;
        }
        let ids: Vec<u32> = (0..100).collect();
        answer(&mut delta, &format!("v{passes}"), 1000, &ids, 5).unwrap();
        passes += 1;
        assert!(passes < 30);
    }
    assert!(passes > 10, "{passes}");
}

#[test]
fn a_size_that_cannot_be_costs_no_long_question() {
    let place = Place::new();
    let mut delta = place.delta(0);
    asked(&mut delta);
    answer(&mut delta, "a", 0xffff_fffe, &[3], 7).unwrap();
    delta.answered();
    let request = delta.next_request(0).unwrap().unwrap();
    assert!(request.server_pages_selector.len() < 3000);
    assert!(crate::protocol::pull_query::encode(&request).len() < crate::protocol::pull_query::MAX_PATH);
}
