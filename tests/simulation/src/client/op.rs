//! One operation of a client, to its one ending: broken streams are taken up again, questions are answered, and everything
//! that arrives is written down. The same as `tests/faults/src/clients/call.rs`, without HTTP.

use std::cell::Cell;
use std::rc::Rc;

use api::session::{Answer, Event, Frame};
use history::line::{Doing, Place, What};
use mcp::rpc::{Id, Message, Notification, Response};
use mcp::{Json, scan};
use serde_json::{Value, json};

use super::{PATIENCE_MS, Session};
use crate::ask::{Kind, Step};
use crate::world::Rx;

/// Before a broken stream is taken up again.
const AGAIN_MS: u64 = 150;

/// How an operation ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ended {
    Done { nonce: Option<String>, list: Option<Vec<u64>> },
    NotDone { status: u16, body: String },
    Unknown { explicit: bool, body: String },
}

/// One operation.
pub(crate) struct Op {
    session: Rc<Session>,
    pub(crate) name: String,
    f: Doing,
    value: Option<u64>,
    conns: Cell<u32>,
    /// A connection was closed on it, so that it did not end in silence.
    was_closed: Cell<bool>,
    /// The client has taken it back, and wants no answer any more.
    taken_back: Cell<bool>,
}

/// Where the reading of a stream stands.
struct Reading {
    conn: String,
    last: Option<(String, Place)>,
    opened: bool,
}

impl Op {
    pub(crate) fn new(session: &Rc<Session>, f: Doing, value: Option<u64>) -> Self {
        let name = session.client.op_name();
        Self {
            session: Rc::clone(session),
            name,
            f,
            value,
            conns: Cell::new(0),
            was_closed: Cell::new(false),
            taken_back: Cell::new(false),
        }
    }

    fn write(&self, what: What) {
        self.session.client.write(&self.session.name, what);
    }

    fn invoke(&self) {
        self.write(What::Invoke {
            op: self.name.clone(),
            principal: self.session.principal.subject.clone(),
            f: self.f,
            id: json!(self.name),
            value: self.value,
            modern: false,
            deadline_ms: PATIENCE_MS,
        });
    }

    /// Makes the request and awaits its end, which is written down.
    pub(crate) async fn run(&self, message: Message) -> Ended {
        self.perform(Kind::Deliver { message, key: String::new(), again: None }).await
    }

    /// The same, but the client takes it back soon.
    pub(crate) async fn run_and_take_back(self, message: Message) -> Ended {
        let (client, this) = (Rc::clone(&self.session.client), Rc::new(self));
        let params = json!({"requestId": this.name, "reason": "changed its mind"}).to_string();
        let taking_back = Rc::clone(&this);
        client.ctx.spawn(async move {
            let this = taking_back;
            this.session.client.pause(1, 600).await;
            let method = "notifications/cancelled".to_owned();
            let params = Some(Json::trusted(params));
            this.taken_back.set(true);
            this.session.post(Message::Notification(Notification { method, params })).await;
        });
        this.run(message).await
    }

    /// Ends the session.
    pub(crate) async fn close(&self) -> Ended {
        self.perform(Kind::Close).await
    }

    async fn perform(&self, kind: Kind) -> Ended {
        self.invoke();
        let ctx = &self.session.client.ctx;
        let ended = ctx.within_ms(PATIENCE_MS, self.exchange(kind)).await;
        let given_up = Ended::Unknown { explicit: false, body: String::new() };
        // Silence is written down as such: nothing.
        let Some(ended) = ended.or_else(|| self.was_closed.get().then(|| given_up.clone())) else {
            return given_up;
        };
        let op = self.name.clone();
        if self.taken_back.get() && ended == given_up {
            self.write(What::Cancelled { op });
            return ended;
        }
        let is_ours = !matches!(self.f, Doing::Hijack | Doing::Stranger);
        if let (true, Ended::NotDone { status: 404, .. }) = (is_ours, &ended) {
            self.session.gone();
        }
        self.write(match ended.clone() {
            Ended::Done { nonce, list } => What::Ok { op, nonce, list },
            Ended::NotDone { status, body } => What::Fail { op, status, body, trace: None },
            Ended::Unknown { explicit, body } => What::Info { op, explicit, body, trace: None },
        });
        ended
    }

    async fn exchange(&self, kind: Kind) -> Ended {
        let client = &self.session.client;
        // The same to a client as a mesh that is busy.
        let nobody = || Ended::NotDone { status: 503, body: "nobody was reached".into() };
        let Some(gateway) = client.gateway() else { return nobody() };
        let conn = self.conn();
        let mut frames = gateway.ask(&client.scene.net, &client.ctx, self.session.ask(kind));
        let mut reading = Reading { conn, last: None, opened: false };
        loop {
            let step = match frames.recv().await {
                None => return self.resume(reading).await,
                Some(step) => step,
            };
            match step {
                Err(_) if !reading.opened => return nobody(),
                Err(_) => return self.resume(reading).await,
                Ok(Frame::Accepted { session }) => {
                    if session.is_some() {
                        *self.session.id.borrow_mut() = session;
                    }
                }
                Ok(Frame::Answer(answer) | Frame::Refused(answer)) => return self.understood(&answer),
                Ok(Frame::Open) => {
                    reading.opened = true;
                    self.write(What::Open { conn: reading.conn.clone(), after: None });
                    return match self.read(&mut frames, &mut reading).await {
                        Some(ended) => ended,
                        None => {
                            drop(frames);
                            self.resume(reading).await
                        }
                    };
                }
                Ok(Frame::Event(_)) => {}
            }
        }
    }

    /// Takes a stream up again, at whatever gateway, until it brings the response.
    async fn resume(&self, mut reading: Reading) -> Ended {
        let client = &self.session.client;
        self.was_closed.set(true);
        loop {
            let Some((id, place)) = reading.last.clone() else {
                // Nothing to take it up by.
                return Ended::Unknown { explicit: false, body: String::new() };
            };
            client.ctx.sleep_ms(AGAIN_MS + client.range(0, 300)).await;
            if self.taken_back.get() {
                return Ended::Unknown { explicit: false, body: String::new() };
            }
            let Some(gateway) = client.gateway() else { continue };
            let ask = self.session.ask(Kind::Attach { last: Some(id) });
            let mut frames = gateway.ask(&client.scene.net, &client.ctx, ask);
            loop {
                match frames.recv().await {
                    None | Some(Err(_)) => break,
                    Some(Ok(Frame::Answer(answer) | Frame::Refused(answer))) => match answer.status {
                        429 | 500..=599 => break,
                        404 => {
                            self.session.gone();
                            return Ended::Unknown { explicit: true, body: String::new() };
                        }
                        _ => return Ended::Unknown { explicit: true, body: String::new() },
                    },
                    Some(Ok(Frame::Open)) => {
                        reading.conn = self.conn();
                        let (conn, after) = (reading.conn.clone(), Some(place.clone()));
                        self.write(What::Open { conn, after });
                        if let Some(ended) = self.read(&mut frames, &mut reading).await {
                            return ended;
                        }
                        break;
                    }
                    Some(Ok(Frame::Accepted { .. } | Frame::Event(_))) => {}
                }
            }
        }
    }

    /// Reads the session's own stream for as long as there is a session, and takes it up again where it breaks.
    pub(crate) async fn listen(&self) {
        let client = &self.session.client;
        let mut reading = Reading { conn: String::new(), last: None, opened: false };
        while client.is_on() && !self.session.is_gone.get() {
            let Some(gateway) = client.gateway() else { return };
            let after = reading.last.clone();
            let ask = self.session.ask(Kind::Attach { last: after.as_ref().map(|(id, _)| id.clone()) });
            let mut frames = gateway.ask(&client.scene.net, &client.ctx, ask);
            reading.conn = self.conn();
            while let Some(Ok(frame)) = frames.recv().await {
                match frame {
                    Frame::Accepted { .. } => {}
                    Frame::Open => {
                        let after = after.as_ref().map(|(_, place)| place.clone());
                        self.write(What::Open { conn: reading.conn.clone(), after });
                    }
                    Frame::Event(event) => {
                        let text = event.message.as_ref().map_or("", |message| message.as_str()).to_owned();
                        let message: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
                        self.seen(&event, &text, &message, &mut reading);
                    }
                    Frame::Answer(answer) | Frame::Refused(answer) => match (answer.status, &reading.last) {
                        (404, _) => return self.session.gone(),
                        // That the place is not kept any more is the notice of a gap.
                        (400, Some((_, place))) => {
                            let (conn, stream) = (reading.conn.clone(), place.stream.clone());
                            self.write(What::Gap { conn, stream });
                            reading.last = None;
                        }
                        _ => {}
                    },
                }
                if reading.last.is_some() && client.scene.sim.per_mille(200) {
                    // The client hangs up and comes back later.
                    break;
                }
            }
            drop(frames);
            client.pause(50, 900).await;
        }
    }

    /// Reads until the response came or the connection ends, which the client may be the cause of.
    async fn read(&self, frames: &mut Rx<Step>, reading: &mut Reading) -> Option<Ended> {
        let client = &self.session.client;
        loop {
            if reading.last.is_some() && client.scene.sim.per_mille(60) {
                // The client hangs up and comes back later.
                client.ctx.sleep_ms(client.range(0, 1_500)).await;
                return None;
            }
            let event = match frames.recv().await {
                Some(Ok(Frame::Event(event))) => event,
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => return None,
            };
            let text = event.message.as_ref().map_or("", |message| message.as_str()).to_owned();
            let message: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
            let has_place = self.seen(&event, &text, &message, reading);
            if message.get("method").is_some() {
                if message.get("id").is_some() {
                    self.asked(&message);
                }
            } else if message.get("result").is_some() || message.get("error").is_some() {
                self.respond(&message);
                if let (true, Some((_, place))) = (has_place, &reading.last) {
                    let (conn, stream) = (reading.conn.clone(), place.stream.clone());
                    self.write(What::Complete { conn, stream });
                }
                return Some(ending(200, &message, &text));
            }
        }
    }

    /// Notes an event; whether it had a place.
    fn seen(&self, event: &Event, text: &str, message: &Value, reading: &mut Reading) -> bool {
        let Some(raw) = event.id.clone() else {
            if let (true, Some((_, place))) = (text.contains("no longer kept"), &reading.last) {
                let (conn, stream) = (reading.conn.clone(), place.stream.clone());
                self.write(What::Gap { conn, stream });
            }
            return false;
        };
        let Some(at) = place_of(&raw) else { return false };
        let op = message.pointer("/params/progressToken").and_then(Value::as_str).map(str::to_owned);
        self.write(What::Event {
            conn: reading.conn.clone(),
            at: at.clone(),
            raw: format!("{}/{raw}", self.session.name),
            principal: self.session.principal.subject.clone(),
            data: text.to_owned(),
            op,
        });
        reading.last = Some((raw, at));
        true
    }

    /// A question of the server: answered, sometimes late, sometimes twice, seldom never.
    fn asked(&self, message: &Value) {
        let client = Rc::clone(&self.session.client);
        let Some(id) = message.get("id").map(|id| Json::trusted(id.to_string())).and_then(|id| Id::read(&id))
        else {
            return;
        };
        let (session, op) = (Rc::clone(&self.session), self.name.clone());
        let mood = if client.scene.calm.get() { 50 } else { client.range(0, 100) };
        if mood < 3 {
            return;
        }
        let name = format!("{op}/answer");
        let content = json!({"role": "assistant", "content": {"type": "text", "text": "x"}, "model": name});
        let spawner = client.ctx.clone();
        spawner.spawn(async move {
            client
                .ctx
                .sleep_ms(if mood < 20 { client.range(500, 3_000) } else { client.range(0, 200) })
                .await;
            let answer = || {
                Message::Response(Response {
                    id: id.clone(),
                    outcome: Ok(Json::trusted(content.to_string())),
                })
            };
            let mut left = 8;
            while left > 0 {
                left -= 1;
                if session.post(answer()).await {
                    let what = What::Accepted { message: name.clone(), op: Some(op.clone()) };
                    client.write(&session.name, what);
                    break;
                }
                client.ctx.sleep_ms(400).await;
            }
            if mood > 90 {
                session.post(answer()).await;
            }
        });
    }

    fn respond(&self, message: &Value) {
        let id = message.get("id").cloned().unwrap_or(Value::Null);
        self.write(What::Response { id, op: Some(self.name.clone()) });
    }

    /// A whole answer.
    fn understood(&self, answer: &Answer) -> Ended {
        let text = answer.body.as_ref().map_or("", |body| body.as_str());
        if self.f == Doing::Delete && answer.status == 200 {
            return Ended::Done { nonce: None, list: None };
        }
        let message: Value = serde_json::from_str(text).unwrap_or(Value::Null);
        let is_response = message.get("result").is_some() || message.get("error").is_some();
        if answer.status == 200 && is_response {
            self.respond(&message);
        }
        // Less the request's id.
        let body = scan::member(text, "error").unwrap_or(text).to_owned();
        ending(answer.status, &message, &body)
    }

    fn conn(&self) -> String {
        self.conns.set(self.conns.get() + 1);
        format!("{}/{}", self.name, self.conns.get())
    }
}

/// What a message means for the operation.
fn ending(status: u16, message: &Value, body: &str) -> Ended {
    if let Some(result) = message.get("result").filter(|_| status == 200) {
        let text = result.pointer("/content/0/text").and_then(Value::as_str).unwrap_or("{}");
        let said: Value = serde_json::from_str(text).unwrap_or(Value::Null);
        let nonce = said.get("nonce").and_then(Value::as_str).map(str::to_owned);
        let list = said.get("list").and_then(Value::as_array);
        let list = list.map(|list| list.iter().filter_map(Value::as_u64).collect());
        return Ended::Done { nonce, list };
    }
    if message.pointer("/error/data/outcome").and_then(Value::as_str) == Some("unknown") {
        return Ended::Unknown { explicit: true, body: String::new() };
    }
    Ended::NotDone { status, body: body.to_owned() }
}

/// Where an event stands, by its id.
fn place_of(id: &str) -> Option<Place> {
    let mut parts = id.split('.');
    let (stream, place) = (parts.next()?, parts.next()?);
    let (epoch, seq) = place.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Place { stream: number(stream)?.to_string(), epoch: number(epoch)?, seq: number(seq)? })
}
