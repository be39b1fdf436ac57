//! A client of 2025-03-26 that posts several messages at once. What comes of them is one response, which cannot be taken up again:
//! whatever happens to the session's owner, each member ends on it.

use std::collections::BTreeMap;

use history::line::{Doing, What};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::call::{Ended, ending, response, traceparent};
use super::session::Session;
use super::{Load, PATIENCE, World};
use crate::draw::Draw;
use crate::http::{Answer, Lost, Next};

/// The only revision that has batches.
const REVISION: &str = "2025-03-26";

/// Works in such sessions until it is asked to stop.
pub(super) async fn work(world: World, name: String, load: Load) {
    let mut number = 0;
    while world.goes_on() {
        number += 1;
        let own = format!("{name}.{number}");
        let Some(session) = Session::begin_as(&world, &name, &own, "alice", REVISION).await else {
            world.pause(load.pause * 3).await;
            continue;
        };
        let mut hands = JoinSet::new();
        for hand in 0..load.width {
            hands.spawn(work_on(world.clone(), session.clone(), hand, load));
        }
        while hands.join_next().await.is_some() {}
        session.end().await;
    }
}

async fn work_on(world: World, session: Session, hand: usize, load: Load) {
    let mut draw = world.draw(&format!("{}/{hand}", session.name));
    while world.goes_on() && !session.has_gone() {
        let count = 2 + draw.below(3);
        let members: Vec<Doing> = (0..count).map(|_| what(&mut draw)).collect();
        post(&world, &session, &members).await;
        world.pause(load.pause * 2).await;
    }
}

fn what(draw: &mut Draw) -> Doing {
    match draw.below(10) {
        0..4 => Doing::Append,
        4..6 => Doing::Read,
        6..8 => Doing::Count,
        8 => Doing::Slow,
        _ => Doing::Ping,
    }
}

/// Posts members and awaits all their ends.
async fn post(world: &World, session: &Session, members: &[Doing]) {
    let until = Instant::now() + PATIENCE;
    let trace = session.trace();
    let (mut waiting, mut messages) = (BTreeMap::new(), Vec::new());
    for f in members {
        let op = world.op(&session.name);
        let (method, params, value) = session.request(&op, *f, 4, 60);
        messages.push(json!({"jsonrpc": "2.0", "id": op, "method": method, "params": params}));
        session.write(What::Invoke {
            op: op.clone(),
            principal: session.principal.clone(),
            f: *f,
            id: json!(op),
            value,
            modern: false,
            deadline_ms: u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX),
        });
        waiting.insert(op, ());
    }
    let mut end = |op: &str, ended: &Ended| {
        if waiting.remove(op).is_some() {
            session.ended(op, &trace, ended);
        }
        waiting.len()
    };
    let parent = traceparent(&trace);
    let headers = [("traceparent", parent.as_str())];
    let posting = session.post(&headers, Value::Array(messages).to_string());
    let rest = match timeout_at(until, posting).await {
        Ok(Ok(answer)) if answer.is_stream() => {
            match timeout_at(until, follow(session, answer, &mut end)).await {
                Ok(()) => Ended::broken(),
                Err(_late) => Ended::Silence,
            }
        }
        Ok(Ok(answer)) => refused(session, answer).await,
        Ok(Err(Lost::NotSent)) => Ended::NotDone { status: 0, body: "nobody was reached".into() },
        Ok(Err(Lost::Broken)) => Ended::broken(),
        Err(_late) => Ended::Silence,
    };
    for op in waiting.into_keys() {
        session.ended(&op, &trace, &rest);
    }
}

/// Reads until each member has its response, or nothing more comes.
async fn follow(session: &Session, answer: Answer, end: &mut impl FnMut(&str, &Ended) -> usize) {
    let mut events = answer.events();
    while let Next::Event(event) = events.next().await {
        let message: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
        let Some(op) = message.get("id").and_then(Value::as_str) else { continue };
        if message.get("method").is_some() {
            continue;
        }
        session.write(response(&message, Some(op)));
        if end(op, &ending(200, &message, &event.data)) == 0 {
            return;
        }
    }
}

/// No member was taken on.
async fn refused(session: &Session, answer: Answer) -> Ended {
    let status = answer.status.as_u16();
    if status == 404 {
        session.is_gone();
    }
    match answer.text().await {
        Ok(text) => {
            let message = serde_json::from_str(&text).unwrap_or(Value::Null);
            ending(status, &message, &text)
        }
        Err(_broken) => Ended::broken(),
    }
}
