//! The table (phase, what happens) -> (phase, what is done), printed and compared: changes of behaviour are read as a diff.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use machines::input::CommitRefusal;
use machines::session::phase::{Trigger, next};
use machines::{CallFrame, CallId, Effects, Input, ListKind, Phase, StreamId};
use mcp::rpc::{Id, Message, Response};
use mcp::{Json, Revision};

use crate::world::{self, World};
use crate::{alphabet, compare, dialogue, lines};

/// A session in each phase, the busy one with an asking and an open call.
fn in_phase(phase: Phase) -> World {
    let mut world = World::new(world::settings());
    let frame = |frame| Input::Frame { call: CallId(1), number: 0, frame };
    match phase {
        Phase::Uninitialised => {}
        Phase::Initialising => {
            world.initialize(Revision::V2025_11_25, alphabet::CLIENT);
        }
        Phase::Initialised | Phase::Processing => {
            world = World::greeted(world::settings(), Revision::V2025_11_25, alphabet::CLIENT);
            world.request("8", "resources/subscribe", Some(r#"{"uri":"file:///a"}"#));
            world.give(frame(CallFrame::Result(Json::empty_object())));
        }
        Phase::Failed => {
            world.request("0", "initialize", Some("{}"));
        }
        Phase::Terminated => {
            world.close();
        }
    }
    if phase == Phase::Processing {
        world.request("1", "tools/call", Some(r#"{"name":"a","_meta":{"progressToken":1}}"#));
        let requests = Json::trusted(r#"{"r":{"method":"roots/list"}}"#);
        let continuation = machines::Continuation::Parked;
        world.give(Input::Frame {
            call: CallId(2),
            number: 0,
            frame: CallFrame::InputRequired { requests, round: 1, continuation },
        });
        world.request("2", "tools/call", Some(r#"{"name":"a","_meta":{"progressToken":2}}"#));
    }
    assert_eq!(world.session.phase(), phase);
    world
}

const STREAM: StreamId = StreamId(99);

fn client(message: Message) -> Input {
    Input::Client { stream: STREAM, message, key: None }
}

/// A name and an example of everything that may happen. Call 3 is under way in the busy session, call 9 nowhere.
fn examples() -> Vec<(String, Input)> {
    let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{}}"#;
    let requests = [
        ("initialize", hello),
        ("initialize", "{}"),
        ("ping", ""),
        ("logging/setLevel", r#"{"level":"debug"}"#),
        ("tools/list", ""),
        ("tools/call", r#"{"name":"a"}"#),
        ("resources/read", r#"{"uri":"file:///a"}"#),
        ("resources/subscribe", r#"{"uri":"file:///b"}"#),
        ("resources/unsubscribe", r#"{"uri":"file:///a"}"#),
        ("unknown/method", ""),
    ];
    let mut all: Vec<(String, Input)> = Vec::new();
    for (method, params) in requests {
        let malformed = if params == "{}" { " (malformed)" } else { "" };
        all.push((format!("request {method}{malformed}"), client(dialogue::request("9", method, params))));
    }
    all.push(("request with an id in use".to_owned(), client(dialogue::request("1", "ping", ""))));
    for (method, params) in [
        ("notifications/initialized", ""),
        ("notifications/cancelled", r#"{"requestId":1}"#),
        ("notifications/roots/list_changed", ""),
    ] {
        all.push((format!("notification {method}"), client(dialogue::notification(method, params))));
    }
    for id in ["ask-1", "ask-9"] {
        let response = Response { id: Id::text(id), outcome: Ok(Json::empty_object()) };
        all.push((format!("response {id}"), client(Message::Response(response))));
    }
    for frame in alphabet::frames() {
        all.push((
            format!("frame {}", frame_kind(&frame)),
            Input::Frame { call: CallId(3), number: 0, frame },
        ));
    }
    let late = CallFrame::Result(Json::empty_object());
    all.push((
        "frame of a call that has ended".to_owned(),
        Input::Frame { call: CallId(9), number: 0, frame: late },
    ));
    let uri = "file:///a".to_owned();
    all.extend([
        ("request that was forgotten".to_owned(), Input::Forgotten { stream: STREAM, id: Id::text("9") }),
        ("reader of the own stream".to_owned(), Input::ReaderAttached(StreamId::OWN)),
        ("reader of a waiting call's stream".to_owned(), Input::ReaderAttached(StreamId(5))),
        ("reader of another stream".to_owned(), Input::ReaderAttached(STREAM)),
        ("reader gone".to_owned(), Input::ReaderGone(STREAM)),
        ("list changed".to_owned(), Input::CatalogChanged(ListKind::Tools)),
        ("resource updated".to_owned(), Input::ResourceUpdated { uri, params: Json::empty_object() }),
        ("time: at once".to_owned(), Input::DeadlineReached),
        ("time: 500 ms".to_owned(), Input::DeadlineReached),
        ("time: 30 s".to_owned(), Input::DeadlineReached),
        ("time: 5 min".to_owned(), Input::DeadlineReached),
        ("time: 30 min".to_owned(), Input::DeadlineReached),
        ("close".to_owned(), Input::Close { stream: STREAM }),
        ("drain".to_owned(), Input::Drain),
    ]);
    for refusal in
        [CommitRefusal::Stale, CommitRefusal::Regress, CommitRefusal::Conflict, CommitRefusal::Down]
    {
        all.push((format!("refused {refusal:?}"), Input::CommitRefused(refusal)));
    }
    all
}

fn frame_kind(frame: &CallFrame) -> &'static str {
    match frame {
        CallFrame::Accepted { .. } => "accepted",
        CallFrame::Progress(_) => "progress",
        CallFrame::Log(_) => "log",
        CallFrame::Notice { .. } => "notice",
        CallFrame::Detach { .. } => "detach",
        CallFrame::Result(_) => "result",
        CallFrame::Error(_) => "error",
        CallFrame::InputRequired { continuation: machines::Continuation::Parked, .. } => "asks, parked",
        CallFrame::InputRequired { continuation: machines::Continuation::State(_), .. } => "asks, with state",
        CallFrame::InputRequired { continuation: machines::Continuation::Sealed(_), .. } => "asks, sealed",
        CallFrame::Task(_) => "task",
        CallFrame::Lost { .. } => "lost",
    }
}

/// The kinds of input; a new one needs an example.
fn input_kind(input: &Input) -> &'static str {
    match input {
        Input::Client { message, .. } => match message {
            Message::Request(_) => "request",
            Message::Notification(_) => "notification",
            Message::Response(_) => "response",
        },
        Input::Forgotten { .. } => "forgotten",
        Input::ReaderAttached(_) => "attached",
        Input::ReaderGone(_) => "gone",
        Input::Frame { frame, .. } => frame_kind(frame),
        Input::CatalogChanged(_) => "changed",
        Input::ResourceUpdated { .. } => "updated",
        Input::CommitRefused(_) => "refused",
        Input::DeadlineReached => "deadline",
        Input::Close { .. } => "close",
        Input::Drain => "drain",
    }
}

const KINDS: usize = 24;

fn kinds(effects: &Effects) -> String {
    let kinds: Vec<&str> = effects.iter().map(lines::kind).collect();
    if kinds.is_empty() { "-".to_owned() } else { kinds.join(" ") }
}

#[test]
fn every_cell_is_as_written() {
    let covered: BTreeSet<&str> = examples().iter().map(|(_, input)| input_kind(input)).collect();
    assert_eq!(covered.len(), KINDS, "{covered:?}");
    let mut text = String::from("# (phase, trigger) -> phase\n");
    for phase in Phase::ALL {
        for trigger in Trigger::ALL {
            let to = next(phase, trigger).map_or_else(|| "-".to_owned(), |p| format!("{p:?}"));
            writeln!(text, "{:<14} {:<18} {to}", format!("{phase:?}"), format!("{trigger:?}")).unwrap();
        }
    }
    text.push_str("\n# (phase, what happens) -> phase, what is done, in order\n");
    for phase in Phase::ALL {
        for (name, input) in examples() {
            let mut session = in_phase(phase).session;
            if let Input::CommitRefused(_) = input {
                // What is refused is the commit of a call, where one is made.
                session.step(1000, client(dialogue::request("9", "tools/call", r#"{"name":"a"}"#)));
            }
            let later = match name.strip_prefix("time: ") {
                Some("500 ms") => 500,
                Some("30 s") => 30_000,
                Some("5 min") => 300_000,
                Some("30 min") => 1_800_000,
                Some(_) | None => 0,
            };
            let effects = session.step(1000 + later, input);
            machines::check(&session).unwrap();
            let to = format!("{:?}", session.phase());
            writeln!(text, "{:<14} {name:<45} {to:<14} {}", format!("{phase:?}"), kinds(&effects)).unwrap();
        }
    }
    compare("table.txt", &text);
}
