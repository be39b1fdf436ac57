//! Balances over gateways, request by request: `proxy [--listen ADDR] UPSTREAM...`
//!
//! Prints `listening proxy ADDR` when it serves, and one line `count UPSTREAM REQUESTS` for each upstream when it is
//! asked to end (SIGTERM or SIGINT); `GET /_counts` answers with the same lines.

use std::io::{Write as _, stdout};
use std::net::SocketAddr;
use std::sync::Arc;

use clap::Parser;
use tests::proxy::Proxy;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Whom to send requests to, in turn.
    #[arg(required = true)]
    upstreams: Vec<SocketAddr>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(args.listen).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    writeln!(stdout(), "listening proxy {}", listener.local_addr()?)?;
    let proxy = Proxy::new(args.upstreams);
    let ended = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Arc::clone(&proxy).serve(listener, ended).await?;
    write!(stdout(), "{}", proxy.counts_text())?;
    Ok(())
}
