//! The store of leases, as a port: what etcd does, and no more.
//!
//! Owns: the operations, their outcomes and what each promises. Must not know: what is kept in it. Every implementation
//! passes [`crate::contract`].

use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

/// A lease: keys that hang on it go when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// Counts the writes of the store; never 0 once something was written.
pub type Revision = i64;

/// A lease that was granted, or granted anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Which.
    pub lease: LeaseId,
    /// How long it lives after this moment; the store may have raised what was asked for.
    pub ttl: Duration,
}

/// A key and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whole, with the prefix.
    pub key: String,
    /// Any bytes.
    pub value: Vec<u8>,
    /// The write that put it.
    pub revision: Revision,
    /// The lease that it goes with.
    pub lease: Option<LeaseId>,
}

/// All keys under a prefix, in order, at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// The keys.
    pub entries: Vec<Entry>,
    /// The moment: a watch goes on at the next one.
    pub revision: Revision,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Compare {
    /// There is no such key.
    Absent(String),
    /// The key holds exactly this.
    Value(String, Vec<u8>),
    /// The key was last put by this write.
    Revision(String, Revision),
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// Puts a key, on a lease or for ever.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// Deletes a key; nothing happens when there is none.
    Delete(String),
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Txn {
    /// Every condition held and everything was written, by this write.
    Done(Revision),
    /// A condition did not hold: nothing was written.
    Refused,
}

/// One thing that a watch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key was put.
    Put(Entry),
    /// A key was deleted, or went with its lease.
    Deleted {
        /// Which.
        key: String,
        /// The write that deleted it.
        revision: Revision,
    },
}

/// Why an operation has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No answer: down, cut off, or too slow. What was asked for may have happened, or may still happen.
    #[error("the lease store does not answer: {0}")]
    Unavailable(String),
    /// There is no such lease (any more); nothing was written.
    #[error("the lease is gone")]
    Gone,
    /// The moment asked for is forgotten: list anew.
    #[error("the history asked for is compacted")]
    Compacted,
    /// It answered, and will not: not allowed, too large, out of space.
    #[error("the lease store refuses: {0}")]
    Refused(String),
}

/// Where a watch's events come from. It ends with an error, never by itself and never in silence.
pub type Events = BoxStream<'static, Result<Vec<Event>, StoreError>>;

/// Most conditions, and most writes, of one transaction.
pub const TXN_LIMIT: usize = 128;

/// A linearizable store with leases, transactions and watches.
///
/// Each call is one attempt with a deadline of its own (about a second): it never hangs, and whoever calls tries again.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Starts a lease. The time it lives may be longer than was asked for.
    async fn grant(&self, ttl: Duration) -> Result<Granted, StoreError>;

    /// Renews a lease once; [`StoreError::Gone`] when it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Granted, StoreError>;

    /// Ends a lease and deletes what hangs on it; [`StoreError::Gone`] when it had ended.
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Everything under a prefix, at a moment not before this call.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError>;

    /// Writes everything or nothing. A put on a lease that has ended is [`StoreError::Gone`].
    /// No more than [`TXN_LIMIT`] conditions and as many writes, and no key written twice.
    async fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Txn, StoreError>;

    /// What happens under a prefix from a moment on (inclusive), in order, what one write did together.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Events, StoreError>;
}
