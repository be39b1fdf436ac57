//! The door of a session node: finds or makes the session and hands the message over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use api::session::batch::{Member, merged};
use api::session::{Attach, Close, Delivery, Frames, Request, SessionHost, Transport};
use api::{Code, Epoch, Error, EventId, KeyRing, Principal, SessionId};
use async_trait::async_trait;
use chassis::task::{self, Kind};
use chassis::telemetry::{Scope, Side};
use futures::StreamExt as _;
use machines::{CommitRefusal, ListKind, StreamId};
use mcp::rpc::{self, Body, Malformed, Message, RpcError};
use mcp::telemetry::attribute;
use mcp::{Era, Method, code};
use placement::{Claims, Locator};
use sha2::{Digest, Sha256};
use tokio::sync::{SetOnce, mpsc};

use crate::actor::Actor;
use crate::budget::Budget;
use crate::carry::Visit;
use crate::config::Config;
use crate::facts::Facts;
use crate::letter::Letter;
use crate::loads::Loads;
use crate::neighbours::Neighbours;
use crate::observe::{self, Observed};
use crate::ownership::Slots;
use crate::reader::{Queue, Reader, queue};
use crate::refuse;
use crate::registries::Registries;
use crate::residents::{Census, Resident, Residents, Undelivered, Visitor};
use crate::store::SessionStore;

/// The role that spans and log lines are shown under.
pub(crate) const ROLE: &str = "session";
/// How long a request waits for a node that is just starting.
const START_PATIENCE: Duration = Duration::from_secs(5);

/// What everything on this node uses.
pub(crate) struct Shared {
    /// For handing a reference of its own to actors and listeners.
    pub(crate) this: Weak<Self>,
    pub(crate) config: Config,
    pub(crate) keys: KeyRing,
    /// The slots of this node.
    pub(crate) slots: Slots,
    /// How placement is told what the store says of slots; unset where they are fixed.
    pub(crate) claims: OnceLock<Claims>,
    /// Where the owners of other slots are found; `None` where nobody knows.
    pub(crate) locator: Option<Arc<dyn Locator>>,
    /// Where requests for those are passed on to; unset where nothing is.
    pub(crate) neighbours: OnceLock<Neighbours>,
    pub(crate) loads: Loads,
    pub(crate) mesh: Arc<str>,
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) registries: Arc<Registries>,
    pub(crate) observed: Arc<Observed>,
    pub(crate) facts: Facts,
    pub(crate) residents: Residents,
    pub(crate) budget: Budget,
    /// Asked for each request, so it must not lock.
    pub(crate) ready: SetOnce<()>,
    pub(crate) draining: AtomicBool,
    /// Whether the store answers this node, as far as was seen.
    pub(crate) reaches_store: AtomicBool,
    /// Ends listen streams when the node drains.
    pub(crate) drain: tokio_util::sync::CancellationToken,
}

impl Shared {
    /// Requests of one session should reach the same replica; registries must not learn the session id.
    pub(crate) fn affinity_of(&self, id: &SessionId) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digest = Sha256::digest(id.as_str());
        let mut affinity = String::with_capacity(16);
        for half in digest.iter().take(8).flat_map(|byte| [byte >> 4, byte & 15]) {
            affinity.push(char::from(DIGITS[usize::from(half)]));
        }
        affinity
    }

    /// Counts what is here whenever somebody reads the metrics.
    pub(crate) fn watch(&self) {
        let this = self.this.clone();
        let gauges = [
            ("trunkline_sessions", "Sessions on this node"),
            ("trunkline_sessions_active", "Sessions on this node that have something under way"),
            ("trunkline_sessions_passive", "Sessions on this node whose state is only in the store"),
            ("trunkline_session_letters_waiting", "Messages that wait in the queues of sessions"),
            (
                "trunkline_registry_releases_waiting",
                "Finished invocations that registries have not been told to forget",
            ),
            ("trunkline_registry_cancels_waiting", "Cancellations that registries have not been told of"),
            ("trunkline_slots_owned", "Slots that this node serves"),
            ("trunkline_slots_all", "Slots that the mesh has, as this node was told"),
        ];
        self.observed.watch(&gauges, move || {
            let shared = this.upgrade()?;
            let Census { all, active, passive, letters } = shared.residents.census();
            let (releases, cancels) = shared.registries.waiting();
            let (owned, slots) = (shared.slots.count(), usize::from(shared.slots.all().get()));
            Some(vec![all, active, passive, letters, releases, cancels, owned, slots])
        });
    }

    /// Says who owns what a hop is about.
    pub(crate) fn describe(&self, scope: &Scope, session: Option<&SessionId>) {
        scope.describe(|to| {
            to.set(attribute::OWNER, self.config.node.clone());
            if let Some(session) = session {
                to.set(attribute::SLOT, i64::from(session.slot().number()));
                let epoch = self.slots.epoch(session.slot()).unwrap_or_default();
                to.set(attribute::EPOCH, i64::try_from(epoch.0).unwrap_or(i64::MAX));
            }
        });
    }

    /// Tells every session that a list has changed. One that is passive finds it out when it is loaded.
    pub(crate) async fn announce(&self, kind: ListKind) {
        for (index, id) in self.residents.all().into_iter().enumerate() {
            // A session that is gone does not want to know.
            let _gone = self.post(&id, None, Letter::Changed(kind)).is_err();
            if index % 256 == 255 {
                tokio::task::yield_now().await;
            }
        }
    }

    pub(crate) fn post(
        &self,
        id: &SessionId,
        visitor: Option<Visitor<'_>>,
        letter: Letter,
    ) -> Result<(), Undelivered> {
        self.offer(id, visitor, &mut Some(letter))
    }

    /// The same; the letter stays if there is no such session.
    fn offer(
        &self,
        id: &SessionId,
        visitor: Option<Visitor<'_>>,
        letter: &mut Option<Letter>,
    ) -> Result<(), Undelivered> {
        let start = |resident: Box<Resident>, letters: mpsc::Receiver<Box<Letter>>| {
            let this = self.this.clone();
            let work = async move {
                if let Some(shared) = this.upgrade() {
                    Actor::new(shared, resident).run(letters).await;
                }
            };
            // An actor outlives the request that wakes it, so it is no part of that request's trace.
            let _alone = Scope::of_role(ROLE).enter();
            // In one place from the beginning: it is large, and spawning would move it many times.
            task::spawn(Kind::Call, "session", Box::pin(work))
        };
        self.residents.offer(id, visitor, letter, &start)
    }

    /// Refuses while the node is starting for too long, or drains.
    async fn admitted(&self) -> Result<(), Error> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Error::draining());
        }
        if self.ready.initialized() {
            return Ok(());
        }
        // Rare, and large: so that what every message pays for is not.
        let waited = Box::pin(tokio::time::timeout(START_PATIENCE, self.ready.wait())).await;
        waited.map(|&()| ()).map_err(|_late| Error::new(Code::Unavailable, "the node is starting"))
    }
}

/// See the module.
pub(crate) struct Host(pub(crate) Arc<Shared>);

impl Host {
    /// Reads a session id and checks that this node owns its slot.
    async fn session(&self, text: &str) -> Result<Option<(SessionId, Epoch)>, Error> {
        let Some(id) = SessionId::parse(&self.0.keys, text) else { return Ok(None) };
        let epoch = self.0.owned(id.slot()).await?;
        Ok(Some((id, epoch)))
    }

    /// Hands a letter to a session; loads the session if it is only in the store.
    async fn hand_over(
        &self,
        (id, epoch): (&SessionId, Epoch),
        visitor: Visitor<'_>,
        letter: impl FnOnce(Reader) -> Letter,
    ) -> Result<Result<Queue, Undelivered>, Error> {
        let (reply, frames) = queue();
        let (mut letter, mut is_loaded) = (Some(letter(reply)), false);
        loop {
            match self.0.offer(id, Some(visitor), &mut letter) {
                Err(Undelivered::Unknown) if is_loaded => break,
                Err(Undelivered::Unknown | Undelivered::Passive) => {}
                other => return Ok(other.map(|()| frames)),
            }
            // Rare, and large.
            if let Err(refusal) = Box::pin(self.0.activate(id, epoch)).await {
                if refusal == CommitRefusal::Stale || self.0.slots.epoch(id.slot()) != Some(epoch) {
                    return Err(self.0.not_owner(id.slot()));
                }
                tracing::warn!(?refusal, "a session could not be loaded");
                return Ok(Err(Undelivered::NotNow));
            }
            is_loaded = true;
        }
        // Only the owner can say that there is no such session, and this node may no longer be that.
        if self.0.slots.epoch(id.slot()) != Some(epoch) {
            return Err(self.0.not_owner(id.slot()));
        }
        Ok(Err(Undelivered::Unknown))
    }

    async fn deliver_older(&self, delivery: Delivery, message: Message) -> Result<Frames, Error> {
        let Some(text) = delivery.session.as_deref() else {
            // Rare, and large.
            return Box::pin(self.initialise(delivery, message)).await;
        };
        let Some((id, epoch)) = self.session(text).await? else { return Ok(refuse::session_not_found()) };
        let request_id = request_id(&message).cloned();
        let scope = observe::hop_of(&message, &delivery.request_key, delivery.again.as_ref());
        self.0.describe(&scope, Some(&id));
        let visitor = Visitor { principal: &delivery.principal, transport: delivery.transport };
        let is_call = message.method() == Some(Method::ToolsCall.as_str());
        let was_sent = is_call && delivery.again.is_some() && delivery.transport == Transport::Streamable;
        let (key, again, in_batch) = (delivery.request_key, delivery.again, delivery.in_batch);
        let letter = |reply| Letter::Message { message, key, again, in_batch, reply, scope };
        Ok(match self.hand_over((&id, epoch), visitor, letter).await? {
            Ok(frames) => frames.announced().boxed(),
            // Its owner may have begun it: "not found" would say that nothing was done.
            Err(Undelivered::Unknown) if was_sent => {
                return Err(Error::new(Code::OutcomeUnknown, "the session of the call is gone"));
            }
            Err(undelivered) => undelivered.answer(request_id.as_ref()),
        })
    }

    /// Several messages at once, each judged for itself; whether that is legal, the session knows.
    async fn deliver_batch(
        &self,
        delivery: Delivery,
        messages: Vec<Result<Message, Malformed>>,
    ) -> Result<Frames, Error> {
        let Some(text) = delivery.session.as_deref().filter(|_| delivery.transport == Transport::HttpSse)
        else {
            return self.take_apart(delivery, messages).await;
        };
        let Some((id, epoch)) = self.session(text).await? else { return Ok(refuse::session_not_found()) };
        let scope = Scope::current().child(ROLE, Side::Internal, || "trunkline.session batch".into());
        let letter = |reply| Letter::Batch { messages, reply, scope };
        let visitor = Visitor { principal: &delivery.principal, transport: delivery.transport };
        Ok(match self.hand_over((&id, epoch), visitor, letter).await? {
            Ok(frames) => frames.boxed(),
            Err(undelivered) => undelivered.answer(None),
        })
    }

    /// A batch from a gateway of a build before, which does not take it apart.
    async fn take_apart(
        &self,
        delivery: Delivery,
        messages: Vec<Result<Message, Malformed>>,
    ) -> Result<Frames, Error> {
        let bare = Malformed::bare();
        let (mut members, mut malformed) = (Vec::new(), Vec::new());
        for (number, message) in messages.into_iter().enumerate() {
            let message = match message {
                Ok(message) if delivery.session.is_some() => message,
                Ok(_) => return Ok(refuse::refused(400, None, &RpcError::new(bare.code, bare.message))),
                Err(bad) => {
                    malformed.push(rpc::error(bad.id.as_ref(), &RpcError::new(bad.code, bad.message)));
                    continue;
                }
            };
            let id = request_id(&message).cloned();
            let request_key = format!("{}/{number}", delivery.request_key);
            let member = Delivery { request_key, in_batch: true, ..delivery.clone() };
            members.push(Member { id, frames: self.deliver_older(member, message).await? });
        }
        if members.is_empty() {
            return Ok(refuse::refused(400, None, &RpcError::new(bare.code, bare.message)));
        }
        Ok(merged(members, malformed))
    }
}

#[async_trait]
impl SessionHost for Host {
    async fn deliver(&self, mut delivery: Delivery) -> Result<Frames, Error> {
        self.0.admitted().await?;
        if let (Era::Modern, Some(message)) = (delivery.era, &delivery.read) {
            return Ok(crate::modern::serve(&self.0, &delivery, message));
        }
        let refuse = |bad: &Malformed| {
            Ok(refuse::refused(400, bad.id.as_ref(), &RpcError::new(bad.code, bad.message)))
        };
        let read = match delivery.read.take() {
            Some(message) => Ok(Body::One(Arc::unwrap_or_clone(message))),
            None => Body::of(&delivery.message),
        };
        match (read, delivery.era) {
            (Err(bad), _) => refuse(&bad),
            (Ok(Body::One(message)), Era::Older) => self.deliver_older(delivery, message).await,
            (Ok(Body::One(message)), Era::Modern) => Ok(crate::modern::serve(&self.0, &delivery, &message)),
            // Rare, and large.
            (Ok(Body::Batch(messages)), Era::Older) => Box::pin(self.deliver_batch(delivery, messages)).await,
            (Ok(Body::Batch(_)), Era::Modern) => refuse(&Malformed::bare()),
        }
    }

    async fn attach(&self, attach: Attach) -> Result<Frames, Error> {
        self.0.admitted().await?;
        if attach.begin {
            return self.begin_http_sse(attach).await;
        }
        let Some((id, epoch)) = self.session(&attach.session).await? else {
            return Ok(refuse::session_not_found());
        };
        let cursor = match attach.last_event_id.as_deref() {
            None => None,
            Some(text) => match EventId::parse(&self.0.keys, &id, text) {
                Some(event) => Some(event),
                // A session that this principal may not see comes first: which of the two it was must not show.
                None => return self.foreign_cursor((&id, epoch), &attach.principal).await,
            },
        };
        let handed = if attach.carried {
            if cursor.as_ref().is_none_or(|cursor| cursor.stream != StreamId::OWN.0) {
                return Ok(refuse::refused(400, None, &foreign()));
            }
            let visitor = Visitor { principal: &attach.principal, transport: Transport::HttpSse };
            let letter = |reply| Letter::Carry { visit: Visit { cursor, goes_on: true }, reply };
            self.hand_over((&id, epoch), visitor, letter).await?
        } else {
            let letter = |reply| Letter::Attach { cursor, reply };
            self.hand_over((&id, epoch), streamable(&attach.principal), letter).await?
        };
        Ok(match handed {
            Ok(frames) => frames.boxed(),
            Err(undelivered) => undelivered.answer(None),
        })
    }

    async fn close(&self, close: Close) -> Result<Frames, Error> {
        self.0.admitted().await?;
        let Some((id, epoch)) = self.session(&close.session).await? else {
            return Ok(refuse::session_not_found());
        };
        let id = (&id, epoch);
        let handed = if close.when_idle {
            let visitor = Visitor { principal: &close.principal, transport: Transport::HttpSse };
            self.hand_over(id, visitor, |reply| Letter::Leave { reply }).await?
        } else {
            let visitor = Visitor { principal: &close.principal, transport: close.transport };
            self.hand_over(id, visitor, |reply| Letter::Close { reply }).await?
        };
        Ok(match handed {
            Ok(frames) => frames.announced().boxed(),
            Err(undelivered) => undelivered.answer(None),
        })
    }

    async fn probe(&self, to: Option<&str>) -> Result<(), Error> {
        match (to, self.0.neighbours.get()) {
            (None, _) => Ok(()),
            (Some(to), Some(neighbours)) => neighbours.probe(to).await,
            (Some(to), None) => Err(Error::new(Code::Unimplemented, format!("{to} is not asked from here"))),
        }
    }

    async fn relay(&self, to: &str, request: Request) -> Result<Frames, Error> {
        let Some(neighbours) = self.0.neighbours.get() else {
            return Err(Error::new(Code::Unimplemented, format!("nothing is passed on to {to} here")));
        };
        neighbours.pass_on(to, request, self.0.locator.as_deref(), self.0.drain.clone()).await
    }
}

impl Host {
    async fn foreign_cursor(&self, id: (&SessionId, Epoch), principal: &Principal) -> Result<Frames, Error> {
        Ok(match self.hand_over(id, streamable(principal), |_| Letter::Wake).await? {
            Err(
                undelivered @ (Undelivered::Unknown
                | Undelivered::Passive
                | Undelivered::Foreign
                | Undelivered::NotNow),
            ) => undelivered.answer(None),
            Ok(_) | Err(Undelivered::Full) => refuse::refused(400, None, &foreign()),
        })
    }
}

fn foreign() -> RpcError {
    RpcError::new(code::INVALID_REQUEST, "Last-Event-ID was not handed out in this session")
}

/// GET and DELETE belong to Streamable HTTP.
const fn streamable(principal: &Principal) -> Visitor<'_> {
    Visitor { principal, transport: Transport::Streamable }
}

pub(crate) const fn request_id(message: &Message) -> Option<&rpc::Id> {
    match message {
        Message::Request(request) => Some(&request.id),
        Message::Notification(_) | Message::Response(_) => None,
    }
}
