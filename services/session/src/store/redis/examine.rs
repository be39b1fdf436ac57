//! What servers say of themselves when a node starts.

use std::time::Duration;

use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{FromRedisValue as _, RedisError};
use tokio::time::Instant;

use super::dial::{DialError, Dialler, Servers, Wire, short};

/// How long is waited between two looks at a store that is not there.
const REST: Duration = Duration::from_millis(200);

/// One server that sessions would be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Seen {
    /// For messages.
    pub(in crate::store) server: String,
    /// Its maxmemory-policy.
    pub(in crate::store) policy: String,
    /// Whether it keeps an append-only file.
    pub(in crate::store) has_log: bool,
    /// Whether it refuses writes that no replica would get.
    pub(in crate::store) needs_replicas: bool,
}

/// Asks all servers; comes back to them for `patience`. Else what was wrong last.
pub(super) async fn examine(dialler: &Dialler, patience: Duration) -> Result<Vec<Seen>, String> {
    let deadline = Instant::now() + patience;
    loop {
        let why = match dialler.dial().await {
            Ok(wire) => match ask(dialler, wire).await {
                Ok(seen) => return Ok(seen),
                Err(error) => short(&error),
            },
            Err(error @ DialError::Unwelcome(_)) => return Err(error.to_string()),
            Err(error @ (DialError::Silent(_) | DialError::NoMaster | DialError::Masters(..))) => {
                error.to_string()
            }
        };
        if Instant::now() + REST >= deadline {
            return Err(why);
        }
        tokio::time::sleep(REST).await;
    }
}

async fn ask(dialler: &Dialler, mut wire: Wire) -> Result<Vec<Seen>, RedisError> {
    let cmd = redis::cmd("INFO");
    let asked = async {
        match &mut wire {
            Wire::Single(_) => {
                let text = String::from_redis_value(wire.send(&cmd).await?.extract_error()?)?;
                Ok(vec![Seen::read(&dialler.names(), &text)])
            }
            Wire::Cluster(cluster) => {
                let everywhere = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                let told = cluster.route_command(cmd, everywhere).await?.extract_error()?;
                let told = Vec::<(String, String)>::from_redis_value(told)?;
                Ok(told.iter().map(|(server, text)| Seen::read(server, text)).collect())
            }
        }
    };
    let late = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    tokio::time::timeout(Duration::from_secs(2), asked).await.unwrap_or_else(|_| Err(late()))
}

impl Dialler {
    fn names(&self) -> String {
        match self.servers() {
            Servers::Single(servers) => {
                let names: Vec<&str> = servers.iter().map(|(address, _)| address.as_str()).collect();
                names.join(", ")
            }
            Servers::Cluster(_) => "the cluster".into(),
        }
    }
}

impl Seen {
    /// Reads what INFO says.
    fn read(server: &str, text: &str) -> Self {
        let value = |name: &str| {
            let of = |line: &str| line.strip_prefix(name)?.strip_prefix(':').map(|v| v.trim_end().to_owned());
            text.lines().find_map(of)
        };
        Self {
            server: server.to_owned(),
            policy: value("maxmemory_policy").unwrap_or_else(|| "unknown".into()),
            has_log: value("aof_enabled").as_deref() == Some("1"),
            needs_replicas: value("min_slaves_good_slaves").is_some(),
        }
    }
}
