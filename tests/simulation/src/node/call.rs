//! One invocation at a registry, followed across streams that break. Mirrors `services/session/src/registries/call.rs`; the
//! replica is chosen by the session, and whoever takes a call up asks the replica that had it, then the others, as in
//! `reattach.rs`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use api::{Code, Detail, Error};
use machines::{CallFrame, CallId, Continuation, Millis};
use mcp::Json;
use mcp::rpc::RpcError;

use super::actor::{Actor, Letter};
use crate::registry::{Body, Context, Frame, RegistryDoor, Wish};
use crate::sabotage::Sabotage;
use crate::scene::Scene;
use crate::world::{Ctx, Queue, Rx};

const PAUSE_MS: u64 = 100;
const PATIENCE_MS: u64 = 5_000;
/// A registry that says nothing for so long is out of reach: what a connection's pings find out.
const SILENCE_MS: u64 = 3_000;

/// See the module.
pub(crate) struct Call {
    scene: Rc<Scene>,
    ctx: Ctx,
    context: Context,
    deadline: Millis,
    replica: Cell<usize>,
    last: Cell<u64>,
    is_let_go: Cell<bool>,
    instance: RefCell<Option<String>>,
}

type Answers = Rx<Result<Frame, Error>>;

impl Call {
    pub(crate) fn new(
        actor: &Actor,
        call: CallId,
        (epoch, generation): (u64, u32),
        params: Json,
        deadline: Millis,
    ) -> Rc<Self> {
        let (scene, ctx) = (Rc::clone(&actor.node.scene), actor.node.ctx.clone());
        let invocation = format!("{}/{epoch}/{}/{generation}", actor.id.as_str(), call.0);
        let (slot, epoch) = (actor.id.slot().number(), actor.epoch.0);
        let affinity = actor.id.as_str().bytes().fold(0_usize, |sum, c| sum * 31 % 997 + usize::from(c));
        let alive = |replica: &usize| {
            let registries = scene.registries.borrow();
            registries.get(*replica).is_some_and(|door| scene.sim.is_alive(door.process))
        };
        let count = scene.registries.borrow().len().max(1);
        let replica = (0..count).map(|n| (affinity + n) % count).find(alive).unwrap_or(affinity % count);
        Rc::new(Self {
            context: Context { slot, epoch, invocation, params },
            scene,
            ctx,
            deadline,
            replica: Cell::new(replica),
            last: Cell::new(0),
            is_let_go: Cell::new(false),
            instance: RefCell::new(None),
        })
    }

    /// It was begun by another owner, there, and heard up to this frame.
    pub(crate) fn was_at(&self, instance: Option<String>, heard: u64) {
        let replica = instance.as_deref().and_then(|name| {
            let number = name.strip_prefix("registry-")?.split('.').next()?;
            number.parse().ok()
        });
        if let Some(replica) = replica {
            self.replica.set(replica);
        }
        *self.instance.borrow_mut() = instance;
        self.last.set(heard);
    }

    pub(crate) fn last(&self) -> u64 {
        self.last.get()
    }

    /// Nobody listens any more.
    pub(crate) fn let_go(&self) {
        self.is_let_go.set(true);
    }

    fn door(&self, replica: usize) -> Option<RegistryDoor> {
        self.scene.registries.borrow().get(replica).cloned()
    }

    fn ask(&self, replica: usize, wish: Wish) -> Option<Answers> {
        let door = self.door(replica)?;
        Some(door.ask(&self.scene.net, &self.ctx, (self.context.clone(), wish)))
    }

    /// Tells the replica that has it, which need not answer.
    pub(crate) fn tell_all(&self, wish: &Wish) {
        drop(self.ask(self.replica.get(), wish.clone()));
    }

    /// It will not be come back to any more.
    pub(crate) fn release(&self) {
        self.tell_all(&Wish::Release);
    }

    /// Begins it, or goes on with it, and follows it to the ending of the round.
    pub(crate) fn follow(self: &Rc<Self>, call: CallId, to: Queue<Letter>, wish: Wish, after: u64) {
        let this = Rc::clone(self);
        self.ctx.spawn(async move {
            let is_resume = matches!(wish, Wish::Resume { .. });
            let mut opened = this.ask(this.replica.get(), wish.clone());
            let mut patience = None;
            let mut last = after;
            loop {
                let broken = match opened.take() {
                    Some(mut frames) => match this.read(call, &to, &mut frames, &mut last).await {
                        Ok(()) => return,
                        Err((error, led_on)) => {
                            if led_on {
                                patience = None;
                            }
                            error
                        }
                    },
                    None => Error::new(Code::Unavailable, "no such replica"),
                };
                let taken_on = last > 0 || is_resume;
                if !taken_on && provably_not_executed(&broken) {
                    return this.say(call, &to, 0, lost(&broken, true));
                }
                let now = this.ctx.now_ms();
                let until = *patience.get_or_insert(now + PATIENCE_MS);
                if now >= until || this.ctx.wall_ms() >= this.deadline || !is_transient(&broken) {
                    return this.give_up(call, &to, &broken);
                }
                this.ctx.sleep_ms(PAUSE_MS).await;
                let again = if is_resume { wish.clone() } else { Wish::Attach { after: last } };
                opened = this.ask(this.replica.get(), again);
            }
        });
    }

    /// Takes up what another owner began: the replica that had it is asked, then the others. One that nobody knows has an
    /// unknown outcome.
    pub(crate) fn pick_up(self: &Rc<Self>, call: CallId, to: Queue<Letter>, wish: Wish, after: u64) {
        let this = Rc::clone(self);
        self.ctx.spawn(async move {
            let (first, count) = (this.replica.get(), this.scene.registries.borrow().len().max(1));
            let mut last = after;
            loop {
                let mut transient = false;
                for n in 0..count {
                    let replica = (first + n) % count;
                    let Some(mut frames) = this.ask(replica, wish.clone()) else { continue };
                    this.replica.set(replica);
                    match this.read(call, &to, &mut frames, &mut last).await {
                        Ok(()) => return,
                        Err((_, true)) => {
                            return this.follow(call, to, Wish::Attach { after: last }, last);
                        }
                        Err((error, false)) => transient |= is_transient(&error),
                    }
                }
                if !transient || this.ctx.wall_ms() >= this.deadline {
                    let nobody = Error::not_found("nobody knows the invocation");
                    return this.give_up(call, &to, &nobody);
                }
                this.ctx.sleep_ms(PAUSE_MS).await;
            }
        });
    }

    /// Passes frames on. What breaks before the ending comes back, and whether anything was heard.
    async fn read(
        &self,
        call: CallId,
        to: &Queue<Letter>,
        frames: &mut Answers,
        last: &mut u64,
    ) -> Result<(), (Error, bool)> {
        let mut led_on = false;
        loop {
            if self.is_let_go.get() {
                return Ok(());
            }
            // Tools say something more often than this, or the connection's pings would; questions may take longer.
            let next = self.ctx.within_ms(SILENCE_MS, frames.recv()).await;
            let reached = self.is_reached();
            let (number, body) = match next {
                None if reached => continue,
                None => return Err((Error::new(Code::Unavailable, "no answer to pings"), led_on)),
                Some(None) => return Err((Error::new(Code::Unavailable, "the stream broke"), led_on)),
                Some(Some(Err(error))) => return Err((error, led_on)),
                Some(Some(Ok(frame))) => frame,
            };
            let ends = body.is_ending();
            if number > *last {
                *last = number;
                self.last.set(number.max(self.last.get()));
                led_on = true;
                self.say(call, to, number, self.frame(body));
            }
            if ends {
                return Ok(());
            }
        }
    }

    fn is_reached(&self) -> bool {
        self.door(self.replica.get()).is_some_and(|door| {
            let (net, us, them) = (&self.scene.net, self.ctx.me, door.process);
            self.scene.sim.is_alive(them)
                && !self.scene.sim.is_stopped(them)
                && !net.is_cut(us, them)
                && !net.is_cut(them, us)
        })
    }

    fn frame(&self, body: Body) -> CallFrame {
        match body {
            Body::Accepted { instance } => {
                *self.instance.borrow_mut() = Some(instance.clone());
                CallFrame::Accepted { instance }
            }
            Body::Progress(params) => CallFrame::Progress(params),
            Body::Result(result) => CallFrame::Result(result),
            Body::Error(error) => CallFrame::Error(error),
            Body::InputRequired { requests, round } => {
                CallFrame::InputRequired { requests, round, continuation: Continuation::Parked }
            }
        }
    }

    fn give_up(self: &Rc<Self>, call: CallId, to: &Queue<Letter>, error: &Error) {
        if self.scene.is(Sabotage::RetryOnTimeout) {
            // A new invocation of what may have run.
            let mut context = self.context.clone();
            context.invocation.push_str("/again");
            let count = self.scene.registries.borrow().len().max(1);
            let again = Rc::new(Self {
                scene: Rc::clone(&self.scene),
                ctx: self.ctx.clone(),
                context,
                deadline: self.deadline,
                replica: Cell::new((self.replica.get() + 1) % count),
                last: Cell::new(0),
                is_let_go: Cell::new(false),
                instance: RefCell::new(None),
            });
            let is_first = !self.context.invocation.ends_with("/again");
            if is_first {
                return again.follow(call, to.clone(), Wish::Start, 0);
            }
        }
        self.say(call, to, 0, lost(error, false));
    }

    fn say(&self, call: CallId, to: &Queue<Letter>, number: u64, frame: CallFrame) {
        if !self.is_let_go.get() {
            to.push(Letter::Heard { call, number, frame });
        }
    }
}

fn lost(error: &Error, not_executed: bool) -> CallFrame {
    let reason = match error.code {
        Code::Precondition => "owner_changed",
        Code::Unavailable | Code::NotFound => "registry_lost",
        _ => "registry_failed",
    };
    if error.code == Code::InvalidRequest {
        return CallFrame::Error(RpcError::reason("refused", "refused"));
    }
    CallFrame::Lost { reason, not_executed }
}

fn provably_not_executed(error: &Error) -> bool {
    matches!(error.detail, Some(Detail::Draining | Detail::NotReached)) || error.code == Code::NotFound
}

const fn is_transient(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::Overloaded)
}
