//! The session machine: a conversation with a client of an older revision (2024-11-05 to 2025-11-25) over Streamable HTTP.
//!
//! Durable state lives in a [`Snapshot`], altered only by the changes that are committed; the rest (`Live`) is lost with
//! the owner. One step asks for at most one commit, and everything it wants stands behind it: when the commit is refused,
//! the step did not happen, and both halves go back to what they were. `turn` collects what one step wants; each of the
//! other modules decides one concern.

mod check;
mod client;
mod deadlines;
mod handshake;
mod inflight;
mod outgoing;
pub mod phase;
mod refusal;
mod remembered;
mod streams;
mod subscriptions;
mod turn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mcp::rpc::Id;
use mcp::{Json, Method, Revision};

pub use self::check::check;
pub use self::phase::Phase;
use self::refusal::{Cause, Mark};
pub use self::remembered::Remembered;
pub use self::streams::{Cursor, Replay};
use self::turn::Turn;
use crate::effect::{CallContext, Effect, Effects};
use crate::input::{CallFrame, CallId, Input, ListKind, Millis, StreamId};
use crate::journal::{Entry, JournalState};
use crate::settings::Settings;
use crate::snapshot::{Snapshot, StreamLog, give_back};
use crate::wire::{self, Outcome};

/// A session. See the module.
#[derive(Debug, Clone)]
pub struct Session {
    settings: Arc<Settings>,
    saved: Snapshot,
    live: Live,
    mark: Option<Box<Mark>>,
}

/// What is lost with the owner.
#[derive(Debug, Clone)]
struct Live {
    phase: Phase,
    /// Calls under way; shared with the mark, as most steps do not alter them.
    calls: BTreeMap<CallId, Arc<Call>>,
    /// Streams with a connection: POSTs that wait for an answer, and readers of event streams.
    readers: BTreeSet<StreamId>,
    /// What could not be committed and still has to be.
    owed: Vec<Owed>,
    /// The store was down; not before this.
    blocked_until: Option<Millis>,
    draining: bool,
    began: Millis,
    /// When something last happened that keeps the session from being idle.
    active: Millis,
    /// The last `WakeAt` that has not come back.
    armed: Option<Millis>,
    next_stream: u64,
    next_call: u64,
    /// Of the owner.
    epoch: u64,
    /// One reader stands for all streams: everything is said on the session's own, and kept there.
    carried: bool,
    /// Since when a carried session has been without its reader, while it is.
    alone: Millis,
    /// What the reader of a carried session had been given at some moment: the moment, and the number of the last event.
    told: (Millis, u64),
    /// Numbers of events whose commit was neither confirmed nor refused: the store may have them, so nothing else gets them.
    used: BTreeMap<StreamId, u64>,
}

/// A call under way.
#[derive(Debug, Clone)]
struct Call {
    id: Id,
    method: Method,
    stream: StreamId,
    params: Json,
    token: Option<Json>,
    progress: Option<f64>,
    deadline: Millis,
    /// When its stream is opened if there was no frame; `None` once it is.
    open_at: Option<Millis>,
    /// Rounds of questions so far.
    rounds: u32,
    /// Of the delivery it came with.
    key: Option<String>,
    /// The registry instance that took it on; stored with whatever is stored next.
    instance: Option<String>,
}

impl Call {
    const fn opened(&self) -> bool {
        self.open_at.is_none()
    }

    fn of(entry: &Entry, opened: bool, open_at: Millis) -> Self {
        Self {
            id: entry.id.clone(),
            method: entry.method,
            stream: entry.stream,
            params: entry.params.clone(),
            token: entry.token.clone(),
            progress: None,
            deadline: entry.deadline,
            open_at: (!opened).then_some(open_at),
            rounds: 0,
            key: entry.key.clone(),
            instance: entry.instance.clone(),
        }
    }
}

/// Something the store has not been told.
#[derive(Debug, Clone, PartialEq)]
enum Owed {
    /// The ending of a request. The client may have been told without the store knowing.
    Ending { call: Option<CallId>, stream: StreamId, message: Json, state: JournalState },
    /// A notification for the session's own stream.
    Notify(Json),
}

impl Session {
    /// A session nobody has spoken in yet. The host arms a timer for [`Session::next_wake`].
    #[must_use]
    pub fn new(settings: impl Into<Arc<Settings>>, now: Millis) -> Self {
        Self::restore(settings, Snapshot::default(), now)
    }

    /// A session taken over from its last owner. The host arms a timer for [`Session::next_wake`], attaches to the calls
    /// in the snapshot's journal, and watches its subscriptions. Requests that were under way without being journaled are
    /// answered with an error on their streams as soon as the first commit succeeds.
    #[must_use]
    pub fn restore(settings: impl Into<Arc<Settings>>, mut snapshot: Snapshot, now: Millis) -> Self {
        let settings = settings.into();
        deadlines::as_of(&settings, &mut snapshot, now);
        let open_at = now.saturating_add(settings.open_after_ms);
        let unfinished = |stream: &StreamId| snapshot.streams.get(stream).is_some_and(StreamLog::is_open);
        let calls: BTreeMap<CallId, Arc<Call>> = (snapshot.journal.iter())
            .map(|(call, entry)| (*call, Arc::new(Call::of(entry, unfinished(&entry.stream), open_at))))
            .collect();
        let mut owed = Vec::new();
        for (stream, log) in &snapshot.streams {
            let served = calls.values().any(|call| call.stream == *stream);
            let (None, Some(id), false) = (log.finished_at, &log.request, served) else { continue };
            let message = mcp::rpc::error(Some(id), &wire::lost("owner_failover", Outcome::Unknown));
            owed.push(Owed::Ending { call: None, stream: *stream, message, state: JournalState::Unknown });
        }
        let phase = match &snapshot.handshake {
            _ if snapshot.ended => Phase::Terminated,
            None => Phase::Uninitialised,
            Some(handshake) if !handshake.ready => Phase::Initialising,
            Some(_) if calls.is_empty() => Phase::Initialised,
            Some(_) => Phase::Processing,
        };
        let live = Live {
            phase,
            calls,
            readers: BTreeSet::new(),
            owed,
            blocked_until: None,
            draining: false,
            began: now,
            active: now,
            armed: None,
            next_stream: snapshot.next_stream,
            next_call: snapshot.next_call,
            epoch: 0,
            carried: false,
            alone: now,
            told: (now, 0),
            used: BTreeMap::new(),
        };
        Self { settings, saved: snapshot, live, mark: None }
    }

    /// The same session with an owner of this epoch, which is written down with the calls that it begins.
    #[must_use]
    pub const fn owned_by(mut self, epoch: u64) -> Self {
        self.live.epoch = epoch;
        self
    }

    /// From now on the server is what these say. Told before [`Input::CatalogChanged`], so that it is known which change it was.
    pub fn serve(&mut self, settings: Arc<Settings>) {
        self.settings = settings;
    }

    /// The lists that have changed since the client was told of them last: by another owner, or by none.
    pub fn unannounced(&self) -> impl Iterator<Item = ListKind> + use<> {
        let told = self.saved.handshake.as_ref().and_then(|handshake| handshake.lists);
        let now = self.settings.lists;
        let changed = move |kind: &ListKind| told.is_some_and(|told| told.of(*kind) != now.of(*kind));
        ListKind::ALL.into_iter().filter(changed)
    }

    /// The same session where one reader stands for all of its streams, as HTTP+SSE has it. Everything is said on the session's own
    /// stream and kept there, so that the reader's next owner goes on where this one ends. A message is answered with a status
    /// alone, once it is written down; every call is journaled, since its client does not ask again.
    #[must_use]
    pub fn carried(mut self) -> Self {
        self.live.carried = true;
        self.live.calls.values_mut().for_each(|call| Arc::make_mut(call).open_at = None);
        self
    }

    /// The stream on which a delivery is answered that was taken on before, by this owner or another one; `None` if no journaled
    /// call came with it, or nothing is kept of it any more.
    #[must_use]
    pub fn delivered_before(&self, key: &str) -> Option<StreamId> {
        let is = |of: &Option<String>| of.as_deref() == Some(key);
        let under_way = self.live.calls.values().find(|call| is(&call.key)).map(|call| call.stream);
        under_way
            .or_else(|| self.saved.streams.iter().find(|(_, log)| is(&log.key)).map(|(stream, _)| *stream))
    }

    /// The stream on which a request with this id is answered, if it is under way.
    #[must_use]
    pub fn under_way(&self, id: &Id) -> Option<StreamId> {
        self.live.calls.values().find(|call| call.id == *id).map(|call| call.stream)
    }

    /// What tells the invocation of a call from those of other owners and earlier generations: see [`Entry`].
    #[must_use]
    pub fn place_in_journal(&self, call: CallId) -> (u64, u32) {
        let entry = self.saved.journal.get(&call);
        entry.map_or((self.live.epoch, 0), |entry| (entry.epoch, entry.generation))
    }

    /// What registries are told of the client of a call that was taken over.
    #[must_use]
    pub fn call_context(&self, entry: &Entry) -> CallContext {
        inflight::context(&self.settings, &self.saved, entry.token.is_some())
    }

    /// Whether events of a stream are kept, so that [`Session::replay`] knows it.
    #[must_use]
    pub fn is_event_stream(&self, stream: StreamId) -> bool {
        self.saved.streams.contains_key(&stream)
    }

    /// A number for the answer to the next POST or DELETE.
    pub fn reserve_stream(&mut self) -> StreamId {
        let stream = StreamId(self.live.next_stream);
        self.live.next_stream = self.live.next_stream.saturating_add(1);
        stream
    }

    /// Takes one input and says what is to be done.
    ///
    /// At most one [`Effect::Commit`], and then it stands first. If it is refused, the next input is
    /// [`Input::CommitRefused`]; any other input means that it succeeded.
    pub fn step(&mut self, now: Millis, input: Input) -> Effects {
        let mark = self.mark.take();
        if let Input::CommitRefused(refusal) = input {
            return self.refused(now, refusal, mark);
        }
        if let Input::Frame { frame: CallFrame::Accepted { .. }, .. } = input {
            // Alone it is not worth a commit: the next owner asks all replicas. So there is nothing to go back to.
            let mut turn = Turn::new(now, &self.settings, &mut self.saved, &mut self.live);
            turn.take(input);
            return turn.conclude().effects;
        }
        let cause = Cause::of(&input);
        let before = self.live.clone();
        let mut turn = Turn::new(now, &self.settings, &mut self.saved, &mut self.live);
        turn.take(input);
        let done = turn.conclude();
        if done.changes.is_empty() {
            return done.effects;
        }
        self.mark = Some(Box::new(Mark { live: before, undo: done.undo, cause }));
        let mut effects = Effects::with_capacity(done.effects.len() + 1);
        effects.push(Effect::Commit(done.changes));
        effects.extend(done.effects);
        effects
    }

    /// What a call was delivered with, if it is under way, or has ended in the step that is not settled yet.
    #[must_use]
    pub fn key_of(&self, call: CallId) -> Option<&str> {
        let before = self.mark.as_ref().and_then(|mark| mark.live.calls.get(&call));
        self.live.calls.get(&call).or(before)?.key.as_deref()
    }

    /// The host may say that the last commit succeeded; frees the memory that is kept for its refusal.
    pub fn settle(&mut self) {
        self.mark = None;
    }

    /// The host has nothing in hand for this session: what only calls need room for is given back.
    pub fn rest(&mut self) {
        give_back(&mut self.live.calls);
        give_back(&mut self.live.used);
        if self.live.owed.is_empty() {
            self.live.owed = Vec::new();
        }
    }

    /// The durable state: what folding all committed changes yields.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.saved.clone()
    }

    /// The same, to look at.
    #[must_use]
    pub const fn saved(&self) -> &Snapshot {
        &self.saved
    }

    /// What a reader that knows the events up to `after` has missed; without cursor: what no reader has been given of the
    /// session's own stream. `None` as answer: the stream is not known, or no longer. The host asks this, writes it, and
    /// then says [`Input::ReaderAttached`], all in one turn.
    #[must_use]
    pub fn replay(&self, stream: StreamId, after: Option<Cursor>) -> Option<Replay> {
        streams::replay(&self.saved, stream, after, self.live.carried)
    }

    /// When it wants [`Input::DeadlineReached`] at the latest.
    #[must_use]
    pub fn next_wake(&self) -> Option<Millis> {
        deadlines::next_wake(&self.settings, &self.saved, &self.live)
    }

    /// Where it stands.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.live.phase
    }

    /// The negotiated revision.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.saved.handshake.as_ref().map(|h| h.revision)
    }

    /// The client's capabilities object.
    #[must_use]
    pub fn client_capabilities(&self) -> Option<&Json> {
        self.saved.handshake.as_ref().map(|h| &h.capabilities)
    }

    /// The client's Implementation object.
    #[must_use]
    pub fn client_info(&self) -> Option<&Json> {
        self.saved.handshake.as_ref().map(|h| &h.client_info)
    }

    /// Watched resources.
    pub fn subscriptions(&self) -> impl Iterator<Item = &str> {
        self.saved.subscriptions.iter().map(String::as_str)
    }

    /// Number of calls under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.live.calls.len()
    }

    /// Whether nothing is under way: no call, no connection.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.live.calls.is_empty() && self.live.readers.is_empty()
    }
}
