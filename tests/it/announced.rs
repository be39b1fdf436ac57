//! Registries that show themselves to session nodes that check certificates.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chassis::drain::{self, Trigger};
use chassis::grpc::server::serve;
use chassis::serve::Incoming;
use chassis::task::{self, Handle, Kind};
use chassis::tls::{self, Role};
use placement::{Announce, Announced, Locator as _, RegistryRecord};
use registry::{Registry, Runtime, Tool};
use tests::client::{Client, DEADLINE};
use tests::cluster::Nodes;
use tests::mesh::binary;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

/// How soon a registry is in use, the middle one of [`STARTS`].
const SOON: Duration = Duration::from_secs(1);
const STARTS: usize = 5;

/// What a process of this role knows of the others, and shows them.
fn member(certificates: &Path, role: Role) -> Result<tls::Mesh> {
    let section = tls::Config {
        certificate: certificates.join(format!("{role}.pem")),
        key: certificates.join(format!("{role}.key")),
        ca: certificates.join("ca.pem"),
        ..tls::Config::default()
    };
    tls::Mesh::new(&section, Some(role)).context("certificates")
}

async fn certificates() -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let mut making = tokio::process::Command::new(binary("trunkline")?);
    let made = making.args(["certificates", "--dir"]).arg(dir.path()).output().await?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(dir)
}

/// A registry with one tool, served and shown. It is gone with this.
struct Shown {
    announced: Announced,
    _trigger: Trigger,
    _tasks: [Handle<()>; 2],
}

impl Shown {
    async fn start(nodes: &Nodes, tool: &str, mesh: tls::Mesh) -> Result<Self> {
        let tool_of = Tool::new(tool).raw_handler(|_, _| async { Ok("done") });
        let host = Registry::new(tool).tool(tool_of).build(Runtime::tokio())?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let (trigger, shutdown) = drain::pair();
        let routes = api::registry::services(host.port());
        let serving = task::spawn(Kind::Role, "registry", async move {
            if let Err(error) = serve(routes, Incoming::Mesh(listener, mesh), shutdown).await {
                tracing::error!(%error, "a registry of the test failed");
            }
        });
        let record = RegistryRecord::new(tool, &address, "tool-registry", None, "");
        let (announce, announced) = Announce::registry(nodes.cluster.clone(), Duration::from_secs(2), record);
        let showing = task::spawn(Kind::Upkeep, "announcement", announce.run());
        Ok(Self { announced, _trigger: trigger, _tasks: [serving, showing] })
    }
}

/// The tools there are.
async fn tools(client: &Client) -> Result<String> {
    client.modern("1", "tools/list", "{}", "{}").await?.response().await
}

/// Waits until a tool is there, or is not; all that there were in the end.
async fn until(client: &Client, tool: &str, is_there: bool) -> Result<String> {
    let waiting = async {
        loop {
            let tools = tools(client).await?;
            if tools.contains(tool) == is_there {
                return Ok(tools);
            }
        }
    };
    timeout(DEADLINE, waiting).await.with_context(|| format!("{tool} there: not {is_there}"))?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_shows_itself_is_in_use_within_a_second_and_an_impostor_never() -> Result<()> {
    let certificates = certificates().await?;
    let dialler = member(certificates.path(), Role::Session)?.dialler(&[Role::Registry])?;
    let nodes = Nodes::dialling(1, Vec::new(), dialler).await?;
    let client = nodes.client();
    // It has a certificate of this mesh, and not that of a registry. A session node trusts nobody it finds in etcd for being there.
    let impostor = Shown::start(&nodes, "impostor", member(certificates.path(), Role::Gateway)?).await?;
    let (mut took, mut all) = (Vec::new(), Vec::new());
    for number in 0..STARTS {
        let (name, mesh) = (format!("honest{number}"), member(certificates.path(), Role::Registry)?);
        let begun = Instant::now();
        let honest = Shown::start(&nodes, &name, mesh).await?;
        let tools = until(&client, &name, true).await?;
        took.push(begun.elapsed());
        ensure!(!tools.contains("impostor"), "{tools}");
        all.push((name, honest));
    }
    took.sort_unstable();
    println!("in use after {took:?}");
    let middle = took[STARTS / 2];
    ensure!(middle <= SOON, "in use after {took:?}, the middle one within {SOON:?} was promised");
    // It was shown before all of them, and for as long.
    ensure!(nodes.directory.registries().iter().any(|record| &*record.instance == "impostor"));
    let (name, gone) = all.pop().context("none")?;
    gone.announced.withdraw();
    until(&client, &name, false).await?;
    drop(impostor);
    Ok(())
}
