//! How the last requests of sessions ended. Bounded for all sessions together as well: memory promises nothing durable, and
//! whoever asks again does so soon.

use std::collections::{HashMap, VecDeque};

use api::SessionId;
use foldhash::fast::RandomState;

use crate::residents::give_back;
use crate::store::Answered;

/// Answers of all sessions of a shard.
const MOST: usize = 2048;
/// Bytes of these.
const BYTES: usize = 2 << 20;

/// See the module. Holds nothing for a session without answers.
#[derive(Default)]
pub(super) struct Recent {
    sessions: HashMap<SessionId, OfSession, RandomState>,
    /// All that were kept, oldest first; some are gone before their turn.
    order: VecDeque<Place>,
    next: u64,
    bytes: usize,
}

/// Where an answer is.
struct Place {
    serial: u64,
    at: u64,
    id: SessionId,
}

#[derive(Default)]
struct OfSession {
    kept: VecDeque<Kept>,
    /// Of their keys, side by side: each answer is compared with all before it, which need not be looked at for that.
    digests: VecDeque<u64>,
    bytes: usize,
}

struct Kept {
    serial: u64,
    at: u64,
    answered: Answered,
}

impl Recent {
    /// Keeps an answer. The first one with a key stays.
    pub(super) fn keep(&mut self, id: &SessionId, answered: Answered, now: u64) {
        let (size, digest) = (answered.size(), digest(&answered.key));
        if size > Answered::BYTES {
            return;
        }
        let of = match self.sessions.get_mut(id) {
            Some(of) if of.find(&answered.key, digest, now).is_some() => return,
            Some(of) => of,
            None => self.sessions.entry(id.clone()).or_default(),
        };
        let (serial, most) = (self.next, answered.most());
        self.next += 1;
        of.kept.push_back(Kept { serial, at: now, answered });
        of.digests.push_back(digest);
        (of.bytes, self.bytes) = (of.bytes + size, self.bytes + size);
        while of.kept.len() > most || of.bytes > Answered::BYTES {
            let Some(gone) = of.oldest() else { break };
            self.bytes -= gone;
        }
        self.order.push_back(Place { serial, at: now, id: id.clone() });
        self.make_room(now);
    }

    /// The answer with this key, unless it is too old.
    pub(super) fn find(&self, id: &SessionId, key: &str, now: u64) -> Option<Answered> {
        self.sessions.get(id)?.find(key, digest(key), now).map(|kept| kept.answered.clone())
    }

    /// Forgets all answers of a session.
    pub(super) fn forget(&mut self, id: &SessionId) {
        self.bytes -= self.sessions.remove(id).map_or(0, |of| of.bytes);
        give_back(&mut self.sessions);
    }

    fn make_room(&mut self, now: u64) {
        while let Some(oldest) = self.order.front() {
            if !is_over(oldest.at, now) && self.order.len() <= MOST && self.bytes <= BYTES {
                return;
            }
            let Some(Place { serial, id, .. }) = self.order.pop_front() else { return };
            let Some(of) = self.sessions.get_mut(&id) else { continue };
            if of.kept.front().is_none_or(|kept| kept.serial != serial) {
                continue;
            }
            self.bytes -= of.oldest().unwrap_or_default();
            if of.kept.is_empty() {
                self.sessions.remove(&id);
                give_back(&mut self.sessions);
            }
        }
    }
}

impl OfSession {
    fn find(&self, key: &str, digest: u64, now: u64) -> Option<&Kept> {
        let alike = self.digests.iter().enumerate().filter(|(_, known)| **known == digest);
        let mut alike = alike.filter_map(|(place, _)| self.kept.get(place));
        alike.find(|kept| kept.answered.key == key && !is_over(kept.at, now))
    }

    /// Lets go of its oldest answer, and says how large it was.
    fn oldest(&mut self) -> Option<usize> {
        self.digests.pop_front();
        let size = self.kept.pop_front()?.answered.size();
        self.bytes -= size;
        Some(size)
    }
}

const fn is_over(at: u64, now: u64) -> bool {
    at.saturating_add(Answered::KEPT_MS) <= now
}

/// FNV-1a: what it says only saves comparisons.
fn digest(key: &str) -> u64 {
    key.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use api::{KeyRing, Slot};

    use super::*;

    fn id(random: u8) -> SessionId {
        let keys = KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef");
        SessionId::mint(&keys, Slot::new(1).unwrap(), [random; 16])
    }

    fn answered(key: &str) -> Answered {
        Answered { key: key.to_owned(), status: 200, body: None }
    }

    #[test]
    fn what_is_too_old_is_gone_and_takes_no_room() {
        let mut recent = Recent::default();
        recent.keep(&id(1), answered("a"), 0);
        recent.keep(&id(2), answered("b"), Answered::KEPT_MS - 1);
        assert!(recent.find(&id(1), "a", Answered::KEPT_MS - 1).is_some());
        assert!(recent.find(&id(1), "a", Answered::KEPT_MS).is_none());
        recent.keep(&id(2), answered("c"), Answered::KEPT_MS);
        assert_eq!((recent.sessions.len(), recent.order.len(), recent.bytes), (1, 2, 2));
        recent.forget(&id(2));
        assert_eq!((recent.sessions.len(), recent.bytes), (0, 0));
    }

    #[test]
    fn all_sessions_together_are_bounded() {
        let mut recent = Recent::default();
        let many = u64::try_from(MOST).unwrap() * 3;
        for n in 0..many {
            recent.keep(&id((n % 200) as u8), answered(&n.to_string()), 0);
        }
        assert_eq!(recent.order.len(), MOST);
        assert_eq!(recent.sessions.values().map(|of| of.kept.len()).sum::<usize>(), MOST);
        assert!(recent.sessions.values().all(|of| of.kept.len() == of.digests.len()));
        let kept = recent.sessions.values().flat_map(|of| &of.kept);
        let bytes = kept.map(|kept| kept.answered.size()).sum::<usize>();
        assert_eq!(recent.bytes, bytes);
    }
}
