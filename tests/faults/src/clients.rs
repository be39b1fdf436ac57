//! Clients that keep calling while the mesh is being hurt, and write down everything they see.
//!
//! Owns: the mix of work (sessions with lists, counters, slow calls and questions; calls without a session; sessions that come
//! and go; a stranger who tries other people's sessions). Must not know: which fault is injected, and how the mesh is made.

mod batched;
pub mod call;
mod carried;
mod churn;
pub mod drowsy;
mod modern;
mod session;
mod stranger;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use history::line::Source;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::draw::Draw;
use crate::http::Http;
use crate::recorder::{Pen, Recorder};

pub use self::session::Session;

/// How long a client waits for the end of anything.
pub const PATIENCE: Duration = Duration::from_secs(25);

/// How much is done at the same time.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Sessions that stay.
    pub sessions: usize,
    /// Calls under way in each of them.
    pub width: usize,
    /// Sessions that stay, of clients that speak HTTP+SSE.
    pub carried: usize,
    /// Sessions that stay, of clients that post several messages at once.
    pub batched: usize,
    /// Sessions that are used now and then.
    pub drowsy: usize,
    /// Clients that begin and end sessions.
    pub churning: usize,
    /// Clients that call without a session.
    pub modern: usize,
    /// Pause between two operations.
    pub pause: Duration,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            sessions: 12,
            width: 2,
            carried: 0,
            batched: 0,
            drowsy: 3,
            churning: 2,
            modern: 3,
            pause: Duration::from_millis(150),
        }
    }
}

/// What all clients share.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

struct Inner {
    recorder: Recorder,
    gateways: Vec<SocketAddr>,
    keys: BTreeMap<String, String>,
    draw: Draw,
    operations: AtomicU64,
    /// Sessions that are open: their ids by the clients' names for them, for the stranger and for whoever hurts owners.
    open: Mutex<BTreeMap<String, String>>,
    /// The clients' names of all sessions there ever were, by id.
    names: Mutex<BTreeMap<String, String>>,
    stop: watch::Sender<bool>,
}

impl World {
    /// Clients of these gateways. `keys` are those of the principals, by name.
    #[must_use]
    pub fn new(
        recorder: Recorder,
        gateways: Vec<SocketAddr>,
        keys: BTreeMap<String, String>,
        draw: Draw,
    ) -> Self {
        let inner = Inner {
            recorder,
            gateways,
            keys,
            draw,
            operations: AtomicU64::new(0),
            open: Mutex::default(),
            names: Mutex::default(),
            stop: watch::Sender::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts everything.
    #[must_use]
    pub fn start(&self, load: Load) -> JoinSet<()> {
        self.start_named("", load)
    }

    /// The same; the names of all clients begin with this.
    #[must_use]
    pub fn start_named(&self, name: &str, load: Load) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for number in 0..load.sessions {
            clients.spawn(session::work(self.clone(), format!("{name}s{number}"), load));
        }
        for number in 0..load.carried {
            clients.spawn(carried::work(self.clone(), format!("{name}sse{number}"), load));
        }
        for number in 0..load.batched {
            clients.spawn(batched::work(self.clone(), format!("{name}batch{number}"), load));
        }
        for number in 0..load.drowsy {
            clients.spawn(drowsy::work(self.clone(), format!("{name}drowsy{number}")));
        }
        for number in 0..load.churning {
            clients.spawn(churn::work(self.clone(), format!("{name}churn{number}"), load));
        }
        for number in 0..load.modern {
            clients.spawn(modern::work(self.clone(), format!("{name}modern{number}"), load));
        }
        if load.sessions > 0 {
            clients.spawn(stranger::work(self.clone(), load));
        }
        clients
    }

    /// Asks everybody to come to an end: calls under way are awaited, sessions ended.
    pub fn stop(&self) {
        self.inner.stop.send_replace(true);
    }

    /// Whether to go on.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        !*self.inner.stop.borrow()
    }

    /// Waits, at most until everybody is asked to stop.
    pub async fn pause(&self, time: Duration) {
        let mut stop = self.inner.stop.subscribe();
        // Either way the pause is over.
        let _stopped = tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await.is_ok();
    }

    /// Sessions that are open now: the clients' names for them, and their ids.
    #[must_use]
    pub fn open(&self) -> BTreeMap<String, String> {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The clients' names of all sessions there ever were, by id.
    #[must_use]
    pub fn names(&self) -> BTreeMap<String, String> {
        self.inner.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn named(&self, name: &str, id: &str) {
        let mut names = self.inner.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.insert(id.to_owned(), name.to_owned());
    }

    fn opened(&self, name: &str, id: &str) {
        let mut open = self.inner.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(name.to_owned(), id.to_owned());
    }

    fn closed(&self, name: &str) {
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Where clients connect.
    #[must_use]
    pub fn gateways(&self) -> Vec<SocketAddr> {
        self.inner.gateways.clone()
    }

    /// Keys of the principals, by name.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<String, String> {
        self.inner.keys.clone()
    }

    /// A connection of a principal's own.
    #[must_use]
    pub fn http(&self, principal: &str) -> Http {
        let key = self.inner.keys.get(principal).map_or("", String::as_str);
        Http::new(&self.inner.gateways, key)
    }

    /// A client's own writer.
    #[must_use]
    pub fn pen(&self, name: &str) -> Pen {
        self.inner.recorder.pen(Source::Client, name)
    }

    /// A client's own numbers.
    #[must_use]
    pub fn draw(&self, name: &str) -> Draw {
        self.inner.draw.of(name)
    }

    /// A name for an operation that no other one has.
    #[must_use]
    pub fn op(&self, who: &str) -> String {
        format!("{who}-{}", self.inner.operations.fetch_add(1, Ordering::Relaxed))
    }
}
