//! What comes to a server in the direct dialect, without a server: fast enough to look into every corner.

use std::str::from_utf8;

use prost::Message;
use turso_sync::protocol::pull_query;
use turso_sync::protocol::push::{Push, PushAnswer, PushBuilder, PushRequest, open};
use turso_sync::record::encode;

/// Most bytes that a push may have here.
const LIMIT: usize = 64 << 10;

/// A push, the steps of one, a frame of compressed steps, an answer, and the query of a pull. What could be decoded must survive
/// the way back.
pub fn direct_requests(data: &[u8]) {
    if let Ok(push) = open(data.to_vec(), LIMIT) {
        read(&push);
    }
    let (count, steps) = data
        .split_first()
        .map_or((0, data), |(count, steps)| (*count, steps));
    let frame = |steps, steps_zstd| PushRequest {
        count: count.into(),
        len: data.len().saturating_sub(1) as u64,
        crc32c: crc32c::crc32c(data.get(1..).unwrap_or_default()),
        steps,
        steps_zstd,
    };
    let raw = open(frame(Some(steps.to_vec().into()), None).encode_to_vec(), LIMIT).expect("a whole push");
    read(&raw);
    let packed = zstd::bulk::compress(steps, 1).expect("zstd");
    let packed = open(frame(None, Some(packed.into())).encode_to_vec(), LIMIT);
    assert_eq!(packed.as_ref(), Ok(&raw));
    // As the frame itself it may be anything, however much it says to contain.
    let _ = open(frame(None, Some(steps.to_vec().into())).encode_to_vec(), LIMIT);
    if let Ok(answer) = PushAnswer::parse(data) {
        assert_eq!(PushAnswer::parse(&answer.encode_to_vec()), Ok(answer));
    }
    if let Some(question) = from_utf8(data)
        .ok()
        .and_then(|query| pull_query::decode(query).ok())
    {
        let path = pull_query::encode(&question);
        let again = pull_query::decode(path.split_once('?').expect("a query").1).expect("a question");
        assert_eq!(again, question);
        assert_eq!(pull_query::checksum(&again), pull_query::checksum(&question));
    }
}

/// Reads the steps, and writes those that can be read once more.
fn read(push: &Push) {
    let mut again = PushBuilder::default();
    let mut count = 0;
    for step in push.steps().map_while(Result::ok) {
        again.begin_transaction(step.txn_id);
        again.step(step.sql, &step.args());
        count += 1;
    }
    let again = open(again.finish().expect("a push"), usize::MAX).expect("our own push");
    assert_eq!(again.count, count);
    let (one, two) = (push.steps().map_while(Result::ok), again.steps());
    for (one, two) in one.zip(two) {
        let two = two.expect("our own step");
        // Bytes, because no NaN equals itself.
        assert_eq!(
            (one.txn_id, one.sql, encode(&one.args())),
            (two.txn_id, two.sql, encode(&two.args()))
        );
    }
}
