//! Claiming slots for a node. The decisions are placement's own ([`Desk`]); what performs them is said anew here and mirrors
//! `libs/placement/src/claim.rs`, `claim/perform.rs`, `claim/writes.rs` and `keeper.rs`, less the tick of the workers. While nothing
//! happens it looks less often.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use api::{Epoch, Slot, SlotCount};
use futures::future::{Either, select};
use history::line::{Source, What};
use placement::decide::{Claim, Desk, Effect, HandOver, View};
use placement::port::{Compare, Entry, Event, LeaseId, Op, Revision, StoreError, Txn};
use placement::record::{EpochRecord, Key, Keys, SlotRecord, encode};
use placement::{Fenced, Identity};

use super::Node;
use crate::follow::Follower;
use crate::lease::Client;
use crate::sabotage::Sabotage;
use crate::store;
use crate::world::Queue;

const TICK_MS: u64 = 100;
/// When nothing has happened for a while; what would happen by itself takes less than that while.
const QUIET_TICK_MS: u64 = 700;
const QUIET_TICKS: u32 = 12;
const TTL_MS: u64 = 5_000;
const PAUSE_MS: u64 = 50;
const HANDING_MS: u64 = 2_000;

type Writes = (Vec<Compare>, Vec<Op>);
type Written = (Vec<Op>, Result<Txn, StoreError>);

/// What was begun and has ended, or a reason to look.
enum News {
    Announced(Written),
    Claimed(Vec<Claim>, Written),
    Fenced(Vec<(Slot, Epoch)>, Vec<Fenced>),
    Handed(HandOver, Written),
}

/// See the module.
pub(crate) struct Claims {
    node: Rc<Node>,
    client: Client,
    keys: Keys,
    me: Identity,
    pub(crate) follower: Rc<Follower>,
    lease: Rc<Cell<Option<LeaseId>>>,
    stopped: Rc<Cell<bool>>,
    desk: RefCell<Desk>,
    news: Queue<News>,
    /// Looks since something last happened.
    quiet: Cell<u32>,
}

impl Claims {
    pub(crate) fn start(node: &Rc<Node>, client: Client, me: Identity, told: Queue<()>) -> Rc<Self> {
        let keys = node.scene.lease_keys.clone();
        let follower = Follower::start(&client, &keys, told.clone());
        let seed = node.scene.sim.draw(crate::world::rng::Rng::next);
        let this = Rc::new(Self {
            node: Rc::clone(node),
            client,
            keys,
            desk: RefCell::new(Desk::new(me.clone(), SlotCount::Usual, seed)),
            me,
            follower,
            lease: Rc::default(),
            stopped: Rc::default(),
            news: Queue::default(),
            quiet: Cell::new(0),
        });
        this.client.ctx.spawn(keep(this.client.clone(), Rc::clone(&this.lease), Rc::clone(&this.stopped)));
        this.client.ctx.spawn(Rc::clone(&this).run(told));
        this
    }

    async fn run(self: Rc<Self>, told: Queue<()>) {
        let ctx = self.client.ctx.clone();
        loop {
            let quiet = self.quiet.get();
            let tick = if quiet > QUIET_TICKS { QUIET_TICK_MS } else { TICK_MS };
            let waiting = select(Box::pin(told.next()), ctx.sleep_ms(tick));
            self.quiet.set(match select(Box::pin(self.news.next()), waiting).await {
                Either::Left((news, _)) => {
                    self.finish(news);
                    0
                }
                Either::Right((Either::Left(_), _)) => 0,
                Either::Right((Either::Right(_), _)) => quiet.saturating_add(1),
            });
            while let Some(news) = self.news.pop() {
                self.finish(news);
            }
            if self.node.is_draining() {
                self.desk.borrow_mut().drain(ctx.now_ms());
            }
            if self.step() {
                break;
            }
        }
        self.stopped.set(true);
    }

    /// The session store knows of a later owner of a slot that this node held in an epoch.
    pub(crate) fn overtaken(&self, slot: Slot, epoch: Epoch) {
        self.desk.borrow_mut().overtaken(slot, epoch);
        self.quiet.set(0);
    }

    /// Decides, and begins what was decided. True at the end.
    fn step(self: &Rc<Self>) -> bool {
        if self.follower.lists.get() == 0 {
            return false;
        }
        let effects = {
            let table = self.follower.table.borrow();
            self.desk.borrow_mut().decide(View {
                now_ms: self.client.ctx.now_ms(),
                table: &table,
                lease: self.lease.get(),
                reachable: self.follower.reachable.get(),
            })
        };
        let mut end = false;
        if !effects.is_empty() || self.node.slots.is_any_being_taken() {
            self.quiet.set(0);
        }
        for effect in effects {
            end |= self.begin(effect);
        }
        end
    }

    fn begin(self: &Rc<Self>, effect: Effect) -> bool {
        let now_ms = self.client.ctx.now_ms();
        match effect {
            Effect::Announce { value, instead_of } => match self.lease.get() {
                Some(lease) => {
                    let key = self.keys.write(&Key::Node(self.me.node.to_string()));
                    let writes =
                        (vec![exactly(key.clone(), instead_of)], vec![Op::Put(key, value, Some(lease))]);
                    self.write(writes, News::Announced);
                }
                None => self.desk.borrow_mut().announced(now_ms, false),
            },
            Effect::Claim(mut claims) => match self.lease.get() {
                Some(lease) => {
                    if self.node.scene.is(Sabotage::SameEpoch) {
                        for claim in claims.iter_mut().filter(|claim| claim.record.epoch.0 > 1) {
                            claim.record.epoch.0 -= 1;
                        }
                    }
                    let writes = claim_writes(&self.keys, lease, &claims);
                    self.write(writes, move |written| News::Claimed(claims, written));
                }
                None => self.desk.borrow_mut().claimed(now_ms, &claims, false),
            },
            Effect::Fence(slots) => {
                let this = Rc::clone(self);
                self.client.ctx.spawn(async move {
                    let fenced = this.fence(&slots).await;
                    this.news.push(News::Fenced(slots, fenced));
                });
            }
            Effect::HandOver(hand_over) => {
                let this = Rc::clone(self);
                self.client.ctx.spawn(async move {
                    let slots: Vec<Slot> = hand_over.moves.iter().map(|moved| moved.slot).collect();
                    // What did not come to rest is refused by the fence.
                    let _rest = this.client.ctx.within_ms(HANDING_MS, this.node.hand_over(&slots)).await;
                    let (compares, ops) = hand_over_writes(&this.keys, &hand_over);
                    let outcome = this.client.txn(compares, ops.clone()).await;
                    this.news.push(News::Handed(hand_over, (ops, outcome)));
                });
            }
            Effect::Lost(slots, _to) => self.node.lost(&slots),
            Effect::Replaced(_) => return true,
            Effect::Drained(_) => {
                self.node.drained.set(true);
                return true;
            }
        }
        false
    }

    fn write(self: &Rc<Self>, (compares, ops): Writes, done: impl FnOnce(Written) -> News + 'static) {
        let this = Rc::clone(self);
        self.client.ctx.spawn(async move {
            let outcome = this.client.txn(compares, ops.clone()).await;
            this.news.push(done((ops, outcome)));
        });
    }

    async fn fence(&self, slots: &[(Slot, Epoch)]) -> Vec<Fenced> {
        self.node.slots.claim(slots);
        let asked = self.client.ctx.now_ms();
        let fenced = self.node.store.fence(slots).await;
        for ((slot, _), _) in slots.iter().zip(&fenced).filter(|(_, fenced)| **fenced == store::Fenced::Done)
        {
            self.node.agreed(*slot, asked);
        }
        let told = |fenced: store::Fenced| match fenced {
            store::Fenced::Done => Fenced::Done,
            store::Fenced::Higher(epoch) => Fenced::Higher(epoch),
            store::Fenced::Down => Fenced::Down,
        };
        fenced.into_iter().map(told).collect()
    }

    fn finish(&self, news: News) {
        let now_ms = self.client.ctx.now_ms();
        match news {
            News::Announced(written) => {
                let done = self.wrote(written);
                self.desk.borrow_mut().announced(now_ms, done);
            }
            News::Claimed(claims, written) => {
                let done = self.wrote(written);
                self.desk.borrow_mut().claimed(now_ms, &claims, done);
            }
            News::Fenced(slots, answers) => {
                let acquired = self.desk.borrow_mut().fenced(now_ms, &slots, &answers);
                self.acquired(&acquired, true);
            }
            News::Handed(hand_over, written) => {
                let done = self.wrote(written);
                let kept = self.desk.borrow_mut().handed(now_ms, &hand_over.moves, done);
                if done {
                    let slots: Vec<Slot> = hand_over.moves.iter().map(|moved| moved.slot).collect();
                    self.node.lost(&slots);
                } else {
                    self.acquired(&kept, false);
                }
            }
        }
    }

    fn acquired(&self, slots: &[(Slot, Epoch)], is_new: bool) {
        for (slot, epoch) in slots.iter().filter(|_| is_new) {
            let incarnation = self.me.incarnation.to_string();
            let what = What::Acquire { slot: slot.number(), epoch: epoch.0, incarnation };
            self.node.scene.pen.write(Source::Store, "owners", None, what);
            self.node.scene.pen.count(|counts| counts.takeovers += u64::from(epoch.0 > 1));
        }
        if !slots.is_empty() {
            self.node.acquired(slots);
        }
    }

    fn wrote(&self, (ops, outcome): Written) -> bool {
        if let Ok(Txn::Done(revision)) = outcome {
            self.follower.wrote(events(&ops, revision));
            return true;
        }
        self.follower.list_soon();
        false
    }
}

/// Keeps a lease, and gets another when it is lost. Mirrors `keeper.rs`.
async fn keep(client: Client, lease: Rc<Cell<Option<LeaseId>>>, stopped: Rc<Cell<bool>>) {
    loop {
        if stopped.get() {
            if let Some(lease) = lease.take() {
                // It runs out by itself otherwise.
                let _ended = client.revoke(lease).await.is_ok();
            }
            return;
        }
        let answer = match lease.get() {
            Some(lease) => client.keep_alive(lease).await,
            None => client.grant(TTL_MS).await,
        };
        match answer {
            Ok(granted) => {
                lease.set(Some(granted.lease));
                let pause = granted.ttl.min(Duration::from_millis(TTL_MS)) / 5;
                client.ctx.sleep_ms(u64::try_from(pause.as_millis()).unwrap_or(TTL_MS)).await;
            }
            Err(StoreError::Gone) => lease.set(None),
            Err(_) => client.ctx.sleep_ms(PAUSE_MS).await,
        }
    }
}

fn claim_writes(keys: &Keys, lease: LeaseId, claims: &[Claim]) -> Writes {
    let mut writes = (Vec::new(), Vec::new());
    for claim in claims {
        let (slot, epoch) = (keys.write(&Key::Slot(claim.slot)), keys.write(&Key::Epoch(claim.slot)));
        writes.0.push(exactly(slot.clone(), claim.instead_of.clone()));
        writes.0.push(dealt(epoch.clone(), claim.epoch_at));
        writes.1.push(Op::Put(slot, encode(&claim.record), Some(lease)));
        if !claim.again {
            writes.1.push(Op::Put(epoch, encode(&EpochRecord::new(claim.record.epoch)), None));
        }
    }
    writes
}

fn hand_over_writes(keys: &Keys, hand_over: &HandOver) -> Writes {
    let to = &hand_over.to;
    let mut writes = (Vec::new(), Vec::new());
    writes.0.push(Compare::Value(keys.write(&Key::Node(to.node.to_string())), hand_over.shown.clone()));
    for moved in &hand_over.moves {
        let (slot, epoch) = (keys.write(&Key::Slot(moved.slot)), keys.write(&Key::Epoch(moved.slot)));
        let record = SlotRecord::new(&to.node, to.incarnation, moved.epoch);
        writes.0.push(Compare::Value(slot.clone(), moved.instead_of.clone()));
        writes.0.push(dealt(epoch.clone(), moved.epoch_at));
        writes.1.push(Op::Put(slot, encode(&record), Some(hand_over.lease)));
        writes.1.push(Op::Put(epoch, encode(&EpochRecord::new(moved.epoch)), None));
    }
    writes
}

fn events(ops: &[Op], revision: Revision) -> Vec<Event> {
    let event = |op: &Op| match op {
        Op::Put(key, value, lease) => {
            let (key, value, lease) = (key.clone(), value.clone(), *lease);
            Event::Put(Entry { key, value, revision, lease })
        }
        Op::Delete(key) => Event::Deleted { key: key.clone(), revision },
    };
    ops.iter().map(event).collect()
}

fn exactly(key: String, value: Option<Vec<u8>>) -> Compare {
    match value {
        Some(value) => Compare::Value(key, value),
        None => Compare::Absent(key),
    }
}

fn dealt(key: String, at: Option<Revision>) -> Compare {
    match at {
        Some(revision) => Compare::Revision(key, revision),
        None => Compare::Absent(key),
    }
}
