//! Runs one session while something is in flight. No decisions: inputs go to the machine, effects come back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use api::session::Frame;
use api::{Code, Epoch, Error, EventId};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use machines::{CallFrame, CallId, Continuation, Cursor, Input, Millis, StopReason, StreamId};
use mcp::rpc::{self, Message, RpcError};
use mcp::telemetry::attribute;
use mcp::{Json, Method, code};
use tokio::sync::mpsc;

use crate::calling::Caller;
use crate::carry::{self, Carried, refuse_batch};
use crate::host::Shared;
use crate::letter::Letter;
use crate::reader::Reader;
use crate::readers::{Gone, Readers};
use crate::registries::call::{Call, Heard};
use crate::registries::watches::Subscription;
use crate::residents::{Removed, Resident};
use crate::several::Several;
use crate::wake;

/// How long a session that moves waits for registries to take its calls on.
const SENDING: Duration = Duration::from_millis(500);

/// Something that was waited for has come.
pub(crate) enum News {
    /// A registry said something.
    Heard(CallId, Heard),
    /// A subscription was accepted or refused.
    Subscribed(CallId, String, Result<Subscription, RpcError>),
    /// The same for one that the session had before it was restored.
    Renewed(String, Result<Subscription, RpcError>),
}

/// See the module.
pub(crate) struct Actor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) resident: Box<Resident>,
    pub(crate) caller: Caller,
    pub(crate) readers: Readers,
    pub(crate) carried: Carried,
    pub(crate) calls: BTreeMap<CallId, Arc<Call>>,
    pub(crate) news: Several<BoxStream<'static, News>>,
    /// Keys of the deliveries of calls that wait for an answer.
    pub(crate) keys: BTreeMap<StreamId, String>,
    /// What the queue could not take.
    beside: VecDeque<Letter>,
    /// Inputs that need no waiting.
    pub(crate) pending: VecDeque<Input>,
    pub(crate) wake: Option<Millis>,
    timer: wake::Timer,
    pub(crate) stopped: Option<StopReason>,
    /// The end of a call has waited for the store in vain; until it takes something, none waits again.
    pub(crate) gave_up: bool,
    /// Set once the session is no longer found; holds this actor itself.
    pub(crate) removed: Option<Removed>,
}

enum Turn {
    Letter(Option<Letter>),
    News(News),
    Gone(Gone),
    /// A reader reads nothing.
    Stalled(StreamId),
    Time,
    /// What was waited for is over.
    Over,
}

impl Actor {
    /// Boxed, because it is large and would be moved along with whoever runs it.
    pub(crate) fn new(shared: Arc<Shared>, resident: Box<Resident>) -> Box<Self> {
        let caller = Caller {
            mesh: shared.mesh.clone(),
            owner: Some((resident.id.slot(), resident.epoch)),
            principal: resident.principal.as_ref().clone(),
            affinity: shared.affinity_of(&resident.id),
        };
        let wake = resident.machine.next_wake();
        Box::new(Self {
            shared,
            resident,
            caller,
            readers: Readers::default(),
            carried: Carried::default(),
            calls: BTreeMap::new(),
            news: Several::default(),
            keys: BTreeMap::new(),
            beside: VecDeque::new(),
            pending: VecDeque::new(),
            wake,
            timer: wake::Timer::default(),
            stopped: None,
            gave_up: false,
            removed: None,
        })
    }

    /// Works until nothing is in flight any more, or the session is over.
    pub(crate) async fn run(mut self: Box<Self>, mut letters: mpsc::Receiver<Box<Letter>>) {
        let mut is_restored = std::mem::take(&mut self.resident.is_restored);
        if is_restored {
            self.restore();
        }
        loop {
            while let Some(letter) = self.beside.pop_front() {
                self.open_letter(letter).await;
            }
            while let Some(input) = self.pending.pop_front() {
                self.take(input).await;
            }
            self.end_with_reader().await;
            if let Some(reason) = self.stopped {
                return self.end(reason, letters).await;
            }
            if self.is_quiet() {
                if let Ok(letter) = letters.try_recv() {
                    self.open_letter(*letter).await;
                    continue;
                }
                let shared = self.shared.clone();
                match shared.residents.rest(self.resident, &mut letters) {
                    Ok(()) => return,
                    Err(back) => {
                        let (resident, letter) = *back;
                        self = Self::new(shared, resident);
                        self.open_letter(letter).await;
                        continue;
                    }
                }
            }
            // Before any registry is asked: a call may go on in the trace of who asks for it.
            if std::mem::take(&mut is_restored)
                && let Ok(letter) = letters.try_recv()
            {
                self.open_letter(*letter).await;
                continue;
            }
            match self.wait(&mut letters).await {
                Turn::Letter(Some(letter)) => self.open_letter(letter).await,
                Turn::Letter(None) => return,
                Turn::News(news) => self.hear(news).await,
                Turn::Gone(gone) => self.lose_reader(gone).await,
                Turn::Stalled(stream) => self.give_up(stream),
                Turn::Time => {
                    self.wake = None;
                    self.take(Input::DeadlineReached).await;
                }
                Turn::Over => {}
            }
        }
    }

    /// A reader that was behind has read nothing for too long: it is let go; the log has its events.
    fn give_up(&mut self, stream: StreamId) {
        let left = self.readers.remove(&stream);
        if let Some(left) = left.filter(|_| self.carried.goes_on()) {
            // It goes on from where it is, once it reads again.
            let error = Error::new(Code::Unavailable, "the reader is too far behind");
            let _heard = left.reader.say(Err(error));
        }
        self.pending.push_back(Input::ReaderGone(stream));
    }

    fn is_quiet(&self) -> bool {
        let waits = !self.readers.is_empty() || !self.news.is_empty() || !self.calls.is_empty();
        !waits && self.pending.is_empty() && self.beside.is_empty()
    }

    /// While a reader is behind, registries wait for it, and nobody else.
    async fn wait(&mut self, letters: &mut mpsc::Receiver<Box<Letter>>) -> Turn {
        let timer = self.timer.reached(self.wake);
        let behind = self.readers.behind();
        let hears = behind.is_none() && !self.news.is_empty();
        let pace = async {
            match &behind {
                Some(behind) => behind.pace().await.map_or_else(Turn::Stalled, |()| Turn::Over),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            turn = pace => turn,
            news = self.news.next(), if hears => news.map_or(Turn::Over, Turn::News),
            gone = self.readers.gone() => gone.map_or(Turn::Over, Turn::Gone),
            letter = letters.recv() => Turn::Letter(letter.map(|letter| *letter)),
            () = timer => Turn::Time,
        }
    }

    async fn open_letter(&mut self, letter: Letter) {
        if self.is_given_away() {
            // Nobody waits here for a store that the next owner reaches.
            if let Some(reply) = letter.reply() {
                let _heard = reply.say(Err(self.shared.not_owner(self.resident.id.slot())));
            }
            self.stopped = Some(StopReason::Lost);
            return;
        }
        match letter {
            Letter::Message { in_batch: true, reply, .. } if !self.takes_batches() => refuse_batch(&reply),
            Letter::Message { message, key, again, reply, scope, .. } => {
                let taken_on = match again {
                    Some(again) => {
                        self.show(&key, &scope);
                        self.taken_on_before(&message, &key, &again, &reply).await
                    }
                    None => self.is_late_copy(&message, &key),
                };
                if taken_on {
                    return;
                }
                let stream = self.resident.machine.reserve_stream();
                self.add_reader(stream, reply);
                let before = self.resident.version;
                let key = self.keep_key(stream, &message, key);
                scope.clone().within(self.take(Input::Client { stream, message, key })).await;
                self.carried.accepting = None;
                if self.resident.version > before {
                    scope.describe(|to| _ = to.set(attribute::JOURNAL_OUTCOME, "committed"));
                    // From here on it is its owner's, whoever that will be: should it be killed, this much is told.
                    scope.end();
                }
            }
            Letter::Batch { messages, reply, scope } => scope.within(self.batch(messages, reply)).await,
            Letter::Carry { visit, reply } => self.carry(visit, reply).await,
            Letter::Leave { reply } => {
                carry::acknowledge(&reply);
                self.carried.leave();
            }
            Letter::Attach { cursor, reply } => self.attach(cursor, reply).await,
            Letter::Close { reply } => {
                let stream = self.resident.machine.reserve_stream();
                self.add_reader(stream, reply);
                self.take(Input::Close { stream }).await;
            }
            Letter::Changed(kind) => {
                self.resident.machine.serve(self.shared.settings());
                self.take(Input::CatalogChanged(kind)).await;
            }
            Letter::Updated { uri, params } => self.take(Input::ResourceUpdated { uri, params }).await,
            Letter::Wake => self.take(Input::DeadlineReached).await,
            Letter::Drain => self.drain().await,
            Letter::Overdue => self.beside.extend(self.shared.residents.overdue(&self.resident.id)),
            Letter::Moved => {
                self.finish_sending().await;
                self.stopped = Some(StopReason::Lost);
            }
        }
    }

    /// One step of the machine, and everything it wants.
    pub(crate) async fn take(&mut self, input: Input) {
        let effects = self.resident.machine.step(chassis::clock::dated_millis(), input);
        debug_assert_eq!(machines::check(&self.resident.machine), Ok(()));
        self.perform(effects).await;
    }

    async fn hear(&mut self, news: News) {
        match news {
            News::Subscribed(call, uri, outcome) => {
                let (frame, subscription) = match outcome {
                    Ok(subscription) => (CallFrame::Result(Json::empty_object()), Some(subscription)),
                    Err(error) => (CallFrame::Error(error), None),
                };
                self.take(Input::Frame { call, number: 0, frame }).await;
                // A request that was given up meanwhile subscribes to nothing.
                let wanted = self.resident.machine.subscriptions().any(|wanted| wanted == uri);
                if let Some(subscription) = subscription.filter(|_| wanted) {
                    self.resident.subscriptions.insert(uri, subscription);
                }
            }
            News::Renewed(uri, Ok(subscription)) => {
                self.resident.subscriptions.insert(uri, subscription);
            }
            News::Renewed(uri, Err(error)) => {
                tracing::warn!(%uri, error = %error.message, "a restored session no longer hears of a resource");
            }
            News::Heard(call, Heard::Frame(frame)) => {
                let number = self.number(call);
                self.take(Input::Frame { call, number, frame }).await;
            }
            News::Heard(call, Heard::InputRequired(input)) => {
                let continuation = match input.continuation {
                    api::registry::Continuation::Parked => {
                        // An upstream that gives up asking and answers is heard.
                        if let Some(running) = self.calls.get(&call) {
                            let heard = running.clone().attach().map(move |heard| News::Heard(call, heard));
                            self.news.push(heard.boxed());
                        }
                        Continuation::Parked
                    }
                    api::registry::Continuation::State(state) => Continuation::State(state),
                };
                let frame =
                    CallFrame::InputRequired { requests: input.requests, round: input.round, continuation };
                let number = self.number(call);
                self.take(Input::Frame { call, number, frame }).await;
            }
        }
    }

    /// Waits until every call that was written down has reached its registry: the next owner could not tell whether one was sent
    /// that no registry knows.
    async fn finish_sending(&mut self) {
        let until = tokio::time::Instant::now() + SENDING;
        while self.stopped.is_none() && self.calls.values().any(|call| call.last() == 0) {
            let Ok(Some(news)) = tokio::time::timeout_at(until, self.news.next()).await else { return };
            // Written down as ever: whoever takes the session over raises the fence only behind this.
            self.hear(news).await;
            while let Some(input) = self.pending.pop_front() {
                self.take(input).await;
            }
        }
    }

    /// Keeps the key of a delivery whose answer may have to be given again. The calls of other methods are simply made again.
    fn keep_key(&mut self, stream: StreamId, message: &Message, key: String) -> Option<String> {
        if self.is_http_sse() {
            // Nobody asks again for what was taken, whatever it was.
            let is_request = matches!(message, Message::Request(_));
            let key = Some(key).filter(|key| is_request && !key.is_empty());
            self.carried.accepting.clone_from(&key);
            return key;
        }
        if key.is_empty() || message.method() != Some(Method::ToolsCall.as_str()) {
            return None;
        }
        self.keys.insert(stream, key.clone());
        Some(key)
    }

    /// Number of the frame that a call has just passed on: no other one is asked for meanwhile.
    fn number(&self, call: CallId) -> u64 {
        self.calls.get(&call).map_or(0, |call| call.last())
    }

    /// From now on frames of a stream go to this reader.
    pub(crate) fn add_reader(&mut self, stream: StreamId, reader: Reader) {
        self.readers.insert(stream, reader);
    }

    async fn lose_reader(&mut self, gone: Gone) {
        if self.readers.lose(gone) {
            // The key stays: the call goes on, and whoever has lost its node asks for it.
            self.take(Input::ReaderGone(gone.stream)).await;
        }
    }

    /// Hands a frame to a stream's reader. A reader that is too far behind is let go; the log has its events.
    pub(crate) fn send(&mut self, stream: StreamId, frame: Frame) {
        let Some(reading) = self.readers.get_mut(&stream) else { return };
        reading.begun = true;
        if !reading.reader.send(frame) {
            self.readers.remove(&stream);
            self.pending.push_back(Input::ReaderGone(stream));
        }
    }

    /// No more frames for a stream's reader. A request that was cancelled before anything was said gets an empty stream: HTTP
    /// wants a response, and the protocol wants no answer.
    pub(crate) fn close(&mut self, stream: StreamId) {
        if self.readers.get(&stream).is_some_and(|reading| !reading.begun) {
            self.send(stream, Frame::Open);
        }
        self.readers.remove(&stream);
    }

    /// Gives a late reader what it has missed, then what is new.
    async fn attach(&mut self, cursor: Option<EventId>, reply: Reader) {
        let (stream, after) = match cursor {
            None => (StreamId::OWN, None),
            Some(event) => (StreamId(event.stream), Some(cursor_at(&event))),
        };
        if self.resident.machine.replay(stream, after).is_none() {
            let error = RpcError::new(code::INVALID_REQUEST, "the stream of Last-Event-ID is no longer kept");
            let refused = api::session::Answer::new(400, Some(rpc::error(None, &error)));
            // A reader that is gone does not want to know.
            let _heard = reply.say(Ok(Frame::Refused(refused)));
            return;
        }
        self.add_reader(stream, reply);
        self.send(stream, Frame::Accepted { session: None });
        self.replay(stream, after).await;
    }

    /// Gives the reader of an event stream what it has missed.
    pub(crate) async fn replay(&mut self, stream: StreamId, after: Option<Cursor>) {
        let Some(replay) = self.resident.machine.replay(stream, after) else { return };
        self.send(stream, Frame::Open);
        if replay.gap {
            let event = api::session::Event { message: Some(gap_notice()), ..Default::default() };
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

    /// A machine's event as clients see it.
    pub(crate) fn sign(&self, stream: StreamId, event: machines::Event) -> api::session::Event {
        let id = event.seq.map(|seq| {
            EventId { stream: stream.0, epoch: Epoch(event.epoch), seq }
                .sign(&self.shared.keys, &self.resident.id)
        });
        api::session::Event { id, message: event.message, retry_ms: event.retry_ms }
    }

    /// From now on the session is not found.
    pub(crate) fn leave(&mut self) {
        if let Some(removed) = self.shared.residents.remove(&self.resident.id) {
            self.removed = Some(removed);
        }
    }

    /// The session is over on this node.
    async fn end(mut self: Box<Self>, reason: StopReason, mut letters: mpsc::Receiver<Box<Letter>>) {
        let (revision, now) = (self.resident.machine.revision(), chassis::clock::dated_millis());
        self.shared.observed.ended(revision, self.resident.begun, now, reason);
        self.leave();
        if reason == StopReason::Lost {
            return self.send_elsewhere(letters);
        }
        for (_, call) in std::mem::take(&mut self.calls) {
            call.release();
        }
        // What came too late is told so.
        while let Ok(letter) = letters.try_recv() {
            self.open_letter(*letter).await;
        }
        if let Err(refusal) = self.shared.store.remove(&self.resident.id, self.resident.epoch).await {
            tracing::warn!(?refusal, "an ended session could not be removed from the store");
        }
    }

    /// The session goes on with another owner: whoever waits here is told to ask there. Calls go on at their registries.
    fn send_elsewhere(self: Box<Self>, mut letters: mpsc::Receiver<Box<Letter>>) {
        let moved = || Err(self.shared.not_owner(self.resident.id.slot()));
        for reader in self.readers.all() {
            // A reader that is gone does not want to know.
            let _heard = reader.say(moved());
        }
        while let Ok(letter) = letters.try_recv() {
            if let Some(reply) = letter.reply() {
                let _heard = reply.say(moved());
            }
        }
    }
}

/// The place of an event that was sent.
pub(crate) const fn cursor_at(event: &EventId) -> Cursor {
    Cursor { epoch: event.epoch.0, seq: event.seq }
}

/// Said where events between the client's cursor and the replay are no longer kept: a gap is never silent.
fn gap_notice() -> Json {
    Json::trusted(concat!(
        r#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"warning","logger":"trunkline","#,
        r#""data":"events before this point are no longer kept"}}"#
    ))
}
