//! The store that the configuration asks for. Here it is read, here secrets come from their files, and a server that would lose
//! sessions is refused.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::redis::cluster::ClusterClient;
use ::redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates};
use chassis::metrics::Metrics;

use super::config::Config;
use super::embedded::{self, Embedded, Refused};
use super::redis::{Redis, Seen, Servers, Settings};
use super::{Memory, SessionStore};

/// How long a store that does not answer is waited for at the start.
const PATIENCE: Duration = Duration::from_secs(10);
/// How much longer than it may be idle a session is stored.
const MARGIN: Duration = Duration::from_secs(600);
/// Most milliseconds that replicas may be waited for: a connection does nothing else meanwhile.
const MOST_WAIT_MS: u64 = 400;

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An address that cannot be one.
    #[error(
        "store.redis: {address:?} is not redis://[user@]host:port, rediss://[user@]host:port or redis+unix:///path"
    )]
    Address {
        /// As configured.
        address: String,
    },
    /// A password where everybody sees it.
    #[error("store.redis: the password of {host:?} belongs into the file that store.password_file names")]
    Password {
        /// Without the password.
        host: String,
    },
    /// A file that cannot be read.
    #[error("{key}: {path:?} cannot be read: {error}")]
    File {
        /// Which setting names it.
        key: &'static str,
        /// As configured.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// Authorities that are none, or addresses that do not fit together.
    #[error("{key}: {why}")]
    Setting {
        /// Which setting.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody answers, for ten seconds, or not as hoped.
    #[error("store.redis: {why}")]
    Unreachable {
        /// What was wrong last.
        why: String,
    },
    /// A server that may forget sessions.
    #[error(
        "store.redis: {server} may evict sessions when its memory is full (maxmemory-policy {policy}); set noeviction there, \
         or store.allow_eviction"
    )]
    Evicts {
        /// Which.
        server: String,
        /// What it does.
        policy: String,
    },
    /// A file that cannot be used.
    #[error(transparent)]
    Embedded(#[from] Refused),
}

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Store;

impl Store {
    /// Opens the configured store. `idle` is how long a session may be idle: it is stored a little longer.
    ///
    /// # Errors
    /// [`ConnectError`], which names the setting.
    pub async fn connect(
        config: &Config,
        idle: Duration,
        metrics: &Metrics,
    ) -> Result<Arc<dyn SessionStore>, ConnectError> {
        match (config.file(), config.redis.is_empty()) {
            (Some(_), false) => Err(both()),
            (None, false) => Ok(Arc::new(redis(config, idle, metrics, PATIENCE).await?)),
            (None, true) => Ok(Arc::new(Memory::default())),
            (Some(path), true) => {
                let settings = embedded::Settings { life: idle + MARGIN, group: config.file_group };
                Ok(Arc::new(Embedded::open(path, settings, metrics)?))
            }
        }
    }

    /// Says what is wrong with the settings, and with the file if there is one, without touching it. Nobody is asked whether he is
    /// there.
    ///
    /// # Errors
    /// [`ConnectError`], which names the setting.
    pub fn check(config: &Config) -> Result<(), ConnectError> {
        match config.file() {
            Some(_) if !config.redis.is_empty() => Err(both()),
            Some(path) => Ok(embedded::examine(path)?),
            None => Ok(()),
        }
    }
}

fn both() -> ConnectError {
    let why = "sessions cannot live in Redis and in a file".to_owned();
    ConnectError::Setting { key: "store.redis and store.file", why }
}

/// The same, for a store in Redis.
pub(super) async fn redis(
    config: &Config,
    idle: Duration,
    metrics: &Metrics,
    patience: Duration,
) -> Result<Redis, ConnectError> {
    let servers = servers(config)?;
    let settings = Settings {
        key_prefix: key_prefix(config)?,
        life: idle + MARGIN,
        wait_replicas: config.wait_replicas,
        wait: wait(config)?,
    };
    let redis = Redis::new(servers, settings, metrics);
    let seen = redis.examine(patience).await.map_err(|why| ConnectError::Unreachable { why })?;
    for found in &seen {
        judge(config, found)?;
    }
    Ok(redis)
}

fn judge(config: &Config, found: &Seen) -> Result<(), ConnectError> {
    let Seen { server, policy, has_log, needs_replicas } = found;
    if policy != "noeviction" {
        if !config.allow_eviction {
            return Err(ConnectError::Evicts { server: server.clone(), policy: policy.clone() });
        }
        tracing::warn!(%server, %policy, "the session store may evict sessions when its memory is full");
    }
    if !has_log {
        tracing::warn!(%server, "the session store keeps no append-only file: a restart of it loses sessions");
    }
    if config.wait_replicas > 0 && !needs_replicas {
        tracing::warn!(%server, "the session store takes writes without replicas: set min-replicas-to-write");
    }
    Ok(())
}

fn servers(config: &Config) -> Result<Servers, ConnectError> {
    let password = match config.password_file.as_str() {
        "" => Some(config.password.expose().to_owned()).filter(|password| !password.is_empty()),
        path => Some(file("store.password_file", path)?.trim_end_matches(['\r', '\n']).to_owned()),
    };
    let ca = match config.ca.as_str() {
        "" => None,
        path => Some(file("store.ca", path)?.into_bytes()),
    };
    let addresses =
        config.redis.iter().map(|address| Ok((address.clone(), address_of(address, password.as_deref())?)));
    let addresses: Vec<(String, ConnectionInfo)> = addresses.collect::<Result<_, ConnectError>>()?;
    if config.cluster {
        let mut builder = ClusterClient::builder(addresses.into_iter().map(|(_, info)| info));
        if let Some(root_cert) = ca {
            builder = builder.certs(TlsCertificates { client_tls: None, root_cert: Some(root_cert) });
        }
        let client =
            Servers::cluster(builder).map_err(|why| ConnectError::Setting { key: "store.redis", why })?;
        return Ok(client);
    }
    let open = |(address, info): (String, ConnectionInfo)| {
        let is_tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let client = match &ca {
            Some(ca) if is_tls => Client::build_with_tls(
                info,
                TlsCertificates { client_tls: None, root_cert: Some(ca.clone()) },
            ),
            Some(_) | None => Client::open(info),
        };
        match client {
            Ok(client) => Ok((address, client)),
            Err(error) => Err(ConnectError::Setting { key: "store.ca", why: error.to_string() }),
        }
    };
    Ok(Servers::Single(addresses.into_iter().map(open).collect::<Result<_, _>>()?))
}

fn address_of(address: &str, password: Option<&str>) -> Result<ConnectionInfo, ConnectError> {
    let no_address = |_| ConnectError::Address { address: hidden(address) };
    let info = address.into_connection_info().map_err(no_address)?;
    if info.redis_settings().password().is_some() {
        return Err(ConnectError::Password { host: hidden(address) });
    }
    let mut known = info.redis_settings().clone();
    if let Some(password) = password {
        known = known.set_password(password);
    }
    Ok(info.set_redis_settings(known.set_skip_set_lib_name()))
}

/// Without what stands in front of the host.
fn hidden(address: &str) -> String {
    address.rsplit_once('@').map_or(address, |(_, host)| host).to_owned()
}

fn file(key: &'static str, path: &str) -> Result<String, ConnectError> {
    fs::read_to_string(path).map_err(|error| ConnectError::File { key, path: path.to_owned(), error })
}

fn key_prefix(config: &Config) -> Result<String, ConnectError> {
    let prefix = &config.key_prefix;
    if prefix.contains(['{', '}']) || prefix.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let why = format!("{prefix:?} holds a brace or a space");
        return Err(ConnectError::Setting { key: "store.key_prefix", why });
    }
    Ok(prefix.clone())
}

fn wait(config: &Config) -> Result<Duration, ConnectError> {
    if config.wait_replicas > 0 && (config.wait_ms == 0 || config.wait_ms > MOST_WAIT_MS) {
        let why = format!("{} is not within 1 and {MOST_WAIT_MS}", config.wait_ms);
        return Err(ConnectError::Setting { key: "store.wait_ms", why });
    }
    Ok(Duration::from_millis(config.wait_ms))
}
