//! Puts the role together. `build` opens and starts nothing; `serve` runs it.

use std::sync::Arc;
use std::time::Duration;

use api::registry::{Surroundings, services_with_links};
use chassis::drain::{CutShort, Shutdown};
use chassis::grpc::server;
use chassis::serve::Incoming;
use chassis::task::{self, Kind};
use chassis::telemetry::{Scope, propagate};
use chassis::watch;
use registry::{Host, Registry};

use crate::config::Config;
use crate::deps::Deps;
use crate::upkeep::Upkeep;

pub use chassis::grpc::server::ServeError;
pub use registry::BuildError;

/// Name of the registry in this process.
const NAME: &str = "resources";

/// The resource registry role.
#[derive(Debug)]
pub struct App {
    host: Host,
    cut_short: CutShort,
    upkeep: Upkeep,
}

impl App {
    /// Puts the role together.
    ///
    /// # Errors
    /// [`BuildError`] if the kit refuses the registry.
    pub fn build(config: &Config, deps: Deps) -> Result<Self, BuildError> {
        let registry = Registry::new(NAME)
            .version(env!("CARGO_PKG_VERSION"))
            .resource_source(Arc::clone(&deps.directories) as Arc<dyn registry::ResourceSource>);
        let host = registry.build(deps.runtime)?;
        Ok(Self {
            host,
            cut_short: CutShort::new(&deps.metrics),
            upkeep: Upkeep { directories: deps.directories, rescan: Duration::from_secs(config.rescan_s) },
        })
    }

    /// The in-process door.
    #[must_use]
    pub fn handle(&self) -> Arc<dyn api::Registry> {
        self.host.port()
    }

    /// Runs the role until shutdown, on the network if there is one. While it drains it still accepts connections, because
    /// callers may come back for what is running.
    ///
    /// # Errors
    /// [`ServeError`] when the listener breaks.
    pub async fn serve(self, incoming: Incoming, shutdown: Shutdown) -> Result<(), ServeError> {
        let _upkeep = task::spawn(Kind::Upkeep, "directories", watch::keep(self.upkeep, NAME));
        let routes = services_with_links(self.host.port(), surroundings(&shutdown));
        let patience = shutdown.clone();
        let drained = async {
            let cut = self.host.drain_until(async { patience.expired().await }).await;
            self.cut_short.count(cut.running, cut.parked);
        };
        server::serve_until_drained(routes, incoming, shutdown, drained).await
    }
}

/// What a link needs to know of this process.
fn surroundings(shutdown: &Shutdown) -> Surroundings {
    let (shutdown, role) = (shutdown.clone(), Scope::current().role());
    Surroundings {
        within: Arc::new(move |trace, opening| {
            Box::pin(propagate::within(role, &trace.parent, &trace.state, opening))
        }),
        draining: Arc::new(move || {
            let shutdown = shutdown.clone();
            Box::pin(async move { shutdown.requested().await })
        }),
    }
}
