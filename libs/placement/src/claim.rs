//! Claiming slots, keeping them, giving them up.
//!
//! Owns: performing what [`crate::decide`] decides, in the order claim, fence, acquired. Must not know: what lives in a slot.

mod perform;
pub(crate) mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{Epoch, Slot};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::perform::{Done, End};
use crate::cluster::Cluster;
use crate::decide::{Desk, View};
use crate::follow::Follower;
use crate::keeper::Kept;
use crate::locate::Incarnation;
use crate::made::{self, CountError};
use crate::tenant::Tenant;

/// How often the node looks whether it is time for something.
const TICK: Duration = Duration::from_millis(100);
/// Longest that the end of the lease is waited for.
const ENDING: Duration = Duration::from_millis(2_500);

/// A session node, as it shows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name, one of its own in the cluster; a restart keeps it.
    pub node: Arc<str>,
    /// Where gateways and nodes reach it: `host:port`.
    pub address: Arc<str>,
    /// Where it stands; empty = unknown.
    pub zone: Arc<str>,
    /// Its share of the slots, against the others'.
    pub capacity: u32,
    /// This run, drawn at random.
    pub incarnation: Incarnation,
}

/// How the node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Slots it serves.
    pub held: usize,
    /// Slots it claimed whose fence is not raised yet.
    pub waiting: usize,
    /// Its lease may have ended without its knowledge. It goes on: every write still passes the fence.
    pub grace: bool,
    /// The lease store answers.
    pub reachable: bool,
    /// Leases it lost.
    pub leases_lost: u64,
    /// What became of the slots, once a drain has ended.
    pub drained: Option<Drained>,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Slots that another node took over.
    pub handed: usize,
    /// Slots that nobody was there for.
    pub dropped: usize,
}

/// Why a node no longer takes part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The mesh has another number of slots.
    #[error(transparent)]
    Slots(#[from] CountError),
    /// A newer process has the same name.
    #[error("another process is running as node {node:?} (incarnation {by}): names must differ")]
    Replaced {
        /// The name.
        node: Arc<str>,
        /// The other one.
        by: Incarnation,
    },
}

/// Claims slots for one node.
#[derive(Debug)]
pub struct Claimer {
    cluster: Cluster,
    me: Identity,
    kept: Kept,
    orders: watch::Receiver<Orders>,
    standing: watch::Sender<Standing>,
}

/// The handle of a [`Claimer`].
#[derive(Debug, Clone)]
pub struct Claims {
    orders: Arc<watch::Sender<Orders>>,
    standing: watch::Receiver<Standing>,
}

#[derive(Debug, Clone)]
struct Orders {
    drain: bool,
    store: bool,
    /// The last epoch of each slot in which the session store refused this node. At most one entry a slot.
    overtaken: BTreeMap<Slot, Epoch>,
}

impl Claims {
    /// Gives every slot away, then ends the lease and [`Claimer::run`]; returns when that is done, or when it was done
    /// before.
    pub async fn drain(&self) -> Drained {
        self.orders.send_modify(|orders| orders.drain = true);
        let mut standing = self.standing.clone();
        match standing.wait_for(|standing| standing.drained.is_some()).await {
            Ok(standing) => standing.drained.unwrap_or_default(),
            // It has ended otherwise: there is nothing to give away.
            Err(_) => Drained::default(),
        }
    }

    /// How the node stands.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.clone()
    }

    /// Says whether the session store answers. A node that cannot reach it gives way to one that can.
    pub fn store_is(&self, up: bool) {
        self.orders.send_if_modified(|orders| std::mem::replace(&mut orders.store, up) != up);
    }

    /// Says that the session store knows of a later owner of a slot that this node held in an epoch, and holds no more.
    pub fn overtaken(&self, slot: Slot, epoch: Epoch) {
        self.orders.send_if_modified(|orders| {
            let last = orders.overtaken.entry(slot).or_default();
            let is_news = *last < epoch;
            *last = epoch.max(*last);
            is_news
        });
    }
}

/// What a claimer works with.
struct Run {
    cluster: Cluster,
    me: Identity,
    kept: Kept,
    tenant: Arc<dyn Tenant>,
    follower: Follower,
    desk: Desk,
    jobs: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The number of slots is being written.
    counting: bool,
    handed: usize,
}

impl Claimer {
    /// A claimer for a node, on a lease that is kept elsewhere.
    #[must_use]
    pub fn new(cluster: Cluster, me: Identity, kept: Kept) -> (Self, Claims) {
        let (orders, ordered) =
            watch::channel(Orders { drain: false, store: true, overtaken: BTreeMap::new() });
        let (standing, seen) = watch::channel(Standing::default());
        let claims = Claims { orders: Arc::new(orders), standing: seen };
        (Self { cluster, me, kept, orders: ordered, standing }, claims)
    }

    /// Takes part until it is drained. It does not beat [`Kept::tick`]: whoever knows how all workers fare does.
    /// Dropped before that, it ends the lease: others take over at once.
    ///
    /// # Errors
    /// [`ClaimError`] when the node must not take part any longer. Its slots were lost before.
    pub async fn run(self, tenant: Arc<dyn Tenant>) -> Result<Drained, ClaimError> {
        let Self { cluster, me, mut kept, mut orders, standing } = self;
        let mut run = Run {
            follower: Follower::new(&cluster),
            desk: Desk::new(me.clone(), cluster.slots, cluster.seed),
            jobs: FuturesUnordered::new(),
            counting: false,
            handed: 0,
            kept: kept.clone(),
            tenant,
            cluster,
            me,
        };
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut orders_end, mut keeper_ended) = (false, false);
        let ended = loop {
            tokio::select! {
                () = run.follower.next() => {}
                Some(done) = run.jobs.next() => run.finish(done),
                _ = ticks.tick() => {}
                changed = kept.state.changed(), if !keeper_ended => keeper_ended = changed.is_err(),
                changed = orders.changed(), if !orders_end => orders_end = changed.is_err(),
            }
            let now_ms = (run.cluster.now)();
            {
                let ordered = orders.borrow_and_update();
                run.desk.store_is(ordered.store);
                ordered.overtaken.iter().for_each(|(slot, epoch)| run.desk.overtaken(*slot, *epoch));
                if ordered.drain {
                    run.desk.drain(now_ms);
                }
            }
            let end = run.step(now_ms);
            let now_stands = run.standing(now_ms);
            standing.send_if_modified(|stood| std::mem::replace(stood, now_stands) != now_stands);
            if let Some(end) = end {
                break end;
            }
        };
        kept.stop();
        match ended {
            End::Drained(drained) => {
                // Its slots are free for others only when the lease has ended.
                drop(timeout(ENDING, kept.state.wait_for(|state| state.lease.is_none())).await);
                standing.send_modify(|standing| standing.drained = Some(drained));
                Ok(drained)
            }
            End::Replaced(by) => Err(ClaimError::Replaced { node: run.me.node, by }),
            End::Slots(why) => Err(why.into()),
        }
    }
}

impl Run {
    /// Decides, and begins what was decided.
    fn step(&mut self, now_ms: u64) -> Option<End> {
        if self.follower.lists() == 0 {
            return None;
        }
        match made::agrees(self.follower.table(), &self.cluster) {
            Ok(true) => {}
            Ok(false) => {
                self.write_count();
                return None;
            }
            Err(why) => {
                let held = self.desk.give_up();
                self.tenant.lost(&held, None);
                return Some(End::Slots(why));
            }
        }
        let view = View {
            now_ms,
            table: self.follower.table(),
            lease: self.kept.state.borrow().lease,
            reachable: self.follower.is_reachable(),
        };
        let effects = self.desk.decide(view);
        let mut end = None;
        for effect in effects {
            end = self.begin(effect).or(end);
        }
        end
    }

    fn standing(&self, now_ms: u64) -> Standing {
        let (held, waiting) = self.desk.counts();
        let lease = *self.kept.state.borrow();
        let grace = now_ms > lease.sure_until_ms;
        let reachable = self.follower.is_reachable();
        Standing { held, waiting, grace, reachable, leases_lost: lease.lost, drained: None }
    }
}
