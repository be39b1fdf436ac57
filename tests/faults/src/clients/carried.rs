//! A client of HTTP+SSE: one stream is its session, everything comes back on it, and it must not end before its client wants it
//! to. The work is that of any other session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use history::line::{Doing, What};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::call::{Ended, response};
use super::session::Session;
use super::{Load, PATIENCE, World};
use crate::http::{Answer, Events, Http, Lost, Next};

/// Between two looks whether a session has ended.
const LOOK: Duration = Duration::from_millis(200);

/// Where the messages of such a session go, and who waits for what comes back. Cheap to clone.
#[derive(Clone)]
pub(super) struct Carrier {
    endpoint: Arc<str>,
    /// Requests under way, by their names.
    waiting: Arc<Mutex<BTreeMap<String, oneshot::Sender<Value>>>>,
}

/// Works in such sessions until it is asked to stop.
pub(super) async fn work(world: World, name: String, load: Load) {
    let mut number = 0;
    while world.goes_on() {
        number += 1;
        let begun = timeout(PATIENCE, begin(&world, &name, &format!("{name}.{number}"))).await;
        let Ok(Some((session, reading))) = begun else {
            world.pause(load.pause * 3).await;
            continue;
        };
        let mut hands = JoinSet::new();
        for hand in 0..load.width {
            hands.spawn(session.clone().hand(hand, load.pause));
        }
        while hands.join_next().await.is_some() {}
        session.answered().await;
        end(&world, &session, reading).await;
    }
}

/// Opens the stream and shakes hands; the session, and whoever reads the stream.
async fn begin(world: &World, client: &str, name: &str) -> Option<(Session, JoinSet<()>)> {
    let http = world.http("alice");
    let answer = http.send_to("/sse", Method::GET, &[("accept", "text/event-stream")], "").await.ok()?;
    if !answer.is_stream() {
        return None;
    }
    let mut events = answer.events();
    let Next::Event(first) = events.next().await else { return None };
    let id = first.data.split_once("sessionId=")?.1.to_owned();
    let carrier = Carrier { endpoint: first.data.as_str().into(), waiting: Arc::default() };
    let session = Session::carried(world, client, name, http, &id, carrier.clone());
    let mut reading = JoinSet::new();
    reading.spawn(carrier.read(session.clone(), events));
    // The transport carries newer revisions, too: this one has questions to the user.
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {"elicitation": {}},
        "clientInfo": {"name": "faults", "version": "1"}});
    let Ended::Done(_) = session.shake(params).await else { return None };
    let done = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    while session.post(&[], done.to_owned()).await.ok()?.status != 202 {
        sleep(LOOK).await;
    }
    world.opened(name, &id);
    Some((session, reading))
}

/// Closes the stream, which ends the session: that is done when nobody finds it any more.
async fn end(world: &World, session: &Session, mut reading: JoinSet<()>) {
    world.closed(&session.name);
    if session.has_gone() {
        return;
    }
    let op = world.op(&session.name);
    session.write(What::Invoke {
        op: op.clone(),
        principal: session.principal.clone(),
        f: Doing::Delete,
        id: Value::Null,
        value: None,
        modern: false,
        deadline_ms: 25_000,
    });
    reading.shutdown().await;
    let (trace, until) = (session.trace(), Instant::now() + PATIENCE);
    let ping = r#"{"jsonrpc":"2.0","id":"over","method":"ping"}"#;
    while Instant::now() < until {
        let answer = timeout(PATIENCE, session.post(&[], ping.to_owned())).await;
        if matches!(answer, Ok(Ok(answer)) if answer.status == 404) {
            return session.ended(&op, &trace, &Ended::Done(Value::Null));
        }
        sleep(LOOK).await;
    }
    session.ended(&op, &trace, &Ended::broken());
}

impl Carrier {
    /// Posts a message.
    pub(super) async fn post(
        &self,
        http: &Http,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Answer, Lost> {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        http.send_to(&self.endpoint, Method::POST, &all, body).await
    }

    /// From now on the response to a request is kept for whoever waits.
    pub(super) fn expect(&self, op: &str) -> oneshot::Receiver<Value> {
        let (say, heard) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(op.to_owned(), say);
        heard
    }

    /// Reads the stream to its end, which is the end of the session: nobody but the client may bring it about.
    async fn read(self, session: Session, mut events: Events) {
        while let Next::Event(event) = events.next().await {
            let message: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            let Some(id) = message.get("id") else { continue };
            if message.get("method").is_some() {
                session.asked(&message, Instant::now() + PATIENCE);
                continue;
            }
            let op = id.as_str().unwrap_or_default().to_owned();
            session.write(response(&message, Some(&op)));
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&op);
            if let Some(waiting) = waiting {
                // One that has given up does not want to know.
                let _heard = waiting.send(message).is_ok();
            }
        }
        session.is_gone();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
