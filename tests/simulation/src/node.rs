//! A session node: its slots, its sessions, its door. Mirrors `services/session/src/{host,residents,ownership}.rs`; the session
//! machine is the real one. Unlike there, a session that rests keeps its task.

mod actor;
mod call;
mod claims;
mod perform;
mod pickup;
mod slots;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};

use api::session::Frame;
use api::{Code, Detail, Epoch, Error, EventId, Principal, SessionId, Slot};
use machines::{CommitRefusal, Session};
use mcp::code;
use mcp::rpc::{Message, RpcError};
use placement::{Identity, Incarnation};

use self::actor::{Actor, Letter, Reply};
use self::claims::Claims;
use self::slots::{Certainty, Slots};
use crate::ask::{self, Ask, Call, Door, Kind};
use crate::follow::Follower;
use crate::lease;
use crate::sabotage::{Known, Sabotage};
use crate::scene::{AskDoor, Scene};
use crate::store::{self, Fenced};
use crate::world::{Ctx, Queue};

const TAKING_MS: u64 = 500;
const QUIET_MS: u64 = 2_000;

/// A session of this node.
struct Entry {
    principal: Principal,
    queue: Queue<Letter>,
    /// Tells it from a later one of the same session.
    number: u64,
}

/// See the module.
pub(crate) struct Node {
    pub(crate) scene: Rc<Scene>,
    pub(crate) ctx: Ctx,
    index: usize,
    pub(crate) slots: Slots,
    pub(crate) store: store::Client,
    residents: RefCell<BTreeMap<SessionId, Entry>>,
    loading: RefCell<BTreeSet<SessionId>>,
    next_number: Cell<u64>,
    follower: RefCell<Option<Rc<Follower>>>,
    /// They keep the node: kept by it in turn, both would outlive their world.
    claims: RefCell<Weak<Claims>>,
    pub(crate) drained: Cell<bool>,
}

impl Node {
    /// Starts a run of a node at an address.
    pub(crate) fn start(scene: &Rc<Scene>, index: usize) -> (AskDoor, Rc<Self>) {
        let ctx = Ctx::new(&scene.sim);
        let door = Door::of(&ctx);
        let run = scene.sim.draw(crate::world::rng::Rng::next);
        // The date of the machine is read once, at the start.
        scene.sim.jump(ctx.me, scene.dates.borrow().get(index).copied().unwrap_or(0));
        let this = Rc::new(Self {
            scene: Rc::clone(scene),
            index,
            slots: Slots::default(),
            store: store::Client::new(&scene.redis, &ctx, run),
            residents: RefCell::default(),
            loading: RefCell::default(),
            next_number: Cell::new(0),
            follower: RefCell::default(),
            claims: RefCell::default(),
            drained: Cell::new(false),
            ctx: ctx.clone(),
        });
        let address: std::sync::Arc<str> = format!("node-{index}").into();
        let me = Identity {
            node: format!("session-{index}").into(),
            address,
            zone: "".into(),
            capacity: 100,
            incarnation: Incarnation(run),
        };
        let client = lease::Client { etcd: scene.etcd.clone(), ctx: ctx.clone() };
        let claims = Claims::start(&this, client, me, Queue::default());
        *this.follower.borrow_mut() = Some(Rc::clone(&claims.follower));
        *this.claims.borrow_mut() = Rc::downgrade(&claims);
        let (inbox, node, spawner) = (door.inbox.clone(), Rc::clone(&this), ctx.clone());
        ctx.spawn(async move {
            loop {
                let Call { ask, reply } = inbox.next().await;
                let node = Rc::clone(&node);
                spawner.spawn(async move { node.serve(ask, Reply::new(reply)).await });
            }
        });
        (door, this)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.scene.draining.borrow().get(self.index).copied().unwrap_or(false)
    }

    async fn serve(self: &Rc<Self>, ask: Ask, reply: Reply) {
        if self.is_draining() && self.drained.get() {
            return reply.say(Err(Error::draining()));
        }
        let Some(text) = &ask.session else { return self.initialise(ask, reply).await };
        let Some(id) = SessionId::parse(&self.scene.keys, text) else {
            return reply.say(Ok(ask::session_not_found()));
        };
        let Some(epoch) = self.settled(id.slot()).await else {
            return reply.say(Err(self.not_owner(id.slot())));
        };
        let reply = Rc::new(reply);
        let letter = match ask.kind {
            Kind::Deliver { message, key, again } => {
                Letter::Message { message, key, again, reply: Rc::clone(&reply) }
            }
            Kind::Attach { last } => {
                let cursor = match last.as_deref() {
                    None => None,
                    Some(text) => match EventId::parse(&self.scene.keys, &id, text) {
                        Some(event) => Some(event),
                        None => return reply.say(Ok(foreign_cursor())),
                    },
                };
                Letter::Attach { cursor, reply: Rc::clone(&reply) }
            }
            Kind::Close => Letter::Close { reply: Rc::clone(&reply) },
        };
        let letter = match self.post(&id, Some(&ask.principal), letter) {
            Ok(()) => return,
            Err(letter) => letter,
        };
        // Somebody else's: it is not loaded beside the one that is here, which may end meanwhile.
        let is_here = self.residents.borrow().contains_key(&id) && !self.scene.is(Sabotage::ForgetPrincipal);
        if is_here && !self.scene.has(Known::LoadBeside) {
            return reply.say(Ok(ask::session_not_found()));
        }
        if self.activate(&id, epoch, &ask.principal).await.is_err() {
            let error = RpcError::reason("the session store cannot be reached", "store_down");
            return reply.say(Ok(ask::refused(503, None, &error)));
        }
        if self.post(&id, Some(&ask.principal), letter).is_err() {
            reply.say(Ok(ask::session_not_found()));
        }
    }

    /// The letter comes back if there is no such session here, or not this principal's.
    #[allow(clippy::result_large_err, reason = "a letter that comes back is posted again at once")]
    fn post(&self, id: &SessionId, visitor: Option<&Principal>, letter: Letter) -> Result<(), Letter> {
        match self.residents.borrow().get(id) {
            Some(entry) if visitor.is_none_or(|visitor| *visitor == entry.principal) => {
                entry.queue.push(letter);
                Ok(())
            }
            Some(_) | None => Err(letter),
        }
    }

    /// Loads a session that this node owns and does not have in memory.
    async fn activate(
        self: &Rc<Self>,
        id: &SessionId,
        epoch: Epoch,
        visitor: &Principal,
    ) -> Result<(), CommitRefusal> {
        // A second load could come back with what the session was before it ended here.
        while !self.scene.has(Known::LoadBeside) && self.loading.borrow().contains(id) {
            self.ctx.sleep_ms(1).await;
        }
        if !self.scene.has(Known::LoadBeside) && self.residents.borrow().contains_key(id) {
            return Ok(());
        }
        self.loading.borrow_mut().insert(id.clone());
        let loaded = self.store.load(id).await;
        self.loading.borrow_mut().remove(id);
        let Some(mut stored) = loaded? else { return Ok(()) };
        if self.scene.is(Sabotage::ForgetPrincipal) {
            stored.principal = visitor.clone();
        }
        if self.scene.is(Sabotage::ReuseSeq) {
            for log in stored.snapshot.streams.values_mut().filter(|log| log.last > 0) {
                log.last -= 1;
                let gone = log.events.pop_back_if(|event| event.seq > log.last);
                log.bytes -= gone.map_or(0, |event| event.message.as_str().len());
            }
        }
        let settings = self.scene.settings.clone();
        let machine = Session::restore(settings, stored.snapshot, self.ctx.wall_ms()).owned_by(epoch.0);
        let mut actor = Actor::new(self, id, epoch, stored.principal, machine);
        actor.version = stored.version;
        self.insert(actor, true);
        if self.slots.epoch(id.slot()) != Some(epoch) {
            // The slot went while the session came: nobody else looks after it here.
            self.let_go(&[id.slot()]);
        }
        Ok(())
    }

    fn insert(self: &Rc<Self>, mut actor: Actor, is_restored: bool) {
        let id = actor.id.clone();
        if self.residents.borrow().contains_key(&id) {
            return;
        }
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        actor.number = number;
        let entry = Entry { principal: actor.principal.clone(), queue: actor.queue.clone(), number };
        self.residents.borrow_mut().insert(id, entry);
        self.ctx.spawn(actor.run(is_restored));
    }

    /// A list of the registries has changed: every session is told.
    pub(crate) fn announce(&self) {
        self.residents.borrow().values().for_each(|entry| entry.queue.push(Letter::Changed));
    }

    /// Whether it serves a slot now.
    pub(crate) fn serves(&self, slot: Slot) -> bool {
        self.slots.epoch(slot).is_some()
    }

    /// From now on the session is not found.
    pub(crate) fn leave(&self, id: &SessionId, number: u64) {
        let is_it = self.residents.borrow().get(id).is_some_and(|entry| entry.number == number);
        if is_it {
            self.residents.borrow_mut().remove(id);
        }
    }

    async fn initialise(self: &Rc<Self>, ask: Ask, reply: Reply) {
        let Kind::Deliver { message, .. } = ask.kind else {
            return reply.say(Ok(ask::session_not_found()));
        };
        let random = self.scene.sim.draw(|rng| (rng.next(), rng.bytes()));
        let Some((slot, epoch)) = self.slots.pick(random.0) else {
            let nobody = Detail::NotOwner { owner: String::new(), epoch: 0 };
            return reply.say(Err(Error::new(Code::Unavailable, "this node owns no slot").with(nobody)));
        };
        let id = SessionId::mint(&self.scene.keys, slot, random.1);
        if let Err(refusal) = self.store.create(&id, epoch, &ask.principal).await {
            if refusal == CommitRefusal::Stale {
                self.overtaken(slot, epoch);
                return reply.say(Err(self.not_owner(slot)));
            }
            let error = RpcError::reason("the session store cannot be reached", "store_down");
            return reply.say(Ok(ask::refused(503, request_id(&message), &error)));
        }
        let settings = self.scene.settings.clone();
        let machine = Session::new(settings, self.ctx.wall_ms()).owned_by(epoch.0);
        let actor = Actor::new(self, &id, epoch, ask.principal, machine);
        self.insert(actor, false);
        reply.begins(id.as_str());
        let letter = Letter::Message { message, key: String::new(), again: None, reply: Rc::new(reply) };
        if let Err(Letter::Message { reply, .. }) = self.post(&id, None, letter) {
            reply.say(Err(self.not_owner(slot)));
        }
    }

    /// The epoch in which a slot is owned, once that is settled.
    async fn settled(&self, slot: Slot) -> Option<Epoch> {
        let mut left = TAKING_MS;
        while self.slots.is_being_taken(slot) && left > 0 {
            self.ctx.sleep_ms(10).await;
            left -= 10;
        }
        self.slots.epoch(slot)
    }

    pub(crate) fn not_owner(&self, slot: Slot) -> Error {
        let follower = self.follower.borrow();
        let owner = follower.as_ref().and_then(|follower| follower.table.borrow().owner(slot));
        let owner = owner.filter(|owner| *owner.node != *format!("session-{}", self.index));
        let (owner, epoch) =
            owner.map_or((String::new(), 0), |owner| (owner.peer.address.to_string(), owner.epoch.0));
        let detail = Detail::NotOwner { owner, epoch };
        Error::new(Code::Precondition, "the slot is not owned by this node").with(detail)
    }

    /// Whether an answer may be given that nothing is written down for.
    pub(crate) async fn certainty(&self, slot: Slot, epoch: Epoch) -> Certainty {
        if self.scene.is(Sabotage::NoCertainty) || self.slots.is_certain(slot, self.ctx.now_ms()) {
            return Certainty::Owner;
        }
        let asked = self.ctx.now_ms();
        match self.store.fence(&[(slot, epoch)]).await.first() {
            Some(Fenced::Done) => {
                self.agreed(slot, asked);
                Certainty::Owner
            }
            Some(Fenced::Higher(_)) => {
                self.scene.pen.count(|counts| counts.stale += 1);
                self.overtaken(slot, epoch);
                Certainty::Lost
            }
            Some(Fenced::Down) | None => Certainty::Unknown,
        }
    }

    /// The store knew of no other owner when it was asked.
    pub(crate) fn agreed(&self, slot: Slot, asked_ms: u64) {
        let is_read_late = self.scene.has(Known::AgreedWhenRead);
        self.slots.agreed(slot, if is_read_late { self.ctx.now_ms() } else { asked_ms });
    }

    /// The store knows a later owner.
    pub(crate) fn overtaken(&self, slot: Slot, epoch: Epoch) {
        if self.scene.has(Known::OvertakenServes) {
            return;
        }
        if self.slots.epoch(slot) == Some(epoch) {
            self.slots.drop_all(&[slot]);
            self.let_go(&[slot]);
        }
        if let Some(claims) = self.claims.borrow().upgrade() {
            claims.overtaken(slot, epoch);
        }
    }

    fn let_go(&self, slots: &[Slot]) {
        let residents = self.residents.borrow();
        for entry in residents.iter().filter(|(id, _)| slots.contains(&id.slot())).map(|(_, entry)| entry) {
            entry.queue.push(Letter::Moved);
        }
    }

    pub(crate) fn acquired(&self, slots: &[(Slot, Epoch)]) {
        let anew = |(slot, epoch): &&(Slot, Epoch)| self.slots.epoch(*slot).is_some_and(|was| was != *epoch);
        let renewed: Vec<Slot> = slots.iter().filter(anew).map(|(slot, _)| *slot).collect();
        self.let_go(&renewed);
        self.slots.take(slots);
    }

    pub(crate) fn lost(&self, slots: &[Slot]) {
        self.slots.drop_all(slots);
        self.let_go(slots);
    }

    pub(crate) async fn hand_over(&self, slots: &[Slot]) {
        self.lost(slots);
        let mut left = QUIET_MS;
        while left > 0 && self.residents.borrow().keys().any(|id| slots.contains(&id.slot())) {
            self.ctx.sleep_ms(1).await;
            left -= 1;
        }
    }
}

fn foreign_cursor() -> Frame {
    let error = RpcError::new(code::INVALID_REQUEST, "Last-Event-ID was not handed out in this session");
    ask::refused(400, None, &error)
}

fn request_id(message: &Message) -> Option<&mcp::rpc::Id> {
    if let Message::Request(request) = message { Some(&request.id) } else { None }
}
