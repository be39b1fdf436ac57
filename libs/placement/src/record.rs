//! What stands in the lease store: the keys and the values, as JSON with a version.
//!
//! Owns: [`Keys`], the records and both directions of each. Must not know: what follows from them.

use std::sync::Arc;

use api::{Epoch, Slot, SlotCount};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::locate::Incarnation;
use crate::port::LeaseId;

/// The version that values carry. A value of another one is left alone, and what it says is not believed.
const VERSION: u32 = 1;

/// The keys of one cluster, all under its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    root: Arc<str>,
}

/// A key, read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// `nodes/<node>`
    Node(String),
    /// `slots/<slot>`
    Slot(Slot),
    /// `epochs/<slot>`
    Epoch(Slot),
    /// `pins/<slot>`
    Pin(Slot),
    /// `mesh/slots`
    Slots,
    /// `registries/<instance>`
    Registry(String),
    /// `gateways/<node>`
    Gateway(String),
    /// `suspects/<node>.<incarnation>/<reporter>`
    Suspect {
        /// Who is suspected.
        node: String,
        /// Which run of it.
        incarnation: Incarnation,
        /// By whom.
        reporter: String,
    },
}

impl Keys {
    /// Keys under a prefix, such as `/trunkline`.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { root: format!("{}/", prefix.trim_end_matches('/')).into() }
    }

    /// What every key begins with.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// A key in full.
    #[must_use]
    pub fn write(&self, key: &Key) -> String {
        let root = &self.root;
        match key {
            Key::Node(node) => format!("{root}nodes/{node}"),
            Key::Slot(slot) => format!("{root}slots/{slot}"),
            Key::Epoch(slot) => format!("{root}epochs/{slot}"),
            Key::Pin(slot) => format!("{root}pins/{slot}"),
            Key::Slots => format!("{root}mesh/slots"),
            Key::Registry(instance) => format!("{root}registries/{instance}"),
            Key::Gateway(node) => format!("{root}gateways/{node}"),
            Key::Suspect { node, incarnation, reporter } => {
                format!("{root}suspects/{node}.{incarnation}/{reporter}")
            }
        }
    }

    /// Reads a key; `None` for one of somebody else.
    #[must_use]
    pub fn read(&self, key: &str) -> Option<Key> {
        let (kind, name) = key.strip_prefix(&*self.root)?.split_once('/')?;
        let slot = || Slot::new(name.parse().ok()?);
        let owned = || (!name.is_empty()).then(|| name.to_owned());
        match kind {
            "nodes" => owned().map(Key::Node),
            "slots" => slot().map(Key::Slot),
            "epochs" => slot().map(Key::Epoch),
            "pins" => slot().map(Key::Pin),
            "mesh" => (name == "slots").then_some(Key::Slots),
            "registries" => owned().map(Key::Registry),
            "gateways" => owned().map(Key::Gateway),
            "suspects" => {
                let (whom, reporter) = name.split_once('/')?;
                let (node, incarnation) = whom.rsplit_once('.')?;
                let incarnation = Incarnation(u64::from_str_radix(incarnation, 16).ok()?);
                Some(Key::Suspect { node: node.to_owned(), incarnation, reporter: reporter.to_owned() })
            }
            _ => None,
        }
    }
}

/// Whether a process takes on new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// It does.
    #[default]
    Ready,
    /// It finishes what it has.
    Draining,
}

/// A session node: `nodes/<node>`, on its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    v: Version,
    /// Where gateways and nodes reach it: `host:port`.
    pub address: Arc<str>,
    /// This run of it.
    #[serde(with = "hex")]
    pub incarnation: Incarnation,
    /// Whether it takes slots.
    pub state: Readiness,
    /// Its share of the slots, against the others'.
    pub capacity: u32,
    /// Where it stands; empty = unknown.
    #[serde(default)]
    pub zone: Arc<str>,
    /// The lease that its slots hang on: a slot is handed over by putting it there.
    #[serde(with = "hex")]
    pub lease: LeaseId,
    /// Whether it reaches the session store. A node that does not takes no slots while another does.
    #[serde(default = "yes")]
    pub store: bool,
}

/// The owner of a slot: `slots/<slot>`, on the owner's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRecord {
    v: Version,
    /// Its name.
    pub node: Arc<str>,
    /// This run of it.
    #[serde(with = "hex")]
    pub incarnation: Incarnation,
    /// The epoch it owns the slot in.
    #[serde(with = "counted")]
    pub epoch: Epoch,
    /// Taken from an owner that was only suspected.
    #[serde(default, skip_serializing_if = "is_false")]
    pub forced: bool,
}

/// The newest epoch of a slot: `epochs/<slot>`, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    v: Version,
    /// The epoch.
    #[serde(with = "counted")]
    pub epoch: Epoch,
}

/// A slot that was moved by hand: `pins/<slot>`, on a lease that nobody renews. What is pinned is claimed, fenced and handed over
/// as every other slot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    v: Version,
    /// The node that owns it while it takes part.
    pub node: Arc<str>,
}

/// How many slots the mesh has: `mesh/slots`, for ever. Written with the first slot that is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsRecord {
    v: Version,
    /// The number; perhaps one that is not known here.
    pub slots: u16,
}

/// A registry: `registries/<instance>`, on its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryRecord {
    v: Version,
    /// This run of this replica.
    pub instance: Arc<str>,
    /// Where session nodes reach it: `host:port`.
    pub address: Arc<str>,
    /// What it is: `tool-registry`, `resource-registry`, `prompt-registry`, or any name.
    pub role: Arc<str>,
    /// Set in front of its names instead of the one it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// Where it stands; empty = unknown.
    #[serde(default)]
    pub zone: Arc<str>,
    /// Whether it takes calls.
    pub state: Readiness,
}

/// A gateway: `gateways/<node>`, on its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayRecord {
    v: Version,
    /// Its name.
    pub node: Arc<str>,
    /// Where clients reach it.
    pub address: Arc<str>,
    /// This run of it.
    #[serde(with = "hex")]
    pub incarnation: Incarnation,
    /// Where it stands; empty = unknown.
    #[serde(default)]
    pub zone: Arc<str>,
    /// Its share of the work, against the others' shares; 0 = a version that did not say.
    #[serde(default)]
    pub capacity: u32,
    /// Whether it takes connections.
    pub state: Readiness,
}

/// Somebody could not reach a node: `suspects/<node>.<incarnation>/<reporter>`, on a short lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspectRecord {
    v: Version,
    /// What was seen.
    pub why: String,
}

/// The reporter whose word alone is enough: a person, or an orchestrator that deleted the process.
pub const OPERATOR: &str = "operator";

impl NodeRecord {
    /// A node that is ready and reaches the session store.
    #[must_use]
    pub fn new(address: &str, zone: &str, capacity: u32, incarnation: Incarnation, lease: LeaseId) -> Self {
        let (address, zone) = (address.into(), zone.into());
        Self { v: Version, address, incarnation, state: Readiness::Ready, capacity, zone, lease, store: true }
    }
}

impl SlotRecord {
    /// A slot of a node.
    #[must_use]
    pub fn new(node: &Arc<str>, incarnation: Incarnation, epoch: Epoch) -> Self {
        Self { v: Version, node: Arc::clone(node), incarnation, epoch, forced: false }
    }
}

impl EpochRecord {
    /// An epoch.
    #[must_use]
    pub const fn new(epoch: Epoch) -> Self {
        Self { v: Version, epoch }
    }
}

impl PinRecord {
    /// A pin to a node.
    #[must_use]
    pub fn new(node: &str) -> Self {
        Self { v: Version, node: node.into() }
    }
}

impl SlotsRecord {
    /// The number of a mesh.
    #[must_use]
    pub const fn new(slots: SlotCount) -> Self {
        Self { v: Version, slots: slots.get() }
    }
}

impl RegistryRecord {
    /// A registry that is ready.
    #[must_use]
    pub fn new(instance: &str, address: &str, role: &str, namespace: Option<&str>, zone: &str) -> Self {
        Self {
            v: Version,
            instance: instance.into(),
            address: address.into(),
            role: role.into(),
            namespace: namespace.map(Into::into),
            zone: zone.into(),
            state: Readiness::Ready,
        }
    }
}

impl GatewayRecord {
    /// A gateway that is ready.
    #[must_use]
    pub fn new(node: &str, address: &str, zone: &str, capacity: u32, incarnation: Incarnation) -> Self {
        let (node, address, zone) = (node.into(), address.into(), zone.into());
        Self { v: Version, node, address, incarnation, zone, capacity, state: Readiness::Ready }
    }
}

impl SuspectRecord {
    /// A report.
    #[must_use]
    pub fn new(why: &str) -> Self {
        Self { v: Version, why: why.chars().take(200).collect() }
    }
}

/// A record as the store keeps it. The same record gives the same bytes, so they can be compared.
#[must_use]
pub fn encode<R: Serialize>(record: &R) -> Vec<u8> {
    // Records hold texts and numbers only: this does not fail, and an empty value would be read as nothing.
    serde_json::to_vec(record).unwrap_or_default()
}

/// A record from the store; `None` when it is not one of this version.
#[must_use]
pub fn decode<R: for<'a> Deserialize<'a>>(value: &[u8]) -> Option<R> {
    serde_json::from_slice(value).ok()
}

/// The field `v`: written as [`VERSION`], and nothing else is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Version;

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(VERSION)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let version = u32::deserialize(deserializer)?;
        if version == VERSION { Ok(Self) } else { Err(D::Error::custom("another version")) }
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Numbers of 64 bits, as etcdctl shows leases.
mod hex {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Incarnation, LeaseId};

    pub(super) trait Bits: Copy {
        fn bits(self) -> u64;
        fn of(bits: u64) -> Self;
    }

    impl Bits for Incarnation {
        fn bits(self) -> u64 {
            self.0
        }
        fn of(bits: u64) -> Self {
            Self(bits)
        }
    }

    impl Bits for LeaseId {
        fn bits(self) -> u64 {
            self.0.cast_unsigned()
        }
        fn of(bits: u64) -> Self {
            Self(bits.cast_signed())
        }
    }

    pub(super) fn serialize<B: Bits, S: Serializer>(value: &B, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", value.bits()))
    }

    pub(super) fn deserialize<'de, B: Bits, D: Deserializer<'de>>(deserializer: D) -> Result<B, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(B::of).map_err(D::Error::custom)
    }
}

mod counted {
    use api::Epoch;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(epoch: &Epoch, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(epoch.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Epoch, D::Error> {
        u64::deserialize(deserializer).map(Epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_they_were_written() {
        let keys = Keys::new("/trunkline/");
        let suspect =
            Key::Suspect { node: "a.b".into(), incarnation: Incarnation(7), reporter: "gw/1".into() };
        for (key, text) in [
            (Key::Node("session-1".into()), "/trunkline/nodes/session-1"),
            (Key::Slot(Slot::new(7).unwrap()), "/trunkline/slots/7"),
            (Key::Epoch(Slot::new(4095).unwrap()), "/trunkline/epochs/4095"),
            (Key::Epoch(Slot::new(16_383).unwrap()), "/trunkline/epochs/16383"),
            (Key::Pin(Slot::new(8).unwrap()), "/trunkline/pins/8"),
            (Key::Slots, "/trunkline/mesh/slots"),
            (Key::Registry("tools-1".into()), "/trunkline/registries/tools-1"),
            (Key::Gateway("gateway-1".into()), "/trunkline/gateways/gateway-1"),
            (suspect, "/trunkline/suspects/a.b.0000000000000007/gw/1"),
        ] {
            assert_eq!(keys.write(&key), text);
            assert_eq!(keys.read(text), Some(key));
        }
        for text in [
            "/trunkline/slots/16384",
            "/trunkline/mesh/other",
            "/trunkline/pins/v1.k1.007.x",
            "/trunkline/nodes/",
            "/other/nodes/a",
            "/trunkline/x/y",
            "/trunkline/suspects/a/b",
        ] {
            assert_eq!(keys.read(text), None, "{text}");
        }
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let node = NodeRecord::new("127.0.0.1:7101", "", 100, Incarnation(u64::MAX), LeaseId(-2));
        assert_eq!(decode::<NodeRecord>(&encode(&node)).as_ref(), Some(&node));
        // One of a version that knew of no capacity.
        let gateway =
            br#"{"v":1,"node":"g","address":"a:1","incarnation":"0000000000000001","state":"ready"}"#;
        assert_eq!(decode(gateway), Some(GatewayRecord::new("g", "a:1", "", 0, Incarnation(1))));
        let slot = SlotRecord::new(&"session-1".into(), Incarnation(1), Epoch(9));
        let text = r#"{"v":1,"node":"session-1","incarnation":"0000000000000001","epoch":9}"#;
        assert_eq!(String::from_utf8(encode(&slot)).unwrap(), text);
        assert_eq!(decode::<SlotRecord>(text.as_bytes()), Some(slot));
    }

    #[test]
    fn another_version_is_not_believed() {
        assert_eq!(decode::<EpochRecord>(br#"{"v":2,"epoch":9}"#), None);
        assert_eq!(decode::<EpochRecord>(br#"{"v":1,"epoch":9}"#), Some(EpochRecord::new(Epoch(9))));
        assert_eq!(decode::<EpochRecord>(b"9"), None);
    }
}
