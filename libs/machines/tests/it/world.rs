//! A host that performs what a session machine wants, and complains about everything a host should never be asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use machines::effect::StopReason;
use machines::input::CommitRefusal;
use machines::journal::JournalState;
use machines::snapshot::StreamChange;
use machines::{
    CallId, Change, Effect, Effects, Event, Input, Millis, Phase, Session, Settings, Snapshot, StreamId,
    check,
};
use mcp::rpc::{Id, Message, Request};
use mcp::{Json, Method, Revision, scan};

/// Everything a server can have.
pub(crate) const CAPABILITIES: &str = concat!(
    r#"{"tools":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"#,
    r#""prompts":{"listChanged":true},"completions":{},"logging":{}}"#
);

/// Settings for tests: ordinary, with all capabilities.
pub(crate) fn settings() -> Settings {
    Settings {
        capabilities: Json::trusted(CAPABILITIES),
        server_info: Json::trusted(r#"{"name":"t","version":"1"}"#),
        ..Settings::default()
    }
}

/// What became of the answer to one POST or DELETE.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Answering {
    /// Id of the request, if it was one.
    pub(crate) id: Option<Json>,
    pub(crate) connected: bool,
    /// Answered as a whole.
    pub(crate) status: Option<u16>,
    /// An event stream.
    pub(crate) open: bool,
    /// Over, or let go.
    pub(crate) finished: bool,
    /// Responses to the request.
    pub(crate) endings: u32,
    last_seq: u64,
}

/// The host.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) session: Session,
    pub(crate) settings: Arc<Settings>,
    pub(crate) now: Millis,
    /// What the store has.
    pub(crate) saved: Snapshot,
    /// The next commit is refused.
    pub(crate) refuse: Option<CommitRefusal>,
    pub(crate) wake: Option<Millis>,
    pub(crate) streams: BTreeMap<StreamId, Answering>,
    /// Calls that were made and not released.
    pub(crate) running: BTreeSet<CallId>,
    pub(crate) stopped: Option<StopReason>,
    /// Subscriptions that were asked for and not answered.
    pub(crate) subscribing: BTreeSet<CallId>,
    made: BTreeSet<CallId>,
    /// Commits that were refused.
    pub(crate) refusals: u32,
    /// One reader stands for all streams.
    pub(crate) is_carried: bool,
    /// The store said no for good, or a session ended without it.
    pub(crate) lost: bool,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let session = Session::new(settings.clone(), 1000);
        let wake = session.next_wake();
        Self {
            session,
            settings,
            now: 1000,
            saved: Snapshot::default(),
            refuse: None,
            wake,
            streams: BTreeMap::new(),
            running: BTreeSet::new(),
            stopped: None,
            subscribing: BTreeSet::new(),
            made: BTreeSet::new(),
            refusals: 0,
            is_carried: false,
            lost: false,
        }
    }

    /// A session whose handshake is over.
    pub(crate) fn greeted(settings: Settings, revision: Revision, capabilities: &str) -> Self {
        let mut world = Self::new(settings);
        world.initialize(revision, capabilities);
        world.notify("notifications/initialized", None);
        world
    }

    /// The same where one reader stands for all streams.
    pub(crate) fn carried(settings: Settings, revision: Revision, capabilities: &str) -> Self {
        let mut world = Self::new(settings);
        world.session = world.session.carried();
        world.is_carried = true;
        world.wake = world.session.next_wake();
        world.attach(StreamId::OWN);
        world.initialize(revision, capabilities);
        world.notify("notifications/initialized", None);
        world
    }

    pub(crate) fn initialize(&mut self, revision: Revision, capabilities: &str) -> Effects {
        let params = format!(
            r#"{{"protocolVersion":"{revision}","capabilities":{capabilities},"clientInfo":{{"name":"c","version":"1"}}}}"#
        );
        self.request("0", "initialize", Some(&params))
    }

    pub(crate) fn request(&mut self, id: &str, method: &str, params: Option<&str>) -> Effects {
        let id = Json::trusted(id.to_owned());
        let request = Request {
            id: Id::read(&id).unwrap(),
            method: method.to_owned(),
            params: params.map(|p| Json::trusted(p.to_owned())),
        };
        self.post(Message::Request(request))
    }

    pub(crate) fn notify(&mut self, method: &str, params: Option<&str>) -> Effects {
        let params = params.map(|p| Json::trusted(p.to_owned()));
        self.post(Message::Notification(mcp::rpc::Notification { method: method.to_owned(), params }))
    }

    pub(crate) fn post(&mut self, message: Message) -> Effects {
        let stream = self.session.reserve_stream();
        let id =
            if let Message::Request(request) = &message { Some(request.id.json().clone()) } else { None };
        self.streams.insert(stream, Answering { id, connected: true, ..Answering::default() });
        self.give(Input::Client { stream, message, key: Some(format!("key-{}", stream.0)) })
    }

    /// The client's gateway posts a request again, and nothing is known of it.
    pub(crate) fn forgotten(&mut self, id: &str) -> Effects {
        let stream = self.session.reserve_stream();
        let id = Id::read(&Json::trusted(id.to_owned())).unwrap();
        let answering = Answering { id: Some(id.json().clone()), connected: true, ..Answering::default() };
        self.streams.insert(stream, answering);
        self.give(Input::Forgotten { stream, id })
    }

    pub(crate) fn close(&mut self) -> Effects {
        let stream = self.session.reserve_stream();
        self.streams.insert(stream, Answering { connected: true, ..Answering::default() });
        self.give(Input::Close { stream })
    }

    pub(crate) fn attach(&mut self, stream: StreamId) -> Effects {
        let log = self.saved.streams.get(&stream);
        let answering =
            self.streams.entry(stream).or_insert_with(|| Answering { open: true, ..Answering::default() });
        if answering.id.is_none() {
            answering.id = log.and_then(|log| log.request.as_ref()).map(|id| id.json().clone());
        }
        answering.connected = true;
        answering.finished = false;
        if log.is_some_and(|log| log.is_open()) {
            // An ending that was not saved comes again.
            answering.endings = 0;
        }
        self.give(Input::ReaderAttached(stream))
    }

    pub(crate) fn detach(&mut self, stream: StreamId) -> Effects {
        if let Some(answering) = self.streams.get_mut(&stream) {
            answering.connected = false;
        }
        self.give(Input::ReaderGone(stream))
    }

    /// Lets time pass and wakes the session whenever it wanted to be.
    pub(crate) fn wait(&mut self, ms: Millis) -> Effects {
        let until = self.now + ms;
        let mut all = Effects::new();
        let mut wakings = 0;
        while let Some(at) = self.wake.filter(|at| *at <= until && self.stopped.is_none()) {
            self.now = self.now.max(at);
            self.wake = None;
            all.extend(self.give(Input::DeadlineReached));
            wakings += 1;
            assert!(wakings < 1000, "the session wakes itself without end");
        }
        self.now = until;
        all
    }

    /// Another owner takes over what the store has.
    pub(crate) fn take_over(&mut self) {
        let stored = Snapshot::load(&self.saved.save()).unwrap();
        assert_eq!(stored, self.saved);
        self.session = Session::restore(self.settings.clone(), stored, self.now);
        if self.is_carried {
            self.session = self.session.clone().carried();
        }
        assert_eq!(self.session.snapshot(), self.saved);
        self.wake = self.session.next_wake();
        let watches = |call: &&CallId| self.saved.journal[call].method == Method::ResourcesSubscribe;
        let (subscribing, running) = self.saved.journal.keys().partition(watches);
        (self.subscribing, self.running) = (subscribing, running);
        // Numbers of calls that were not journaled come again.
        self.made = self.saved.journal.keys().copied().collect();
        // What was taken has its ending to come.
        let is_carried = self.is_carried;
        self.streams.retain(|_, answering| is_carried && answering.status == Some(202));
        check(&self.session).unwrap();
    }

    /// The owner lets go of it if it can, and has it from the store again. True if it could.
    pub(crate) fn let_go(&mut self) -> bool {
        self.session.settle();
        let Some(remembered) = self.session.remembered(self.now) else { return false };
        let before = self.session.next_wake();
        assert!(before.is_some_and(|at| remembered.wake() <= at), "woken too late");
        let again = Session::restore(self.settings.clone(), self.saved.clone(), self.now);
        self.session = again.remembering(&remembered);
        assert_eq!(self.session.next_wake(), before, "the same moment as if it had stayed");
        self.wake = before;
        check(&self.session).unwrap();
        true
    }

    /// One step, performed. What comes back is what was done; a refused commit comes back as it was asked for.
    pub(crate) fn give(&mut self, input: Input) -> Effects {
        assert!(self.stopped.is_none(), "a session that has stopped hears nothing more");
        let mut effects = self.session.step(self.now, input);
        self.all_checks(&effects);
        let mut unsaved = false;
        let mut done = Effects::new();
        if let Some(Effect::Commit(changes)) = effects.first() {
            assert!(!changes.is_empty(), "a commit of nothing");
            if let Some(refusal) = self.refuse.take() {
                self.refusals += 1;
                done.push(effects.remove(0));
                effects = self.session.step(self.now, Input::CommitRefused(refusal));
                assert!(!effects.iter().any(|e| matches!(e, Effect::Commit(_))), "a commit after a refusal");
                assert_eq!(self.session.snapshot(), self.saved, "a refused commit left traces");
                self.lost = refusal != CommitRefusal::Down;
                unsaved = true;
            } else {
                for change in changes {
                    self.saved.apply(change);
                }
                self.note_carried(changes);
            }
        }
        assert_eq!(self.session.snapshot(), self.saved, "the fold of all commits is not the snapshot");
        for effect in &effects {
            self.perform(effect, unsaved);
        }
        done.extend(effects);
        check(&self.session).unwrap();
        let wake = self.session.next_wake();
        assert!(
            self.stopped.is_some() || wake.is_none_or(|at| self.wake.is_some_and(|wake| wake <= at)),
            "wakes at {:?}, should at {wake:?}",
            self.wake
        );
        done
    }

    fn all_checks(&self, effects: &Effects) {
        check(&self.session).unwrap();
        let place = effects.iter().rposition(|e| matches!(e, Effect::Commit(_)));
        assert!(place.is_none_or(|at| at == 0), "a commit behind other effects: {effects:?}");
        let stop = effects.iter().position(|e| matches!(e, Effect::Stop(_)));
        assert!(stop.is_none_or(|at| at + 1 == effects.len()), "something behind the stop: {effects:?}");
    }

    fn revision(&self) -> Option<Revision> {
        self.session.revision()
    }

    fn perform(&mut self, effect: &Effect, unsaved: bool) {
        match effect {
            Effect::Commit(_) => {}
            Effect::Answer { stream, status, body } => self.answered(*stream, *status, body.as_ref()),
            Effect::Open { stream } => {
                let answering = self.streams.entry(*stream).or_default();
                assert!(!answering.open && answering.status.is_none(), "{stream:?} opened twice");
                answering.open = true;
            }
            Effect::Send { stream, event } => self.sent(*stream, event, unsaved),
            Effect::Pause { stream } | Effect::Finish { stream } => {
                let answering = self.streams.entry(*stream).or_default();
                assert!(answering.connected, "{stream:?} has no reader to let go");
                answering.connected = false;
                answering.finished = true;
            }
            Effect::Call { call, method, deadline, .. } => {
                assert!(self.made.insert(*call), "{call:?} made twice");
                assert!(*deadline > self.now);
                self.running.insert(*call);
                if *method == Method::ToolsCall {
                    assert_eq!(
                        self.saved.journal[call].state,
                        JournalState::Dispatched,
                        "called before journaled"
                    );
                }
            }
            Effect::Resume { call, .. } | Effect::CancelCall { call, .. } => {
                assert!(self.running.contains(call), "{call:?} is not running");
            }
            Effect::Release { call } => assert!(self.running.remove(call), "{call:?} released twice"),
            Effect::Subscribe { call, .. } => {
                assert!(self.made.insert(*call), "{call:?} made twice");
                self.subscribing.insert(*call);
            }
            Effect::Unsubscribe { .. } => {}
            Effect::WakeAt(at) => self.wake = Some(*at),
            Effect::Stop(reason) => {
                self.stopped = Some(*reason);
                assert!(!self.session.phase().is_alive());
            }
        }
    }

    fn answered(&mut self, stream: StreamId, status: u16, body: Option<&Json>) {
        let answering = self.streams.entry(stream).or_default();
        assert!(answering.status.is_none() && !answering.open, "{stream:?} answered twice");
        answering.status = Some(status);
        answering.connected = false;
        if let (Some(id), Some(body)) = (&answering.id, body) {
            assert_eq!(scan::member(body.as_str(), "id"), Some(id.as_str()), "an answer to another request");
            answering.endings += 1;
        }
    }

    /// Whoever was told that its request was taken has its one ending on the stream that carries the session.
    fn note_carried(&mut self, changes: &[Change]) {
        for change in changes.iter().filter(|_| self.is_carried) {
            let Change::Stream(stream, StreamChange::Appended { message: Some(message), .. }) = change else {
                continue;
            };
            assert_eq!(*stream, StreamId::OWN, "kept where nobody reads: {message:?}");
            if scan::member(message.as_str(), "method").is_some() {
                continue;
            }
            let id = scan::member(message.as_str(), "id");
            let is_its = |answering: &&mut Answering| {
                answering.id.as_ref().map(Json::as_str) == id && answering.endings == 0
            };
            let mut waiting = self.streams.values_mut().rev();
            let answering = waiting.find(is_its).unwrap_or_else(|| panic!("ended twice: {message:?}"));
            answering.endings += 1;
        }
    }

    fn sent(&mut self, stream: StreamId, event: &Event, unsaved: bool) {
        let numbered = self.is_carried || self.revision().is_some_and(|r| r >= Revision::V2025_03_26);
        // A stream that is over may be dropped in the same commit.
        let kept = self.saved.streams.get(&stream).map_or(u64::MAX, |log| log.last);
        let answering = self.streams.entry(stream).or_default();
        assert!(answering.connected, "sent to {stream:?}, which has no reader");
        assert!(answering.open || stream == StreamId::OWN, "sent to {stream:?} before it was opened");
        assert_eq!(answering.endings, 0, "something behind the ending of {stream:?}");
        match event.seq {
            Some(seq) => {
                assert!(numbered && !unsaved, "a number that is not saved");
                assert!(seq > answering.last_seq, "{stream:?} goes back to {seq}");
                assert!(seq <= kept, "sent before it was committed");
                answering.last_seq = seq;
            }
            // What a carried session says with its end.
            None if self.is_carried && self.saved.ended => {}
            None => assert!(!numbered || unsaved, "an event that cannot be continued from"),
        }
        if self.is_carried {
            return;
        }
        let Some(message) = &event.message else { return };
        if scan::member(message.as_str(), "method").is_none() {
            assert_eq!(scan::member(message.as_str(), "id"), answering.id.as_ref().map(Json::as_str));
            answering.endings += 1;
        }
    }

    /// Ends every call and asserts that each request has had exactly one ending, or none if it was cancelled or its session
    /// is over.
    pub(crate) fn settle_everything(mut self) {
        if self.is_carried && self.stopped.is_none() {
            self.attach(StreamId::OWN);
        }
        let calls: Vec<CallId> = self.running.iter().chain(&self.subscribing).copied().collect();
        for call in calls {
            if self.stopped.is_none() {
                let frame = machines::CallFrame::Result(Json::empty_object());
                self.give(Input::Frame { call, number: 0, frame });
            }
        }
        if self.stopped.is_some() {
            return;
        }
        // What the store is owed is paid within this.
        self.wait(self.settings.store_retry_ms);
        assert_eq!(self.running, BTreeSet::new(), "calls that go on after their results");
        assert_eq!(self.session.phase(), Phase::Initialised);
        for (stream, answering) in &self.streams {
            let is_taken = self.is_carried && answering.status == Some(202);
            let id = answering.id.as_ref().map(Json::as_str);
            // Those may have been cancelled.
            let may_be_silent = matches!(id, None | Some("1" | "4"));
            assert!(!is_taken || may_be_silent || answering.endings == 1, "{answering:?}");
            assert!(answering.endings <= 1, "{stream:?} has {} endings", answering.endings);
            let waits = answering.connected && answering.id.is_some() && *stream != StreamId::OWN;
            assert!(!waits, "{stream:?} waits for ever: {answering:?}");
        }
        let open = self.saved.streams.iter().filter(|(s, log)| **s != StreamId::OWN && log.is_open()).count();
        assert_eq!(open, 0, "event streams without end");
    }
}
