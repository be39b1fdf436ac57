//! What every part needs to take part in a cluster.

use std::fmt;
use std::sync::Arc;

use api::SlotCount;

use crate::port::LeaseStore;
use crate::record::Keys;

/// Milliseconds on a clock that never goes back and counts the time a machine sleeps. Nothing here reads another one.
pub type Now = Arc<dyn Fn() -> u64 + Send + Sync>;

/// A cluster, as one process sees it.
#[derive(Clone)]
pub struct Cluster {
    /// Where leases and slots are kept.
    pub store: Arc<dyn LeaseStore>,
    /// The cluster's keys.
    pub keys: Keys,
    /// How many slots it has, as this process was told.
    pub slots: SlotCount,
    /// The clock of every decision.
    pub now: Now,
    /// Any number, drawn once per process: it spreads what would otherwise happen everywhere at once.
    pub seed: u64,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("keys", &self.keys).field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// Mixes the bits of a number, so that neighbours end far apart.
pub(crate) const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
