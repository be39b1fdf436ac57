//! Finds the server to write to: of several, the one that says it is the master.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisFuture, Value};
use tokio::time::Instant;

/// How long a server is waited for that is asked what it is.
const PROBE: Duration = Duration::from_millis(500);
/// How long one answer of a member of a cluster is waited for.
const ANSWER: Duration = Duration::from_millis(500);
/// How long the others are waited for once one says that it is the master: there must not be two.
const OTHERS: Duration = Duration::from_millis(100);
/// Commands that wait to be written to one connection; more wait in front of it.
const QUEUE: usize = 1024;

/// An open connection. Cheap to clone.
#[derive(Clone)]
pub(super) enum Wire {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Wire {
    pub(super) fn send<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    /// Several commands about one slot, one behind the other.
    pub(super) fn send_all<'a>(&'a mut self, cmds: &'a redis::Pipeline) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(cmds, 0, cmds.len()),
            Self::Cluster(connection) => connection.req_packed_commands(cmds, 0, cmds.len()),
        }
    }
}

/// Where the servers are.
pub(in crate::store) enum Servers {
    /// Any of these may be the master.
    Single(Vec<(String, Client)>),
    /// A Redis Cluster, which knows its members.
    Cluster(Box<ClusterClient>),
}

impl Servers {
    /// Members of a cluster. What breaks is repeated by [`super::line`].
    pub(in crate::store) fn cluster(builder: ClusterClientBuilder) -> Result<Self, String> {
        let builder =
            builder.connection_timeout(PROBE).response_timeout(ANSWER).overall_response_timeout(None);
        builder
            .retries(4)
            .min_retry_wait(10)
            .max_retry_wait(100)
            .build()
            .map(Box::new)
            .map(Self::Cluster)
            .map_err(|error| error.to_string())
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum DialError {
    /// Nobody answers in time.
    #[error("no server can be reached: {0}")]
    Silent(String),
    /// Servers answer, but none takes writes.
    #[error("no server says that it is the master")]
    NoMaster,
    /// A server answers that it will not have this client.
    #[error("{0}")]
    Unwelcome(String),
    /// Several do, and their replicas do not tell which one is.
    #[error("{0} and {1} both say that they are the master")]
    Masters(String, String),
}

/// See the module.
pub(super) struct Dialler {
    servers: Servers,
    /// What was last said about it in the log.
    told: AtomicU8,
}

impl Dialler {
    pub(super) const fn new(servers: Servers) -> Self {
        Self { servers, told: AtomicU8::new(0) }
    }

    pub(super) const fn servers(&self) -> &Servers {
        &self.servers
    }

    /// Opens a connection.
    pub(super) async fn dial(&self) -> Result<Wire, DialError> {
        let dialled = match &self.servers {
            Servers::Single(servers) => master(servers).await.map(Wire::Single),
            Servers::Cluster(client) => cluster(client).await.map(Wire::Cluster),
        };
        self.tell(dialled.as_ref().err());
        dialled
    }

    /// Says once that it is down, and once that it is back.
    fn tell(&self, error: Option<&DialError>) {
        let told = self.told.swap(if error.is_some() { 2 } else { 1 }, Ordering::Relaxed);
        match (told, error) {
            (0 | 1, Some(error)) => tracing::warn!(%error, "the session store is down"),
            (2, None) => tracing::info!("the session store is back"),
            _ => {}
        }
    }
}

async fn cluster(client: &ClusterClient) -> Result<ClusterConnection, DialError> {
    match tokio::time::timeout(PROBE, client.get_async_connection()).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(because("the cluster", &error)),
        Err(_) => Err(DialError::Silent("no answer in time".into())),
    }
}

/// What a server said of itself.
struct Master<'a> {
    address: &'a str,
    connection: MultiplexedConnection,
    replicas: usize,
}

async fn master(servers: &[(String, Client)]) -> Result<MultiplexedConnection, DialError> {
    let mut asked: FuturesUnordered<_> =
        servers.iter().map(|(address, client)| probe(address, client)).collect();
    let (mut masters, mut why, mut answered) = (Vec::new(), None, false);
    let mut until = None;
    loop {
        let next = match until {
            None => asked.next().await,
            Some(until) => tokio::time::timeout_at(until, asked.next()).await.unwrap_or(None),
        };
        match next {
            Some(Ok(Some(found))) => {
                masters.push(found);
                until = until.or(Some(Instant::now() + OTHERS));
            }
            Some(Ok(None)) => answered = true,
            Some(Err(error)) => why = Some(error),
            None => break,
        }
    }
    masters.sort_by_key(|master| std::cmp::Reverse(master.replicas));
    let mut masters = masters.into_iter();
    match (masters.next(), masters.next()) {
        (Some(first), Some(second)) if first.replicas == 0 || second.replicas > 0 => {
            Err(DialError::Masters(first.address.to_owned(), second.address.to_owned()))
        }
        (Some(first), _) => Ok(first.connection),
        (None, _) if answered => Err(DialError::NoMaster),
        (None, _) => Err(why.unwrap_or_else(|| DialError::Silent("none is configured".into()))),
    }
}

/// Asks a server what it is; `None` for a replica.
async fn probe<'a>(address: &'a str, client: &Client) -> Result<Option<Master<'a>>, DialError> {
    let asked = async {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PROBE))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut connection).await?;
        Ok::<_, RedisError>((connection, role))
    };
    let (connection, role) = match tokio::time::timeout(PROBE, asked).await {
        Ok(Ok(told)) => told,
        Ok(Err(error)) => return Err(because(address, &error)),
        Err(_) => return Err(DialError::Silent(format!("{address}: no answer in time"))),
    };
    let is_master = matches!(role.first(), Some(Value::BulkString(role)) if role == b"master");
    let replicas = match role.get(2) {
        Some(Value::Array(replicas)) => replicas.len(),
        _ => 0,
    };
    Ok(is_master.then_some(Master { address, connection, replicas }))
}

/// Errors of a server that answers do not go away by waiting, unless it is just starting.
fn because(server: &str, error: &RedisError) -> DialError {
    let why = format!("{server}: {}", short(error));
    match error.kind() == ErrorKind::AuthenticationFailed
        || error.code().is_some_and(|code| code != "LOADING")
    {
        true => DialError::Unwelcome(why),
        false => DialError::Silent(why),
    }
}

/// An error without what a server may have put into it.
pub(super) fn short(error: &RedisError) -> String {
    match error.code() {
        Some(code) => code.to_owned(),
        None => error.category().to_owned(),
    }
}
