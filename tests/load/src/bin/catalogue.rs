//! A registry with as many tools as one likes, for lists.

use std::time::Duration;

use anyhow::{Result, anyhow};
use chassis::drain::Signals;
use chassis::grpc::server;
use chassis::serve::{Group, Incoming, bind};
use clap::Parser;
use registry::{Call, Json, Output, Registry, Runtime, Tool};

/// A registry of many tools.
#[derive(Parser)]
struct Cli {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// What the names begin with.
    #[arg(long)]
    namespace: String,
    /// How many.
    #[arg(long)]
    tools: usize,
    /// Adds the tool `blob`, whose result has so many bytes and comes late, so that it is an event of a stream.
    #[arg(long)]
    blob: Option<usize>,
}

/// Longer than an answer is waited for before it becomes a stream.
const LATE: Duration = Duration::from_millis(700);

fn name(number: usize) -> String {
    format!("tool-{number:04}")
}

fn tool(number: usize) -> Tool {
    Tool::new(name(number))
        .description("Looks something up in one of many tables, as tools of a large mesh do, and says what it found there.")
        .string("table")
        .required()
        .description("The table to look into")
        .add()
        .string("key")
        .required()
        .description("What to look for")
        .add()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let registry = Registry::new("catalogue").version("1").namespace(&cli.namespace);
    let registry = (0..cli.tools).fold(registry, |registry, number| {
        let (tool, name) = (tool(number), name(number));
        registry.define(tool).set_handler(&name, |_: Json, _: Call| async { Ok(Output::text("nothing")) })
    });
    let registry = match cli.blob {
        None => registry,
        Some(bytes) => {
            registry.define(Tool::new("blob")).set_handler("blob", move |_: Json, _: Call| async move {
                tokio::time::sleep(LATE).await;
                Ok(Output::text("x".repeat(bytes)))
            })
        }
    };
    let host = registry.build(Runtime::tokio())?;
    let mut signals = Signals::install()?;
    let listener = bind("--listen", &cli.listen).await?;
    chassis::entry::announce("catalogue", &listener.local_addr()?.to_string())?;
    let mut group = Group::new();
    group.start("catalogue", |shutdown| async move {
        let routes = api::registry::services(host.port());
        Ok(server::serve_until_drained(routes, Incoming::Tcp(listener), shutdown, host.drain()).await?)
    });
    group.run(&mut signals, Duration::from_secs(5)).await.map_err(|error| anyhow!("{error}"))?;
    Ok(())
}
