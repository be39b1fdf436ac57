//! A gateway: finds the owner, waits for one, follows a request to the next owner. Mirrors `services/gateway/src/forward.rs`
//! with `forward/{owner,following,reach}.rs`, and the pings of its links.

mod following;
mod reach;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use api::session::{Answer, Frame};
use api::{Code, Detail, Error, SessionId, Slot};
use mcp::rpc::{self, RpcError};
use placement::LeaseId;
use placement::port::{Op, StoreError};
use placement::record::{Key, SuspectRecord, encode};

use self::following::Following;
use self::reach::Reach;
use crate::ask::{self, Ask, Call, Door, Kind, Step};
use crate::follow::Follower;
use crate::lease::Client;
use crate::sabotage::Known;
use crate::scene::{AskDoor, Scene};
use crate::world::{Ctx, Queue, Rx, Tx};

const REQUEST_MS: u64 = 8_000;
const OWNER_MS: u64 = 7_000;
const FIRST_PAUSE_MS: u64 = 20;
const LONGEST_PAUSE_MS: u64 = 250;
const PAUSE_MS: u64 = 100;
const PROBE_MS: u64 = 2_500;
const SETTLING_MS: u64 = 2_000;
const STEADY_MS: u64 = 1_000;
const MAX_HINTS: u32 = 2;
const REPORT_TTL_MS: u64 = 10_000;

/// What a node said first.
enum Taken {
    Accepted(Option<String>, Rx<Step>),
    Refused(Answer),
}

struct Found {
    node: String,
    taken: Taken,
}

/// How an owner was lost: when, and whom it named as the next one.
struct Lost {
    at: u64,
    next: Option<String>,
}

/// See the module.
pub(crate) struct Gateway {
    scene: Rc<Scene>,
    ctx: Ctx,
    name: String,
    run: u64,
    requests: Cell<u64>,
    turn: Cell<usize>,
    follower: Rc<Follower>,
    reach: Reach,
    client: Client,
    report_lease: Cell<Option<(LeaseId, u64)>>,
    reported: RefCell<BTreeMap<String, u64>>,
}

impl Gateway {
    pub(crate) fn start(scene: &Rc<Scene>, index: usize) -> AskDoor {
        let ctx = Ctx::new(&scene.sim);
        let door = Door::of(&ctx);
        let client = Client { etcd: scene.etcd.clone(), ctx: ctx.clone() };
        let follower = Follower::start(&client, &scene.lease_keys, Queue::default());
        let this = Rc::new(Self {
            scene: Rc::clone(scene),
            ctx: ctx.clone(),
            name: format!("gateway-{index}"),
            run: scene.sim.draw(crate::world::rng::Rng::next),
            requests: Cell::new(0),
            turn: Cell::new(0),
            follower,
            reach: Reach::default(),
            client,
            report_lease: Cell::new(None),
            reported: RefCell::default(),
        });
        let (inbox, spawner) = (door.inbox.clone(), ctx.clone());
        ctx.spawn(async move {
            loop {
                let Call { ask, reply } = inbox.next().await;
                let this = Rc::clone(&this);
                spawner.spawn(async move { this.serve(ask, reply).await });
            }
        });
        door
    }

    fn owner(&self, slot: Slot) -> Option<String> {
        let owner = self.follower.table.borrow().owner(slot)?;
        Some(owner.peer.address.to_string())
    }

    /// Answers one request.
    async fn serve(self: Rc<Self>, mut ask: Ask, reply: Tx<Step>) {
        if let Kind::Deliver { key, .. } = &mut ask.kind {
            let number = self.requests.get();
            self.requests.set(number + 1);
            *key = format!("{:016x}-{number:x}", self.run);
        }
        let id = ask.request_id().cloned();
        let slot = match &ask.session {
            None => None,
            Some(text) => match SessionId::parse(&self.scene.keys, text) {
                Some(session) => Some(session.slot()),
                None => {
                    reply.send(Ok(whole(ask::session_not_found())));
                    return;
                }
            },
        };
        let found = match slot {
            Some(slot) => {
                let finding = self.find_anew(&mut ask, slot);
                self.ctx.within_ms(REQUEST_MS, finding).await
            }
            None => self.ctx.within_ms(REQUEST_MS, self.ask_in_turn(&ask)).await,
        };
        let found = found.unwrap_or_else(|| {
            let code = if ask.is_tools_call() { Code::OutcomeUnknown } else { Code::Deadline };
            Err(Error::new(code, "no session node took the request on in time"))
        });
        match found {
            Err(error) => _ = reply.send(Ok(not_taken(id.as_ref(), &error))),
            Ok(Found { taken: Taken::Refused(answer), .. }) => _ = reply.send(Ok(Frame::Answer(answer))),
            Ok(Found { node, taken: Taken::Accepted(session, frames) }) => {
                if session.is_some() {
                    reply.send(Ok(Frame::Accepted { session }));
                }
                Following::new(&self, slot).run(ask, node, frames, reply).await;
            }
        }
    }

    async fn ask_in_turn(&self, ask: &Ask) -> Result<Found, Error> {
        let until = self.ctx.now_ms() + SETTLING_MS;
        loop {
            let error = match self.ask_each(ask).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            let has_moved = matches!(error.detail, Some(Detail::NotOwner { .. }));
            if !has_moved || self.ctx.now_ms() >= until {
                return Err(error);
            }
            self.ctx.sleep_ms(PAUSE_MS).await;
        }
    }

    async fn ask_each(&self, ask: &Ask) -> Result<Found, Error> {
        let mut moved = None;
        let ready: Vec<String> =
            self.follower.table.borrow().ready().iter().map(|peer| peer.address.to_string()).collect();
        let first = self.turn.get();
        self.turn.set(first + 1);
        let mut last = Error::new(Code::Unavailable, "no session node is ready");
        for n in 0..ready.len() {
            let Some(node) = ready.get((first + n) % ready.len()).cloned() else { continue };
            match self.ask(ask, &node, PROBE_MS).await {
                Ok(taken) => return Ok(Found { node, taken }),
                Err(error) => {
                    if matches!(error.detail, Some(Detail::NotOwner { .. })) {
                        moved = Some(Error { code: Code::Unavailable, ..error });
                        continue;
                    }
                    if error.code != Code::Unavailable {
                        return Err(error);
                    }
                    last = error;
                }
            }
        }
        Err(moved.unwrap_or(last))
    }

    /// Asks one node, and notes whether it could be reached.
    async fn ask(&self, ask: &Ask, node: &str, ms: u64) -> Result<Taken, Error> {
        let Some(door) = self.scene.node_at(node) else {
            return Err(Error::new(Code::Unavailable, "not an address"));
        };
        let mut frames = door.ask(&self.scene.net, &self.ctx, ask.clone());
        let now = self.ctx.now_ms();
        match self.ctx.within_ms(ms, frames.recv()).await {
            Some(Some(Ok(Frame::Accepted { session }))) => {
                self.reach.answered(node);
                Ok(Taken::Accepted(session, frames))
            }
            Some(Some(Ok(Frame::Refused(answer)))) => {
                self.reach.answered(node);
                Ok(Taken::Refused(answer))
            }
            Some(Some(Ok(_))) => Err(Error::new(Code::Internal, "answered without accepting")),
            Some(Some(Err(error))) => {
                if error.detail == Some(Detail::NotReached) {
                    if self.reach.failed(node, now) {
                        self.suspect(node);
                    }
                } else {
                    self.reach.answered(node);
                }
                Err(error)
            }
            Some(None) => {
                self.reach.lost(node, now);
                Err(uncertain("a session node said nothing"))
            }
            None => {
                self.reach.lost(node, now);
                if self.reach.is_silent(node, now) {
                    self.suspect(node);
                }
                Err(uncertain("a session node has not answered in time"))
            }
        }
    }

    /// Reports a node that could not be reached. Mirrors `report` in `libs/placement/src/directory.rs`.
    fn suspect(&self, address: &str) {
        let now = self.ctx.now_ms();
        let mut reported = self.reported.borrow_mut();
        if reported.get(address).is_some_and(|at| now < at + 2_000) {
            return;
        }
        reported.insert(address.to_owned(), now);
        let table = self.follower.table.borrow();
        let found = table.nodes().find(|(_, record)| *record.address == *address);
        let Some((node, incarnation)) = found.map(|(node, r)| (node.to_string(), r.incarnation)) else {
            return;
        };
        let key = Key::Suspect { node, incarnation, reporter: self.name.clone() };
        let key = self.scene.lease_keys.write(&key);
        let (client, known) = (self.client.clone(), self.report_lease.get());
        let fresh = known.filter(|(_, since)| now < since + REPORT_TTL_MS / 2);
        self.ctx.spawn(async move {
            let lease = match fresh {
                Some((lease, _)) => lease,
                None => match client.grant(REPORT_TTL_MS).await {
                    Ok(granted) => granted.lease,
                    Err(_) => return,
                },
            };
            let put = Op::Put(key, encode(&SuspectRecord::new("it does not answer")), Some(lease));
            // Its cause will come again.
            let _written: Result<_, StoreError> = client.txn(Vec::new(), vec![put]).await;
        });
    }

    /// The same as [`Self::find`], for a request that nobody has taken on yet, as far as is known. One that somebody may have
    /// begun is not refused: it is asked for again, or has an unknown outcome.
    async fn find_anew(&self, ask: &mut Ask, slot: Slot) -> Result<Found, Error> {
        let until = self.ctx.now_ms() + OWNER_MS;
        loop {
            let found = self.find(ask, slot, None).await?;
            let is_perhaps_there = matches!(&ask.kind, Kind::Deliver { again: Some(_), .. });
            let believes = self.scene.has(Known::RefusedAfterAll);
            let Taken::Refused(answer) = &found.taken else { return Ok(found) };
            if !is_perhaps_there || !ask.is_tools_call() || believes {
                return Ok(found);
            }
            if !matches!(answer.status, 429 | 503) || self.ctx.now_ms() >= until {
                return Err(Error::new(Code::OutcomeUnknown, "the next owner refused"));
            }
            self.ctx.sleep_ms(PAUSE_MS).await;
        }
    }

    /// Asks the owner of a slot, and whoever owns it next, until one takes the request on or patience ends.
    async fn find(&self, ask: &mut Ask, slot: Slot, lost: Option<Lost>) -> Result<Found, Error> {
        let was_accepted = lost.is_some();
        let (mut missed, mut hint) = lost.map_or((None, None), |lost| (Some(lost.at), lost.next));
        let mut pause = FIRST_PAUSE_MS;
        loop {
            let owner = self.owner(slot);
            let error = match self.attempt(ask, hint.take().or_else(|| owner.clone())).await {
                Ok(found) => return Ok(found),
                Err(error) => error,
            };
            if !may_pass(&error, was_accepted) {
                return Err(given_up(ask, error));
            }
            let since = *missed.get_or_insert(self.ctx.now_ms());
            if self.ctx.now_ms() >= since + OWNER_MS {
                return Err(given_up(ask, error));
            }
            let mut left = pause;
            while left > 0 && self.owner(slot) == owner {
                let step = left.min(10);
                self.ctx.sleep_ms(step).await;
                left -= step;
            }
            pause = (pause * 2).min(LONGEST_PAUSE_MS);
        }
    }

    async fn attempt(&self, ask: &mut Ask, owner: Option<String>) -> Result<Found, Error> {
        let nobody = Detail::NotOwner { owner: String::new(), epoch: 0 };
        let Some(mut node) = owner else {
            return Err(Error::new(Code::Unavailable, "nobody owns the slot").with(nobody));
        };
        let mut hints = MAX_HINTS;
        loop {
            let error = match self.ask(ask, &node, PROBE_MS).await {
                Ok(taken) => return Ok(Found { node, taken }),
                Err(error) => error,
            };
            let may_have_begun = match error.detail {
                Some(Detail::Draining | Detail::NotReached) => false,
                // An owner that gives a session up says so in the same words to whom it has begun to serve.
                Some(Detail::NotOwner { .. }) => !self.scene.has(Known::MovedIsNew),
                _ => true,
            };
            if let (true, Kind::Deliver { again, .. }) = (may_have_begun, &mut ask.kind) {
                again.get_or_insert_default();
            }
            match &error.detail {
                Some(Detail::NotOwner { owner, .. }) if !owner.is_empty() && hints > 0 => {
                    hints -= 1;
                    node.clone_from(owner);
                }
                _ => return Err(error),
            }
        }
    }
}

impl Gateway {
    fn pings_fail(&self, node: &str) -> bool {
        let Some(door) = self.scene.node_at(node) else { return true };
        let (net, us, them) = (&self.scene.net, self.ctx.me, door.process);
        let away = net.is_cut(us, them) || net.is_cut(them, us) || self.scene.sim.is_stopped(them);
        away && self.reach.misses_a_ping(node, self.ctx.now_ms())
    }
}

fn whole(frame: Frame) -> Frame {
    match frame {
        Frame::Refused(answer) => Frame::Answer(answer),
        other => other,
    }
}

fn not_taken(id: Option<&rpc::Id>, error: &Error) -> Frame {
    let refuse = |status: u16, reason: &str| {
        let error = RpcError::reason("not now", reason);
        Frame::Answer(ask::answer(status, Some(rpc::error(id, &error))))
    };
    match error.code {
        Code::OutcomeUnknown => {
            Frame::Answer(ask::answer(200, Some(ask::outcome_unknown(id, "unavailable"))))
        }
        Code::Internal => refuse(500, "internal"),
        _ => refuse(503, "unavailable"),
    }
}

fn is_loss(error: &Error) -> bool {
    let moved = matches!(error.detail, Some(Detail::NotOwner { .. } | Detail::StaleEpoch { .. }));
    error.code == Code::Unavailable || (error.code == Code::Precondition && moved)
}

fn uncertain(message: &str) -> Error {
    let lost = Detail::OutcomeUnknown { invocation: String::new() };
    Error::new(Code::Unavailable, message).with(lost)
}

fn may_pass(error: &Error, was_accepted: bool) -> bool {
    match (&error.code, &error.detail) {
        (Code::Precondition, Some(Detail::StaleEpoch { .. })) | (_, Some(Detail::NotOwner { .. })) => true,
        (Code::Unavailable, Some(Detail::Draining | Detail::NotReached | Detail::OutcomeUnknown { .. })) => {
            true
        }
        (code, _) => was_accepted && *code == Code::Unavailable,
    }
}

fn given_up(ask: &Ask, error: Error) -> Error {
    let is_lost = error.code == Code::Unavailable || error.code == Code::Precondition;
    let is_perhaps_there = matches!(&ask.kind, Kind::Deliver { again: Some(_), .. });
    if is_lost && is_perhaps_there && ask.is_tools_call() {
        return Error { code: Code::OutcomeUnknown, ..error };
    }
    if matches!(error.detail, Some(Detail::NotOwner { .. })) {
        return Error::new(Code::Unavailable, "the owner of the slot could not be found");
    }
    error
}
