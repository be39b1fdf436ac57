//! The clients: sessions are begun, used in every way of the workloads, ended, and asked again afterwards. What they see is the
//! history. Clients suffer no faults themselves, but they hang up and come back.

mod op;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use api::session::Frame;
use api::{Principal, SessionId, Slot};
use history::line::{Doing, Source, What};
use mcp::Json;
use mcp::rpc::{Id, Message, Notification, Request};
use serde_json::json;

use self::op::{Ended, Op};
use crate::ask::{Ask, Kind};
use crate::scene::{AskDoor, GATEWAYS, Scene};
use crate::world::Ctx;

/// How long a client waits for anything.
pub(crate) const PATIENCE_MS: u64 = 30_000;

/// One client.
pub(crate) struct Client {
    pub(crate) scene: Rc<Scene>,
    pub(crate) ctx: Ctx,
    pub(crate) name: String,
    principal: Principal,
    /// Others' sessions, to be tried.
    prey: Rc<RefCell<Vec<(String, String)>>>,
    until_ms: u64,
    next_op: Cell<u64>,
    turn: Cell<usize>,
}

/// A session, as its client knows it.
pub(crate) struct Session {
    pub(crate) client: Rc<Client>,
    pub(crate) name: String,
    pub(crate) id: RefCell<Option<String>>,
    pub(crate) principal: Principal,
    pub(crate) is_gone: Cell<bool>,
    running: Cell<u64>,
}

impl Client {
    pub(crate) fn start(
        scene: &Rc<Scene>,
        number: usize,
        prey: &Rc<RefCell<Vec<(String, String)>>>,
        until_ms: u64,
    ) {
        let ctx = Ctx::new(&scene.sim);
        let name = format!("client-{number}");
        let principal = Principal { subject: name.clone(), ..Principal::default() };
        let this = Rc::new(Self {
            scene: Rc::clone(scene),
            ctx: ctx.clone(),
            name,
            principal,
            prey: Rc::clone(prey),
            until_ms,
            next_op: Cell::new(0),
            turn: Cell::new(number),
        });
        ctx.spawn(async move {
            let mut count = 0;
            while this.is_on() {
                let session = Rc::new(Session {
                    client: Rc::clone(&this),
                    name: format!("{}.{count}", this.name),
                    id: RefCell::new(None),
                    principal: this.principal.clone(),
                    is_gone: Cell::new(false),
                    running: Cell::new(0),
                });
                count += 1;
                if !session.live().await {
                    this.pause(200, 600).await;
                }
            }
        });
    }

    pub(crate) fn is_on(&self) -> bool {
        self.ctx.now_ms() < self.until_ms
    }

    pub(crate) fn range(&self, low: u64, high: u64) -> u64 {
        self.scene.sim.range(low, high)
    }

    pub(crate) async fn pause(&self, low: u64, high: u64) {
        self.ctx.sleep_ms(self.range(low, high)).await;
    }

    pub(crate) fn write(&self, session: &str, what: What) {
        self.scene.pen.write(Source::Client, &self.name, Some(session), what);
    }

    /// One gateway after the other.
    pub(crate) fn gateway(&self) -> Option<AskDoor> {
        let turn = self.turn.get();
        self.turn.set(turn + 1);
        self.scene.gateways.borrow().get(turn % GATEWAYS).cloned()
    }

    pub(crate) fn op_name(&self) -> String {
        let number = self.next_op.get();
        self.next_op.set(number + 1);
        format!("{}-{number}", self.name)
    }
}

impl Session {
    /// A whole life. False if it never began.
    async fn live(self: &Rc<Self>) -> bool {
        if !self.create().await {
            return false;
        }
        let client = &self.client;
        if let Some(id) = self.id.borrow().as_ref() {
            client.prey.borrow_mut().push((id.clone(), self.name.clone()));
        }
        if client.range(0, 100) < 40 {
            let this = Rc::clone(self);
            client.ctx.spawn(async move { Op::new(&this, Doing::Ping, None).listen().await });
        }
        let count = client.range(4, 30);
        for _ in 0..count {
            if self.is_gone.get() || !client.is_on() {
                break;
            }
            let (at_once, this) = (client.range(1, 3), Rc::clone(self));
            if self.running.get() >= at_once {
                client.pause(20, 80).await;
                continue;
            }
            self.running.set(self.running.get() + 1);
            client.ctx.spawn(async move {
                this.something().await;
                this.running.set(this.running.get() - 1);
            });
            client.pause(5, 250).await;
        }
        while self.running.get() > 0 {
            client.pause(20, 60).await;
        }
        if !self.is_gone.get() {
            self.end().await;
        }
        true
    }

    async fn create(self: &Rc<Self>) -> bool {
        let newest = self.client.scene.sim.per_mille(500);
        let revision = if newest { "2025-11-25" } else { "2025-06-18" };
        let params = json!({"protocolVersion": revision, "capabilities": {"sampling": {}},
            "clientInfo": {"name": self.name, "version": "1"}});
        let op = Op::new(self, Doing::Create, None);
        let ended = op.run(request(&op.name, "initialize", &params.to_string())).await;
        if !matches!(ended, Ended::Done { .. }) {
            return false;
        }
        if let Some(id) = self.id.borrow().as_ref() {
            self.client.scene.pen.named(id, &self.name);
        }
        let method = "notifications/initialized".to_owned();
        // Whoever uses the session says the same.
        self.post(Message::Notification(Notification { method, params: None })).await;
        true
    }

    /// One operation of those there are.
    async fn something(self: &Rc<Self>) {
        match self.client.range(0, 100) {
            0..=21 => self.call(Doing::Append).await,
            22..=35 => self.call(Doing::Read).await,
            36..=52 => self.call(Doing::Count).await,
            53..=64 => self.call(Doing::Slow).await,
            65..=74 => self.call(Doing::Ask).await,
            75..=80 => self.call(Doing::Echo).await,
            81..=89 => drop(self.ping(Doing::Ping).await),
            90..=95 => self.hijack().await,
            _ => self.stranger().await,
        }
    }

    async fn call(self: &Rc<Self>, f: Doing) {
        let client = &self.client;
        let tool = match f {
            Doing::Append => "append",
            Doing::Read => "read",
            Doing::Count => "count",
            Doing::Slow => "slow",
            Doing::Ask => "ask",
            _ => "echo",
        };
        let value = (f == Doing::Append).then(|| client.scene.sim.range(1, u64::from(u32::MAX)));
        let op = Op::new(self, f, value);
        let wait = if client.range(0, 4) == 0 { 900 } else { 60 };
        let params = json!({"name": tool, "_meta": {"progressToken": op.name}, "arguments": {"op": op.name,
            "list": self.name, "value": value, "wait": wait, "steps": client.range(2, 16)}});
        let message = request(&op.name, "tools/call", &params.to_string());
        if matches!(f, Doing::Count | Doing::Slow | Doing::Ask) && client.range(0, 100) < 4 {
            op.run_and_take_back(message).await;
        } else {
            op.run(message).await;
        }
    }

    async fn ping(self: &Rc<Self>, f: Doing) -> Ended {
        let op = Op::new(self, f, None);
        let message = request(&op.name, "ping", "{}");
        op.run(message).await
    }

    /// Somebody else's session is tried.
    async fn hijack(self: &Rc<Self>) {
        let client = &self.client;
        let found = {
            let prey = client.prey.borrow();
            let recent = prey.len().saturating_sub(client.range(1, 9) as usize);
            prey.get(recent).filter(|(_, name)| !name.starts_with(&client.name)).cloned()
        };
        let Some((id, name)) = found else { return };
        let other = self.as_other(id, name);
        other.ping(Doing::Hijack).await;
    }

    /// A session that there never was.
    async fn stranger(self: &Rc<Self>) {
        let scene = &self.client.scene;
        let (slot, random) = scene.sim.draw(|rng| (rng.range(0, 4096), rng.bytes()));
        let live = self.id.borrow().as_ref().and_then(|id| SessionId::parse(&scene.keys, id));
        let slot = live.map(|id| id.slot()).or_else(|| Slot::new(u16::try_from(slot).unwrap_or(0)));
        let Some(slot) = slot else { return };
        let id = SessionId::mint(&scene.keys, slot, random);
        let name = format!("{}?", self.name);
        self.as_other(id.as_str().to_owned(), name).ping(Doing::Stranger).await;
    }

    fn as_other(&self, id: String, name: String) -> Rc<Self> {
        Rc::new(Self {
            client: Rc::clone(&self.client),
            name,
            id: RefCell::new(Some(id)),
            principal: self.principal.clone(),
            is_gone: Cell::new(false),
            running: Cell::new(0),
        })
    }

    /// Ends the session, and looks for it afterwards.
    async fn end(self: &Rc<Self>) {
        let op = Op::new(self, Doing::Delete, None);
        let ended = op.close().await;
        if matches!(ended, Ended::Done { .. }) {
            // Beyond what the owner before may have forgotten, and past a change of owner.
            let this = Rc::clone(self);
            self.client.ctx.spawn(async move {
                for _ in 0..7 {
                    this.client.pause(10, 1_900).await;
                    this.ping(Doing::Late).await;
                }
            });
        }
    }

    /// Says something that wants no answer; whether it was accepted.
    pub(crate) async fn post(&self, message: Message) -> bool {
        let Some(gateway) = self.client.gateway() else { return false };
        let kind = Kind::Deliver { message, key: String::new(), again: None };
        let ask = self.ask(kind);
        let mut frames = gateway.ask(&self.client.scene.net, &self.client.ctx, ask);
        let waiting = async {
            while let Some(step) = frames.recv().await {
                if let Ok(Frame::Answer(answer)) = step {
                    return answer.status == 202;
                }
            }
            false
        };
        self.client.ctx.within_ms(PATIENCE_MS, waiting).await.unwrap_or(false)
    }

    pub(crate) fn ask(&self, kind: Kind) -> Ask {
        let session = self.id.borrow().clone();
        Ask { principal: self.principal.clone(), session, kind }
    }

    /// The client was told that it is over.
    pub(crate) fn gone(&self) {
        if !self.is_gone.replace(true) {
            self.client.write(&self.name, What::Gone {});
        }
    }
}

fn request(id: &str, method: &str, params: &str) -> Message {
    let params = Some(Json::trusted(params.to_owned()));
    Message::Request(Request { id: Id::text(id), method: method.to_owned(), params })
}
