//! What a registry process does around its registry: listen where `--listen HOST:PORT` says, print the address, drain when
//! asked to stop; spans go where OpenTelemetry's own variable says, `OTEL_EXPORTER_OTLP_ENDPOINT`. The same in every example, and
//! a start for a process of your own.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use chassis::drain::{Shutdown, Signals};
use chassis::grpc::server;
use chassis::process::Process;
use chassis::serve::{Group, Incoming, RoleResult, bind};
use chassis::telemetry;
use chassis::tls::{Config, Mesh, Role};
use registry::Host;

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(name: &'static str, host: Host) -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or_default();
    let to_collector = telemetry::Config { endpoint, ..Default::default() };
    let _telemetry = telemetry::init(&[name], &to_collector, &Process::new(name))?;
    let mut signals = Signals::install()?;
    let Arguments { listen, mesh } = arguments()?;
    let listener = bind("--listen", &listen).await?;
    mesh.check_listen(listener.local_addr()?)?;
    chassis::entry::announce(name, &listener.local_addr()?.to_string())?;
    let mut group = Group::new();
    group.start(name, |shutdown| serve(host, Incoming::Mesh(listener, mesh), shutdown));
    group.run(&mut signals, Duration::from_secs(10)).await?;
    Ok(())
}

/// Callers may come back for what is running until it is done; then the listener closes.
async fn serve(host: Host, incoming: Incoming, shutdown: Shutdown) -> RoleResult {
    let routes = api::registry::services(host.port());
    let patience = shutdown.clone();
    let drained = async {
        let _cut_short = host.drain_until(async { patience.expired().await }).await;
    };
    Ok(server::serve_until_drained(routes, incoming, shutdown, drained).await?)
}

struct Arguments {
    listen: String,
    mesh: Mesh,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut found = Arguments { listen: "127.0.0.1:0".to_owned(), mesh: Mesh::default() };
    let mut given = std::env::args().skip(1);
    while let Some(flag) = given.next() {
        match (flag.as_str(), given.next()) {
            ("--listen", Some(address)) => found.listen = address,
            ("--certificates", Some(dir)) => {
                found.mesh = Mesh::new(&section(Path::new(&dir)), Some(Role::Registry))?
            }
            _ => return Err("usage: [--listen HOST:PORT] [--certificates DIR]".into()),
        }
    }
    Ok(found)
}

/// The files as `trunkline certificates` names them.
fn section(dir: &Path) -> Config {
    let (certificate, key, ca) = (dir.join("registry.pem"), dir.join("registry.key"), dir.join("ca.pem"));
    Config { certificate, key, ca, ..Config::default() }
}
