//! Taking part in a cluster: etcd, and what this process shows and looks up there.
//!
//! Owns: the section `[cluster]` and what is made of it for each role. Must not decide who owns what; see `placement`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::SlotCount;
use chassis::clock;
use chassis::drain::Shutdown;
use chassis::metrics::Metrics;
use chassis::serve::RoleResult;
use chassis::tls::{self, Dialler};
use http::Uri;
use placement::made::{CheckError, check};
use placement::{
    Announce, Announced, Claimer, Cluster, Directory, Etcd, EtcdConfig, Following, GatewayRecord, Identity,
    Incarnation, Keeper, Keys, LeaseStore, Readiness, RegistryRecord, keep,
};
use serde::{Deserialize, Serialize};
use session::{Claimed, Seat};

use crate::process::Failure;

/// How long a starting process waits for etcd to say how many slots the mesh has.
const ASKING: Duration = Duration::from_secs(2);

/// The section `[cluster]`: where the processes of one mesh find each other. The same in every process but for `advertise`,
/// `zone` and `capacity`.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Members of the etcd cluster, for example ["http://127.0.0.1:2379"]. Session nodes claim their slots there, gateways find
    /// the owners, and registries are found wherever they start. Empty = addresses and slots are those of this configuration.
    pub(crate) etcd: Vec<String>,
    /// What the keys of this mesh begin with. Two meshes may share an etcd under different ones.
    pub(crate) prefix: String,
    /// How many slots the sessions of the mesh are divided into: 4096, or 16384 where more than about 50 session nodes are to share
    /// them. Chosen when the mesh is made and the same in every process; the first session node writes it into etcd, and who has
    /// another number does not start.
    #[serde(with = "slots")]
    #[schemars(with = "u16")]
    pub(crate) slots: SlotCount,
    /// How long a process that died counts as alive if nobody tries to reach it, in seconds. Below 3, hosts that pause for a
    /// moment lose their slots.
    pub(crate) lease_ttl_s: u64,
    /// Address (`host:port`) at which the others reach this process. Empty = the address it listens on; where that is every
    /// address of the machine, the one from which it reaches etcd.
    pub(crate) advertise: String,
    /// Where this process stands, for those who look at the cluster.
    pub(crate) zone: String,
    /// Share of the slots that a session node takes, against the others' shares.
    pub(crate) capacity: u32,
    /// Name to give to etcd, if it asks for one.
    pub(crate) user: String,
    /// File with the password for `user`.
    pub(crate) password_file: PathBuf,
    /// PEM file with the certificates that vouch for etcd; needed for https.
    pub(crate) ca: PathBuf,
    /// PEM file with the certificate of this process, if etcd asks for one.
    pub(crate) certificate: PathBuf,
    /// PEM file with the private key of `certificate`.
    pub(crate) key: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            etcd: Vec::new(),
            prefix: "/trunkline".into(),
            slots: SlotCount::default(),
            lease_ttl_s: 5,
            advertise: String::new(),
            zone: String::new(),
            capacity: 100,
            user: String::new(),
            password_file: PathBuf::new(),
            ca: PathBuf::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
        }
    }
}

/// The cluster as an operator's command sees it.
pub(crate) fn operators(config: &Config) -> Result<Cluster, Failure> {
    if config.etcd.is_empty() {
        return Err(Failure::refused(
            "cluster.etcd: not set; give the members of the mesh's etcd, for example --set 'cluster.etcd=[\"http://127.0.0.1:2379\"]', \
             or its file with --config",
        ));
    }
    let seed = u64::from_le_bytes(clock::random().map_err(Failure::failed)?);
    let refused = |why| Failure::refused(format!("cluster.etcd: {why}"));
    let store: Arc<dyn LeaseStore> = Arc::new(Etcd::new(&etcd(config)?, seed).map_err(refused)?);
    Ok(cluster(config, store, seed))
}

fn cluster(config: &Config, store: Arc<dyn LeaseStore>, seed: u64) -> Cluster {
    let (keys, now) = (Keys::new(&config.prefix), Arc::new(clock::boot_millis));
    Cluster { store, keys, slots: config.slots, now, seed }
}

/// This process in its cluster.
pub(crate) struct Member {
    cluster: Cluster,
    etcd: EtcdConfig,
    ttl: Duration,
    incarnation: Incarnation,
    /// Where the others reach it.
    address: Arc<str>,
    zone: Arc<str>,
    capacity: u32,
}

impl Member {
    /// What the configuration says of a process that listens at `address`; `None` without etcd. Connects to nothing yet.
    pub(crate) fn new(config: &Config, address: &str) -> Result<Option<Self>, Failure> {
        if config.etcd.is_empty() {
            return Ok(None);
        }
        if config.lease_ttl_s < 2 {
            let text = format!("cluster.lease_ttl_s: {} is too short; give at least 2", config.lease_ttl_s);
            return Err(Failure::refused(text));
        }
        let seed = u64::from_le_bytes(clock::random().map_err(Failure::failed)?);
        let incarnation = Incarnation(u64::from_le_bytes(clock::random().map_err(Failure::failed)?));
        let etcd = etcd(config)?;
        let refused = |why| Failure::refused(format!("cluster.etcd: {why}"));
        let store: Arc<dyn LeaseStore> = Arc::new(Etcd::new(&etcd, seed).map_err(refused)?);
        let cluster = cluster(config, store, seed);
        let address = advertised(config, address)?;
        Ok(Some(Self {
            cluster,
            etcd,
            ttl: Duration::from_secs(config.lease_ttl_s),
            incarnation,
            address,
            zone: config.zone.as_str().into(),
            capacity: config.capacity,
        }))
    }

    /// Finds out whether the mesh has as many slots as this process was told. An etcd that does not answer is not waited for: once
    /// it does, whoever counts otherwise stops.
    pub(crate) async fn agrees(&self) -> Result<(), Failure> {
        match tokio::time::timeout(ASKING, check(&self.cluster)).await {
            Ok(Err(CheckError::Count(why))) => Err(Failure::refused(why)),
            Ok(Ok(()) | Err(CheckError::Store(_))) | Err(_) => Ok(()),
        }
    }

    /// Tells as a metric until when the certificate is good that etcd is shown: the one that was read at the start.
    pub(crate) fn tell_expiry(&self, metrics: &Metrics) {
        let is_shown = self.etcd.endpoints.iter().any(|url| url.starts_with("https://"));
        if let Some((certificate, _)) = self.etcd.identity.as_ref().filter(|_| is_shown) {
            tls::tell_expiry(certificate, metrics, "etcd");
        }
    }

    /// Where owners and registries are looked up.
    pub(crate) fn directory(&self, reporter: &str) -> (Arc<Directory>, Following) {
        Directory::new(self.cluster.clone(), &format!("{reporter}-{}", self.incarnation))
    }

    /// A session node's place.
    pub(crate) fn seat(&self, node: &str, dialler: Dialler) -> Result<Seat, Failure> {
        let me = Identity {
            node: node.into(),
            address: self.address.clone(),
            zone: self.zone.clone(),
            capacity: self.capacity,
            incarnation: self.incarnation,
        };
        // Its connections belong to the thread it runs on.
        let own = Etcd::new(&self.etcd, self.cluster.seed).map_err(Failure::refused)?;
        let (keeper, kept) = keep(Arc::new(own), self.ttl, self.cluster.now.clone());
        keep_apart(keeper)?;
        let tick = kept.tick.clone();
        let (claimer, claims) = Claimer::new(self.cluster.clone(), me, kept);
        let (directory, following) = self.directory(node);
        let now = self.cluster.now.clone();
        let claimed = Claimed { claimer, claims, tick, now, directory, following, dialler };
        Ok(Seat::Claimed(Box::new(claimed)))
    }

    /// Shows a registry to session nodes.
    pub(crate) fn registry(&self, role: &str) -> (Announce, Announced) {
        let instance = format!("{role}-{}", self.incarnation);
        let record = RegistryRecord::new(&instance, &self.address, role, None, &self.zone);
        Announce::registry(self.cluster.clone(), self.ttl, record)
    }

    /// Shows a gateway.
    pub(crate) fn gateway(&self, node: &str) -> (Announce, Announced) {
        let record = GatewayRecord::new(node, &self.address, &self.zone, self.capacity, self.incarnation);
        Announce::gateway(self.cluster.clone(), self.ttl, record)
    }
}

/// Runs a role that shows itself: as draining from the moment it is to stop, and no more once it has ended.
pub(crate) async fn shown(
    shown: Option<(Announce, Announced)>,
    stop: Shutdown,
    work: impl Future<Output = RoleResult>,
) -> RoleResult {
    let Some((announce, announced)) = shown else { return work.await };
    let telling = async {
        stop.requested().await;
        announced.set(Readiness::Draining);
        std::future::pending().await
    };
    let working = async {
        let ended = tokio::select! {
            ended = work => ended,
            never = telling => never,
        };
        announced.withdraw();
        ended
    };
    tokio::join!(working, announce.run()).0
}

/// A lease that is kept by a thread of its own: no work of the others can keep it waiting. It ends with the lease.
fn keep_apart(keeper: Keeper) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::failed)?;
    let run = move || runtime.block_on(keeper.run());
    std::thread::Builder::new().name("lease".into()).spawn(run).map(drop).map_err(Failure::failed)
}

/// Where the others reach a process that listens at `address`.
fn advertised(config: &Config, address: &str) -> Result<Arc<str>, Failure> {
    if !config.advertise.is_empty() {
        return Ok(config.advertise.as_str().into());
    }
    let Some(listening) = address.parse::<SocketAddr>().ok().filter(|found| found.ip().is_unspecified())
    else {
        return Ok(address.into());
    };
    let sources = config.etcd.iter().filter_map(|member| source(member).ok());
    let source = sources.into_iter().next().ok_or_else(|| {
        Failure::refused(format!(
            "cluster.advertise: {listening} is no address that others can dial, and no member of cluster.etcd was found to tell \
             which of this machine's addresses they can; give host:port"
        ))
    })?;
    Ok(SocketAddr::new(source, listening.port()).to_string().into())
}

/// The address of this machine from which packets to a member of etcd leave. Nothing is sent.
fn source(member: &str) -> io::Result<IpAddr> {
    let authority = member.parse::<Uri>().ok().and_then(|uri| uri.into_parts().authority);
    let target = authority.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let port = target.port_u16().unwrap_or(2379);
    let host = target.host().trim_start_matches('[').trim_end_matches(']');
    let found = (host, port).to_socket_addrs()?.next();
    let found = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let any: IpAddr =
        if found.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(found)?;
    Ok(socket.local_addr()?.ip())
}

fn etcd(config: &Config) -> Result<EtcdConfig, Failure> {
    let password = match config.password_file.as_os_str().is_empty() {
        true => String::new(),
        false => {
            let text = read("cluster.password_file", &config.password_file)?;
            String::from_utf8_lossy(&text).trim_end().to_owned()
        }
    };
    let optional = |key: &str, path: &Path| match path.as_os_str().is_empty() {
        true => Ok(None),
        false => read(key, path).map(Some),
    };
    let identity = match (
        optional("cluster.certificate", &config.certificate)?,
        optional("cluster.key", &config.key)?,
    ) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(Failure::refused("cluster.certificate and cluster.key: give both or none"));
        }
    };
    Ok(EtcdConfig {
        endpoints: config.etcd.clone(),
        user: (!config.user.is_empty()).then(|| (config.user.clone(), password)),
        ca: optional("cluster.ca", &config.ca)?,
        identity,
    })
}

/// How a number of slots is written.
mod slots {
    use api::SlotCount;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(slots: &SlotCount, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(slots.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SlotCount, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let known = u16::try_from(number).ok().and_then(SlotCount::of);
        known.ok_or_else(|| {
            D::Error::custom(format_args!("{number} is not a number of slots: give 4096 or 16384"))
        })
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::refused(format!("{key}: {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use chassis::workers::{Pool, Workers, all_work};
    use placement::Embedded;
    use tokio::runtime::Handle;

    use super::*;

    /// How long a worker does nothing else at a time: nearly as long as it may.
    const BUSY: Duration = Duration::from_millis(900);
    /// Of a lease that is renewed more than twice meanwhile.
    const TTL: Duration = Duration::from_secs(2);
    const TURNS: usize = 6;

    #[test]
    fn a_lease_is_renewed_while_all_workers_are_busy() {
        let pool = Pool::start(2).unwrap();
        let now: placement::Now = Arc::new(clock::boot_millis);
        let store = Arc::new(Embedded::new(now.clone()));
        let (keeper, kept) = keep(store, TTL, now.clone());
        keep_apart(keeper).unwrap();
        let (workers, mut state) = (Workers::current(), kept.state.clone());
        let main = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (first, renewed) = main.block_on(async {
            let first = state.wait_for(|state| state.lease.is_some()).await.unwrap().lease;
            let mut renewed = 0;
            for _ in 0..TURNS {
                all_work().await;
                kept.tick.beat(now());
                let before = state.borrow().sure_until_ms;
                let busy = |worker: &Handle| {
                    #[allow(clippy::disallowed_methods, reason = "it ends by itself, and is waited for")]
                    worker.spawn(async {
                        let (_nobody, speaks) = mpsc::channel::<()>();
                        speaks.recv_timeout(BUSY)
                    })
                };
                let busy: Vec<_> = workers.handles().iter().map(busy).collect();
                // This thread, too: nothing but the lease's own goes on.
                let (_nobody, speaks) = mpsc::channel::<()>();
                assert!(speaks.recv_timeout(BUSY).is_err());
                renewed += usize::from(state.borrow().sure_until_ms > before);
                for worker in busy {
                    assert!(worker.await.unwrap().is_err());
                }
            }
            (first, renewed)
        });
        let last = *state.borrow();
        assert_eq!((last.lost, last.lease), (0, first), "it is the same lease all the time");
        assert!(renewed > TURNS / 2, "renewed in {renewed} of {TURNS} turns in which nobody else could work");
        kept.stop();
        drop(pool);
    }

    fn config(etcd: &[&str], advertise: &str) -> Config {
        let etcd = etcd.iter().map(ToString::to_string).collect();
        Config { etcd, advertise: advertise.into(), ..Config::default() }
    }

    #[test]
    fn others_are_told_an_address_they_can_dial() {
        let told = |etcd: &[&str], advertise, listening| advertised(&config(etcd, advertise), listening);
        let here = ["http://127.0.0.1:2379"];
        assert_eq!(&*told(&here, "", "10.0.0.7:7101").unwrap(), "10.0.0.7:7101");
        assert_eq!(&*told(&here, "pod-7:7101", "0.0.0.0:7101").unwrap(), "pod-7:7101");
        assert_eq!(&*told(&here, "", "0.0.0.0:7101").unwrap(), "127.0.0.1:7101");
        let refused =
            told(&["http://no.such.name.invalid:2379"], "", "0.0.0.0:7101").unwrap_err().to_string();
        assert!(refused.starts_with("cluster.advertise: 0.0.0.0:7101"), "{refused}");
    }

    #[tokio::test]
    async fn until_when_etcd_is_shown_a_certificate_is_told_where_it_is_shown_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: String| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(2030, 3, 1);
        let certificate = file("client.pem", params.self_signed(&key).unwrap().pem());
        let key = file("client.key", key.serialize_pem());
        let told = |scheme| {
            let (metrics, etcd) = (Metrics::default(), format!("{scheme}://127.0.0.1:2379"));
            let (ca, certificate, key) = (certificate.clone(), certificate.clone(), key.clone());
            let config = Config { ca, certificate, key, ..config(&[&etcd], "") };
            Member::new(&config, "127.0.0.1:7101").unwrap().unwrap().tell_expiry(&metrics);
            metrics.text().contains("{purpose=\"etcd\"} 1898553600\n")
        };
        assert!(told("https") && !told("http"));
    }
}
