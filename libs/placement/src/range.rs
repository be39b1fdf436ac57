//! A run of slots, as configuration writes it.

use std::fmt;
use std::str::FromStr;

use api::Slot;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `"0-2047"`, or a single `"7"`; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotRange {
    first: u16,
    last: u16,
}

/// Why a text is not a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of slots: write for example \"0-2047\"; slots are 0 to 4095")]
pub struct RangeError(String);

impl SlotRange {
    /// Every slot.
    pub const ALL: Self = Self { first: 0, last: Slot::COUNT - 1 };

    /// Whether a slot belongs to it.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.contains_number(slot.number())
    }

    pub(crate) fn contains_number(&self, number: u16) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// How many slots it has; at least one.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.last - self.first + 1
    }

    /// Its slots, in order.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + use<> {
        (self.first..=self.last).filter_map(Slot::new)
    }

    /// The slot a number falls on, counted from the first and round again.
    #[must_use]
    pub fn pick(&self, number: u64) -> Option<Slot> {
        let offset = u16::try_from(number % u64::from(self.count())).ok()?;
        Slot::new(self.first + offset)
    }
}

impl FromStr for SlotRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let refuse = || RangeError(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |part: &str| part.trim().parse::<u16>().map_err(|_| refuse());
        let (first, last) = (number(first)?, number(last)?);
        if first <= last && last < Slot::COUNT { Ok(Self { first, last }) } else { Err(refuse()) }
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

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
        for (text, shown) in [("0-4095", "0-4095"), ("7", "7-7"), (" 1 - 2 ", "1-2")] {
            assert_eq!(text.parse::<SlotRange>().map(|r| r.to_string()).as_deref(), Ok(shown));
        }
        for text in ["", "-", "2-1", "0-4096", "a-b", "0-1-2"] {
            assert!(text.parse::<SlotRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn picks_stay_inside() {
        let range: SlotRange = "10-12".parse().unwrap();
        let picked: Vec<u16> = (0..5).filter_map(|n| range.pick(n)).map(Slot::number).collect();
        assert_eq!(picked, [10, 11, 12, 10, 11]);
    }
}
