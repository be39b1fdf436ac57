//! One contract suite for the port of a session node, run against every way to reach one: the handle itself, a gRPC call
//! for each request, and the link. What only the link has is in `link.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod link;
mod node;
mod suite;
mod ways;

/// Every test of the suite, for each way.
macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod handle {
            $(#[tokio::test] async fn $test() { crate::suite::$test(crate::ways::handle()).await; })*
        }
        mod plain {
            $(#[tokio::test] async fn $test() { crate::suite::$test(crate::ways::plain()).await; })*
        }
        mod linked {
            $(#[tokio::test] async fn $test() { crate::suite::$test(crate::ways::linked()).await; })*
        }
    };
}

suite! {
    an_answer_comes_as_it_was_given,
    every_field_of_a_request_arrives,
    a_refusal_is_a_frame_and_not_an_error,
    an_error_instead_of_frames_keeps_its_detail,
    events_come_in_order_and_then_the_end,
    an_error_among_frames_comes_behind_them,
    letting_go_of_frames_reaches_the_node,
    giving_up_before_the_first_frame_reaches_the_node,
    large_requests_and_frames_pass_unchanged,
    a_reader_who_stalls_stops_nobody_else_and_fills_nothing,
    a_reader_who_stalls_before_large_frames_fills_nothing,
    many_calls_at_a_time_get_their_own_answers,
    attaching_and_closing_are_calls_like_any_other,
    what_is_passed_on_arrives_whole,
    who_is_there_says_so_and_knows_who_else_is,
}
