//! How the last requests of sessions ended. Bounded for all sessions together as well: memory promises nothing durable, and
//! whoever asks again does so soon.

use std::collections::{HashMap, VecDeque};

use api::SessionId;

use crate::residents::give_back;
use crate::store::Answered;

/// Answers of all sessions of a shard.
const MOST: usize = 2048;
/// Bytes of these.
const BYTES: usize = 2 << 20;

/// See the module. Holds nothing for a session without answers.
#[derive(Default)]
pub(super) struct Recent {
    sessions: HashMap<SessionId, VecDeque<Kept>>,
    /// All that were kept, oldest first; some are gone before their turn.
    order: VecDeque<(u64, SessionId)>,
    next: u64,
    bytes: usize,
}

struct Kept {
    serial: u64,
    at: u64,
    /// Of its key: most others need not be looked at.
    digest: u64,
    answered: Answered,
}

impl Recent {
    /// Keeps an answer. The first one with a key stays.
    pub(super) fn keep(&mut self, id: &SessionId, answered: Answered, now: u64) {
        if answered.size() > Answered::BYTES || self.kept(id, &answered.key, now).is_some() {
            return;
        }
        self.bytes += answered.size();
        let (digest, most) = (digest(&answered.key), answered.most());
        let (serial, kept) = (self.next, self.sessions.entry(id.clone()).or_default());
        self.next += 1;
        kept.push_back(Kept { serial, at: now, digest, answered });
        let mut bytes: usize = kept.iter().map(|kept| kept.answered.size()).sum();
        while kept.len() > most || bytes > Answered::BYTES {
            let Some(gone) = kept.pop_front() else { break };
            bytes -= gone.answered.size();
            self.bytes -= gone.answered.size();
        }
        self.order.push_back((serial, id.clone()));
        self.make_room(now);
    }

    /// The answer with this key, unless it is too old.
    pub(super) fn find(&self, id: &SessionId, key: &str, now: u64) -> Option<Answered> {
        self.kept(id, key, now).map(|kept| kept.answered.clone())
    }

    fn kept(&self, id: &SessionId, key: &str, now: u64) -> Option<&Kept> {
        let digest = digest(key);
        let is = |kept: &&Kept| kept.digest == digest && kept.answered.key == key && !kept.is_over(now);
        self.sessions.get(id)?.iter().find(is)
    }

    /// Forgets all answers of a session.
    pub(super) fn forget(&mut self, id: &SessionId) {
        for kept in self.sessions.remove(id).into_iter().flatten() {
            self.bytes -= kept.answered.size();
        }
        give_back(&mut self.sessions);
    }

    fn make_room(&mut self, now: u64) {
        while let Some((serial, id)) = self.order.front() {
            let oldest =
                self.sessions.get(id).and_then(VecDeque::front).filter(|kept| kept.serial == *serial);
            let over = oldest.is_none_or(|kept| kept.is_over(now));
            if !over && self.order.len() <= MOST && self.bytes <= BYTES {
                return;
            }
            let (is_there, id) = (oldest.is_some(), id.clone());
            self.order.pop_front();
            let Some(kept) = self.sessions.get_mut(&id).filter(|_| is_there) else { continue };
            self.bytes -= kept.pop_front().map_or(0, |gone| gone.answered.size());
            if kept.is_empty() {
                self.sessions.remove(&id);
            }
        }
        give_back(&mut self.sessions);
    }
}

/// FNV-1a: what it says only saves comparisons.
fn digest(key: &str) -> u64 {
    key.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Kept {
    const fn is_over(&self, now: u64) -> bool {
        self.at.saturating_add(Answered::KEPT_MS) <= now
    }
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
        assert_eq!(recent.sessions.values().map(VecDeque::len).sum::<usize>(), MOST);
        let bytes = recent.sessions.values().flatten().map(|kept| kept.answered.size()).sum::<usize>();
        assert_eq!(recent.bytes, bytes);
    }
}
