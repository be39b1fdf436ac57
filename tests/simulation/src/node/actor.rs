//! One session, one letter after the other. Mirrors `services/session/src/actor.rs`, less batches and HTTP+SSE.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use api::session::{Again, Answer, Event, Frame};
use api::{Epoch, EventId, Principal, SessionId};
use futures::future::{Either, select};
use machines::{CallFrame, CallId, Cursor, Input, ListKind, Millis, Session, StopReason, StreamId};
use mcp::rpc::{self, Message, RpcError};
use mcp::{Json, code};

use super::Node;
use super::call::Call;
use crate::ask::Step;
use crate::sabotage::{Known, Sabotage};
use crate::world::{Queue, Tx};

/// How long a session that moves waits for registries to take its calls on.
const SENDING_MS: u64 = 500;

/// Something for a session.
pub(crate) enum Letter {
    Message { message: Message, key: String, again: Option<Again>, reply: Rc<Reply> },
    Attach { cursor: Option<EventId>, reply: Rc<Reply> },
    Close { reply: Rc<Reply> },
    Heard { call: CallId, number: u64, frame: CallFrame },
    Gone { stream: StreamId, number: u64 },
    Changed,
    Moved,
}

/// Where answers go. That a request was taken on is said together with what follows.
pub(crate) struct Reply {
    tx: Tx<Step>,
    accepted: Cell<bool>,
    session: RefCell<Option<String>>,
}

impl Reply {
    pub(crate) fn new(tx: Tx<Step>) -> Self {
        Self { tx, accepted: Cell::new(false), session: RefCell::new(None) }
    }

    /// A session begins with this, if its handshake succeeds.
    pub(crate) fn begins(&self, session: &str) {
        *self.session.borrow_mut() = Some(session.to_owned());
    }

    pub(crate) fn say(&self, step: Step) {
        let is_head = matches!(&step, Err(_) | Ok(Frame::Refused(_) | Frame::Accepted { .. }));
        if !self.accepted.replace(!matches!(&step, Err(_) | Ok(Frame::Refused(_)))) && !is_head {
            let begun = self.session.borrow_mut().take().filter(|_| is_success(&step));
            self.tx.send(Ok(Frame::Accepted { session: begun }));
        }
        // A reader that is gone does not want to know.
        self.tx.send(step);
    }
}

fn is_success(step: &Step) -> bool {
    let body = match step {
        Ok(Frame::Answer(answer)) => answer.body.as_ref(),
        _ => None,
    };
    body.is_some_and(|body| body.member("result").is_some())
}

struct Reading {
    reply: Rc<Reply>,
    number: u64,
    begun: bool,
}

/// See the module.
pub(crate) struct Actor {
    pub(crate) node: Rc<Node>,
    pub(crate) id: SessionId,
    pub(crate) epoch: Epoch,
    pub(crate) principal: Principal,
    pub(crate) machine: Session,
    pub(crate) version: u64,
    pub(crate) queue: Queue<Letter>,
    /// Tells it from another actor of the same session.
    pub(crate) number: u64,
    readers: BTreeMap<StreamId, Reading>,
    next_reader: u64,
    pub(crate) calls: BTreeMap<CallId, Rc<Call>>,
    pub(crate) keys: BTreeMap<StreamId, String>,
    /// How deliveries ended here.
    pub(crate) answered_here: BTreeMap<String, Answer>,
    pub(crate) pending: VecDeque<Input>,
    pub(crate) wake: Option<Millis>,
    pub(crate) stopped: Option<StopReason>,
}

impl Actor {
    pub(crate) fn new(
        node: &Rc<Node>,
        id: &SessionId,
        epoch: Epoch,
        principal: Principal,
        machine: Session,
    ) -> Self {
        Self {
            node: Rc::clone(node),
            id: id.clone(),
            epoch,
            principal,
            wake: machine.next_wake(),
            machine,
            version: 0,
            queue: Queue::default(),
            number: 0,
            readers: BTreeMap::new(),
            next_reader: 0,
            calls: BTreeMap::new(),
            keys: BTreeMap::new(),
            answered_here: BTreeMap::new(),
            pending: VecDeque::new(),
            stopped: None,
        }
    }

    pub(crate) async fn run(mut self, is_restored: bool) {
        if is_restored {
            self.restore();
        }
        loop {
            while let Some(input) = self.pending.pop_front() {
                self.take(input).await;
            }
            if let Some(reason) = self.stopped {
                return self.end(reason).await;
            }
            match self.wait().await {
                Some(letter) => self.open(letter).await,
                None => {
                    self.wake = None;
                    self.take(Input::DeadlineReached).await;
                }
            }
        }
    }

    async fn wait(&self) -> Option<Letter> {
        let Some(at) = self.wake else { return Some(self.queue.next().await) };
        let ctx = &self.node.ctx;
        let timer = ctx.sleep_ms(at.saturating_sub(ctx.wall_ms()));
        match select(Box::pin(self.queue.next()), timer).await {
            Either::Left((letter, _)) => Some(letter),
            Either::Right(_) => None,
        }
    }

    async fn open(&mut self, letter: Letter) {
        match letter {
            Letter::Message { message, key, again, reply } => {
                if let Some(again) = again
                    && self.taken_on_before(&message, &key, &again, &reply).await
                {
                    return;
                }
                let stream = self.machine.reserve_stream();
                self.add_reader(stream, reply);
                let key = self.keep_key(stream, &message, key);
                self.take(Input::Client { stream, message, key }).await;
            }
            Letter::Attach { cursor, reply } => self.attach(cursor, reply).await,
            Letter::Close { reply } => {
                let stream = self.machine.reserve_stream();
                self.add_reader(stream, reply);
                self.take(Input::Close { stream }).await;
            }
            Letter::Heard { call, number, frame } => self.take(Input::Frame { call, number, frame }).await,
            Letter::Gone { stream, number } => {
                if self.readers.get(&stream).is_some_and(|reading| reading.number == number) {
                    self.readers.remove(&stream);
                    self.take(Input::ReaderGone(stream)).await;
                }
            }
            Letter::Changed => self.take(Input::CatalogChanged(ListKind::Tools)).await,
            Letter::Moved => {
                self.finish_sending().await;
                self.stopped = Some(StopReason::Lost);
            }
        }
    }

    /// Waits until every call that was written down has reached its registry.
    async fn finish_sending(&mut self) {
        let (ctx, mut others) = (self.node.ctx.clone(), Vec::new());
        let until = ctx.now_ms() + SENDING_MS;
        while self.stopped.is_none() && self.calls.values().any(|call| call.last() == 0) {
            let left = until.saturating_sub(ctx.now_ms());
            match ctx.within_ms(left, self.queue.next()).await {
                None => break,
                Some(Letter::Heard { call, number, frame }) => {
                    self.take(Input::Frame { call, number, frame }).await;
                }
                Some(other) => others.push(other),
            }
        }
        others.into_iter().for_each(|letter| self.queue.push(letter));
    }

    /// One step of the machine, and everything it wants.
    pub(crate) async fn take(&mut self, input: Input) {
        let effects = self.machine.step(self.node.ctx.wall_ms(), input);
        self.perform(effects).await;
    }

    fn keep_key(&mut self, stream: StreamId, message: &Message, key: String) -> Option<String> {
        if key.is_empty() || message.method() != Some("tools/call") {
            return None;
        }
        self.keys.insert(stream, key.clone());
        Some(key)
    }

    pub(crate) fn add_reader(&mut self, stream: StreamId, reply: Rc<Reply>) {
        self.next_reader += 1;
        let (number, gone, queue) = (self.next_reader, reply.tx.watch(), self.queue.clone());
        self.node.ctx.spawn(async move {
            gone.await;
            queue.push(Letter::Gone { stream, number });
        });
        self.readers.insert(stream, Reading { reply, number, begun: false });
    }

    pub(crate) fn send(&mut self, stream: StreamId, frame: Frame) {
        if let Some(reading) = self.readers.get_mut(&stream) {
            reading.begun = true;
            reading.reply.say(Ok(frame));
        }
    }

    pub(crate) fn answer(&mut self, stream: StreamId, answer: Answer) {
        if let Some(key) = self.keys.remove(&stream) {
            // Whatever the store knows of it: a delivery that comes again is no new one.
            self.answered_here.insert(key, answer.clone());
        }
        self.send(stream, Frame::Answer(answer));
        self.readers.remove(&stream);
    }

    pub(crate) fn close(&mut self, stream: StreamId) {
        if self.readers.get(&stream).is_some_and(|reading| !reading.begun) {
            self.send(stream, Frame::Open);
        }
        self.readers.remove(&stream);
    }

    async fn attach(&mut self, cursor: Option<EventId>, reply: Rc<Reply>) {
        let (stream, after) = match cursor {
            None => (StreamId::OWN, None),
            Some(event) => (StreamId(event.stream), Some(self.cursor(event))),
        };
        if self.machine.replay(stream, after).is_none() {
            let error = RpcError::new(code::INVALID_REQUEST, "the stream of Last-Event-ID is no longer kept");
            return reply.say(Ok(crate::ask::refused(400, None, &error)));
        }
        self.add_reader(stream, reply);
        self.send(stream, Frame::Accepted { session: None });
        self.replay(stream, after).await;
    }

    /// Up to where a reader knows a stream.
    pub(crate) fn cursor(&self, event: EventId) -> Cursor {
        // What the product did: a number alone was believed.
        let is_blind = self.node.scene.has(Known::AheadCursor);
        Cursor { epoch: if is_blind { self.epoch.0 } else { event.epoch.0 }, seq: event.seq }
    }

    /// Gives the reader of an event stream what it has missed.
    pub(crate) async fn replay(&mut self, stream: StreamId, after: Option<Cursor>) {
        let Some(replay) = self.machine.replay(stream, after) else { return };
        self.send(stream, Frame::Open);
        if replay.gap && !self.node.scene.is(Sabotage::LoseGapNotice) {
            let event = Event { message: Some(gap_notice()), ..Event::default() };
            self.send(stream, Frame::Event(event));
        }
        for event in replay.events {
            let event = self.sign(stream, event);
            self.send(stream, Frame::Event(event));
        }
        if replay.finished {
            self.readers.remove(&stream);
        } else {
            self.take(Input::ReaderAttached(stream)).await;
        }
    }

    pub(crate) fn sign(&self, stream: StreamId, event: machines::Event) -> Event {
        let id = event.seq.map(|seq| {
            let scene = &self.node.scene;
            let epoch = if scene.has(Known::ReplayEpoch) { self.epoch.0 } else { event.epoch };
            let epoch = Epoch(if scene.is(Sabotage::ReuseSeq) { 1 } else { epoch });
            EventId { stream: stream.0, epoch, seq }.sign(&scene.keys, &self.id)
        });
        Event { id, message: event.message, retry_ms: event.retry_ms }
    }

    /// The session is over on this node.
    async fn end(mut self, reason: StopReason) {
        self.node.leave(&self.id, self.number);
        for (_, call) in std::mem::take(&mut self.calls) {
            call.let_go();
            if reason != StopReason::Lost {
                call.release();
            }
        }
        if reason == StopReason::Lost {
            return self.send_elsewhere();
        }
        while let Some(letter) = self.queue.pop() {
            self.open(letter).await;
        }
        // If it fails, the store forgets it by itself.
        let _removed = self.node.store.remove(&self.id, self.epoch).await.is_ok();
    }

    /// Whoever waits here is told to ask the next owner.
    fn send_elsewhere(&self) {
        let moved = || Err(self.node.not_owner(self.id.slot()));
        for reading in self.readers.values() {
            reading.reply.say(moved());
        }
        while let Some(letter) = self.queue.pop() {
            match letter {
                Letter::Message { reply, .. } | Letter::Attach { reply, .. } | Letter::Close { reply } => {
                    reply.say(moved());
                }
                Letter::Heard { .. } | Letter::Gone { .. } | Letter::Changed | Letter::Moved => {}
            }
        }
    }
}

/// What a client is told where events are no longer kept.
fn gap_notice() -> Json {
    let params =
        r#"{"level":"warning","logger":"trunkline","data":"events before this point are no longer kept"}"#;
    rpc::notification("notifications/message", Some(&Json::trusted(params)))
}
