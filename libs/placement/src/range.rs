//! A run of slots, as configuration writes it.

use std::fmt;
use std::str::FromStr;

use api::{Slot, SlotCount};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `"0-2047"`, a single `"7"`, or `"all"`; both ends belong to it. Which of its slots there are says the [`SlotCount`] of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotRange {
    first: u16,
    last: u16,
}

/// Why a text is not a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a range of slots: write \"all\" or for example \"0-2047\"; slots are 0 to 4095, or to 16383 where \
         cluster.slots = 16384"
)]
pub struct RangeError(String);

/// A range that goes beyond the slots of its mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{range} goes beyond the {count} slots of the mesh, which are 0 to {last} (cluster.slots)", last = .count.last())]
pub struct BeyondError {
    /// The range.
    pub range: SlotRange,
    /// What the mesh has.
    pub count: SlotCount,
}

impl SlotRange {
    /// Every slot, however many there are.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// Whether a slot belongs to it.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.contains_number(slot.number())
    }

    pub(crate) fn contains_number(&self, number: u16) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Its slots in a mesh of so many, in order.
    ///
    /// # Errors
    /// [`BeyondError`] for a range that names others.
    pub fn of(self, count: SlotCount) -> Result<impl Iterator<Item = Slot> + use<>, BeyondError> {
        if self != Self::ALL && self.last > count.last() {
            return Err(BeyondError { range: self, count });
        }
        Ok(count.slots().filter(move |slot| self.contains(*slot)))
    }
}

impl FromStr for SlotRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        if text.trim() == ALL {
            return Ok(Self::ALL);
        }
        let refuse = || RangeError(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |part: &str| part.trim().parse::<u16>().map_err(|_| refuse());
        let (first, last) = (number(first)?, number(last)?);
        if first <= last && last < Slot::MOST { Ok(Self { first, last }) } else { Err(refuse()) }
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str(ALL);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// How [`SlotRange::ALL`] is written.
const ALL: &str = "all";

impl Serialize for SlotRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SlotRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_refusals() {
        let texts =
            [("0-4095", "0-4095"), ("7", "7-7"), (" 1 - 2 ", "1-2"), ("0-16383", "0-16383"), ("all", "all")];
        for (text, shown) in texts {
            assert_eq!(text.parse::<SlotRange>().map(|r| r.to_string()).as_deref(), Ok(shown));
        }
        for text in ["", "-", "2-1", "0-16384", "a-b", "ALL", "0-1-2"] {
            assert!(text.parse::<SlotRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_has_slots_of_its_mesh_only() {
        let slots = |text: &str, count| {
            let range: SlotRange = text.parse().unwrap();
            range.of(count).map(|slots| slots.map(Slot::number).collect::<Vec<_>>())
        };
        for count in SlotCount::ALL {
            assert_eq!(slots("10-12", count), Ok(vec![10, 11, 12]));
            assert_eq!(slots("all", count), Ok((0..count.get()).collect()));
        }
        assert_eq!(slots("4000-16383", SlotCount::Large).map(|slots| slots.len()), Ok(12_384));
        let refused = slots("4000-4096", SlotCount::Usual).unwrap_err().to_string();
        assert_eq!(
            refused,
            "4000-4096 goes beyond the 4096 slots of the mesh, which are 0 to 4095 (cluster.slots)"
        );
    }
}
