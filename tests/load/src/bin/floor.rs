//! One process of a floor: `floor edge` or `floor service`, which answers itself or asks the service at `--next`.

use std::io::{Write as _, stdout};
use std::net::SocketAddr;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use load::floor::{Next, edge, service};
use tokio::net::TcpListener;
use tokio::runtime::Builder;

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Edge,
    Service,
}

/// Passes bytes on and does nothing else.
#[derive(Parser)]
struct Cli {
    part: Part,
    /// The service to ask.
    #[arg(long)]
    next: Option<SocketAddr>,
    /// On one single-threaded runtime instead of a multi-threaded one.
    #[arg(long)]
    single: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut runtime = if cli.single { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    runtime.enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let next = Next::connect(cli.next).await?;
        match cli.part {
            Part::Edge => {
                writeln!(stdout(), "listening edge http://{address}/mcp")?;
                edge(listener, next).await
            }
            Part::Service => {
                writeln!(stdout(), "listening service {address}")?;
                service(listener, next).await
            }
        }
    })
}
