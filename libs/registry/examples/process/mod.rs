//! What a registry process does around its registry: listen where `--listen HOST:PORT` says, print the address, drain when
//! asked to stop; spans go where OpenTelemetry's own variable says, `OTEL_EXPORTER_OTLP_ENDPOINT`. The same in every example, and
//! a start for a process of your own.

use std::error::Error;
use std::time::Duration;

use chassis::drain::{Shutdown, Signals};
use chassis::grpc::server;
use chassis::process::Process;
use chassis::serve::{Group, Incoming, RoleResult, bind};
use chassis::telemetry;
use registry::Host;
use tokio::net::TcpListener;

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(name: &'static str, host: Host) -> Result<(), Box<dyn Error>> {
    let endpoint = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").unwrap_or_default();
    let to_collector = telemetry::Config { endpoint, ..Default::default() };
    let _telemetry = telemetry::init(&[name], &to_collector, &Process::new(name))?;
    let mut signals = Signals::install()?;
    let listener = bind("--listen", &address()?).await?;
    chassis::entry::announce(name, &listener.local_addr()?.to_string())?;
    let mut group = Group::new();
    group.start(name, |shutdown| serve(host, listener, shutdown));
    group.run(&mut signals, Duration::from_secs(10)).await?;
    Ok(())
}

/// Callers may come back for what is running until it is done; then the listener closes.
async fn serve(host: Host, listener: TcpListener, shutdown: Shutdown) -> RoleResult {
    let routes = api::registry::services(host.port());
    Ok(server::serve_until_drained(routes, Incoming::Tcp(listener), shutdown, host.drain()).await?)
}

fn address() -> Result<String, String> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next(), arguments.next()) {
        (None, _, _) => Ok("127.0.0.1:0".to_owned()),
        (Some("--listen"), Some(address), None) => Ok(address),
        _ => Err("usage: [--listen HOST:PORT]".to_owned()),
    }
}
