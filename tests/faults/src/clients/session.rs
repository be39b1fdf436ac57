//! A client with one session: it appends to the session's list and reads it, counts, calls slow tools, answers questions,
//! and keeps the session's own stream open. If it is told that the session is gone it begins another one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use history::line::{Doing, Place, What};
use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::call::{Call, Ended, place, response, said};
use super::carried::Carrier;
use super::{Load, PATIENCE, World};
use crate::draw::Draw;
use crate::http::{Answer, Event, Http, Lost, Next};
use crate::recorder::Pen;

/// Answers to questions are sent again for at most so long.
const TRIES: Duration = Duration::from_millis(200);
/// How long a client goes on asking for the end of its session.
const ENDING: Duration = Duration::from_secs(90);

/// A session as its client has it. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    /// The client's name for it.
    pub name: String,
    /// On whose behalf.
    pub principal: String,
    /// How it is reached.
    pub http: Http,
    id: Arc<str>,
    revision: &'static str,
    world: World,
    pen: Pen,
    gone: Arc<AtomicBool>,
    values: Arc<AtomicU64>,
    draw: Arc<Mutex<Draw>>,
    answering: Arc<Mutex<JoinSet<()>>>,
    /// What carries it, if that is a stream of HTTP+SSE.
    pub(super) carrier: Option<Carrier>,
}

/// Works in sessions until it is asked to stop.
pub(super) async fn work(world: World, name: String, load: Load) {
    let mut number = 0;
    while world.goes_on() {
        number += 1;
        let Some(session) = Session::begin(&world, &name, &format!("{name}.{number}"), "alice").await else {
            world.pause(load.pause * 3).await;
            continue;
        };
        let mut hands = JoinSet::new();
        for hand in 0..load.width {
            hands.spawn(session.clone().hand(hand, load.pause));
        }
        let listening = session.clone();
        let mut stream = JoinSet::new();
        stream.spawn(listening.listen());
        while hands.join_next().await.is_some() {}
        session.end().await;
        stream.shutdown().await;
    }
}

impl Session {
    /// Shakes hands; `None` if that did not work.
    pub async fn begin(world: &World, client: &str, name: &str, principal: &str) -> Option<Self> {
        let is_even = world.draw(name).next().is_multiple_of(2);
        let revision = if is_even { "2025-06-18" } else { "2025-11-25" };
        Self::begin_as(world, client, name, principal, revision).await
    }

    /// The same, in this revision.
    pub(super) async fn begin_as(
        world: &World,
        client: &str,
        name: &str,
        principal: &str,
        revision: &'static str,
    ) -> Option<Self> {
        let draw = world.draw(name);
        let pen = world.pen(client);
        let http = world.http(principal);
        let mut session = Self {
            name: name.to_owned(),
            principal: principal.to_owned(),
            http,
            id: "".into(),
            revision,
            world: world.clone(),
            pen,
            gone: Arc::default(),
            values: Arc::default(),
            draw: Arc::new(Mutex::new(draw)),
            answering: Arc::default(),
            carrier: None,
        };
        let op = world.op(name);
        session.write(What::Invoke {
            op: op.clone(),
            principal: principal.to_owned(),
            f: Doing::Create,
            id: json!(op),
            value: None,
            modern: false,
            deadline_ms: 25_000,
        });
        let trace = session.trace();
        let (ended, id) = timeout(PATIENCE, session.shake_hands(&op, &trace))
            .await
            .unwrap_or((Ended::Silence, String::new()));
        session.ended(&op, &trace, &ended);
        if !matches!(ended, Ended::Done(_)) || id.is_empty() {
            return None;
        }
        session.id = id.into();
        world.named(name, &session.id);
        // Without it nothing else is taken; it may be said again.
        for _ in 0..40 {
            let done = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
            let told = timeout(PATIENCE, session.http.post(&session.headers(), done)).await;
            match told {
                Ok(Ok(answer)) if answer.status == 202 => {
                    world.opened(name, &session.id);
                    return Some(session);
                }
                Ok(Ok(answer)) if answer.status == 404 => return None,
                _later => tokio::time::sleep(TRIES).await,
            }
        }
        None
    }

    /// A session of HTTP+SSE whose stream is open.
    pub(super) fn carried(
        world: &World,
        client: &str,
        name: &str,
        http: Http,
        id: &str,
        carrier: Carrier,
    ) -> Self {
        world.named(name, id);
        Self {
            name: name.to_owned(),
            principal: "alice".to_owned(),
            http,
            id: id.into(),
            revision: "2025-06-18",
            world: world.clone(),
            pen: world.pen(client),
            gone: Arc::default(),
            values: Arc::default(),
            draw: Arc::new(Mutex::new(world.draw(name))),
            answering: Arc::default(),
            carrier: Some(carrier),
        }
    }

    /// Shakes hands in such a session.
    pub(super) async fn shake(&self, params: Value) -> Ended {
        Call::new(self, self.world.op(&self.name), Doing::Create).run("initialize", params, None).await
    }

    /// Posts a message, where its answer has no bearing on who reads the session's stream.
    pub(super) async fn post(&self, headers: &[(&str, &str)], body: String) -> Result<Answer, Lost> {
        match &self.carrier {
            Some(carrier) => carrier.post(&self.http, headers, body).await,
            None => {
                let mut all = self.headers();
                all.extend_from_slice(headers);
                self.http.post(&all, body).await
            }
        }
    }

    async fn shake_hands(&self, op: &str, trace: &str) -> (Ended, String) {
        let body = json!({"jsonrpc": "2.0", "id": op, "method": "initialize", "params": {
            "protocolVersion": self.revision, "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "faults", "version": "1"}}});
        let parent = super::call::traceparent(trace);
        let answer = match self.http.post(&[("traceparent", &parent)], body.to_string()).await {
            Ok(answer) => answer,
            Err(Lost::NotSent) => {
                return (Ended::NotDone { status: 0, body: String::new() }, String::new());
            }
            Err(Lost::Broken) => return (Ended::broken(), String::new()),
        };
        let status = answer.status.as_u16();
        let id = answer.header("mcp-session-id").unwrap_or_default().to_owned();
        let text = if answer.is_stream() {
            let mut events = answer.events();
            loop {
                match events.next().await {
                    Next::Event(event) if event.data.is_empty() => {}
                    Next::Event(event) => break event.data,
                    Next::End | Next::Broken => return (Ended::broken(), String::new()),
                }
            }
        } else {
            match answer.text().await {
                Ok(text) => text,
                Err(_broken) => return (Ended::broken(), String::new()),
            }
        };
        let message: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status == 200 {
            self.write(response(&message, Some(op)));
        }
        (super::call::ending(status, &message, &text), id)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Does one thing after another.
    pub(super) async fn hand(self, hand: usize, pause: Duration) {
        let mut draw = self.world.draw(&format!("{}/{hand}", self.name));
        while self.world.goes_on() && !self.has_gone() {
            let f = match draw.below(20) {
                0..6 => Doing::Append,
                6..11 => Doing::Read,
                11..15 => Doing::Count,
                15 => Doing::Slow,
                16 => Doing::Ask,
                17 => Doing::Echo,
                _ => Doing::Ping,
            };
            self.call(f).await;
            let share = u32::try_from(draw.below(100)).unwrap_or(0);
            self.world.pause(pause / 2 + pause * share / 100).await;
        }
    }

    /// Calls a tool, or pings.
    pub async fn call(&self, f: Doing) -> Ended {
        self.call_with(f, 4, 60).await
    }

    /// The same; a slow one takes so many steps of so many milliseconds.
    pub async fn call_with(&self, f: Doing, steps: u64, pause_ms: u64) -> Ended {
        let op = self.world.op(&self.name);
        let (method, params, value) = self.request(&op, f, steps, pause_ms);
        Call::new(self, op, f).run(method, params, value).await
    }

    /// The request for something: method, parameters, and what it appends.
    pub(super) fn request(
        &self,
        op: &str,
        f: Doing,
        steps: u64,
        pause_ms: u64,
    ) -> (&'static str, Value, Option<u64>) {
        let value = (f == Doing::Append).then(|| self.values.fetch_add(1, Ordering::Relaxed));
        let tool = match f {
            Doing::Append => "append",
            Doing::Read => "read",
            Doing::Count => "count",
            Doing::Slow => "slow",
            Doing::Ask => "ask",
            Doing::Echo => "echo",
            Doing::Create | Doing::Delete | Doing::Ping | Doing::Late | Doing::Hijack | Doing::Stranger => {
                return ("ping", json!({}), None);
            }
        };
        let mut arguments = json!({"op": op, "session": self.name, "steps": steps, "pause_ms": pause_ms});
        if let (Some(value), Some(members)) = (value, arguments.as_object_mut()) {
            members.insert("value".into(), value.into());
        }
        let mut params = json!({"name": tool, "arguments": arguments});
        if let (Doing::Slow, Some(members)) = (f, params.as_object_mut()) {
            members.insert("_meta".into(), json!({"progressToken": op}));
        }
        ("tools/call", params, value)
    }

    /// Keeps the session's own stream open, taking it up where it was.
    async fn listen(self) {
        let mut last: Option<(String, Place)> = None;
        let mut number = 0;
        loop {
            let mut headers = self.headers();
            headers.push(("accept", "text/event-stream"));
            let cursor = last.clone();
            if let Some((id, _)) = &cursor {
                headers.push(("last-event-id", id));
            }
            match self.http.send(Method::GET, &headers, "").await {
                Ok(answer) if answer.is_stream() => {
                    number += 1;
                    let conn = format!("{}/get/{number}", self.name);
                    self.write(What::Open { conn: conn.clone(), after: cursor.map(|(_, place)| place) });
                    let mut events = answer.events();
                    while let Next::Event(event) = events.next().await {
                        if let Some(place) = self.seen(&conn, &event, None) {
                            last = Some((event.id.clone().unwrap_or_default(), place));
                        }
                        let message: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
                        if message.get("method").is_some() && message.get("id").is_some() {
                            self.asked(&message, Instant::now() + PATIENCE);
                        } else if message.get("method").is_none() && message.get("id").is_some() {
                            self.write(response(&message, None));
                        }
                    }
                }
                Ok(answer) if answer.status == 404 => return,
                // Told that what it knows is too old: events are missing, and it knows that.
                Ok(answer) if answer.status == 400 => {
                    if let Some((_, place)) = last.take() {
                        let conn = format!("{}/get/{number}", self.name);
                        self.write(What::Gap { conn, stream: place.stream });
                    }
                }
                Ok(_) | Err(_) => {}
            }
            tokio::time::sleep(TRIES).await;
        }
    }

    /// Ends it; tries again while nobody takes that on.
    pub async fn end(&self) {
        self.world.closed(&self.name);
        self.answered().await;
        if self.gone.load(Ordering::Relaxed) {
            return;
        }
        // Longer than any outage: a session that its client has given up would stay until its time to live is over.
        let until = Instant::now() + ENDING;
        while Instant::now() < until {
            let op = self.world.op(&self.name);
            self.write(What::Invoke {
                op: op.clone(),
                principal: self.principal.clone(),
                f: Doing::Delete,
                id: Value::Null,
                value: None,
                modern: false,
                deadline_ms: 25_000,
            });
            let trace = self.trace();
            let parent = super::call::traceparent(&trace);
            let mut headers = self.headers();
            headers.push(("traceparent", &parent));
            let answer = timeout(PATIENCE, self.http.send(Method::DELETE, &headers, "")).await;
            let (ended, over) = match answer {
                Ok(Ok(answer)) if answer.status.is_success() => (Ended::Done(Value::Null), true),
                Ok(Ok(answer)) => {
                    let status = answer.status.as_u16();
                    let body = answer.text().await.unwrap_or_default();
                    (Ended::NotDone { status, body }, status == 404)
                }
                Ok(Err(Lost::NotSent)) => (Ended::NotDone { status: 0, body: String::new() }, false),
                Ok(Err(Lost::Broken)) => (Ended::broken(), false),
                Err(_late) => (Ended::Silence, false),
            };
            self.ended(&op, &trace, &ended);
            if over {
                return;
            }
            tokio::time::sleep(TRIES).await;
        }
    }

    /// Waits until all questions are answered.
    pub(super) async fn answered(&self) {
        let answering = std::mem::take(&mut *self.answering.lock().unwrap_or_else(PoisonError::into_inner));
        answering.join_all().await;
    }

    /// Answers a question of the mesh, again and again until that is taken on; sometimes once more.
    pub(super) fn asked(&self, request: &Value, until: Instant) {
        let Some(id) = request.get("id").cloned() else { return };
        let op = request.pointer("/params/message").and_then(Value::as_str).map(str::to_owned);
        let message = format!("{}-answer-{}", op.clone().unwrap_or_default(), self.world.op("m"));
        let content = json!({"message": message});
        let result = json!({"action": "accept", "content": content});
        let body = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
        let (session, twice) = (self.clone(), self.number().is_multiple_of(4));
        let answering = async move {
            let mut accepted = 0;
            while Instant::now() < until && !session.gone.load(Ordering::Relaxed) {
                let answer = session.post(&[], body.clone()).await;
                match answer {
                    Ok(answer) if answer.status == 202 => {
                        if accepted == 0 {
                            let (message, op) = (message.clone(), op.clone());
                            session.write(What::Accepted { message, op });
                        }
                        accepted += 1;
                        if accepted == 2 || !twice {
                            return;
                        }
                    }
                    Ok(answer) if answer.status == 404 => return session.is_gone(),
                    Ok(answer) if answer.status.as_u16() < 429 => return,
                    _later => tokio::time::sleep(TRIES).await,
                }
            }
        };
        self.answering.lock().unwrap_or_else(PoisonError::into_inner).spawn(answering);
    }

    /// Writes an event down; its place, if it has one.
    pub(super) fn seen(&self, conn: &str, event: &Event, op: Option<String>) -> Option<Place> {
        let at = place(event)?;
        // One that only tells where the stream stands carries no message.
        if !event.data.is_empty() {
            self.write(What::Event {
                conn: conn.to_owned(),
                at: at.clone(),
                raw: event.id.clone().unwrap_or_default(),
                principal: self.principal.clone(),
                data: said(event),
                op,
            });
        }
        Some(at)
    }

    /// The session is over, somebody said.
    pub(super) fn is_gone(&self) {
        if !self.gone.swap(true, Ordering::Relaxed) {
            self.world.closed(&self.name);
            self.write(What::Gone {});
        }
    }

    /// Whether it is.
    pub(super) fn has_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Writes the end of an operation down.
    pub(super) fn ended(&self, op: &str, trace: &str, ended: &Ended) {
        let (op, trace) = (op.to_owned(), Some(trace.to_owned()));
        match ended {
            Ended::Done(result) => {
                let content = result.get("structuredContent");
                let nonce = content.and_then(|content| content.get("nonce")).and_then(Value::as_str);
                let list = content.and_then(|content| content.get("list")).and_then(Value::as_array);
                self.write(What::Ok {
                    op,
                    nonce: nonce.map(str::to_owned),
                    list: list.map(|list| list.iter().filter_map(Value::as_u64).collect()),
                });
            }
            Ended::NotDone { status, body } => {
                // What never reached the mesh has left no trace in it.
                let trace = trace.filter(|_| *status != 0);
                self.write(What::Fail { op, status: *status, body: crate::recorder::digest(body), trace });
            }
            Ended::Unknown { explicit, body } => {
                let trace = trace.filter(|_| *explicit);
                self.write(What::Info {
                    op,
                    explicit: *explicit,
                    body: crate::recorder::digest(body),
                    trace,
                });
            }
            Ended::Silence => {}
        }
    }

    pub(super) fn write(&self, what: What) {
        self.pen.write(Some(&self.name), what);
    }

    /// Headers of every request in it.
    pub(super) fn headers(&self) -> Vec<(&str, &str)> {
        vec![("mcp-session-id", &self.id), ("mcp-protocol-version", self.revision)]
    }

    fn number(&self) -> u64 {
        self.draw.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// A fresh trace id.
    pub(super) fn trace(&self) -> String {
        format!("{:016x}{:016x}", self.number() | 1, self.number() | 1)
    }
}
