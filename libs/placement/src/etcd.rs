//! The lease store that is etcd.
//!
//! Owns: connections, deadlines, turning to the next member, and the translation of both sides. Must not know: what is kept.
//!
//! The client library opens streams and says nothing when they hang. So each renewal is a stream of its own that must
//! answer within a deadline, and a watch is asked for its progress: one that does not answer has ended.

mod translate;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Certificate, Channel, Client, ConnectOptions, GetOptions, Identity, TlsOptions, WatchOptions,
    WatchResponse, WatchStream,
};
use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use tonic::transport::Endpoint;

use self::translate::{entry, event, failure, transaction};
use crate::port::{
    Compare, Event, Events, Granted, LeaseId, LeaseStore, Listing, Op, Revision, StoreError, TXN_LIMIT, Txn,
};

/// An attempt that takes longer has failed. The one after it may take twice as long, and the next one again: an etcd that is
/// slow must not look like one that is gone.
const ATTEMPT: Duration = Duration::from_millis(800);
const SLOWEST: u32 = 2;
/// The same for a list, which is large.
const LISTING: Duration = Duration::from_secs(3);
/// A watch that said nothing for so long is asked whether it is there; asked so often without an answer, it is not.
const QUIET: Duration = Duration::from_secs(1);
const ASKED: u32 = 2;
/// etcd hangs up on clients that ping more often than every 5 s.
const PING: Duration = Duration::from_secs(6);
/// Largest answer that is read: every slot, epoch and pin is some 3 MiB, or 12 MiB of 16,384 slots.
const LARGEST: usize = 64 << 20;

/// How to reach etcd.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Its members: `http://host:port` or `https://host:port`.
    pub endpoints: Vec<String>,
    /// User and password, where it asks for them.
    pub user: Option<(String, String)>,
    /// Certificates (PEM) that vouch for its members; needed with `https`.
    pub ca: Option<Vec<u8>>,
    /// Certificate and key (PEM) of this process, where it asks for them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// Why etcd cannot be reached as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EtcdConfigError {
    /// There is no member to ask.
    #[error("no etcd endpoint is given")]
    NoEndpoint,
    /// An address that is none.
    #[error("{0:?} is not the address of an etcd member: write for example \"http://127.0.0.1:2379\"")]
    Address(String),
    /// TLS without anybody to vouch for the other side.
    #[error("{0:?} asks for TLS: name the certificates that vouch for etcd")]
    NoAuthority(String),
    /// Certificates that cannot be used.
    #[error("certificates for etcd: {0}")]
    Certificates(String),
}

/// A client of etcd. Connections are made when they are needed, on the runtime that needs them.
#[derive(Clone)]
pub struct Etcd {
    members: Arc<Members>,
}

struct Members {
    endpoints: Vec<Endpoint>,
    options: ConnectOptions,
    current: Mutex<Current>,
    /// What leases live. The library reads the TTL of a renewal and keeps it for itself.
    lives: Mutex<BTreeMap<LeaseId, Duration>>,
    /// How often patience was doubled.
    slow: AtomicU32,
}

struct Current {
    index: usize,
    client: Option<Client>,
}

impl Etcd {
    /// A client; `first` spreads processes over the members they begin with.
    ///
    /// # Errors
    /// [`EtcdConfigError`] naming what cannot be used.
    pub fn new(config: &EtcdConfig, first: u64) -> Result<Self, EtcdConfigError> {
        let endpoints =
            config.endpoints.iter().map(|url| endpoint(url, config)).collect::<Result<Vec<_>, _>>()?;
        let count = u64::try_from(endpoints.len()).unwrap_or(u64::MAX);
        let index = first.checked_rem(count).ok_or(EtcdConfigError::NoEndpoint)?;
        let index = usize::try_from(index).unwrap_or_default();
        let mut options = ConnectOptions::new().with_require_leader(true).with_auto_token_refresh(true);
        if let Some((user, password)) = &config.user {
            options = options.with_user(user, password);
        }
        let current = Mutex::new(Current { index, client: None });
        let (lives, slow) = (Mutex::default(), AtomicU32::new(0));
        Ok(Self { members: Arc::new(Members { endpoints, options, current, lives, slow }) })
    }

    /// One attempt: at the member that answered last, or at the first one that can be connected to.
    async fn attempt<T, F>(
        &self,
        limit: Duration,
        ask: impl FnOnce(Client) -> F + Send,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let (index, client) = self.members.client().await?;
        let slow = self.members.slow.load(Ordering::Relaxed);
        let asked = Instant::now();
        let answer = tokio::time::timeout(limit * 2_u32.pow(slow), ask(client)).await;
        let error = match answer {
            Ok(answer) => {
                if asked.elapsed() < ATTEMPT {
                    self.members.slow.store(0, Ordering::Relaxed);
                }
                match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error) => failure(&error),
                }
            }
            Err(_) => {
                self.members.slow.store((slow + 1).min(SLOWEST), Ordering::Relaxed);
                StoreError::Unavailable("no answer in time".to_owned())
            }
        };
        if matches!(error, StoreError::Unavailable(_)) {
            self.members.turn_from(index);
        }
        Err(error)
    }
}

fn endpoint(url: &str, config: &EtcdConfig) -> Result<Endpoint, EtcdConfigError> {
    let malformed = || EtcdConfigError::Address(url.to_owned());
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| malformed())?;
    let endpoint = match endpoint.uri().scheme_str() {
        Some("http") => endpoint,
        Some("https") => {
            let ca = config.ca.as_ref().ok_or_else(|| EtcdConfigError::NoAuthority(url.to_owned()))?;
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
            if let Some((certificate, key)) = &config.identity {
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            endpoint.tls_config(tls).map_err(|error| EtcdConfigError::Certificates(error.to_string()))?
        }
        Some(_) | None => return Err(malformed()),
    };
    let endpoint = endpoint.connect_timeout(ATTEMPT).tcp_nodelay(true);
    Ok(endpoint.http2_keep_alive_interval(PING).keep_alive_timeout(2 * QUIET).keep_alive_while_idle(true))
}

impl Members {
    async fn client(&self) -> Result<(usize, Client), StoreError> {
        let mut last = None;
        for _ in &self.endpoints {
            let index = {
                let current = self.locked();
                if let Some(client) = &current.client {
                    return Ok((current.index, client.clone()));
                }
                current.index
            };
            match tokio::time::timeout(ATTEMPT, self.connect(index)).await {
                Ok(Ok(client)) => {
                    let mut current = self.locked();
                    if current.index == index {
                        current.client = Some(client.clone());
                    }
                    return Ok((index, client));
                }
                Ok(Err(error)) => last = Some(error),
                Err(_) => last = None,
            }
            self.turn_from(index);
        }
        Err(last.unwrap_or_else(|| StoreError::Unavailable("no member can be connected to".to_owned())))
    }

    async fn connect(&self, index: usize) -> Result<Client, StoreError> {
        let endpoint = self.endpoints.get(index).ok_or(StoreError::Gone)?;
        let channel = endpoint.connect().await.map_err(|error| translate::unreachable(&error))?;
        let options = Some(self.options.clone());
        // With a user this is a call: it fetches a token.
        Client::from_channel(Channel::Tonic(channel), options).await.map_err(|error| failure(&error))
    }

    /// The next one is asked from now on, unless somebody turned already.
    fn turn_from(&self, index: usize) {
        let mut current = self.locked();
        if current.index == index {
            current.index = (index + 1) % self.endpoints.len().max(1);
            current.client = None;
        }
    }

    fn locked(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LeaseStore for Etcd {
    async fn grant(&self, ttl: Duration) -> Result<Granted, StoreError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1_000)).unwrap_or(i64::MAX);
        let ask = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        let answer = self.attempt(ATTEMPT, ask).await?;
        let granted = Granted { lease: LeaseId(answer.id()), ttl: translate::seconds(answer.ttl()) };
        let mut lives = self.members.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.insert(granted.lease, granted.ttl);
        Ok(granted)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Granted, StoreError> {
        let ask = |mut client: Client| async move { client.lease_keep_alive(lease.0).await };
        let renewed = self.attempt(ATTEMPT, ask).await.map(drop);
        let mut lives = self.members.lives.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed == Err(StoreError::Gone) {
            lives.remove(&lease);
        }
        // One that was granted elsewhere: nothing is known of it but that it lives.
        let ttl = lives.get(&lease).copied().unwrap_or_default();
        renewed.map(|()| Granted { lease, ttl })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let ask = |mut client: Client| async move { client.lease_revoke(lease.0).await };
        self.members.lives.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
        self.attempt(ATTEMPT, ask).await.map(drop)
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let ask = |client: Client| async move {
            let mut kv = client.kv_client().max_decoding_message_size(LARGEST);
            kv.get(prefix, Some(GetOptions::new().with_prefix())).await
        };
        let answer = self.attempt(LISTING, ask).await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        let entries = answer.kvs().iter().filter_map(entry).collect();
        Ok(Listing { entries, revision })
    }

    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError> {
        if compares.len() > TXN_LIMIT || ops.len() > TXN_LIMIT {
            return Err(StoreError::Refused("too many operations in one transaction".to_owned()));
        }
        let asked = transaction(compares, ops);
        let answer =
            self.attempt(ATTEMPT, |mut client: Client| async move { client.txn(asked).await }).await?;
        if !answer.succeeded() {
            return Ok(Txn::Refused);
        }
        Ok(Txn::Done(answer.header().map_or(0, etcd_client::ResponseHeader::revision)))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, StoreError> {
        let prefix = prefix.to_owned();
        let ask = |client: Client| async move {
            let options = WatchOptions::new().with_prefix().with_start_revision(from);
            let mut watching =
                client.watch_client().max_decoding_message_size(LARGEST).watch(prefix, Some(options)).await?;
            // The first message says that the watch stands.
            let first = watching.message().await?;
            Ok((watching, first))
        };
        let index = self.members.locked().index;
        let (watching, first) = self.attempt(ATTEMPT, ask).await?;
        let seen = read(first)?;
        let watch = Watch { watching, members: Arc::clone(&self.members), index };
        let head = stream::iter((!seen.is_empty()).then_some(Ok(seen)));
        let tail = stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(events) => Some((Ok(events), Some(watch))),
                Err(error) => {
                    watch.members.turn_from(watch.index);
                    Some((Err(error), None))
                }
            }
        });
        Ok(head.chain(tail).boxed())
    }
}

struct Watch {
    watching: WatchStream,
    members: Arc<Members>,
    index: usize,
}

impl Watch {
    /// The next events; an error when the watch ended, or hangs.
    async fn next(&mut self) -> Result<Vec<Event>, StoreError> {
        let mut asked = 0;
        loop {
            let quiet = QUIET * 2_u32.pow(self.members.slow.load(Ordering::Relaxed));
            match tokio::time::timeout(quiet, self.watching.message()).await {
                Ok(message) => {
                    asked = 0;
                    let seen = read(message.map_err(|error| failure(&error))?)?;
                    if !seen.is_empty() {
                        return Ok(seen);
                    }
                }
                Err(_) if asked == ASKED => {
                    return Err(StoreError::Unavailable("the watch says nothing any more".to_owned()));
                }
                Err(_) => {
                    asked += 1;
                    let asking = tokio::time::timeout(QUIET, self.watching.request_progress()).await;
                    let asking = asking
                        .map_err(|_| StoreError::Unavailable("the watch takes no request".to_owned()))?;
                    asking.map_err(|error| failure(&error))?;
                }
            }
        }
    }
}

/// What a message of a watch says.
fn read(message: Option<WatchResponse>) -> Result<Vec<Event>, StoreError> {
    let message = message.ok_or_else(|| StoreError::Unavailable("the watch ended".to_owned()))?;
    if message.compact_revision() > 0 {
        return Err(StoreError::Compacted);
    }
    if message.canceled() {
        return Err(StoreError::Unavailable(format!("the watch was cancelled: {}", message.cancel_reason())));
    }
    Ok(message.events().iter().filter_map(event).collect())
}
