//! What goes wrong, and when: faults drawn from the seed, one after the other and on top of each other, healed in the end.

use std::cell::RefCell;
use std::rc::Rc;

use history::line::{Source, Span, What};

use crate::gateway::Gateway;
use crate::node::Node;
use crate::registry::Registry;
use crate::run::Pauses;
use crate::sabotage::Known;
use crate::scene::{AskDoor, GATEWAYS, NODES, REGISTRIES, Scene};
use crate::store::Prey;
use crate::trap::Around;
use crate::world::{Ctx, Proc};

/// What kind of world a seed makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Weather {
    /// Fail-overs of the store lose what the replica had not got.
    pub(crate) lossy: bool,
}

/// See the module.
pub(crate) struct Nemesis {
    scene: Rc<Scene>,
    ctx: Ctx,
    weather: Weather,
    nodes: RefCell<Vec<Rc<Node>>>,
}

impl Nemesis {
    pub(crate) fn new(scene: &Rc<Scene>, weather: Weather, nodes: Vec<Rc<Node>>) -> Rc<Self> {
        let (scene, ctx) = (Rc::clone(scene), Ctx::new(&scene.sim));
        Rc::new(Self { scene, ctx, weather, nodes: RefCell::new(nodes) })
    }

    /// Does harm from one moment to the other, then heals everything, and drains a node as it should be.
    pub(crate) async fn rage(self: Rc<Self>, (from_ms, to_ms): (u64, u64), planned_ms: u64) {
        let changes = Rc::clone(&self);
        self.ctx.spawn(async move { changes.change_lists().await });
        self.ctx.sleep_ms(from_ms).await;
        while self.ctx.now_ms() < to_ms {
            let this = Rc::clone(&self);
            let fault = self.range(0, 25);
            self.ctx.spawn(async move { this.fault(fault).await });
            self.ctx.sleep_ms(self.range(900, 5_000)).await;
        }
        // The last ones end by themselves; what they cut is healed with them.
        self.ctx.sleep_ms(13_000).await;
        self.heal();
        self.scene.calm.set(true);
        self.ctx.sleep_ms(planned_ms.saturating_sub(self.ctx.now_ms())).await;
        let window = || "drain".to_owned();
        self.write(What::Begin { window: window(), of: Span::Planned, limit_ms: None });
        self.drain_node().await;
        self.write(What::Over { window: window() });
    }

    /// Stops one owner after the other at the points that are wanted, until others have taken over; then it goes on.
    pub(crate) async fn pause_owners(self: Rc<Self>, from_ms: u64, pauses: Pauses) {
        self.ctx.sleep_ms(from_ms).await;
        for after in pauses.offsets {
            let caught = self.scene.trap.set(pauses.around, self.range(0, 12), after);
            let Ok(process) = caught.await else { return };
            self.say(match pauses.around {
                Around::Commit => "stop the owner around a commit",
                Around::Dispatch => "stop the owner around a dispatch",
            });
            self.wait(6_000, 7_500).await;
            self.scene.sim.go_on(process);
            self.wait(1_000, 2_000).await;
        }
        self.scene.calm.set(true);
    }

    /// What registries offer changes, and every session is told.
    async fn change_lists(&self) {
        loop {
            self.wait(700, 4_000).await;
            self.nodes.borrow().iter().for_each(|node| node.announce());
        }
    }

    fn heal(&self) {
        self.scene.net.heal();
        self.scene.redis.set_up(true);
        self.scene.redis.slow_down(0);
        self.scene.redis.lose_answers(0);
        self.scene.etcd.lose_answers(0);
        self.say("heal");
    }

    fn range(&self, low: u64, high: u64) -> u64 {
        self.scene.sim.range(low, high)
    }

    fn say(&self, what: &str) {
        self.write(What::Injected { what: what.to_owned() });
    }

    fn write(&self, what: What) {
        self.scene.pen.write(Source::Runner, "nemesis", None, what);
    }

    async fn wait(&self, low: u64, high: u64) {
        self.ctx.sleep_ms(self.range(low, high)).await;
    }

    fn node(&self) -> (usize, Proc) {
        let index = self.range(0, NODES as u64) as usize;
        (index, self.scene.nodes.borrow().get(index).map_or(Proc(0), |door| door.process))
    }

    fn gateway(&self) -> (usize, Proc) {
        let index = self.range(0, GATEWAYS as u64) as usize;
        (index, self.scene.gateways.borrow().get(index).map_or(Proc(0), |door| door.process))
    }

    async fn fault(self: Rc<Self>, which: u64) {
        match which {
            0..=2 => self.kill_node().await,
            3..=5 => self.stop_node(600, 13_000).await,
            6 => self.stop_node(20, 2_000).await,
            7 => self.kill_gateway().await,
            8 => self.kill_registry().await,
            9 => self.drain_node().await,
            10 => self.cut_node_from_etcd().await,
            11 => self.cut_node_from_redis().await,
            12 => self.cut_node_from_gateways().await,
            13 => self.cut_node_from_registries().await,
            14 => self.island().await,
            15 => self.etcd_away().await,
            16 => self.etcd_tricks().await,
            17 => self.etcd_restored().await,
            18 => self.redis_away().await,
            19 | 20 => self.redis_fails_over().await,
            21 => self.redis_tricks().await,
            22 => self.clocks().await,
            23 => self.redis_ambushed().await,
            _ => self.bad_weather().await,
        }
    }

    async fn kill_node(&self) {
        let (index, process) = self.node();
        self.say("kill a session node");
        self.scene.sim.kill(process);
        self.wait(50, 9_000).await;
        self.start_node(index);
    }

    fn start_node(&self, index: usize) {
        if let Some(draining) = self.scene.draining.borrow_mut().get_mut(index) {
            *draining = false;
        }
        let is_there =
            self.scene.nodes.borrow().get(index).is_some_and(|door| self.scene.sim.is_alive(door.process));
        if is_there {
            return;
        }
        let (door, node) = Node::start(&self.scene, index);
        if let Some(place) = self.scene.nodes.borrow_mut().get_mut(index) {
            *place = door;
        }
        if let Some(place) = self.nodes.borrow_mut().get_mut(index) {
            *place = node;
        }
    }

    async fn stop_node(&self, low: u64, high: u64) {
        let (_, process) = self.node();
        self.say("stop a session node");
        self.scene.sim.stop(process);
        self.wait(low, high).await;
        self.scene.sim.go_on(process);
    }

    async fn kill_gateway(&self) {
        let (index, process) = self.gateway();
        self.say("kill a gateway");
        self.scene.sim.kill(process);
        self.wait(50, 2_000).await;
        let door = Gateway::start(&self.scene, index);
        if let Some(place) = self.scene.gateways.borrow_mut().get_mut(index) {
            *place = door;
        }
    }

    async fn kill_registry(&self) {
        let index = self.range(0, REGISTRIES as u64) as usize;
        self.say("kill a registry");
        let process = self.scene.registries.borrow().get(index).map(|door| door.process);
        process.inspect(|process| self.scene.sim.kill(*process));
        self.wait(50, 3_000).await;
        let door = Registry::start(&self.scene, index);
        if let Some(place) = self.scene.registries.borrow_mut().get_mut(index) {
            *place = door;
        }
    }

    async fn drain_node(&self) {
        let (index, process) = self.node();
        self.say("drain a session node");
        if let Some(draining) = self.scene.draining.borrow_mut().get_mut(index) {
            *draining = true;
        }
        for _ in 0..400 {
            self.ctx.sleep_ms(20).await;
            let drained = self.nodes.borrow().get(index).is_some_and(|node| node.drained.get());
            if drained || !self.scene.sim.is_alive(process) {
                break;
            }
        }
        self.ctx.sleep_ms(100).await;
        self.scene.sim.kill(process);
        self.wait(50, 1_500).await;
        self.start_node(index);
    }

    /// One-way or both ways.
    fn cut(&self, a: Proc, b: Proc) {
        match self.range(0, 4) {
            0 => self.scene.net.cut(a, b),
            1 => self.scene.net.cut(b, a),
            _ => self.scene.net.cut_both(a, b),
        }
    }

    async fn mend(&self, a: Proc, b: Proc, low: u64, high: u64) {
        self.wait(low, high).await;
        self.scene.net.mend(a, b);
    }

    async fn cut_node_from_etcd(&self) {
        let (_, process) = self.node();
        self.say("cut a session node from etcd");
        self.cut(process, self.scene.etcd.me);
        self.mend(process, self.scene.etcd.me, 500, 11_000).await;
    }

    async fn cut_node_from_redis(&self) {
        let (_, process) = self.node();
        self.say("cut a session node from the store");
        self.cut(process, self.scene.redis.me);
        self.mend(process, self.scene.redis.me, 500, 9_000).await;
    }

    async fn cut_node_from_gateways(&self) {
        let (_, process) = self.node();
        let (_, gateway) = self.gateway();
        self.say("cut a session node from a gateway");
        self.cut(process, gateway);
        self.mend(process, gateway, 200, 8_000).await;
    }

    async fn cut_node_from_registries(&self) {
        let (_, process) = self.node();
        self.say("cut a session node from the registries");
        let doors: Vec<Proc> = self.scene.registries.borrow().iter().map(|door| door.process).collect();
        doors.iter().for_each(|registry| self.cut(process, *registry));
        self.wait(200, 7_000).await;
        doors.iter().for_each(|registry| self.scene.net.mend(process, *registry));
    }

    /// A node and a gateway see each other, and nobody else of the mesh.
    async fn island(&self) {
        let (node_index, node) = self.node();
        let (gateway_index, gateway) = self.gateway();
        self.say("an island of a session node and a gateway");
        let of = |doors: &RefCell<Vec<AskDoor>>, but: usize| -> Vec<Proc> {
            let doors = doors.borrow();
            doors.iter().enumerate().filter(|(n, _)| *n != but).map(|(_, door)| door.process).collect()
        };
        let mut others = vec![self.scene.etcd.me, self.scene.redis.me];
        others.extend(of(&self.scene.nodes, node_index));
        others.extend(of(&self.scene.gateways, gateway_index));
        for other in &others {
            self.scene.net.cut_both(node, *other);
            self.scene.net.cut_both(gateway, *other);
        }
        self.wait(4_000, 13_000).await;
        for other in &others {
            self.scene.net.mend(node, *other);
            self.scene.net.mend(gateway, *other);
        }
    }

    async fn etcd_away(&self) {
        self.say("etcd is away");
        self.scene.etcd.set_up(false);
        self.wait(300, 12_000).await;
        self.scene.etcd.set_up(true);
    }

    async fn etcd_tricks(&self) {
        match self.range(0, 5) {
            0 => {
                self.say("etcd has another leader");
                self.scene.etcd.change_leader();
            }
            1 => {
                self.say("etcd forgets its history");
                self.scene.etcd.compact();
            }
            2 => {
                self.say("watches hear nothing");
                self.scene.etcd.deafen(self.range(100_000, 6_000_000));
            }
            3 => {
                self.say("lists are stale");
                self.scene.etcd.grow_stale(self.range(100_000, 2_000_000));
            }
            _ => {
                self.say("answers of etcd are lost");
                self.scene.etcd.lose_answers(300);
                self.wait(500, 4_000).await;
                self.scene.etcd.lose_answers(0);
            }
        }
    }

    async fn etcd_restored(&self) {
        self.scene.etcd.back_up();
        self.wait(500, 9_000).await;
        self.say("etcd comes back from a backup");
        self.scene.etcd.set_up(false);
        self.wait(50, 1_000).await;
        self.scene.etcd.restore();
        self.scene.etcd.set_up(true);
    }

    async fn redis_away(&self) {
        self.say("the store is away");
        self.scene.redis.set_up(false);
        self.wait(200, 7_000).await;
        self.scene.redis.set_up(true);
    }

    async fn redis_fails_over(&self) {
        self.say("the store fails over");
        self.scene.redis.set_up(false);
        self.scene.redis.fail_over(!self.weather.lossy);
        self.wait(100, 3_000).await;
        self.scene.redis.set_up(true);
    }

    /// The primary is lost while a write waits for its replica, sometimes together with whoever writes.
    async fn redis_ambushed(&self) {
        let prey = match self.range(0, 4) {
            0 | 1 => Prey::End,
            2 => Prey::Message,
            _ => Prey::Dispatch,
        };
        let written = self.scene.redis.ambush(prey);
        let Some(Ok(slot)) = self.ctx.within_ms(6_000, written).await else { return };
        self.say("the store loses its primary within a wait");
        self.wait(0, 8).await;
        self.scene.redis.set_up(false);
        self.scene.redis.fail_over(!self.weather.lossy);
        let owner = self.nodes.borrow().iter().position(|node| node.serves(slot));
        let victim = owner.filter(|_| self.range(0, 3) == 0);
        if let Some(process) = victim.and_then(|index| self.process_of(index)) {
            self.say("kill the session node that waits");
            self.scene.sim.kill(process);
        }
        self.wait(100, 3_000).await;
        self.scene.redis.set_up(true);
        if let Some(index) = victim {
            self.start_node(index);
        }
    }

    fn process_of(&self, index: usize) -> Option<Proc> {
        self.scene.nodes.borrow().get(index).map(|door| door.process)
    }

    async fn redis_tricks(&self) {
        if self.range(0, 2) == 0 {
            self.say("the store is slow");
            self.scene.redis.slow_down(self.range(50_000, 600_000));
        } else {
            self.say("answers of the store are lost");
            self.scene.redis.lose_answers(150);
        }
        self.wait(500, 4_000).await;
        self.scene.redis.slow_down(0);
        self.scene.redis.lose_answers(0);
    }

    async fn clocks(&self) {
        let (index, process) = self.node();
        if self.range(0, 2) == 0 {
            self.say("a clock is fast or slow");
            self.scene.sim.set_rate(process, self.range(800_000, 1_200_000));
        } else {
            self.say("a date jumps by an hour");
            let by = if self.range(0, 2) == 0 { 3_600_000 } else { -3_600_000 };
            if self.scene.has(Known::WallClock) {
                self.scene.sim.jump(process, by);
            }
            // Who runs has read it before; who starts there reads it.
            if let Some(date) = self.scene.dates.borrow_mut().get_mut(index) {
                *date += by;
            }
        }
        self.wait(500, 12_000).await;
        self.scene.sim.set_rate(process, 1_000_000);
    }

    async fn bad_weather(&self) {
        self.say("messages are lost and late");
        self.scene.net.weather(self.range(10, 150), self.range(0, 30_000));
        self.wait(500, 5_000).await;
        self.scene.net.weather(2, 0);
    }
}
