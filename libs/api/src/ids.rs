//! Identifiers that clients carry: they name a slot and are signed, so that a forged one is refused before any look-up.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use subtle::ConstantTimeEq as _;

use crate::keys::{KeyRing, Purpose};

/// A share of all sessions; a node owns slots, not sessions. How many a mesh has says its [`SlotCount`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

/// Counts the owners of a slot, from 1; 0 = no owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Slot {
    /// Slots of the largest mesh.
    pub const MOST: u16 = SlotCount::Large.get();

    /// A slot by number; `None` from [`Slot::MOST`] on. Whether a mesh has it says [`SlotCount::has`].
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < Self::MOST { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// How many slots a mesh has: chosen when it is made, and the same in all of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum SlotCount {
    /// 4,096, for up to about 50 session nodes.
    #[default]
    Usual,
    /// 16,384, for more of them.
    Large,
}

impl SlotCount {
    /// Every one there is.
    pub const ALL: [Self; 2] = [Self::Usual, Self::Large];

    /// By number; `None` for any that no mesh has.
    #[must_use]
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|count| count.get() == number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        match self {
            Self::Usual => 4096,
            Self::Large => 16_384,
        }
    }

    /// The number of the last one.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.get() - 1
    }

    /// Whether a mesh of so many has this one.
    #[must_use]
    pub const fn has(self, slot: Slot) -> bool {
        slot.0 < self.get()
    }

    /// All of them, in order.
    pub fn slots(self) -> impl DoubleEndedIterator<Item = Slot> + Clone + use<> {
        (0..self.get()).map(Slot)
    }
}

impl fmt::Display for SlotCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Session id: `v1.<key id>.<slot>.<128 random bits>.<64-bit MAC>`. Only ids whose MAC was right exist as this type. The slot has
/// three hexadecimal digits, and four from 4096 on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId {
    /// Shared, because a node has each of its sessions' ids in several places.
    text: Arc<str>,
    slot: Slot,
}

impl Hash for SessionId {
    /// The MAC tells ids apart as well as all of them does, and nobody without a key chooses it.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bytes = self.text.as_bytes();
        let end = bytes.last_chunk().map_or(0, |end: &[u8; 8]| u64::from_le_bytes(*end));
        state.write_u64(end);
    }
}

impl SessionId {
    /// Makes an id in a slot from 16 random bytes.
    #[must_use]
    pub fn mint(keys: &KeyRing, slot: Slot, random: [u8; 16]) -> Self {
        let key = keys.current();
        let head = format!("v1.{key}.{:03x}.{}", slot.0, BASE64.encode(random));
        let mac = keys.mac(&key, Purpose::SessionId, head.as_bytes()).unwrap_or_default();
        Self { text: format!("{head}.{}", BASE64.encode(mac.to_be_bytes())).into(), slot }
    }

    /// Reads an id and checks its MAC; `None` if it was not made with a key of the ring.
    #[must_use]
    pub fn parse(keys: &KeyRing, text: &str) -> Option<Self> {
        if text.len() > 96 {
            return None;
        }
        let (head, mac) = text.rsplit_once('.')?;
        let mut parts = head.split('.');
        let (version, key, slot, _random) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if version != "v1" || parts.next().is_some() {
            return None;
        }
        let expected = keys.mac(key, Purpose::SessionId, head.as_bytes())?.to_be_bytes();
        // Room for what a decoder may write beyond what it keeps.
        let mut given = [0_u8; 12];
        let length = BASE64.decode_slice(mac, &mut given).ok()?;
        if !bool::from(expected.ct_eq(&given[..length])) {
            return None;
        }
        let slot = Self::read_slot(slot)?;
        Some(Self { text: text.into(), slot })
    }

    /// The slot that an id names, without a look at its MAC: for operators, who have no keys. Nothing is decided by it that a
    /// client asks for.
    #[must_use]
    pub fn slot_named(text: &str) -> Option<Slot> {
        Self::read_slot(text.strip_prefix("v1.")?.split('.').nth(1)?)
    }

    /// As many digits as it is written with, and no more.
    fn read_slot(text: &str) -> Option<Slot> {
        let slot = Slot::new(u16::from_str_radix(text, 16).ok()?)?;
        let digits = if SlotCount::Usual.has(slot) { 3 } else { 4 };
        (text.len() == digits && text.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(slot)
    }

    /// As clients carry it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The slot it lives in.
    #[must_use]
    pub const fn slot(&self) -> Slot {
        self.slot
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Event id: `<stream>.<epoch>-<seq>.<32-bit MAC>`; the MAC covers the session too, so an id is worth nothing in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// Stream within the session.
    pub stream: u64,
    /// Epoch the event was written in.
    pub epoch: Epoch,
    /// Place in the stream.
    pub seq: u64,
}

impl EventId {
    /// As clients carry it.
    #[must_use]
    pub fn sign(self, keys: &KeyRing, session: &SessionId) -> String {
        let head = format!("{:x}.{:x}-{:x}", self.stream, self.epoch.0, self.seq);
        let mac = Self::mac(keys, &keys.current(), session, &head).unwrap_or_default();
        format!("{head}.{mac:08x}")
    }

    /// Reads an id that was handed out in this session; `None` for any other.
    #[must_use]
    pub fn parse(keys: &KeyRing, session: &SessionId, text: &str) -> Option<Self> {
        if text.len() > 80 {
            return None;
        }
        let (head, mac) = text.rsplit_once('.')?;
        let (stream, place) = head.split_once('.')?;
        let (epoch, seq) = place.split_once('-')?;
        let known = keys.names().iter().any(|key| {
            Self::mac(keys, key, session, head)
                .is_some_and(|m| bool::from(format!("{m:08x}").as_bytes().ct_eq(mac.as_bytes())))
        });
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        known.then_some(())?;
        Some(Self { stream: number(stream)?, epoch: Epoch(number(epoch)?), seq: number(seq)? })
    }

    fn mac(keys: &KeyRing, key: &str, session: &SessionId, head: &str) -> Option<u32> {
        let message = format!("{session}|{head}");
        keys.mac(key, Purpose::EventId, message.as_bytes()).map(|mac| (mac >> 32) as u32)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn keys() -> KeyRing {
        KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef")
    }

    fn id(slot: u16) -> SessionId {
        SessionId::mint(&keys(), Slot::new(slot).unwrap(), *b"fedcba9876543210")
    }

    #[test]
    fn ids_carry_their_slot_and_are_visible_ascii() {
        for slot in [0, 1, 4095, 4096, 16_383] {
            let id = id(slot);
            assert_eq!(SessionId::parse(&keys(), id.as_str()), Some(id.clone()));
            assert_eq!(id.slot().number(), slot);
            assert!(id.as_str().bytes().all(|c| (0x21..0x7f).contains(&c)));
        }
        assert_eq!(Slot::new(16_384), None);
    }

    #[test]
    fn ids_in_the_usual_slots_are_as_they_always_were() {
        let text = "v1.k1.fff.ZmVkY2JhOTg3NjU0MzIxMA.pjuAibcKwEQ";
        assert_eq!(id(4095).as_str(), text);
        assert_eq!(SessionId::slot_named(text), Slot::new(4095));
        assert_eq!(SessionId::slot_named("v1.k1.3fff.x.y"), Slot::new(16_383));
        // One slot has one name.
        for other in ["v1.k1.0fff.x.y", "v1.k1.4000.x.y", "v1.k1.ff.x.y", "v1.k1.+fff.x.y", "v1.k1.+ff.x.y"] {
            assert_eq!(SessionId::slot_named(other), None, "{other}");
        }
    }

    #[test]
    fn a_mesh_has_the_slots_of_its_number() {
        for count in SlotCount::ALL {
            assert_eq!(SlotCount::of(count.get()), Some(count));
            assert_eq!(count.slots().count(), usize::from(count.get()));
            assert!(count.slots().all(|slot| count.has(slot) && Slot::new(slot.number()) == Some(slot)));
        }
        assert_eq!((SlotCount::default().get(), SlotCount::of(8192)), (4096, None));
        assert!(!SlotCount::Usual.has(Slot::new(4096).unwrap()));
    }

    #[test]
    fn any_changed_bit_is_refused() {
        let good = id(77).as_str().to_owned();
        for at in 0..good.len() {
            for bit in 0..7 {
                let mut bytes = good.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let Ok(text) = String::from_utf8(bytes) else { continue };
                assert_eq!(SessionId::parse(&keys(), &text), None, "{text}");
            }
        }
        assert_eq!(SessionId::parse(&KeyRing::single("k1", [9; 32]), &good), None);
        assert_eq!(
            SessionId::parse(&KeyRing::single("k2", *b"0123456789abcdef0123456789abcdef"), &good),
            None
        );
    }

    #[test]
    fn event_ids_are_bound_to_their_session() {
        let event = EventId { stream: 3, epoch: Epoch(1), seq: 255 };
        let text = event.sign(&keys(), &id(5));
        assert_eq!(EventId::parse(&keys(), &id(5), &text), Some(event));
        assert_eq!(EventId::parse(&keys(), &id(6), &text), None);
        assert_eq!(EventId::parse(&keys(), &id(5), &text.replace("3.", "4.")), None);
        for junk in ["", ".", "..", "1.1-1", "1.1-1.00000000", "x.y-z.ffffffff"] {
            assert_eq!(EventId::parse(&keys(), &id(5), junk), None, "{junk}");
        }
    }

    /// What ids are made of, and how: 16 bytes of the operating system each.
    fn random_ids(count: usize) -> impl Iterator<Item = SessionId> {
        let keys = keys();
        let slot = Slot::new(5).unwrap();
        (0..count).map(move |_| {
            let mut random = [0; 16];
            getrandom::fill(&mut random).unwrap();
            SessionId::mint(&keys, slot, random)
        })
    }

    fn random_part(id: &SessionId) -> u128 {
        let part = id.as_str().split('.').nth(3).unwrap();
        u128::from_be_bytes(BASE64.decode(part).unwrap().try_into().unwrap())
    }

    #[test]
    fn a_million_ids_differ_and_each_of_their_bits_is_as_often_set_as_not() {
        const COUNT: usize = 1_000_000;
        let mut seen = HashSet::with_capacity(COUNT);
        let mut set = [0_u32; 128];
        for id in random_ids(COUNT) {
            let random = random_part(&id);
            assert!(seen.insert(random), "{id} was there before");
            for (bit, count) in set.iter_mut().enumerate() {
                *count += u32::from(random >> bit & 1 == 1);
            }
        }
        // Chi-square over 128 bits: its mean is 128 and its deviation 16, so 250 is never reached by chance.
        let half = 500_000.0;
        let sum: f64 = set.iter().map(|count| (f64::from(*count) - half).powi(2) / (half / 2.0)).sum();
        assert!((50.0..250.0).contains(&sum), "{sum}");
    }

    #[test]
    fn a_thousand_ids_with_any_bit_flipped_are_none() {
        let keys = keys();
        for id in random_ids(1000) {
            assert!(SessionId::parse(&keys, id.as_str()).is_some());
            let mut bytes = id.as_str().as_bytes().to_vec();
            for at in 0..bytes.len() {
                for bit in 0..7 {
                    bytes[at] ^= 1 << bit;
                    let text = std::str::from_utf8(&bytes).unwrap();
                    assert_eq!(SessionId::parse(&keys, text), None, "{text}");
                    bytes[at] ^= 1 << bit;
                }
            }
        }
    }
}
