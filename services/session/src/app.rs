//! Wires the session role. `build` opens and spawns nothing; `serve` runs it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::session::Surroundings;
use api::{SessionHost, SessionId};
use chassis::drain::{Shutdown, pair};
use chassis::process::Health;
use chassis::serve::Incoming;
use chassis::task::{self, Kind};
use chassis::telemetry::{Scope, propagate};
use chassis::tls::Dialler;
use futures::{FutureExt as _, StreamExt as _, stream};
use machines::{CommitRefusal, ListKind};
use placement::BeyondError;
use tokio::sync::{SetOnce, broadcast};
use tokio_util::sync::CancellationToken;

use crate::budget::Budget;
use crate::config::Config;
use crate::deps::{Deps, Seat, derived_mesh};
use crate::facts::Facts;
use crate::host::{Host, ROLE, Shared};
use crate::letter::Letter;
use crate::loads::Loads;
use crate::neighbours::Neighbours;
use crate::observe::Observed;
use crate::ownership::Slots;
use crate::registries::Registries;
use crate::residents::{PARTS, Residents, Undelivered};
use crate::seat;

/// How often a draining node looks whether its sessions rest.
const REST: Duration = Duration::from_millis(5);
/// Sessions that the store is told of at the same time.
const TOUCHES: usize = 16;
/// The least between two parts of them.
const SHORTEST: Duration = Duration::from_millis(20);
/// Passive sessions that are loaded at the same time because their moment has come.
const ROUSED: usize = 16;
/// How often idle sessions are looked at whose moment may have come.
const SWEEP: Duration = Duration::from_secs(1);

/// The session role.
pub struct App {
    shared: Arc<Shared>,
    seat: Seat,
    health: Health,
}

/// Why it cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Two registries cannot be told apart.
    #[error("session.registries: {0:?} is listed twice")]
    Twice(String),
    /// This node is given slots that the mesh does not have.
    #[error("session.slots: {0}")]
    Slots(#[from] BeyondError),
}

impl App {
    /// Puts the role together.
    ///
    /// # Errors
    /// [`BuildError`] if the configuration contradicts itself.
    pub fn build(config: Config, deps: Deps) -> Result<Self, BuildError> {
        let mut addresses: Vec<&str> = deps.registries.iter().map(|r| r.address.as_str()).collect();
        addresses.sort_unstable();
        if let Some(pair) = addresses.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(BuildError::Twice(pair[0].to_owned()));
        }
        let all = deps.seat.slots();
        if let Seat::Fixed { .. } = &deps.seat {
            config.slots.of(all).map(drop)?;
        }
        let mesh: Arc<str> = match config.mesh.as_str() {
            "" => derived_mesh(&deps.keys).into(),
            name => name.into(),
        };
        let observed = Observed::new(&deps.process.metrics);
        let registries = Registries::new(
            deps.registries,
            config.page_size,
            Duration::from_millis(config.registry_grace_ms),
            observed.clone(),
        );
        // What is only in the memory of this process, or in its own file, is no cheaper there.
        let is_outside = config.passivate_after_s > 0 && deps.store.is_outside();
        let passivate = is_outside.then(|| config.passivate_after_s.saturating_mul(1000));
        let shared = Arc::new_cyclic(|this| Shared {
            this: this.clone(),
            facts: Facts::new(&config),
            budget: Budget::new(&config),
            config,
            keys: deps.keys,
            slots: Slots::new(all),
            claims: OnceLock::new(),
            locator: deps.seat.locator(),
            neighbours: OnceLock::new(),
            loads: Loads::default(),
            mesh,
            store: deps.store,
            registries,
            observed,
            residents: Residents::new(passivate),
            ready: SetOnce::new(),
            draining: AtomicBool::new(false),
            reaches_store: AtomicBool::new(true),
            drain: CancellationToken::new(),
        });
        shared.watch();
        Ok(Self { shared, seat: deps.seat, health: deps.process.health })
    }

    /// Passes on to other session nodes, dialled as this says, what gateways cannot bring them.
    #[must_use]
    pub fn passing_on(self, dialler: Dialler) -> Self {
        // A second one changes nothing.
        let _first = self.shared.neighbours.set(Neighbours::new(dialler)).is_ok();
        self
    }

    /// The in-process door.
    #[must_use]
    pub fn handle(&self) -> Arc<dyn SessionHost> {
        Arc::new(Host(self.shared.clone()))
    }

    /// Runs the role until shutdown, on the network if there is one.
    ///
    /// # Errors
    /// When the listener breaks, or the store refuses the slots.
    pub async fn serve(self, incoming: Incoming, shutdown: Shutdown) -> chassis::serve::RoleResult {
        let (ready, sessions) = (Arc::downgrade(&self.shared), Arc::downgrade(&self.shared));
        self.health.role(ROLE, shutdown.clone(), move || {
            ready.upgrade().is_some_and(|shared| shared.ready.initialized())
        });
        self.health.sessions(move || sessions.upgrade().map_or(0, |shared| shared.residents.len()));
        let stop = CancellationToken::new();
        let _end = stop.clone().drop_guard();
        let registries = self.shared.registries.clone();
        let changes = registries.changes();
        let _links = task::spawn(Kind::Upkeep, "registries", registries.clone().run(stop.clone()));
        let _changes = task::spawn(Kind::Upkeep, "list changes", announce(self.shared.clone(), changes));
        let _sweep = task::spawn(Kind::Upkeep, "sweep", sweep(self.shared.clone()));
        let _keep = task::spawn(Kind::Upkeep, "keep", keep(self.shared.clone()));
        let (handle, seat) = (self.handle(), self.seat);
        let (tenancy, claims) = tokio::select! {
            taken = seat::take(&self.shared, seat) => taken?,
            () = shutdown.requested() => return Ok(()),
        };
        // A role is served once.
        let _is_new = self.shared.ready.set(()).is_ok();
        // Slots go first, while their callers are still answered; then everything else.
        let (trigger, empty) = pair();
        let leaving = seat::leave(claims, trigger, shutdown.clone());
        let draining = drain(self.shared.clone(), empty.clone());
        let routes = api::session::service(handle, surroundings(&empty));
        let serving = async {
            let served = chassis::grpc::server::serve_closely(routes, incoming, empty).await;
            stop.cancel();
            served
        };
        let work = async { tokio::join!(serving, draining).0 };
        let cast_out = async {
            match tenancy.await {
                Ok(()) => std::future::pending().await,
                Err(why) => why,
            }
        };
        tokio::select! {
            served = work => Ok(served?),
            why = cast_out => Err(why),
            () = leaving => Ok(()),
        }
    }
}

/// What a link needs to know of this process.
fn surroundings(shutdown: &Shutdown) -> Surroundings {
    let shutdown = shutdown.clone();
    let role = Scope::current().role();
    Surroundings {
        within: Arc::new(move |trace, opening| {
            propagate::within(role, &trace.parent, &trace.state, opening).boxed()
        }),
        draining: Arc::new(move || {
            let shutdown = shutdown.clone();
            async move { shutdown.requested().await }.boxed()
        }),
    }
}

async fn drain(shared: Arc<Shared>, shutdown: Shutdown) {
    shutdown.requested().await;
    shared.draining.store(true, Ordering::Relaxed);
    shared.drain.cancel();
    for id in shared.residents.all() {
        // A session that is gone needs no draining.
        let _gone = shared.post(&id, None, Letter::Drain).is_err();
    }
    // Spans are exported behind this: what is still under way has to end, or its part of the trace is lost.
    tokio::select! {
        () = shutdown.expired() => {}
        () = async {
            while shared.residents.any_active() {
                tokio::time::sleep(REST).await;
            }
        } => {}
    }
}

/// Passes each change of a list on to every session.
async fn announce(shared: Arc<Shared>, mut changes: broadcast::Receiver<ListKind>) {
    loop {
        match changes.recv().await {
            Ok(kind) => shared.announce(kind).await,
            Err(broadcast::error::RecvError::Lagged(_)) => {
                for kind in ListKind::ALL {
                    shared.announce(kind).await;
                }
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

async fn sweep(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tick.tick().await;
        let mut due = Vec::new();
        for place in 0..PARTS {
            due.extend(shared.residents.due(place, chassis::clock::dated_millis()));
            tokio::task::yield_now().await;
        }
        // A session that is gone, or busy, needs no waking.
        let is_passive = |id: &SessionId| shared.post(id, None, Letter::Wake) == Err(Undelivered::Passive);
        let passive: Vec<SessionId> = due.into_iter().filter(is_passive).collect();
        let rouse = |id| {
            let shared = shared.clone();
            async move { shared.rouse(&id).await }
        };
        let mut rousing = stream::iter(passive).map(rouse).buffer_unordered(ROUSED);
        while let Some(roused) = rousing.next().await {
            match roused {
                Ok(()) => {}
                // The others are asked for again, too.
                Err(CommitRefusal::Down) => break,
                Err(refusal) => tracing::warn!(?refusal, "a session could not be loaded"),
            }
        }
    }
}

/// Has the store keep what lives here, twice in the time that a session may be idle: one that is used without being written to,
/// or only listened to, is not forgotten. A part at a time, so that it is never many.
async fn keep(shared: Arc<Shared>) {
    let idle = Duration::from_secs(shared.config.idle_timeout_s);
    let mut place = 0;
    loop {
        let sessions = shared.residents.part(place);
        let touch = |id| {
            let store = shared.store.clone();
            async move { store.touch(&id).await }
        };
        let mut touched = stream::iter(sessions).map(touch).buffer_unordered(TOUCHES);
        // A store that is down is asked again with the next part.
        while let Some(Ok(())) = touched.next().await {}
        drop(touched);
        tokio::time::sleep((idle / 2 / u32::try_from(PARTS).unwrap_or(u32::MAX)).max(SHORTEST)).await;
        place += 1;
    }
}
