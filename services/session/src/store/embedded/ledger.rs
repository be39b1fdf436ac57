//! Decides what may be written: fences, versions, doubts, ends of life. Changes along with the tables, and is read anew from them
//! whenever a transaction came to nothing.

use std::collections::HashMap;

use api::{Epoch, SessionId, Slot};
use machines::CommitRefusal;
use redb::Database;
use redb::ReadableDatabase as _;

use super::known::Known;
use super::order::{How, Order, Said, Write};
use super::tables::{self, Book, Kept};
use crate::store::ended::Ended;
use crate::store::{Answered, Fenced};

/// How much longer than its life a session is kept that ended it while nobody could use it: the process may have been down.
const GRACE_MS: u64 = 600_000;
/// A session that has been over for longer than this at the start gets none of that.
const LONG_OVER_MS: u64 = 86_400_000;
/// What one sweep takes away at most, so that nobody waits for it.
const SWEPT: usize = 512;
/// Doubts that are remembered; an owner whose doubt is forgotten has to write its session back.
const DOUBTS: usize = 65_536;

/// The clocks, at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Never goes back.
    pub(super) now: u64,
    /// Since 1970.
    pub(super) wall: u64,
}

impl Moment {
    pub(super) fn get() -> Self {
        Self { now: chassis::clock::now_millis(), wall: chassis::clock::unix_millis() }
    }
}

/// See the module.
pub(super) struct Ledger {
    known: Known,
    fences: Box<[u64]>,
    ended: Ended,
    /// How long a session is kept that nobody uses.
    life_ms: u64,
    /// Whether anything was written since it was asked last.
    has_written: bool,
}

/// Commits that nobody heard of: session, and the version behind the commit.
#[derive(Default)]
pub(super) struct Doubts(HashMap<Box<str>, u64>);

impl Doubts {
    pub(super) fn add(&mut self, (id, version): (Box<str>, u64)) {
        if self.0.len() >= DOUBTS {
            self.0.clear();
        }
        self.0.insert(id, version);
    }

    pub(super) fn settle(&mut self, id: &str) {
        self.0.remove(id);
    }

    fn is(&self, id: &str, version: u64) -> bool {
        self.0.get(id) == Some(&version)
    }
}

impl Ledger {
    /// Reads what the file holds.
    pub(super) fn read(database: &Database, life_ms: u64, moment: Moment) -> Result<Self, redb::Error> {
        let txn = database.begin_read()?;
        let mut fences = vec![0; usize::from(Slot::MOST)].into_boxed_slice();
        tables::fences(&txn, |slot, epoch| {
            if let Some(fence) = fences.get_mut(usize::from(slot)) {
                *fence = epoch;
            }
        })?;
        let mut known = Known::default();
        tables::sessions(&txn, |id, version, used| {
            let age = moment.wall.saturating_sub(used);
            let left = match life_ms.saturating_sub(age) {
                0 if age > life_ms.saturating_add(LONG_OVER_MS) => 0,
                left => left.max(GRACE_MS.min(life_ms)),
            };
            let entry = known.entry(id);
            (entry.version, entry.stamped, entry.until) = (version, used, moment.now.saturating_add(left));
        })?;
        tables::answers(&txn, |id, serial, kept| {
            let left = Answered::KEPT_MS.saturating_sub(moment.wall.saturating_sub(kept.at));
            if let Some(entry) = known.get_mut(id) {
                entry.recall(serial, &kept.answered, moment.now.saturating_add(left));
            }
        })?;
        Ok(Self { known, fences, ended: Ended::default(), life_ms, has_written: false })
    }

    pub(super) fn fences(&self) -> &[u64] {
        &self.fences
    }

    pub(super) fn sessions(&self) -> usize {
        self.known.len()
    }

    /// Whether anything was written since the last time.
    pub(super) fn take_written(&mut self) -> bool {
        std::mem::take(&mut self.has_written)
    }

    /// Does one thing.
    pub(super) fn apply(
        &mut self,
        book: &mut Book<'_>,
        order: Order,
        doubts: &Doubts,
        moment: Moment,
    ) -> Result<Said, redb::Error> {
        match order {
            Order::Fence(slots) => {
                let mut fenced = Vec::with_capacity(slots.len());
                for (slot, epoch) in slots {
                    fenced.push(self.fence(book, slot, epoch)?);
                }
                Ok(Said::Fenced(fenced))
            }
            Order::Write(write) => self.write(book, *write, doubts, moment),
            Order::Load(id) => {
                let Some(entry) = self.known.get(id.as_str()) else { return Ok(Said::Loaded(None)) };
                Ok(Said::Loaded(Some(Box::new((entry.version, book.rows(id.as_str())?)))))
            }
            Order::Answered(id, key) => {
                let place = self.known.get(id.as_str()).and_then(|entry| entry.find(&key, moment.now));
                let Some(serial) = place else { return Ok(Said::Found(None)) };
                let kept = book.kept(id.as_str(), serial)?.filter(|kept| kept.answered.key == key);
                Ok(Said::Found(kept.map(|kept| kept.answered)))
            }
            Order::Touch(id) => self.touch(book, &id, moment),
            Order::Remove(id, epoch) => {
                if let Err(refusal) = self.check(id.slot(), epoch) {
                    return Ok(Said::Refused(refusal));
                }
                if self.known.get(id.as_str()).is_some() {
                    self.forget(book, id.as_str())?;
                }
                self.ended.add(id.as_str());
                Ok(Said::Done)
            }
            Order::Name(proposed) => {
                let name = book.name()?;
                if name.is_none() {
                    book.call(&proposed)?;
                    self.has_written = true;
                }
                Ok(Said::Named(name.unwrap_or(proposed)))
            }
            Order::Ping => Ok(Said::Done),
        }
    }

    /// Takes away what is too old; whether that was all.
    pub(super) fn sweep(&mut self, book: &mut Book<'_>, moment: Moment) -> Result<bool, redb::Error> {
        let over = self.known.over(moment.now, SWEPT);
        for id in &over {
            self.forget(book, id)?;
        }
        let stale = self.known.stale(moment.now, SWEPT);
        for id in &stale {
            let Some(entry) = self.known.get_mut(id) else { continue };
            for serial in entry.drop_stale(moment.now) {
                book.forget(id, serial)?;
                self.has_written = true;
            }
        }
        Ok(over.len() < SWEPT && stale.len() < SWEPT)
    }

    fn forget(&mut self, book: &mut Book<'_>, id: &str) -> Result<(), redb::Error> {
        book.remove(id)?;
        self.known.remove(id);
        self.has_written = true;
        Ok(())
    }

    fn fence_of(&mut self, slot: Slot) -> &mut u64 {
        // As many as there are slots in the largest mesh, and a `Slot` is one of these.
        &mut self.fences[usize::from(slot.number())]
    }

    fn fence(&mut self, book: &mut Book<'_>, slot: Slot, epoch: Epoch) -> Result<Fenced, redb::Error> {
        let fence = self.fence_of(slot);
        if *fence > epoch.0 {
            return Ok(Fenced::Higher(Epoch(*fence)));
        }
        if *fence < epoch.0 {
            *fence = epoch.0;
            book.fence(slot, epoch.0)?;
            self.has_written = true;
        }
        Ok(Fenced::Done)
    }

    fn check(&mut self, slot: Slot, epoch: Epoch) -> Result<(), CommitRefusal> {
        match *self.fence_of(slot) {
            fence if fence > epoch.0 => Err(CommitRefusal::Stale),
            fence if fence == epoch.0 => Ok(()),
            _ => Err(CommitRefusal::Regress),
        }
    }

    fn write(
        &mut self,
        book: &mut Book<'_>,
        write: Write,
        doubts: &Doubts,
        moment: Moment,
    ) -> Result<Said, redb::Error> {
        let Write { id, epoch, how, version, parts, answered } = write;
        if let Err(refusal) = self.check(id.slot(), epoch) {
            return Ok(Said::Refused(refusal));
        }
        let id = id.as_str();
        let there = self.known.get(id).map(|entry| entry.version);
        let is_next = there.is_some_and(|there| there.checked_add(1) == Some(version));
        let is_doubted = there == Some(version) && doubts.is(id, version);
        let fits = match how {
            How::New => there.is_none(),
            How::Repair => there.map_or_else(|| !self.ended.has(id), |there| there <= version),
            How::Step if is_doubted => return Ok(Said::SendWhole),
            How::Step => is_next,
            How::Whole => is_next || is_doubted,
        };
        if !fits {
            return Ok(Said::Refused(CommitRefusal::Conflict));
        }
        match how {
            How::New | How::Step => {}
            How::Whole => book.clear(id, true)?,
            How::Repair => book.clear(id, false)?,
        }
        book.apply(id, &parts)?;
        book.stamp(id, version, moment.wall)?;
        self.has_written = true;
        let until = moment.now.saturating_add(self.life_ms);
        let entry = self.known.entry(id);
        (entry.version, entry.stamped, entry.until) = (version, moment.wall, until);
        let turn = answered.as_ref().and_then(|answered| entry.keep(answered, moment.now));
        if let (Some(turn), Some(answered)) = (turn, answered) {
            book.keep(id, turn.serial, &Kept { at: moment.wall, answered })?;
            for gone in turn.gone {
                book.forget(id, gone)?;
            }
        }
        Ok(Said::Done)
    }

    /// Most touches cost no write: what the file has for the last use may be old, but not too old.
    fn touch(&mut self, book: &mut Book<'_>, id: &SessionId, moment: Moment) -> Result<Said, redb::Error> {
        let life_ms = self.life_ms;
        if let Some(entry) = self.known.get_mut(id.as_str()) {
            entry.until = moment.now.saturating_add(life_ms);
            if moment.wall.abs_diff(entry.stamped) > life_ms / 4 {
                entry.stamped = moment.wall;
                book.stamp(id.as_str(), entry.version, moment.wall)?;
                self.has_written = true;
            }
        }
        Ok(Said::Done)
    }
}
