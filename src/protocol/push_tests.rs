use super::*;
use proptest::prelude::*;

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::Integer),
        (-1e300..1e300).prop_map(Value::Real),
        ".*".prop_map(|text| Value::Text(text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..600).prop_map(Value::Blob),
    ]
}

#[test]
fn texts_are_sent_once_and_the_surplus_each_time() {
    let mut push = PushBuilder::default();
    let text = |i: usize| format!("SELECT {i}");
    for i in (0..MAX_TEXTS + 2).chain(0..MAX_TEXTS + 2) {
        push.step(&text(i), &[]);
    }
    let push = open(push.finish().unwrap(), usize::MAX).unwrap();
    assert_eq!(push.count, 2 * (MAX_TEXTS as u64 + 2));
    for (i, step) in push.steps().enumerate() {
        let (step, i) = (step.unwrap(), i % (MAX_TEXTS + 2));
        assert_eq!(step.sql, text(i));
        assert_eq!(step.number, (i < MAX_TEXTS).then_some(i));
    }
}

#[test]
fn a_step_that_cannot_be_read_is_the_last() {
    let mut push = PushBuilder::default();
    push.step("SELECT 1", &[]);
    push.steps.extend([9, 9, 9]);
    push.count = 3;
    let push = open(push.finish().unwrap(), 1000).unwrap();
    let steps: Vec<_> = push.steps().collect();
    assert_eq!(steps.len(), 2);
    assert!(steps[0].is_ok() && steps[1].is_err());
}

#[test]
fn more_than_the_limit_is_refused() {
    let mut push = PushBuilder::default();
    push.step("SELECT ?", &[Value::Blob(vec![0; 5000])]);
    let body = push.finish().unwrap();
    assert!(open(body.clone(), 6000).is_ok());
    let e = open(body, 5000).unwrap_err();
    assert!(e.message.contains("longer than 5000 bytes"), "{e}");
}

#[test]
fn errors_are_told_as_the_compatible_dialect_tells_them() {
    let error = Error::sqlite(2067, "UNIQUE constraint failed: u.e");
    let conflict = PushConflict::new(7, 3, &error);
    assert_eq!(
        (conflict.txn_id, conflict.step, conflict.sqlite_code),
        (7, 3, 2067)
    );
    assert_eq!(conflict.constraint, "u.e");
    assert_eq!(
        conflict.to_error().code.as_deref(),
        Some("SQLITE_CONSTRAINT_UNIQUE")
    );
    let long = PushConflict::new(7, 3, &Error::sqlite(1, "ä".repeat(1 << 20)));
    assert!(long.message.len() <= MAX_MESSAGE);
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        steps in proptest::collection::vec((0i64..4, 0usize..5, proptest::collection::vec(value(), 0..6)), 1..40),
    ) {
        let mut push = PushBuilder::default();
        for (txn_id, sql, args) in &steps {
            push.begin_transaction(*txn_id);
            push.step(&"x".repeat(*sql), args);
        }
        prop_assert_eq!(push.count() as usize, steps.len());
        let push = open(push.finish().unwrap(), usize::MAX).unwrap();
        let read: Vec<Step<'_>> = push.steps().map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), steps.len());
        for (read, (txn_id, sql, args)) in read.iter().zip(&steps) {
            prop_assert_eq!((read.txn_id, read.sql.len(), &read.args()), (*txn_id, *sql, args));
        }
    }

    #[test]
    fn garbage_is_an_error_not_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = open(bytes.clone(), 1 << 20);
        let _ = PushAnswer::parse(&bytes);
        let steps = PushRequest {
            count: 3,
            len: bytes.len() as u64,
            crc32c: crc32c::crc32c(&bytes),
            steps: Some(bytes.into()),
            steps_zstd: None,
        };
        let push = open(steps.encode_to_vec(), 1 << 20).unwrap();
        prop_assert!(push.steps().count() <= 200);
    }
}
