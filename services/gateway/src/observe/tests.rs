use super::*;

#[test]
fn the_labels_are_the_protocols_words_in_their_order() {
    assert!(Method::ALL.iter().all(|method| METHODS[*method as usize] == method.as_str()));
    assert!(Failure::ALL.iter().all(|failure| ERRORS[*failure as usize + 1] == failure.as_str()));
    for failure in Failure::ALL.into_iter().map(Some).chain([None]) {
        assert!(OUTCOMES.contains(&Failure::outcome(failure)), "{failure:?}");
    }
}

#[test]
fn label_sets_stay_closed_however_many_names_are_tried() {
    let metrics = Metrics::default();
    let observed = Observed::new(&metrics);
    for number in 0..10_000 {
        let tool = Tool::Named(format!("made-up-{number}").into());
        let unknown = Outcome { failure: Some(Failure::InvalidParams), code: Some(-32602) };
        observed.count(Method::ToolsCall as usize, 1, Some(&tool), unknown, 0.1);
    }
    // The gateway's own deadline vouches for nothing.
    let tool = Tool::Named("made-up".into());
    observed.count(Method::ToolsCall as usize, 1, Some(&tool), unanswered(Code::Deadline), 0.1);
    let text = metrics.text();
    assert!(!text.contains("made-up"), "{text}");
    assert_eq!(text.matches("mcp_server_operation_duration_seconds_count{").count(), 2, "{text}");
    // Tools that exist are named, up to a bound.
    for number in 0..10_000 {
        let tool = Tool::Named(format!("real-{number}").into());
        observed.count(Method::ToolsCall as usize, 1, Some(&tool), Outcome::OK, 0.1);
    }
    let named = metrics
        .text()
        .matches("_count{role=\"gateway\",mcp_method_name=\"tools/call\",gen_ai_tool_name=\"real-")
        .count();
    assert_eq!(named, MOST_TOOLS);
}

#[test]
fn a_call_that_took_too_long_counts_for_its_tool() {
    let metrics = Metrics::default();
    let observed = Observed::new(&metrics);
    let late = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603,"message":"m","data":{"reason":"timeout","outcome":"unknown"}}}"#;
    let outcome = Outcome::of_response(Some(Method::ToolsCall), &Json::trusted(late));
    let tool = Tool::Named("slow".into());
    observed.count(Method::ToolsCall as usize, 0, Some(&tool), outcome, 300.0);
    let series = "_count{role=\"gateway\",mcp_method_name=\"tools/call\",gen_ai_tool_name=\"slow\",era=\"older\",\
                  outcome=\"lost\",error_type=\"timeout\"} 1";
    assert!(metrics.text().contains(series), "{}", metrics.text());
}
