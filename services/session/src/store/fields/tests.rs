use std::collections::BTreeSet;
use std::sync::Arc;

use machines::Continuation;
use machines::journal::{Entry, JournalState, Round};
use machines::snapshot::Lists;
use mcp::rpc::Id;
use mcp::{Method, Revision};

use super::*;

/// What is lost with the end of a log unless replicas have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// It may be lost: whoever is told of it again is told nothing wrong.
    Trifle,
    /// It is waited for; where it is late, it is said all the same.
    Told,
    /// It is waited for; where it is late, the client is to come again.
    Taken,
}

const CALL: CallId = CallId(1);
const STREAM: StreamId = StreamId(4);

fn entry() -> Arc<Entry> {
    Arc::new(Entry {
        id: Id::number(7),
        method: Method::ToolsCall,
        stream: STREAM,
        key: None,
        epoch: 1,
        generation: 0,
        heard: 0,
        params: Json::empty_object(),
        token: None,
        deadline: 9,
        state: JournalState::Accepted,
        instance: None,
        round: None,
        answered: None,
    })
}

fn handshake() -> Box<Handshake> {
    Box::new(Handshake {
        revision: Revision::LATEST,
        capabilities: Json::empty_object(),
        client_info: Json::empty_object(),
        ready: false,
        at: 1,
        lists: None,
    })
}

/// Every change there is, and its class.
fn table() -> Vec<(Change, Class)> {
    let call = |change| Change::Call(CALL, change);
    let stream = |change| Change::Stream(STREAM, change);
    let round = Round { number: 1, continuation: Continuation::Parked, asks: Vec::new(), deadline: 9 };
    let mut table = vec![
        (Change::Greeted(handshake()), Class::Taken),
        (Change::Ready, Class::Taken),
        (Change::Listed(Lists::default()), Class::Trifle),
        (Change::LevelSet(Level::Info), Class::Taken),
        (Change::Subscribed("u".into()), Class::Taken),
        (Change::Unsubscribed("u".into()), Class::Taken),
        (call(CallChange::Accepted(entry())), Class::Taken),
        // The record of a dispatch: without it a tool may run twice.
        (call(CallChange::Dispatched), Class::Taken),
        (call(CallChange::Placed("i".into())), Class::Told),
        (call(CallChange::Heard(1)), Class::Told),
        (call(CallChange::Asked(Box::new(round))), Class::Told),
        // What is answered with 202.
        (call(CallChange::Answered { key: "k".into(), answer: Ok(Json::empty_object()) }), Class::Taken),
        (call(CallChange::RoundClosed { deadline: 9 }), Class::Taken),
        (stream(StreamChange::Opened { request: None, key: None }), Class::Told),
        (
            stream(StreamChange::Appended {
                seq: 1,
                epoch: 1,
                message: Some(Json::empty_object()),
                delivered: true,
            }),
            Class::Trifle,
        ),
        (stream(StreamChange::Delivered { through: 1 }), Class::Trifle),
        (stream(StreamChange::Trimmed { through: 1 }), Class::Trifle),
        (stream(StreamChange::Finished { at: 1 }), Class::Told),
        (stream(StreamChange::Dropped), Class::Told),
        (Change::Ended, Class::Taken),
    ];
    let endings = JournalState::ALL.into_iter().filter(|state| state.is_ending());
    table.extend(endings.map(|ending| (call(CallChange::Ended(ending)), Class::Told)));
    table
}

/// Which change it is. Another one has to be given a place in the table.
fn name(change: &Change) -> &'static str {
    match change {
        Change::Greeted(_) => "greeted",
        Change::Ready => "ready",
        Change::Listed(_) => "listed",
        Change::LevelSet(_) => "level",
        Change::Subscribed(_) => "subscribed",
        Change::Unsubscribed(_) => "unsubscribed",
        Change::Ended => "ended",
        Change::Call(_, change) => match change {
            CallChange::Accepted(_) => "accepted",
            CallChange::Dispatched => "dispatched",
            CallChange::Placed(_) => "placed",
            CallChange::Heard(_) => "heard",
            CallChange::Asked(_) => "asked",
            CallChange::Answered { .. } => "answered",
            CallChange::RoundClosed { .. } => "round closed",
            CallChange::Ended(_) => "call ended",
        },
        Change::Stream(_, change) => match change {
            StreamChange::Opened { .. } => "opened",
            StreamChange::Appended { .. } => "appended",
            StreamChange::Delivered { .. } => "delivered",
            StreamChange::Trimmed { .. } => "trimmed",
            StreamChange::Finished { .. } => "finished",
            StreamChange::Dropped => "dropped",
        },
    }
}

fn class(changes: &[Change]) -> Class {
    match (matters(changes), can_be_refused(changes)) {
        (false, false) => Class::Trifle,
        (true, false) => Class::Told,
        (true, true) => Class::Taken,
        (false, true) => panic!("refused although nobody waits for it: {changes:?}"),
    }
}

#[test]
fn each_change_has_its_class() {
    let table = table();
    assert_eq!(table.iter().map(|(change, _)| name(change)).collect::<BTreeSet<_>>().len(), 21);
    for (change, expected) in &table {
        assert_eq!(class(std::slice::from_ref(change)), *expected, "{change:?}");
    }
}

#[test]
fn a_commit_is_of_the_highest_class_in_it_unless_it_ends_a_call() {
    let table = table();
    assert_eq!(class(&[]), Class::Trifle);
    let is_ending = |change: &Change| matches!(change, Change::Call(_, CallChange::Ended(_)));
    let rank = |class| [Class::Trifle, Class::Told, Class::Taken].iter().position(|it| *it == class);
    for (one, of_one) in &table {
        for (other, of_other) in &table {
            // A result is delivered, whatever else is in its commit.
            let expected = if is_ending(one) || is_ending(other) {
                Class::Told
            } else if rank(*of_one) > rank(*of_other) {
                *of_one
            } else {
                *of_other
            };
            assert_eq!(class(&[one.clone(), other.clone()]), expected, "{one:?} {other:?}");
        }
    }
}
