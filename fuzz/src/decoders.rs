//! What is decoded in one piece. What could be decoded must survive the way back.

use turso_sync::engine::DatabaseMetadata;
use turso_sync::error::Error;
use turso_sync::protocol::pipeline::{BatchResult, PipelineResponse, StreamResponse, StreamResult};
use turso_sync::protocol::push::PushAnswer;
use turso_sync::record;

/// The answer to a pipeline request, or to a push in the direct dialect.
pub fn pipeline_answer(data: &[u8]) {
    if let Ok(answer) = PushAnswer::parse(data) {
        for conflict in &answer.conflicts {
            let _ = Error::from(conflict.to_error());
        }
    }
    check_batch(data, 3);
    let Ok(answer) = PipelineResponse::parse(data) else {
        return;
    };
    let again = answer.to_bytes().expect("what was parsed can be written");
    assert_eq!(PipelineResponse::parse(&again).as_ref(), Ok(&answer));
    let steps = match answer.results.first() {
        Some(StreamResult::Ok {
            response: StreamResponse::Batch { result },
        }) => result.step_results.len(),
        _ => 0,
    };
    check_batch(data, steps);
}

fn check_batch(data: &[u8], steps: usize) {
    if let Ok(result) = BatchResult::parse(data, steps) {
        assert_eq!(
            (result.step_results.len(), result.step_errors.len()),
            (steps, steps)
        );
        if let Some((step, error)) = result.first_error() {
            assert!(step < steps);
            let _ = Error::from(error.clone());
        }
        assert!(result.result(steps).is_none());
    }
}

/// `<db>-info`.
pub fn metadata_json(data: &[u8]) {
    if let Ok(Some(metadata)) = DatabaseMetadata::parse(data, "info") {
        let again = metadata.encode().expect("what was parsed can be written");
        assert_eq!(
            DatabaseMetadata::parse(&again, "info"),
            Ok(Some(metadata.clone()))
        );
        let _ = (metadata.revision(), metadata.saved_url(), metadata.bootstrap());
    }
}

/// A record of the change log.
pub fn record(data: &[u8]) {
    if let Ok(values) = record::decode(data) {
        let again = record::encode(&values);
        // Bytes, because no NaN equals itself.
        let decoded = record::decode(&again).expect("what was decoded can be encoded");
        assert_eq!(record::encode(&decoded), again);
        assert_eq!(decoded.len(), values.len());
    }
}
