//! The judge itself is on trial: hand-written bad histories are convicted by the invariant they break and by no other, good
//! ones are acquitted, and what is broken at random is noticed.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that cannot go on fails")]

mod figures;
mod mutations;
mod verdicts;
