use super::*;

fn fixture(name: &str) -> Option<Vec<u8>> {
    let path = format!("{}/../shared/wire-fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).ok()
}

#[test]
fn reads_a_recorded_question_for_the_acknowledgement() {
    let body =
        br#"{"baton":null,"requests":[{"type":"batch","batch":{"steps":[{"condition":null,"stmt":{"sql":
        "SELECT pull_gen, change_id FROM turso_sync_last_change_id WHERE client_id = ?","sql_id":null,"args":
        [{"type":"text","value":"fixture"}],"named_args":[],"want_rows":true,"replication_index":null}}],
        "replication_index":null}}]}"#;
    let request = PipelineRequest::parse(body).unwrap();
    let [StreamRequest::Batch(batch)] = &request.requests[..] else {
        panic!("not a batch")
    };
    assert_eq!(batch.steps[0].condition, None);
    assert_eq!(batch.steps[0].stmt.args, [Value::Text(b"fixture".to_vec())]);
    assert_eq!(batch.steps[0].stmt.want_rows, Some(true));
}

#[test]
fn reads_recorded_answers() {
    let body = br#"{"baton":null,"base_url":null,"results":[{"type":"ok","response":{"type":"batch","result":
        {"step_results":[null],"step_errors":[{"message":"Parse error: no such table: t","code":"BATCH_STEP_ERROR"}],
        "replication_index":null}}}]}"#;
    let result = BatchResult::parse(body, 1).unwrap();
    let (step, error) = result.first_error().unwrap();
    assert_eq!(step, 0);
    assert!(error.message.contains("no such table"));
    let body =
        br#"{"results":[{"type":"ok","later":1,"response":{"type":"batch","result":{"step_results":[{"cols":
        [{"name":"g","decltype":"INTEGER"}],"rows":[[{"type":"integer","value":"28"}]],"affected_row_count":0,
        "last_insert_rowid":null,"new_key":{}}],"step_errors":[null]}}}]}"#;
    let result = BatchResult::parse(body, 1).unwrap();
    assert_eq!(result.result(0).unwrap().rows, [[Value::Integer(28)]]);
    assert!(BatchResult::parse(body, 2).is_err());
}

#[test]
fn an_error_of_the_whole_request_is_typed() {
    let body =
        br#"{"results":[{"type":"error","error":{"message":"UNIQUE constraint failed: t.a","code":"X"}}]}"#;
    let error = BatchResult::parse(body, 1).unwrap_err();
    assert_eq!((error.category, error.code), (Category::Remote, Code::Constraint));
}

#[test]
fn every_recorded_exchange_parses() {
    for (name, steps) in [
        ("03_last_change_id_no_table", 1),
        ("03_push", 20),
        ("06_last_change_id_present", 1),
        ("06_push_nothing", 3),
        ("07_push_step_error", 5),
    ] {
        let (Some(request), Some(answer)) = (
            fixture(&format!("{name}.req.json")),
            fixture(&format!("{name}.resp.json")),
        ) else {
            return;
        };
        let request = PipelineRequest::parse(&request).unwrap();
        let [StreamRequest::Batch(batch)] = &request.requests[..] else {
            panic!("{name}: not a batch")
        };
        assert_eq!(batch.steps.len(), steps, "{name}");
        let response = PipelineResponse::parse(&answer).unwrap();
        assert_eq!(
            response.to_bytes().unwrap(),
            answer,
            "{name}: written differently"
        );
        let result = BatchResult::parse(&answer, steps).unwrap();
        assert_eq!(
            result.first_error().map(|(i, _)| i),
            match name {
                "03_last_change_id_no_table" => Some(0),
                "07_push_step_error" => Some(2),
                _ => None,
            }
        );
    }
}

#[test]
fn conditions_of_every_kind() {
    let parse = |text: &str| serde_json::from_str::<Condition>(text);
    let text = r#"{"type":"and","conds":[{"type":"ok","step":1},{"type":"or","conds":[]},
        {"type":"not","cond":{"type":"error","step":2}},{"type":"is_autocommit"}]}"#;
    assert_eq!(
        parse(text).unwrap(),
        Condition::And(vec![
            Condition::Ok(1),
            Condition::Or(vec![]),
            Condition::Not(Box::new(Condition::Error(2))),
            Condition::IsAutocommit,
        ])
    );
    for bad in [
        r#"{"type":"ok"}"#,
        r#"{"type":"ok","step":-1}"#,
        r#"{"type":"xor"}"#,
        "{}",
        "null",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
    let deep = format!(
        "{}{{\"type\":\"is_autocommit\"}}{}",
        r#"{"type":"not","cond":"#.repeat(9999),
        "}".repeat(9999)
    );
    assert!(parse(&deep).is_err());
}

#[test]
fn a_transaction_is_a_chain() {
    let mut batch = BatchBuilder::transaction();
    assert_eq!(batch.step("A", &[Value::Integer(1)]).unwrap(), 1);
    assert!(batch.step("never", &[Value::Real(f64::INFINITY)]).is_err());
    assert!(batch.step("never", &[Value::Text(vec![0xff])]).is_err());
    assert_eq!(batch.query("B", &[]).unwrap(), 2);
    let expected_len = batch.body_len();
    let (body, _) = BatchBuilder {
        body: batch.body.clone(),
        steps: batch.steps,
    }
    .finish();
    assert_eq!(body.len(), expected_len);
    let (body, steps) = batch.commit().unwrap();
    let request = PipelineRequest::parse(&body).unwrap();
    let [StreamRequest::Batch(batch)] = &request.requests[..] else {
        panic!("not a batch")
    };
    assert_eq!(batch.steps.len(), steps);
    let found: Vec<_> = batch
        .steps
        .iter()
        .map(|s| {
            (
                s.stmt.sql.as_deref().unwrap(),
                s.condition.clone(),
                s.stmt.want_rows,
            )
        })
        .collect();
    let open = Condition::Not(Box::new(Condition::IsAutocommit));
    assert_eq!(
        found,
        [
            ("BEGIN IMMEDIATE", None, Some(false)),
            ("A", Some(Condition::Ok(0)), Some(false)),
            ("B", Some(Condition::Ok(1)), Some(true)),
            ("COMMIT", Some(Condition::Ok(2)), Some(false)),
            ("ROLLBACK", Some(open), Some(false)),
        ]
    );
}

#[test]
fn test_tools_send_only_sql() {
    let body = br#"{"requests":[{"type":"execute","stmt":{"sql":"SELECT 1"}},{"type":"close"}]}"#;
    let request = PipelineRequest::parse(body).unwrap();
    let [StreamRequest::Execute(stmt), StreamRequest::Close] = &request.requests[..] else {
        panic!()
    };
    assert_eq!(stmt.sql.as_deref(), Some("SELECT 1"));
    assert_eq!(stmt.want_rows, None);
}
