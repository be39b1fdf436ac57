//! Building a gateway and serving connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::KeyRing;
use chassis::clock;
use chassis::drain::Shutdown;
use chassis::process::Health;
use chassis::tls::{Acceptor, File, FileError, Protocols};
use chassis::workers::Workers;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::auth::Authenticate;
use crate::config::Config;
use crate::connection::{self, Patience, Terms};
use crate::deps::Deps;
use crate::forward::{Forward, Patience as Waits};
use crate::http;
use crate::http::body;
use crate::http::caller::Ask;
use crate::http::http_sse::Farewells;
use crate::http::origin::{EntryError, Rules};
use crate::http::sse::Stalls;
use crate::http::stack::{Around, Sizes};
use crate::limits::Limits;
use crate::observe::{Observed, ROLE};

/// Before trying again when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Session nodes take messages of 8 MiB with everything around them.
const MOST_BODY: usize = 7 << 20;

/// A gateway. Cheap to clone: one can be served by several runtimes at a time.
#[derive(Clone)]
pub struct App {
    shared: Arc<Shared>,
}

struct Shared {
    keys: KeyRing,
    forward: Arc<Forward>,
    auth: Arc<dyn Authenticate>,
    rules: Rules,
    paths: Arc<Paths>,
    tls: Option<Acceptor>,
    /// Whether anybody may call from other machines.
    is_open: bool,
    /// Where it listens until it ends, whatever a later configuration says.
    listen: String,
    limits: Arc<Limits>,
    stalls: Arc<Stalls>,
    farewells: Arc<Farewells>,
    patience: Arc<Patience>,
    sizes: Sizes,
    body: body::Bounds,
    keep_alive: Duration,
    write_stall: Duration,
    stream_max_age: Option<Duration>,
    observed: Arc<Observed>,
    health: Health,
}

/// Where the endpoints are; no two are the same.
pub(crate) struct Paths {
    pub(crate) mcp: String,
    pub(crate) sse: String,
    pub(crate) message: String,
    /// Path of the endpoint as clients know it, where a proxy in front has another one.
    pub(crate) resource: Option<String>,
}

/// What handlers work with.
#[derive(Clone)]
pub(crate) struct Edge(Arc<Serving>);

/// One listener of a gateway.
struct Serving {
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// `listen` is no address.
    #[error("gateway.listen: {0:?} is not an address: write host:port, for example \"127.0.0.1:8080\"")]
    Listen(String),
    /// Other machines can reach the gateway, and no name is configured for it.
    #[error(
        "gateway.listen is {0:?}, which other machines can reach, and gateway.allowed_hosts is empty: list the names \
         clients use in the URL, for example allowed_hosts = [\"mesh.example.com\"], or listen on 127.0.0.1"
    )]
    Public(String),
    /// Other machines can reach the gateway, and nobody has to say who they are.
    #[error(
        "gateway.listen is {0:?}, which other machines can reach, and [auth] lets nobody in from there: configure \
         auth.keys or auth.issuers, or listen on 127.0.0.1; gateway.insecure_no_auth = true lets everybody in"
    )]
    NoAuth(String),
    /// One of the two files of TLS is missing.
    #[error("gateway.{0} is set and gateway.{1} is not: HTTPS needs both, a PEM file each")]
    HalfTls(&'static str, &'static str),
    /// A file of TLS cannot be used.
    #[error("{0}")]
    Tls(#[from] FileError),
    /// More than session nodes take.
    #[error("gateway.max_body_bytes is {0}: session nodes take at most 7340032")]
    Body(usize),
    /// A path is none.
    #[error("gateway.{key}: {value:?} is not a path: write for example {example:?}")]
    Path {
        /// The setting.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it might be.
        example: &'static str,
    },
    /// Two endpoints cannot be told apart.
    #[error("gateway.mcp_path, gateway.sse_path and gateway.message_path must differ: {0:?} occurs twice")]
    SamePath(String),
    /// An entry of a list that cannot match anything.
    #[error("gateway.{0}")]
    Entry(#[from] EntryError),
    /// The operating system has no random bytes.
    #[error("no random bytes: {0}")]
    Random(String),
}

/// Why a gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener has no address.
    #[error("the listener has no address: {0}")]
    Listener(#[from] io::Error),
    /// The listener is not the one that was configured, and nothing says by which names it may be called.
    #[error(
        "other machines can reach {0}, and gateway.allowed_hosts is empty: list the names clients use in the URL"
    )]
    Public(SocketAddr),
    /// The same, and nobody has to say who they are.
    #[error(
        "other machines can reach {0}, and [auth] lets nobody in from there: configure it, or set \
         gateway.insecure_no_auth = true"
    )]
    NoAuth(SocketAddr),
}

impl App {
    /// Checks the configuration and reads the files of TLS. Starts nothing.
    ///
    /// # Errors
    /// [`BuildError`] naming the setting and what to write.
    pub fn build(config: &Config, deps: Deps) -> Result<Self, BuildError> {
        let host =
            config.listen.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().map(|_| host));
        if host.is_none_or(str::is_empty) {
            return Err(BuildError::Listen(config.listen.clone()));
        }
        let rules = Rules::new(&config.allowed_hosts, &config.allowed_origins)?;
        let loopback = is_loopback(&config.listen);
        let is_open = config.insecure_no_auth;
        if !loopback && rules.no_hosts() {
            return Err(BuildError::Public(config.listen.clone()));
        }
        if !loopback && !is_open && !deps.auth.admits_remote() {
            return Err(BuildError::NoAuth(config.listen.clone()));
        }
        if config.max_body_bytes > MOST_BODY {
            return Err(BuildError::Body(config.max_body_bytes));
        }
        let paths = Arc::new(Paths::read(config, deps.auth.resource_path())?);
        let seed = clock::random::<8>().map_err(|error| BuildError::Random(error.to_string()))?;
        let waits = Waits {
            request: Duration::from_secs(config.request_timeout_s.max(1)),
            owner: Duration::from_millis(config.failover_wait_ms),
        };
        let seed = u64::from_le_bytes(seed);
        let forward = Forward::new(deps.locator, deps.peers, waits, seed, &deps.process.metrics);
        let max_age = Duration::from_secs(config.stream_max_age_s);
        let tls = tls(config)?;
        if let Some(edge) = &tls {
            edge.tell_expiry(&deps.process.metrics.of_role(ROLE), "edge");
        }
        Ok(Self {
            shared: Arc::new(Shared {
                keys: deps.keys,
                forward: Arc::new(forward),
                auth: deps.auth,
                rules,
                paths,
                tls,
                is_open,
                listen: config.listen.clone(),
                limits: Arc::new(Limits::new(config)),
                stalls: Stalls::new(),
                farewells: Farewells::new(),
                patience: Arc::new(Patience::new(config)),
                sizes: Sizes::new(config),
                body: body::Bounds::new(config),
                keep_alive: Duration::from_secs(config.keep_alive_s.max(1)),
                write_stall: Duration::from_secs(config.write_stall_s.max(1)),
                stream_max_age: (!max_age.is_zero()).then_some(max_age),
                observed: Observed::new(&deps.process.metrics),
                health: deps.process.health,
            }),
        })
    }

    /// Goes by the `allowed_hosts` and `allowed_origins` of another configuration from now on.
    ///
    /// # Errors
    /// [`BuildError`]; everything stays as it was then.
    pub fn replace_names(&self, config: &Config) -> Result<(), BuildError> {
        self.shared.rules.replace(&self.names(config)?);
        Ok(())
    }

    /// Whether [`App::replace_names`] could do it. Changes nothing.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn check_names(&self, config: &Config) -> Result<(), BuildError> {
        self.names(config).map(drop)
    }

    /// Whether callers may be told apart in another way from now on. One that lets in nobody from other machines cannot be what is
    /// wanted where they can reach the gateway.
    ///
    /// # Errors
    /// [`BuildError::NoAuth`], as at the start.
    pub fn check_auth(&self, auth: &dyn Authenticate) -> Result<(), BuildError> {
        let listen = &self.shared.listen;
        match is_loopback(listen) || self.shared.is_open || auth.admits_remote() {
            true => Ok(()),
            false => Err(BuildError::NoAuth(listen.clone())),
        }
    }

    fn names(&self, config: &Config) -> Result<Rules, BuildError> {
        let rules = Rules::new(&config.allowed_hosts, &config.allowed_origins)?;
        // Without any name nobody could call from elsewhere, which cannot be what is wanted.
        let listen = &self.shared.listen;
        if rules.no_hosts() && !self.shared.rules.no_hosts() && !is_loopback(listen) {
            return Err(BuildError::Public(listen.clone()));
        }
        Ok(rules)
    }

    /// Serves connections until shutdown: then nothing new is accepted, streams that wait for news are closed, answers
    /// under way may finish until the grace period ends.
    ///
    /// # Errors
    /// [`ServeError`] if the listener cannot be used.
    pub async fn serve(&self, listener: TcpListener, shutdown: Shutdown) -> Result<(), ServeError> {
        let address = listener.local_addr()?;
        let loopback = address.ip().to_canonical().is_loopback();
        if !loopback && self.shared.rules.no_hosts() {
            return Err(ServeError::Public(address));
        }
        if !loopback && !self.shared.is_open && !self.shared.auth.admits_remote() {
            return Err(ServeError::NoAuth(address));
        }
        let stack = self.stack(loopback, &shutdown);
        let stalls = self.shared.stalls.watch(self.shared.write_stall);
        let farewells = self.shared.farewells.run(self.shared.forward.clone(), &self.shared.keys);
        let overtaken = self.shared.forward.watch_table();
        let cuts = self.shared.forward.watch_lines();
        tokio::pin!(stalls, farewells, overtaken, cuts);
        let mut connections = JoinSet::new();
        let workers = Workers::current();
        let take = |connections: &mut JoinSet<()>, stream, peer: SocketAddr| {
            // Beyond the limit there is nothing to say, least of all a handshake.
            let Some(admission) = self.shared.limits.connection(peer.ip()) else { return };
            let terms = Terms {
                patience: self.shared.patience.clone(),
                tls: self.shared.tls.clone(),
                stack: stack.clone(),
                shutdown: shutdown.clone(),
            };
            let serving = connection::serve(stream, peer.ip(), admission, terms);
            connections.spawn_on(serving, &workers.handles()[workers.deal()]);
        };
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let Ok(stream) = stream.into_std() else { continue };
                        take(&mut connections, stream, peer);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next(), if !connections.is_empty() => log_panic(ended),
                () = &mut stalls => {}
                () = &mut farewells => {}
                () = &mut overtaken => {}
                () = &mut cuts => {}
                () = shutdown.requested() => break,
            }
        }
        // Who is connected already may have sent a request, and would not know whether it was read.
        if let Ok(listener) = listener.into_std() {
            while let Ok((stream, peer)) = listener.accept() {
                if stream.set_nonblocking(true).is_ok() {
                    take(&mut connections, stream, peer);
                }
            }
        }
        tokio::select! {
            () = async { while let Some(ended) = connections.join_next().await { log_panic(ended) } } => {}
            () = stalls => {}
            () = farewells => {}
            () = overtaken => {}
            () = cuts => {}
            () = shutdown.expired() => {}
        }
        Ok(())
    }

    /// What every request goes through.
    pub(crate) fn stack(&self, loopback: bool, shutdown: &Shutdown) -> impl http::Stack + use<> {
        let edge = Edge(Arc::new(Serving { shared: self.shared.clone(), shutdown: shutdown.clone() }));
        let is_open = self.shared.is_open;
        let auth = self.shared.auth.clone();
        let with = Around {
            ask: Ask::new(auth, &self.shared.paths, self.shared.limits.clone(), (loopback, is_open)),
            guard: Arc::new(self.shared.rules.guard(loopback)),
            limits: self.shared.limits.clone(),
            paths: self.shared.paths.clone(),
            sizes: self.shared.sizes,
            observed: self.shared.observed.clone(),
        };
        http::around(http::routes(&self.shared.paths, edge), with)
    }
}

/// HTTPS, if it is configured.
fn tls(config: &Config) -> Result<Option<Acceptor>, BuildError> {
    let (certificate, key) = (&config.tls_certificate, &config.tls_key);
    match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => Ok(None),
        (false, true) => Err(BuildError::HalfTls("tls_certificate", "tls_key")),
        (true, false) => Err(BuildError::HalfTls("tls_key", "tls_certificate")),
        (false, false) => {
            let certificate = File::new("gateway.tls_certificate", certificate);
            let key = File::new("gateway.tls_key", key);
            Ok(Some(Acceptor::from_files(certificate, key, None, Protocols::Web)?))
        }
    }
}

impl Paths {
    fn read(config: &Config, resource: Option<String>) -> Result<Self, BuildError> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"/-_.~".contains(&c);
        let path = |key, value: &String, example| {
            // What is well known is ours to say.
            if value == http::HEALTH
                || value.starts_with("/.well-known/")
                || !value.starts_with('/')
                || value.len() < 2
                || !value.bytes().all(plain)
            {
                return Err(BuildError::Path { key, value: value.clone(), example });
            }
            Ok(value.clone())
        };
        let mcp = path("mcp_path", &config.mcp_path, "/mcp")?;
        let sse = path("sse_path", &config.sse_path, "/sse")?;
        let message = path("message_path", &config.message_path, "/messages")?;
        if sse == mcp || message == mcp {
            return Err(BuildError::SamePath(mcp));
        }
        if sse == message {
            return Err(BuildError::SamePath(sse));
        }
        Ok(Self { mcp, sse, message, resource })
    }
}

impl Edge {
    pub(crate) fn mcp_path(&self) -> &str {
        &self.0.shared.paths.mcp
    }

    pub(crate) fn message_path(&self) -> &str {
        &self.0.shared.paths.message
    }

    pub(crate) fn keys(&self) -> &KeyRing {
        &self.0.shared.keys
    }

    pub(crate) fn auth(&self) -> &dyn Authenticate {
        self.0.shared.auth.as_ref()
    }

    pub(crate) fn forward(&self) -> &Arc<Forward> {
        &self.0.shared.forward
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.shared.limits
    }

    pub(crate) fn observed(&self) -> &Arc<Observed> {
        &self.0.shared.observed
    }

    pub(crate) fn health(&self) -> &Health {
        &self.0.shared.health
    }

    pub(crate) fn body(&self) -> &body::Bounds {
        &self.0.shared.body
    }

    pub(crate) fn stalls(&self) -> &Stalls {
        &self.0.shared.stalls
    }

    pub(crate) fn farewells(&self) -> &Arc<Farewells> {
        &self.0.shared.farewells
    }

    /// When a stream that begins now is ended so that its client comes back, unless that never happens.
    pub(crate) fn stream_end(&self) -> Option<Instant> {
        let age = self.0.shared.stream_max_age?;
        // Streams that began together should not end together.
        let draw = u32::from(u16::from_le_bytes(clock::random().unwrap_or_default()));
        Some(Instant::now() + age - age / 10 * draw / u32::from(u16::MAX))
    }

    pub(crate) fn keep_alive(&self) -> Duration {
        self.0.shared.keep_alive
    }

    pub(crate) fn shutdown(&self) -> Shutdown {
        self.0.shutdown.clone()
    }
}

/// Whether only this machine can reach an address.
fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!("connection panicked");
    }
}
