//! How many slots the mesh was made with.
//!
//! Owns: the number in the lease store, which the first session node writes, and the comparison of everybody else's with it.
//! A process that counts otherwise would look for sessions where they are not, and leave slots to nobody: it must not take part.

use api::{Slot, SlotCount};

use crate::claim::writes::Writes;
use crate::cluster::Cluster;
use crate::port::{Compare, Op, StoreError};
use crate::record::{Key, SlotsRecord, decode, encode};
use crate::table::Table;

/// Why a process must not take part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CountError {
    /// It was told of another number.
    #[error(
        "cluster.slots: {asked} here, and the mesh under cluster.prefix {prefix:?} was made with {made}, for good: set \
         cluster.slots = {made}, or make a mesh of {asked} under another prefix"
    )]
    Other {
        /// What this process was told.
        asked: SlotCount,
        /// What the mesh has.
        made: u16,
        /// Where it is.
        prefix: String,
    },
    /// The number is there and cannot be read.
    #[error(
        "cluster.slots: {key} in etcd does not say how many slots the mesh has, or says it in a way of a newer version"
    )]
    Unreadable {
        /// Which key.
        key: String,
    },
}

/// Why [`check`] has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The process must not take part.
    #[error(transparent)]
    Count(#[from] CountError),
    /// Nobody could be asked.
    #[error("cluster.etcd: {0}")]
    Store(#[from] StoreError),
}

/// What stands in the lease store, as far as it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The number; `Some(None)` if it cannot be read.
    pub(crate) number: Option<Option<u16>>,
    /// Slots were dealt before, by versions that wrote no number: they knew one only.
    pub(crate) is_dealt: bool,
}

impl Seen {
    /// Whether it is written, and as this process was told.
    fn agrees(self, cluster: &Cluster) -> Result<bool, CountError> {
        let asked = cluster.slots;
        let prefix = || cluster.keys.root().trim_end_matches('/').to_owned();
        match self.number {
            Some(Some(made)) if made == asked.get() => Ok(true),
            Some(Some(made)) => Err(CountError::Other { asked, made, prefix: prefix() }),
            Some(None) => Err(CountError::Unreadable { key: cluster.keys.write(&Key::Slots) }),
            None if self.is_dealt && asked != SlotCount::Usual => {
                Err(CountError::Other { asked, made: SlotCount::Usual.get(), prefix: prefix() })
            }
            None => Ok(false),
        }
    }
}

/// Whether the number is written, and the one that this process was told.
pub(crate) fn agrees(table: &Table, cluster: &Cluster) -> Result<bool, CountError> {
    table.made().agrees(cluster)
}

/// Writes the number, unless it is written.
pub(crate) fn writes(cluster: &Cluster) -> Writes {
    let key = cluster.keys.write(&Key::Slots);
    let mut compares = vec![Compare::Absent(key.clone())];
    if cluster.slots != SlotCount::Usual {
        compares.extend(first().map(|key| Compare::Absent(cluster.keys.write(&key))));
    }
    (compares, vec![Op::Put(key, encode(&SlotsRecord::new(cluster.slots)), None)])
}

/// Asks the lease store whether the mesh has as many slots as this process was told, or does not say yet.
///
/// # Errors
/// [`CheckError::Count`] if this process must not take part, [`CheckError::Store`] if nobody can tell.
pub async fn check(cluster: &Cluster) -> Result<(), CheckError> {
    let find = async |key: Key| {
        let key = cluster.keys.write(&key);
        let listing = cluster.store.list(&key).await?;
        Ok::<_, StoreError>(listing.entries.into_iter().find(|entry| entry.key == key))
    };
    let written = find(Key::Slots).await?;
    let mut is_dealt = false;
    if let (None, Some(first)) = (&written, first()) {
        is_dealt = find(first).await?.is_some();
    }
    let number = written.map(|entry| decode::<SlotsRecord>(&entry.value).map(|record| record.slots));
    Seen { number, is_dealt }.agrees(cluster)?;
    Ok(())
}

/// What every mesh has that was ever used.
fn first() -> Option<Key> {
    Slot::new(0).map(Key::Epoch)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt as _;

    use super::*;
    use crate::embedded::Embedded;
    use crate::port::{LeaseStore as _, Txn};
    use crate::record::Keys;

    fn cluster(store: &Embedded, slots: SlotCount) -> Cluster {
        Cluster { store: Arc::new(store.clone()), keys: Keys::new("/m"), slots, now: Arc::new(|| 0), seed: 0 }
    }

    fn asked(cluster: &Cluster) -> Result<(), String> {
        check(cluster).now_or_never().unwrap().map_err(|error| error.to_string())
    }

    fn written(cluster: &Cluster) -> Txn {
        let (compares, ops) = writes(cluster);
        cluster.store.txn(compares, ops).now_or_never().unwrap().unwrap()
    }

    #[test]
    fn the_first_number_stays() {
        let store = Embedded::new(Arc::new(|| 0));
        let [usual, large] = SlotCount::ALL.map(|slots| cluster(&store, slots));
        assert_eq!((asked(&usual), asked(&large)), (Ok(()), Ok(())), "nothing is written yet");
        assert!(matches!(written(&large), Txn::Done(_)));
        assert_eq!((written(&usual), written(&large)), (Txn::Refused, Txn::Refused));
        assert_eq!(asked(&large), Ok(()));
        let said = "cluster.slots: 4096 here, and the mesh under cluster.prefix \"/m\" was made with 16384, for good: set \
                    cluster.slots = 16384, or make a mesh of 4096 under another prefix";
        assert_eq!(asked(&usual), Err(said.to_owned()));
    }

    #[test]
    fn a_mesh_from_before_the_number_was_written_has_the_usual_one() {
        let store = Embedded::new(Arc::new(|| 0));
        let [usual, large] = SlotCount::ALL.map(|slots| cluster(&store, slots));
        let put = Op::Put("/m/epochs/0".into(), b"{\"v\":1,\"epoch\":3}".to_vec(), None);
        store.txn(Vec::new(), vec![put]).now_or_never().unwrap().unwrap();
        assert!(asked(&large).unwrap_err().contains("was made with 4096"));
        assert_eq!(written(&large), Txn::Refused);
        assert_eq!(asked(&usual), Ok(()));
        assert!(matches!(written(&usual), Txn::Done(_)));
    }

    #[test]
    fn what_cannot_be_read_is_not_guessed() {
        let store = Embedded::new(Arc::new(|| 0));
        let put = Op::Put("/m/mesh/slots".into(), b"{\"v\":2,\"slots\":4096}".to_vec(), None);
        store.txn(Vec::new(), vec![put]).now_or_never().unwrap().unwrap();
        let refused = asked(&cluster(&store, SlotCount::Usual)).unwrap_err();
        assert!(refused.starts_with("cluster.slots: /m/mesh/slots in etcd"), "{refused}");
    }
}
