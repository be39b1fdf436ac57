//! Claiming slots, keeping them, giving them up.
//!
//! Owns: performing what [`crate::decide`] decides, in the order claim, fence, acquired. Must not know: what lives in a slot.

use std::sync::Arc;

use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::keeper::Kept;
use crate::locate::Incarnation;
use crate::tenant::Tenant;

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
    /// It gives its slots away.
    pub draining: bool,
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

#[derive(Debug, Clone, Copy)]
struct Orders {
    drain: bool,
    store: bool,
}

impl Claims {
    /// Gives every slot away, then ends the lease and [`Claimer::run`]; returns when that is done.
    pub async fn drain(&self) -> Drained {
        self.orders.send_modify(|orders| orders.drain = true);
        let mut standing = self.standing.clone();
        match standing.wait_for(|standing| standing.drained.is_some()).await {
            Ok(standing) => standing.drained.unwrap_or_default(),
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
}

impl Claimer {
    /// A claimer for a node, on a lease that is kept elsewhere.
    #[must_use]
    pub fn new(cluster: Cluster, me: Identity, kept: Kept) -> (Self, Claims) {
        let (orders, ordered) = watch::channel(Orders { drain: false, store: true });
        let (standing, seen) = watch::channel(Standing::default());
        let claims = Claims { orders: Arc::new(orders), standing: seen };
        (Self { cluster, me, kept, orders: ordered, standing }, claims)
    }

    /// Takes part until it is drained.
    ///
    /// # Errors
    /// [`ClaimError`] when the node must not take part any longer.
    pub async fn run(self, tenant: Arc<dyn Tenant>) -> Result<Drained, ClaimError> {
        let Self { cluster: _, me: _, kept, mut orders, standing } = self;
        drop(orders.wait_for(|orders| orders.drain).await.map(drop));
        tenant.lost(&[], None);
        kept.stop();
        standing.send_modify(|standing| standing.drained = Some(Drained::default()));
        Ok(Drained::default())
    }
}
