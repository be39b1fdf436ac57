//! Who owns a slot, and where.
//!
//! Owns: slots and their owners. A node claims slots in a lease store ([`Claimer`]), gateways and nodes look owners up in
//! what they saw there ([`Directory`]), registries and gateways show themselves there ([`Announce`]). Without a lease store
//! the table is fixed by configuration ([`Static`]). A lease only finds the owner: what makes writes safe is the epoch that
//! the session store checks, which is why a claim ends with [`Tenant::fence`]. Must not know: what a session contains.
//!
//! Start reading at [`Locator`], then [`port`], then [`Claimer`].

pub mod announce;
pub mod claim;
mod cluster;
pub mod contract;
pub mod decide;
pub mod directory;
pub mod embedded;
pub mod etcd;
#[cfg(any(test, debug_assertions))]
pub mod faulty;
mod fixed;
mod follow;
pub mod keeper;
pub mod locate;
pub mod made;
#[cfg(test)]
mod model;
pub mod plan;
pub mod port;
pub mod probe;
mod range;
pub mod record;
pub mod table;
pub mod tenant;

pub use self::announce::{Announce, Announced};
pub use self::claim::{ClaimError, Claimer, Claims, Drained, Identity, Standing};
pub use self::cluster::{Cluster, Now};
pub use self::directory::{Directory, Following};
pub use self::embedded::Embedded;
pub use self::etcd::{Etcd, EtcdConfig};
pub use self::fixed::{Static, TableError};
pub use self::keeper::{Keeper, Kept, LeaseState, Tick, keep};
pub use self::locate::{Incarnation, Locator, Owner, Peer};
pub use self::made::CountError;
pub use self::port::{LeaseId, LeaseStore, StoreError};
pub use self::probe::Probe;
pub use self::range::{BeyondError, RangeError, SlotRange};
pub use self::record::{GatewayRecord, Keys, Readiness, RegistryRecord};
pub use self::tenant::{Fenced, Tenant};
