//! What may happen to a session, for exploration and walks.

use machines::input::CommitRefusal;
use machines::{CallFrame, CallId, Continuation, Effects, Input, ListKind, Settings, StreamId};
use mcp::rpc::{Id, Message, Response, RpcError};
use mcp::{Json, Revision};

use crate::world::{self, World};

/// Small bounds, so that they are reached.
pub(crate) fn tight() -> Settings {
    Settings {
        max_inflight: 2,
        max_outgoing: 2,
        max_rounds: 3,
        max_subscriptions: 1,
        log_events: 3,
        log_bytes: 400,
        kept_streams: 1,
        ..world::settings()
    }
}

/// A client that can be asked.
pub(crate) const CLIENT: &str = r#"{"roots":{},"elicitation":{}}"#;

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Move {
    Request(&'static str, &'static str, &'static str),
    Notify(&'static str, &'static str),
    Respond(u64, bool),
    Frame(CallId, CallFrame),
    Attach(StreamId),
    Gone(StreamId),
    Changed(ListKind),
    Updated,
    /// Until the session wants to be woken.
    Tick,
    Wait(u64),
    Drain,
    Close,
    TakeOver,
    LetGo,
}

/// The move with its commit refused, if it has one.
pub(crate) type Refusable = (Move, Option<CommitRefusal>);

pub(crate) fn apply(world: &mut World, (step, refusal): &Refusable) -> Effects {
    world.refuse = *refusal;
    let effects = match step.clone() {
        Move::Request(id, method, params) => world.request(id, method, Some(params)),
        Move::Notify(method, params) => world.notify(method, Some(params)),
        Move::Respond(number, well) => {
            let refused = RpcError::new(-1, "no");
            let outcome = if well { Ok(Json::empty_object()) } else { Err(refused) };
            world.post(Message::Response(Response { id: Id::text(&format!("ask-{number}")), outcome }))
        }
        Move::Frame(call, frame) => world.give(Input::Frame { call, number: 0, frame }),
        Move::Attach(stream) => world.attach(stream),
        Move::Gone(stream) => world.detach(stream),
        Move::Changed(kind) => world.give(Input::CatalogChanged(kind)),
        Move::Updated => {
            let params = Json::trusted(r#"{"uri":"file:///a"}"#);
            world.give(Input::ResourceUpdated { uri: "file:///a".to_owned(), params })
        }
        Move::Tick => {
            let wake = world.wake.map_or(0, |at| at.saturating_sub(world.now));
            world.wait(wake)
        }
        Move::Wait(ms) => world.wait(ms),
        Move::Drain => world.give(Input::Drain),
        Move::Close => world.close(),
        Move::TakeOver => {
            world.take_over();
            Effects::new()
        }
        Move::LetGo => {
            world.let_go();
            Effects::new()
        }
    };
    world.refuse = None;
    effects
}

/// Everything a registry may say.
pub(crate) fn frames() -> Vec<CallFrame> {
    let json = |text: &'static str| Json::trusted(text);
    let asks = r#"{"r":{"method":"roots/list"},"e":{"method":"elicitation/create","params":{"mode":"form"}},"s":{"method":"sampling/createMessage"}}"#;
    vec![
        CallFrame::Accepted { instance: "i".to_owned() },
        CallFrame::Progress(json(r#"{"progress":1}"#)),
        CallFrame::Progress(json(r#"{"progress":2}"#)),
        CallFrame::Log(json(r#"{"level":"error","data":1}"#)),
        CallFrame::Notice { method: "acme/x".to_owned(), params: json("{}") },
        CallFrame::Detach { retry_ms: 5 },
        CallFrame::Result(json(r#"{"content":[]}"#)),
        CallFrame::Error(RpcError::new(-5, "no")),
        CallFrame::InputRequired { requests: json(asks), round: 1, continuation: Continuation::Parked },
        CallFrame::InputRequired {
            requests: json(r#"{"r":{"method":"roots/list"}}"#),
            round: 2,
            continuation: Continuation::State(bytes::Bytes::from_static(b"s")),
        },
        CallFrame::InputRequired {
            requests: json(r#"{"s":{"method":"sampling/createMessage"}}"#),
            round: 3,
            continuation: Continuation::State(bytes::Bytes::from_static(b"s")),
        },
        CallFrame::InputRequired { requests: json("{}"), round: 1, continuation: Continuation::Sealed(None) },
        CallFrame::Task(json("{}")),
        CallFrame::Lost { reason: "unavailable", not_executed: false },
        CallFrame::Lost { reason: "overloaded", not_executed: true },
    ]
}

/// Everything that may happen now.
pub(crate) fn moves(world: &World) -> Vec<Move> {
    let mut all = vec![
        Move::Request("1", "tools/call", r#"{"name":"a","_meta":{"progressToken":1}}"#),
        Move::Request("2", "prompts/get", r#"{"name":"a","_meta":{"progressToken":2}}"#),
        Move::Request("3", "tools/list", "{}"),
        Move::Request("4", "resources/subscribe", r#"{"uri":"file:///a"}"#),
        Move::Request("5", "resources/unsubscribe", r#"{"uri":"file:///a"}"#),
        Move::Request("6", "logging/setLevel", r#"{"level":"debug"}"#),
        Move::Request("7", "ping", "{}"),
        Move::Request("8", "initialize", "{}"),
        Move::Notify("notifications/initialized", "{}"),
        Move::Notify("notifications/cancelled", r#"{"requestId":1}"#),
        Move::Notify("notifications/cancelled", r#"{"requestId":4}"#),
        Move::Respond(99, true),
        Move::Attach(StreamId::OWN),
        Move::Changed(ListKind::Tools),
        Move::Changed(ListKind::Prompts),
        Move::Updated,
        Move::Tick,
        Move::Wait(100),
        Move::Drain,
        Move::Close,
        Move::TakeOver,
        Move::LetGo,
    ];
    for call in world.running.iter().chain(&world.subscribing) {
        all.extend(frames().into_iter().map(|frame| Move::Frame(*call, frame)));
    }
    let rounds = world.saved.journal.values().filter_map(|entry| entry.round.as_ref());
    for number in rounds.flat_map(|round| &round.asks).filter_map(|ask| ask.number) {
        all.extend([Move::Respond(number, true), Move::Respond(number, false)]);
    }
    let kept = world.saved.streams.keys().filter(|stream| **stream != StreamId::OWN);
    all.extend(kept.map(|stream| Move::Attach(*stream)));
    let connected = world.streams.iter().filter(|(_, answering)| answering.connected);
    all.extend(connected.map(|(stream, _)| Move::Gone(*stream)));
    all
}

/// The revisions a session can have.
pub(crate) const OLDER: [Revision; 4] =
    [Revision::V2024_11_05, Revision::V2025_03_26, Revision::V2025_06_18, Revision::V2025_11_25];
