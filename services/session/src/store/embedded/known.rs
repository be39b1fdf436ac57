//! What is known of every stored session without a look into the file: its version, how long it is kept, which answers it has.
//! Made anew from the file whenever that is opened.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::residents::give_back;
use crate::store::Answered;

/// See the module. Moments are milliseconds of a clock that never goes back.
#[derive(Default)]
pub(super) struct Known {
    sessions: HashMap<Box<str>, Entry>,
}

/// One session.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) version: u64,
    /// It is forgotten at this moment unless it is used.
    pub(super) until: u64,
    /// The moment that the file has for its last use.
    pub(super) stamped: u64,
    recent: Option<Box<Recent>>,
}

#[derive(Default)]
struct Recent {
    /// Oldest first.
    kept: VecDeque<Place>,
    bytes: usize,
    next: u64,
}

/// Where an answer is.
#[derive(Clone, Copy)]
struct Place {
    serial: u64,
    key: u64,
    size: usize,
    until: u64,
}

/// What is to be done to the answers of a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// The number of the new one.
    pub(super) serial: u64,
    /// Numbers of those that have to go.
    pub(super) gone: Vec<u64>,
}

fn hash(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

impl Known {
    pub(super) fn get(&self, id: &str) -> Option<&Entry> {
        self.sessions.get(id)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Entry> {
        self.sessions.get_mut(id)
    }

    /// The entry of a session that may be new.
    pub(super) fn entry(&mut self, id: &str) -> &mut Entry {
        self.sessions.entry(id.into()).or_default()
    }

    pub(super) fn remove(&mut self, id: &str) {
        self.sessions.remove(id);
        give_back(&mut self.sessions);
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Sessions that nobody has used for too long, at most so many.
    pub(super) fn over(&self, now: u64, most: usize) -> Vec<Box<str>> {
        let over = self.sessions.iter().filter(|(_, entry)| entry.until <= now);
        over.map(|(id, _)| id.clone()).take(most).collect()
    }

    /// Sessions whose oldest answer is too old, at most so many.
    pub(super) fn stale(&self, now: u64, most: usize) -> Vec<Box<str>> {
        let oldest = |entry: &Entry| entry.recent.as_ref().and_then(|recent| recent.kept.front().copied());
        let stale =
            self.sessions.iter().filter(|(_, entry)| oldest(entry).is_some_and(|place| place.until <= now));
        stale.map(|(id, _)| id.clone()).take(most).collect()
    }
}

impl Entry {
    /// Takes in an answer that was kept before.
    pub(super) fn recall(&mut self, serial: u64, answered: &Answered, until: u64) {
        let recent = self.recent.get_or_insert_default();
        recent.kept.push_back(Place { serial, key: hash(&answered.key), size: answered.size(), until });
        recent.bytes += answered.size();
        recent.next = recent.next.max(serial + 1);
    }

    /// The number of the answer with this key, or of one that looks like it.
    pub(super) fn find(&self, key: &str, now: u64) -> Option<u64> {
        let key = hash(key);
        let fresh = |place: &&Place| place.key == key && place.until > now;
        self.recent.as_ref()?.kept.iter().find(fresh).map(|place| place.serial)
    }

    /// Makes room for one more answer; `None` if it is not to be kept. The first one with a key stays.
    pub(super) fn keep(&mut self, answered: &Answered, now: u64) -> Option<Turn> {
        let size = answered.size();
        if size > Answered::BYTES || self.find(&answered.key, now).is_some() {
            return None;
        }
        let recent = self.recent.get_or_insert_default();
        let serial = recent.next;
        recent.next += 1;
        recent.bytes += size;
        let until = now.saturating_add(Answered::KEPT_MS);
        recent.kept.push_back(Place { serial, key: hash(&answered.key), size, until });
        let mut gone = recent.drop_stale(now);
        while recent.kept.len() > answered.most() || recent.bytes > Answered::BYTES {
            gone.extend(recent.drop_oldest());
        }
        Some(Turn { serial, gone })
    }

    /// Forgets answers that are too old, and gives their numbers.
    pub(super) fn drop_stale(&mut self, now: u64) -> Vec<u64> {
        let Some(recent) = &mut self.recent else { return Vec::new() };
        let gone = recent.drop_stale(now);
        if recent.kept.is_empty() {
            self.recent = None;
        }
        gone
    }
}

impl Recent {
    fn drop_oldest(&mut self) -> Option<u64> {
        let gone = self.kept.pop_front()?;
        self.bytes -= gone.size;
        Some(gone.serial)
    }

    fn drop_stale(&mut self, now: u64) -> Vec<u64> {
        let mut gone = Vec::new();
        while self.kept.front().is_some_and(|place| place.until <= now) {
            gone.extend(self.drop_oldest());
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(key: &str) -> Answered {
        Answered { key: key.to_owned(), status: 200, body: None }
    }

    #[test]
    fn answers_go_when_they_are_old_and_when_there_are_too_many() {
        let mut entry = Entry::default();
        assert_eq!(entry.keep(&answered("a"), 0), Some(Turn { serial: 0, gone: Vec::new() }));
        assert_eq!(entry.keep(&answered("a"), 1), None, "the first one stays");
        assert_eq!(entry.find("a", Answered::KEPT_MS - 1), Some(0));
        assert_eq!(entry.find("a", Answered::KEPT_MS), None);
        let again = entry.keep(&answered("a"), Answered::KEPT_MS);
        assert_eq!(again, Some(Turn { serial: 1, gone: vec![0] }));
        for n in 0..Answered::BARE - 1 {
            assert_eq!(
                entry.keep(&answered(&n.to_string()), Answered::KEPT_MS).map(|turn| turn.gone),
                Some(vec![])
            );
        }
        let one_more = entry.keep(&answered("x"), Answered::KEPT_MS);
        assert_eq!(one_more.map(|turn| turn.gone), Some(vec![1]));
        let whole = Answered { body: Some(mcp::Json::empty_object()), ..answered("y") };
        let fewer = entry.keep(&whole, Answered::KEPT_MS).map(|turn| turn.gone.len());
        assert_eq!(fewer, Some(Answered::BARE + 1 - Answered::MOST), "fewer of those with a body");
        assert_eq!(entry.drop_stale(2 * Answered::KEPT_MS).len(), Answered::MOST);
        assert!(entry.recent.is_none());
    }

    #[test]
    fn what_is_over_is_found() {
        let mut known = Known::default();
        known.entry("a").until = 5;
        known.entry("b").until = 6;
        known.entry("b").recall(7, &answered("k"), 3);
        let boxed = |id: &str| vec![Box::<str>::from(id)];
        assert_eq!((known.over(5, 9), known.stale(2, 9)), (boxed("a"), Vec::new()));
        assert_eq!(known.stale(3, 9), boxed("b"));
        assert_eq!((known.over(6, 1).len(), known.len()), (1, 2));
        assert_eq!(known.get("b").unwrap().find("k", 2), Some(7));
    }
}
