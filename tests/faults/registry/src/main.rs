//! Tools whose every run is written down: `ledger-registry --ledger FILE [--name NAME] [--listen HOST:PORT]`; and
//! `ledger-registry --health HOST:PORT` asks another one how it is.
//!
//! Owns: a list for each session (`append`, `read`), a counter that must not run twice (`count`), slow work with progress
//! (`slow`), a question to the client (`ask`), and plain words (`echo`). Must not know: the mesh, and what is done to it.

mod ledger;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chassis::drain::{Shutdown, Signals};
use chassis::grpc::{channel, server};
use chassis::process::Process;
use chassis::serve::{Group, Incoming, RoleResult, bind};
use chassis::telemetry;
use chassis::tls::{self, Dialler, Mesh};
use clap::Parser;
use history::line::Doing;
use registry::{Ask, Call, Elicited, Error, Host, Input, Json, Output, Registry, Runtime, Tool};
use serde::{Deserialize, Serialize};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::ledger::Ledger;

const NAME: &str = "ledger-registry";
/// How long one that is asked how it is may take.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The file that all replicas write down in what their tools do.
    #[arg(long, required_unless_present = "health")]
    ledger: Option<PathBuf>,
    /// What this replica is called there.
    #[arg(long, default_value = "ledger")]
    name: String,
    /// Where spans go; empty = nowhere.
    #[arg(long, default_value = "")]
    telemetry: String,
    /// Where `trunkline certificates` has put its files; without it, gRPC is plain text.
    #[arg(long)]
    certificates: Option<PathBuf>,
    /// Asks the one that listens there how it is, and does nothing else; exit code 0 if it serves.
    #[arg(long, value_name = "HOST:PORT")]
    health: Option<String>,
}

/// What every tool is told.
#[derive(Deserialize)]
struct Given {
    op: String,
    #[serde(default)]
    session: String,
    #[serde(default)]
    value: Option<u64>,
    #[serde(default)]
    steps: u32,
    #[serde(default)]
    pause_ms: u64,
}

#[derive(Serialize)]
struct Done {
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<Vec<u64>>,
}

#[derive(Deserialize)]
struct Said {
    message: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(address) = &args.health {
        return tokio::time::timeout(PATIENCE, serves(address, args.certificates.as_deref())).await?;
    }
    let to_collector = telemetry::Config { endpoint: args.telemetry.clone(), ..Default::default() };
    let _telemetry = telemetry::init(&[NAME], &to_collector, &Process::new(&args.name))?;
    let mut signals = Signals::install()?;
    let file = args.ledger.as_ref().context("there is no --ledger")?;
    let host = tools(&Ledger::open(file, &args.name)?).build(Runtime::tokio())?;
    let listener = bind("--listen", &args.listen).await?;
    chassis::entry::announce(NAME, &listener.local_addr()?.to_string())?;
    let mut group = Group::new();
    let incoming = match &args.certificates {
        None => Incoming::Tcp(listener),
        Some(dir) => Incoming::Mesh(listener, mesh(dir)?),
    };
    group.start(NAME, |shutdown| serve(host, incoming, shutdown));
    group.run(&mut signals, Duration::from_secs(10)).await?;
    Ok(())
}

/// Fails unless the registry at `address` says that it serves.
async fn serves(address: &str, certificates: Option<&Path>) -> Result<()> {
    let dialler = match certificates {
        None => Dialler::default(),
        Some(dir) => mesh(dir)?.dialler(&[tls::Role::Registry])?,
    };
    let mut asked = HealthClient::new(channel::dial_with(&dialler, address)?);
    let said = asked.check(HealthCheckRequest::default()).await?.into_inner().status();
    ensure!(said == ServingStatus::Serving, "{address} says {said:?}");
    Ok(())
}

/// How a registry deals with the others of a mesh whose certificates are there.
fn mesh(dir: &Path) -> Result<Mesh> {
    let (certificate, key, ca) = (dir.join("registry.pem"), dir.join("registry.key"), dir.join("ca.pem"));
    let config = tls::Config { certificate, key, ca, ..Default::default() };
    Ok(Mesh::new(&config, Some(tls::Role::Registry))?)
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

fn tools(ledger: &Ledger) -> Registry {
    let simple = |name: &str, description: &str, f: Doing| {
        let ledger = ledger.clone();
        tool(name, description).raw_handler(move |given, _| run(ledger.clone(), f, given))
    };
    let (for_read, for_slow, for_ask) = (ledger.clone(), ledger.clone(), ledger.clone());
    let repeatable = Json::trusted(r#"{"readOnlyHint":true,"idempotentHint":true}"#);
    Registry::new("ledger")
        .version("1.0.0")
        .tool(simple("append", "Adds a number to the list of the session", Doing::Append))
        .tool(simple("count", "Counts one more", Doing::Count))
        .tool(simple("echo", "Says that it was called", Doing::Echo).annotations(repeatable.clone()))
        .tool(
            tool("read", "Reads the list of the session")
                .annotations(repeatable.clone())
                .raw_handler(move |given, _| read(for_read.clone(), given)),
        )
        .tool(
            tool("slow", "Works in steps and says how far it is")
                .annotations(repeatable)
                .raw_handler(move |given, call| slow(for_slow.clone(), given, call)),
        )
        .tool(
            tool("ask", "Asks the client for a message")
                .raw_handler(move |given, call| ask(for_ask.clone(), given, call)),
        )
}

fn tool(name: &str, description: &str) -> Tool {
    Tool::new(name).description(description).inputs([
        Input::string("op").required().description("Names the operation"),
        Input::string("session").description("Names the session"),
        Input::integer("value").description("What is appended"),
        Input::integer("steps").description("How many steps"),
        Input::integer("pause_ms").description("How long each step takes"),
    ])
}

fn given(arguments: &Json) -> Result<Given, Error> {
    arguments.read().map_err(Error::invalid_params)
}

async fn written(ledger: &Ledger, f: Doing, given: &Given) -> Result<String, Error> {
    let ran = ledger.ran(f, given.op.clone(), given.session.clone(), given.value);
    ran.await.map_err(Error::failed)
}

async fn run(ledger: Ledger, f: Doing, arguments: Json) -> Result<Output, Error> {
    let nonce = written(&ledger, f, &given(&arguments)?).await?;
    Ok(Output::structured(&Done { nonce: Some(nonce), list: None }))
}

async fn read(ledger: Ledger, arguments: Json) -> Result<Output, Error> {
    let list = ledger.list(given(&arguments)?.session).await.map_err(Error::failed)?;
    Ok(Output::structured(&Done { nonce: None, list: Some(list) }))
}

async fn slow(ledger: Ledger, arguments: Json, call: Call) -> Result<Output, Error> {
    let given = given(&arguments)?;
    let nonce = written(&ledger, Doing::Slow, &given).await?;
    for step in 1..=given.steps {
        tokio::time::sleep(Duration::from_millis(given.pause_ms)).await;
        call.progress(step, given.steps, &given.op);
    }
    Ok(Output::structured(&Done { nonce: Some(nonce), list: None }))
}

async fn ask(ledger: Ledger, arguments: Json, call: Call) -> Result<Output, Error> {
    let given = given(&arguments)?;
    let nonce = written(&ledger, Doing::Ask, &given).await?;
    let question = Ask::new().elicit("what", &given.op, [Input::string("message").required()]);
    match call.ask(question).await?.elicited("what")? {
        Elicited::Accepted(Said { message }) => ledger.got(message).await.map_err(Error::failed)?,
        Elicited::Declined | Elicited::Cancelled => {}
    }
    Ok(Output::structured(&Done { nonce: Some(nonce), list: None }))
}
