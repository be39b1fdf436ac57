//! Where the members of a message stand, noted in the pass that checks it, so that what is asked of the message later is
//! found without reading it again.
//!
//! Only what is near the top is noted: the members of the message, those of its `params`, and those of the objects in there.
//! An object with many members, or with a name that is written with an escape, is not noted at all, and read when it is asked.

/// Objects in objects whose members are noted.
const LEVELS: u8 = 3;
/// Members that one object may have.
const MOST_OF_ONE: usize = 12;
/// Members of all objects together.
const MOST: usize = 32;

/// The level of what is not noted.
pub(crate) const NEVER: u8 = u8::MAX;

/// One member.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Where its object begins.
    object: u32,
    /// Its name, without quotes.
    key: (u32, u32),
    /// Its value.
    value: (u32, u32),
}

/// What is noted while a text is checked.
#[derive(Debug)]
pub(crate) struct Notes {
    places: [Place; MOST],
    count: usize,
    levels: u8,
}

/// An object whose members are being noted.
pub(crate) struct Object {
    at: usize,
    first: usize,
    own: usize,
    level: u8,
}

impl Notes {
    /// For a text of so many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        let levels = if u32::try_from(bytes).is_ok() { LEVELS } else { 0 };
        Self { levels, ..Self::none() }
    }

    /// Nothing is noted.
    pub(crate) const fn none() -> Self {
        let nowhere = Place { object: 0, key: (0, 0), value: (0, 0) };
        Self { places: [nowhere; MOST], count: 0, levels: 0 }
    }

    /// An object begins here.
    pub(crate) const fn begin(&self, at: usize, level: u8) -> Object {
        let level = if level < self.levels { level } else { NEVER };
        Object { at, first: self.count, own: 0, level }
    }

    /// A member whose value is about to come; where it is noted, if it is.
    pub(crate) fn add(&mut self, object: &mut Object, key: (usize, usize), is_plain: bool) -> Option<usize> {
        if object.level == NEVER {
            return None;
        }
        if !is_plain || object.own == MOST_OF_ONE || self.count == MOST {
            // Half of an object is worth nothing.
            self.count = object.first;
            object.level = NEVER;
            return None;
        }
        let index = self.count;
        self.places[index] =
            Place { object: short(object.at), key: (short(key.0), short(key.1)), value: (0, 0) };
        self.count += 1;
        object.own += 1;
        Some(index)
    }

    /// The value stands there.
    pub(crate) fn end(&mut self, index: Option<usize>, value: (usize, usize)) {
        if let Some(place) = index.and_then(|index| self.places.get_mut(index)) {
            place.value = (short(value.0), short(value.1));
        }
    }

    /// What was noted of a text that is known to be right.
    pub(crate) fn finish(self, text: &str) -> Option<Outline> {
        let Self { places, count, .. } = self;
        (count > 0).then(|| Outline { base: text.as_ptr().addr(), places, count })
    }
}

impl Object {
    /// The level of what is in it.
    pub(crate) const fn inside(&self) -> u8 {
        self.level.saturating_add(1)
    }
}

/// Only texts whose length fits are noted.
fn short(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outline {
    /// Where the text stands in memory. Whoever has this has the text, too.
    base: usize,
    places: [Place; MOST],
    count: usize,
}

impl Outline {
    /// The members of the object that is written as `text`, in order. `None` if it is not noted, or has none.
    pub(crate) fn members<'a>(
        &'a self,
        text: &'a str,
    ) -> Option<impl DoubleEndedIterator<Item = (&'a str, &'a str)>> {
        let (at, places) = self.noted(text)?;
        let own = places.iter().filter(move |place| place.object == at);
        let part = move |(from, to): (u32, u32)| {
            text.get(from.checked_sub(at)? as usize..to.checked_sub(at)? as usize)
        };
        Some(own.filter_map(move |place| Some((part(place.key)?, part(place.value)?))))
    }

    /// Whether it is noted that no name occurs twice in the object that is written as `text`. `false` says nothing.
    pub(crate) fn has_no_twins(&self, text: &str) -> bool {
        let Some((at, places)) = self.noted(text) else { return false };
        let name = |place: &Place| {
            let (from, to) = (place.key.0.checked_sub(at)?, place.key.1.checked_sub(at)?);
            text.as_bytes().get(from as usize..to as usize)
        };
        let length = |place: &Place| place.key.1.wrapping_sub(place.key.0);
        let is_twin = |one: &Place, other: &Place| {
            other.object == at && length(one) == length(other) && name(one) == name(other)
        };
        let mut own = places.iter().enumerate().filter(|(_, place)| place.object == at);
        !own.any(|(index, one)| places[index + 1..].iter().any(|other| is_twin(one, other)))
    }

    /// Where the object begins that is written as `text`, and what was noted from its first member on.
    fn noted(&self, text: &str) -> Option<(u32, &[Place])> {
        let at = u32::try_from(text.as_ptr().addr().checked_sub(self.base)?).ok()?;
        let places = self.places.get(..self.count)?;
        let first = places.iter().position(|place| place.object == at)?;
        Some((at, places.get(first..)?))
    }
}
