//! One request of one session, from the first byte to its one ending: streams that break are taken up again where they were,
//! questions are answered, and everything that arrives is written down.

use std::time::Duration;

use history::line::{Doing, Place, What};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::PATIENCE;
use super::session::Session;
use crate::http::{Answer, Event, Events, Lost, Next};
use crate::recorder::digest;

/// How much longer than its deadline an operation is listened for: what comes later still shows in the history.
const GRACE: Duration = Duration::from_millis(1_500);
/// Before a broken stream is taken up again.
const AGAIN: Duration = Duration::from_millis(150);

/// How a request ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// With a result.
    Done(Value),
    /// Certainly not done.
    NotDone {
        /// HTTP status; 0 where nobody was reached.
        status: u16,
        /// The body.
        body: String,
    },
    /// Nobody knows.
    Unknown {
        /// Whether the mesh said so.
        explicit: bool,
        /// What it said.
        body: String,
    },
    /// Nothing came at all.
    Silence,
}

impl Ended {
    /// The connection ended, and nobody said anything.
    pub(super) const fn broken() -> Self {
        Self::Unknown { explicit: false, body: String::new() }
    }

    /// The mesh said that it does not know, or that something went wrong underway.
    pub(super) fn unknown(body: &str) -> Self {
        Self::Unknown { explicit: true, body: body.to_owned() }
    }
}

/// A request that is under way.
pub struct Call<'a> {
    /// Whose.
    pub session: &'a Session,
    /// Its name, which is its JSON-RPC id, too.
    pub op: String,
    /// What it is.
    pub f: Doing,
    /// The trace it begins.
    pub trace: String,
    until: Instant,
    conns: u32,
}

/// Where the reading of a stream stands.
struct Reading {
    conn: String,
    last: Option<(String, Place)>,
    retry: Duration,
    /// Connections that brought nothing, in a row.
    idle: u32,
}

impl<'a> Call<'a> {
    /// A request that is about to be made.
    #[must_use]
    pub fn new(session: &'a Session, op: String, f: Doing) -> Self {
        let trace = session.trace();
        Self { session, op, f, trace, until: Instant::now() + PATIENCE + GRACE, conns: 0 }
    }

    /// Makes a request of this method and awaits its end, which is written down.
    pub async fn run(mut self, method: &str, params: Value, value: Option<u64>) -> Ended {
        self.session.write(What::Invoke {
            op: self.op.clone(),
            principal: self.session.principal.clone(),
            f: self.f,
            id: json!(self.op),
            value,
            modern: false,
            deadline_ms: u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX),
        });
        let body = json!({"jsonrpc": "2.0", "id": self.op, "method": method, "params": params});
        let ended = match timeout_at(self.until, self.exchange(body.to_string())).await {
            Ok(ended) => ended,
            Err(_late) => Ended::Silence,
        };
        self.session.ended(&self.op, &self.trace, &ended);
        ended
    }

    async fn exchange(&mut self, body: String) -> Ended {
        let parent = traceparent(&self.trace);
        let mut headers = self.session.headers();
        headers.push(("traceparent", &parent));
        if let Some(carrier) = &self.session.carrier {
            let heard = carrier.expect(&self.op);
            return match self.session.post(&[("traceparent", &parent)], body).await {
                // The connection may have broken behind the message: what came of it is heard all the same.
                Err(Lost::Broken) => self.heard(heard).await,
                Ok(answer) if answer.status.is_success() => self.heard(heard).await,
                Ok(answer) => {
                    let status = answer.status.as_u16();
                    self.understood(status, &answer.text().await.unwrap_or_default())
                }
                Err(Lost::NotSent) => Ended::NotDone { status: 0, body: "nobody was reached".into() },
            };
        }
        let answer = match self.session.http.post(&headers, body).await {
            Ok(answer) => answer,
            Err(Lost::NotSent) => return Ended::NotDone { status: 0, body: "nobody was reached".into() },
            Err(Lost::Broken) => return Ended::broken(),
        };
        if answer.is_stream() {
            return self.follow(answer).await;
        }
        let status = answer.status.as_u16();
        match answer.text().await {
            Ok(text) => self.understood(status, &text),
            Err(_broken) => Ended::broken(),
        }
    }

    /// What comes back on the stream that carries the session.
    async fn heard(&self, heard: oneshot::Receiver<Value>) -> Ended {
        match heard.await {
            Ok(message) => ending(200, &message, &message.to_string()),
            Err(_over) => Ended::broken(),
        }
    }

    /// A whole answer.
    fn understood(&self, status: u16, text: &str) -> Ended {
        if status == 404 {
            self.session.is_gone();
        }
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return Ended::NotDone { status, body: text.to_owned() };
        };
        let is_response = message.get("result").is_some() || message.get("error").is_some();
        if status == 200 && is_response {
            self.session.write(response(&message, Some(&self.op)));
        }
        ending(status, &message, text)
    }

    /// Reads a stream to the response; if it breaks, takes it up again at the same or another gateway.
    async fn follow(&mut self, answer: Answer) -> Ended {
        let mut reading = Reading { conn: self.conn(), last: None, retry: AGAIN, idle: 0 };
        self.session.write(What::Open { conn: reading.conn.clone(), after: None });
        let mut events = Some(answer.events());
        loop {
            if let Some(open) = events.as_mut()
                && let Some(ended) = self.read(open, &mut reading).await
            {
                return ended;
            }
            let Some((id, place)) = reading.last.clone() else {
                // Nothing to take it up by.
                return Ended::broken();
            };
            if reading.idle > 0 {
                tokio::time::sleep(reading.retry).await;
            }
            reading.idle += 1;
            events = match self.resume(&id).await {
                Ok(answer) if answer.is_stream() => {
                    reading.conn = self.conn();
                    let (conn, after) = (reading.conn.clone(), Some(place));
                    self.session.write(What::Open { conn, after });
                    Some(answer.events())
                }
                Ok(answer) => {
                    let status = answer.status.as_u16();
                    match (status, answer.text().await) {
                        (429 | 503, _) | (_, Err(_)) => None,
                        (404, Ok(_)) => {
                            self.session.is_gone();
                            return Ended::unknown("the session is gone");
                        }
                        // Told that the stream is no more, with whatever was in it.
                        (_, Ok(text)) => return Ended::unknown(&text),
                    }
                }
                Err(_lost) => None,
            };
        }
    }

    async fn resume(&self, id: &str) -> Result<Answer, Lost> {
        let mut headers = self.session.headers();
        headers.extend([("accept", "text/event-stream"), ("last-event-id", id)]);
        self.session.http.send(Method::GET, &headers, "").await
    }

    /// Reads until the response came or the connection ends.
    async fn read(&self, events: &mut Events, reading: &mut Reading) -> Option<Ended> {
        loop {
            let event = match events.next().await {
                Next::Event(event) => event,
                Next::End | Next::Broken => return None,
            };
            if let Some(after) = event.retry_ms {
                reading.retry = Duration::from_millis(after.min(1_000));
            }
            let message: Value = serde_json::from_str(&event.data).unwrap_or(Value::Null);
            if let Some(place) = self.session.seen(&reading.conn, &event, self.about(&message)) {
                reading.last = Some((event.id.clone().unwrap_or_default(), place));
                reading.idle = 0;
            }
            if message.get("method").is_some() {
                if message.get("id").is_some() {
                    self.session.asked(&message, self.until);
                }
            } else if message.get("id").is_some() || message.get("error").is_some() {
                self.session.write(response(&message, Some(&self.op)));
                // A response without an id was made up for want of the one that was kept.
                if let (Some((_, place)), Some(_)) = (&reading.last, &event.id) {
                    let (conn, stream) = (reading.conn.clone(), place.stream.clone());
                    self.session.write(What::Complete { conn, stream });
                }
                return Some(ending(200, &message, &event.data));
            }
        }
    }

    /// The operation that a message says it is about.
    fn about(&self, message: &Value) -> Option<String> {
        let token = message.pointer("/params/progressToken").or_else(|| message.get("id"));
        let is_ours = message.get("method").is_none() || message.pointer("/params/progressToken").is_some();
        token.filter(|_| is_ours).and_then(Value::as_str).map(str::to_owned)
    }

    fn conn(&mut self) -> String {
        self.conns += 1;
        format!("{}/{}", self.op, self.conns)
    }
}

/// What a message means for the request.
pub(super) fn ending(status: u16, message: &Value, text: &str) -> Ended {
    if let Some(result) = message.get("result") {
        // A tool that failed has run; what it did is not told.
        let failed = result.get("isError").and_then(Value::as_bool).unwrap_or(false);
        return if failed { Ended::unknown(text) } else { Ended::Done(result.clone()) };
    }
    let outcome = message.pointer("/error/data/outcome").and_then(Value::as_str);
    if outcome == Some("unknown") {
        return Ended::unknown(text);
    }
    Ended::NotDone { status, body: text.to_owned() }
}

/// A response that arrived.
pub(super) fn response(message: &Value, op: Option<&str>) -> What {
    let id = message.get("id").cloned().unwrap_or(Value::Null);
    What::Response { id, op: op.map(str::to_owned) }
}

/// The header that makes a trace ours.
pub(super) fn traceparent(trace: &str) -> String {
    let span = trace.get(16..).unwrap_or("0000000000000001");
    format!("00-{trace}-{span}-01")
}

/// Where an event stands, by its id.
pub(super) fn place(event: &Event) -> Option<Place> {
    let mut parts = event.id.as_deref()?.split('.');
    let (stream, place) = (parts.next()?, parts.next()?);
    let (epoch, seq) = place.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    Some(Place { stream: number(stream)?.to_string(), epoch: number(epoch)?, seq: number(seq)? })
}

/// What an event said, as it stands in a history.
pub(super) fn said(event: &Event) -> String {
    digest(&event.data)
}
