//! What the roles of a process share: its name, its metrics, and how it is.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use serde::Serialize;

use crate::drain::Shutdown;
use crate::metrics::Metrics;

/// See the module. Cheap to clone; each clone is the same process.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// What is counted.
    pub metrics: Metrics,
    /// How it is.
    pub health: Health,
}

impl Process {
    /// A process that is called `node`.
    #[must_use]
    pub fn new(node: &str) -> Self {
        let metrics = Metrics::default();
        let help = "Always 1; the label says which version runs";
        metrics.gauge("trunkline_build_info", help, &[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        Self { metrics, health: Health::new(node) }
    }
}

/// Whether a process is ready, and what it tells those who ask. Cheap to clone.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    node: String,
    started: AtomicBool,
    roles: RwLock<Vec<Role>>,
    sessions: RwLock<Vec<Count>>,
}

type Count = Box<dyn Fn() -> usize + Send + Sync>;

struct Role {
    name: &'static str,
    shutdown: Shutdown,
    ready: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What `/health` answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report<'a> {
    status: &'static str,
    node_id: &'a str,
    active_sessions: usize,
    timestamp: String,
}

impl Health {
    fn new(node: &str) -> Self {
        Self(Arc::new(Inner { node: node.to_owned(), ..Inner::default() }))
    }

    /// Name of the process.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.0.node
    }

    /// Adds a role that counts as ready while `ready` says so and it was not asked to drain.
    pub fn role(
        &self,
        name: &'static str,
        shutdown: Shutdown,
        ready: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        let role = Role { name, shutdown, ready: Box::new(ready) };
        self.0.roles.write().unwrap_or_else(PoisonError::into_inner).push(role);
    }

    /// Adds sessions that live in this process.
    pub fn sessions(&self, count: impl Fn() -> usize + Send + Sync + 'static) {
        self.0.sessions.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(count));
    }

    /// Says that all roles have been added.
    pub fn started(&self) {
        self.0.started.store(true, Ordering::Release);
    }

    /// Whether everything may be sent here: all roles have started and none drains.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let roles = self.0.roles.read().unwrap_or_else(PoisonError::into_inner);
        self.0.started.load(Ordering::Acquire)
            && roles.iter().all(|role| (role.ready)() && !role.shutdown.is_requested())
    }

    /// What people and load balancers are told. Names nothing but the process.
    #[must_use]
    pub fn report(&self) -> Report<'_> {
        let sessions = self.0.sessions.read().unwrap_or_else(PoisonError::into_inner);
        let roles = self.0.roles.read().unwrap_or_else(PoisonError::into_inner);
        let draining = roles.iter().any(|role| role.shutdown.is_requested());
        drop(roles);
        Report {
            status: match (draining, self.is_ready()) {
                (true, _) => "draining",
                (false, true) => "healthy",
                (false, false) => "starting",
            },
            node_id: &self.0.node,
            active_sessions: sessions.iter().map(|count| count()).sum(),
            timestamp: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        }
    }

    /// The same as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(&self.report()).unwrap_or_default()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles = self.0.roles.read().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<_> = roles.iter().map(|role| role.name).collect();
        f.debug_struct("Health").field("node", &self.0.node).field("roles", &names).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain;

    #[test]
    fn a_process_is_ready_between_its_start_and_its_drain() {
        let process = Process::new("n1");
        let health = &process.health;
        let (trigger, shutdown) = drain::pair();
        let settled = Arc::new(AtomicBool::new(false));
        let ready = settled.clone();
        health.role("session", shutdown, move || ready.load(Ordering::Relaxed));
        health.sessions(|| 3);
        let mut seen = vec![(health.is_ready(), health.report().status)];
        health.started();
        seen.push((health.is_ready(), health.report().status));
        settled.store(true, Ordering::Relaxed);
        seen.push((health.is_ready(), health.report().status));
        trigger.drain();
        seen.push((health.is_ready(), health.report().status));
        assert_eq!(seen, [(false, "starting"), (false, "starting"), (true, "healthy"), (false, "draining")]);
    }

    #[test]
    fn the_report_has_the_shape_that_is_promised() {
        let process = Process::new("n1");
        process.health.sessions(|| 5);
        process.health.started();
        let json = process.health.json();
        let (head, time) = json.split_once("\"timestamp\":").unwrap();
        assert_eq!(head, r#"{"status":"healthy","nodeId":"n1","activeSessions":5,"#);
        // "2024-01-01T00:00:00.000Z"
        assert!(time.len() == 27 && time.ends_with("Z\"}") && time.as_bytes()[20] == b'.', "{time}");
    }
}
