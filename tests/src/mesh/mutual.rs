//! A mesh of separate processes that prove to each other what they are.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use chassis::tls::{self, Role};
use tokio::process::Command;

use super::{Edge, Mesh, binary, gateway_address, listening};

/// Where its parts listen, and the certificates it runs on.
pub struct Mutual {
    /// The mesh.
    pub mesh: Mesh,
    /// The registry of tools.
    pub registry: String,
    /// The session node.
    pub session: String,
    certificates: tempfile::TempDir,
}

impl Mutual {
    /// Starts a registry of tools, one of a team's own, a session node and a gateway of the real binary, on certificates of its own making.
    pub async fn start() -> Result<Self> {
        let certificates = tempfile::tempdir()?;
        let dir = certificates.path();
        let mut making = Command::new(binary("trunkline")?);
        let made = making.args(["certificates", "--dir"]).arg(dir).output().await?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut mesh = Mesh::empty();
        let registry = member(&mut mesh, "tool-registry", dir, Role::Registry, &[]).await?;
        let mut own = Command::new(binary("examples/calculator")?);
        own.args(["--listen", "127.0.0.1:0", "--certificates"]).arg(dir);
        let (own_process, own) = listening(own, "calculator").await?;
        mesh._children.push(own_process);
        let registries = format!(
            "session.registries=[{{address=\"{registry}\"}},{{address=\"{own}\",namespace=\"team\"}}]"
        );
        let session = member(&mut mesh, "session", dir, Role::Session, &[&registries]).await?;
        let sessions = format!("gateway.sessions=[{{address=\"{session}\",slots=\"0-4095\"}}]");
        let url = member(&mut mesh, "gateway", dir, Role::Gateway, &[&sessions]).await?;
        mesh.edges.push(mesh._children.pop().map(|child| Edge::Process { _child: Box::new(child) }));
        mesh.gateways.push(gateway_address(&url)?);
        Ok(Self { mesh, registry, session, certificates })
    }

    /// What a process of this role knows of the others.
    pub fn member(&self, role: Role) -> Result<tls::Mesh> {
        let file = |name: String| self.certificates.path().join(name);
        let section = tls::Config {
            certificate: file(format!("{role}.pem")),
            key: file(format!("{role}.key")),
            ca: file("ca.pem".to_owned()),
            ..tls::Config::default()
        };
        tls::Mesh::new(&section, Some(role)).context("certificates")
    }
}

/// Starts a process with the certificate of its role.
async fn member(mesh: &mut Mesh, name: &str, dir: &Path, role: Role, more: &[&str]) -> Result<String> {
    let file = |key: &str, name: &str| format!("mtls.{key}={}", dir.join(name).display());
    let (certificate, key) = (format!("{role}.pem"), format!("{role}.key"));
    let files = [file("certificate", &certificate), file("key", &key), file("ca", "ca.pem")];
    let settings: Vec<&str> = files.iter().map(String::as_str).chain(more.iter().copied()).collect();
    mesh.process(name, &settings).await
}
