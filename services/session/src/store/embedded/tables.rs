//! What the file holds, and each read and write of it within one transaction.
//!
//! A session is a row with its version, a row for each of its fields, one for each event and one for each answer that is kept.
//! Must not decide anything: whoever writes has checked fence and version.

use api::Slot;
use machines::Snapshot;
use mcp::Json;
use redb::{ReadTransaction, ReadableTable as _, Table, TableDefinition, WriteTransaction};

use crate::store::fields::{Parts, Step};
use crate::store::{Answered, names, restore};

/// Form of these tables.
pub(super) const FORM: u64 = 1;

const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("trunkline sessions");
const FENCES: TableDefinition<'_, u16, u64> = TableDefinition::new("fences");
/// Version, and when it was used last (milliseconds since 1970).
const SESSIONS: TableDefinition<'_, &str, (u64, u64)> = TableDefinition::new("sessions");
const FIELDS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("fields");
/// By stream, epoch and number.
const EVENTS: TableDefinition<'_, (&str, u64, u64, u64), &[u8]> = TableDefinition::new("events");
const ANSWERS: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("answers");

/// What things are called. Files of earlier builds have no such table, and these builds do not look for it.
const NAMES: TableDefinition<'_, &str, &str> = TableDefinition::new("names");

const NAMES_MESH: &str = "mesh";
const ABOUT_FORM: &str = "form";
const ABOUT_SNAPSHOT: &str = "snapshot";
const ABOUT_STARTS: &str = "starts";

/// Behind the names of all fields.
const LAST: &str = "\u{7f}";
/// Fields that stay when everything else of a session is written anew.
const IDENTITY: [&str; 3] = [names::SCHEMA, names::WHO, names::TRANSPORT];

type Result<T> = std::result::Result<T, redb::Error>;

/// What is written down about the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct About {
    pub(super) form: u64,
    pub(super) snapshot: u64,
}

/// A session as it lies there.
pub(super) struct Rows {
    pub(super) fields: Vec<(String, Vec<u8>)>,
    /// Stream, `<epoch>-<number>` and message.
    pub(super) events: Vec<(u64, String, Vec<u8>)>,
}

/// All tables, to write.
pub(super) struct Book<'t> {
    fences: Table<'t, u16, u64>,
    sessions: Table<'t, &'static str, (u64, u64)>,
    fields: Table<'t, (&'static str, &'static str), &'static [u8]>,
    events: Table<'t, (&'static str, u64, u64, u64), &'static [u8]>,
    answers: Table<'t, (&'static str, u64), &'static [u8]>,
    names: Table<'t, &'static str, &'static str>,
}

/// Makes the tables of a new file.
pub(super) fn make(txn: &WriteTransaction, form: u64) -> Result<()> {
    let mut about = txn.open_table(ABOUT)?;
    about.insert(ABOUT_FORM, form)?;
    about.insert(ABOUT_SNAPSHOT, u64::from(Snapshot::VERSION))?;
    drop(about);
    Book::open(txn).map(drop)
}

/// Counts one more start. Nothing depends on the count; writing it shows that the file can be written.
pub(super) fn begin(txn: &WriteTransaction) -> Result<()> {
    let mut about = txn.open_table(ABOUT)?;
    let before = about.get(ABOUT_STARTS)?.map_or(0, |starts| starts.value());
    about.insert(ABOUT_STARTS, before.saturating_add(1))?;
    Ok(())
}

/// What the file says of itself; an error if it has other tables than this.
pub(super) fn about(txn: &ReadTransaction) -> Result<About> {
    let about = txn.open_table(ABOUT)?;
    let read = |name| Ok::<_, redb::Error>(about.get(name)?.map_or(0, |number| number.value()));
    let found = About { form: read(ABOUT_FORM)?, snapshot: read(ABOUT_SNAPSHOT)? };
    if found.form == FORM {
        txn.open_table(FENCES)?;
        txn.open_table(SESSIONS)?;
        txn.open_table(FIELDS)?;
        txn.open_table(EVENTS)?;
        txn.open_table(ANSWERS)?;
    }
    Ok(found)
}

/// Every fence: slot and epoch.
pub(super) fn fences(txn: &ReadTransaction, mut each: impl FnMut(u16, u64)) -> Result<()> {
    for row in txn.open_table(FENCES)?.iter()? {
        let (slot, epoch) = row?;
        each(slot.value(), epoch.value());
    }
    Ok(())
}

/// Every session: id, version, when it was used last.
pub(super) fn sessions(txn: &ReadTransaction, mut each: impl FnMut(&str, u64, u64)) -> Result<()> {
    for row in txn.open_table(SESSIONS)?.iter()? {
        let (id, there) = row?;
        let (version, used) = there.value();
        each(id.value(), version, used);
    }
    Ok(())
}

/// Every answer, by session and number.
pub(super) fn answers(txn: &ReadTransaction, mut each: impl FnMut(&str, u64, Kept)) -> Result<()> {
    for row in txn.open_table(ANSWERS)?.iter()? {
        let (key, value) = row?;
        let (id, serial) = key.value();
        if let Some(kept) = Kept::read(value.value()) {
            each(id, serial, kept);
        }
    }
    Ok(())
}

impl<'t> Book<'t> {
    pub(super) fn open(txn: &'t WriteTransaction) -> Result<Self> {
        Ok(Self {
            fences: txn.open_table(FENCES)?,
            sessions: txn.open_table(SESSIONS)?,
            fields: txn.open_table(FIELDS)?,
            events: txn.open_table(EVENTS)?,
            answers: txn.open_table(ANSWERS)?,
            names: txn.open_table(NAMES)?,
        })
    }

    pub(super) fn fence(&mut self, slot: Slot, epoch: u64) -> Result<()> {
        self.fences.insert(slot.number(), epoch)?;
        Ok(())
    }

    /// What the mesh is called, if anybody said so.
    pub(super) fn name(&self) -> Result<Option<String>> {
        Ok(self.names.get(NAMES_MESH)?.map(|name| name.value().to_owned()))
    }

    pub(super) fn call(&mut self, name: &str) -> Result<()> {
        self.names.insert(NAMES_MESH, name)?;
        Ok(())
    }

    /// That a session is there, has this version and was used at this moment.
    pub(super) fn stamp(&mut self, id: &str, version: u64, used: u64) -> Result<()> {
        self.sessions.insert(id, (version, used))?;
        Ok(())
    }

    /// Does to a session what a commit touches.
    pub(super) fn apply(&mut self, id: &str, parts: &Parts) -> Result<()> {
        for (name, value) in &parts.set {
            self.fields.insert((id, name.as_str()), value.as_bytes())?;
        }
        for name in &parts.delete {
            self.fields.remove((id, name.as_str()))?;
        }
        for (stream, step) in &parts.logs {
            match step {
                Step::Add(event) => {
                    let key = (id, stream.0, event.epoch, event.seq);
                    self.events.insert(key, event.message.as_str().as_bytes())?;
                }
                Step::Keep(count) => self.trim(id, stream.0, *count)?,
                Step::Drop => {
                    let all = (id, stream.0, 0, 0)..=(id, stream.0, u64::MAX, u64::MAX);
                    self.events.retain_in(all, |_, _| false)?;
                }
            }
        }
        Ok(())
    }

    /// So many of the newest events stay.
    fn trim(&mut self, id: &str, stream: u64, count: usize) -> Result<()> {
        let all = (id, stream, 0, 0)..=(id, stream, u64::MAX, u64::MAX);
        let mut newest = self.events.range(all)?.rev().skip(count);
        let Some(last) = newest.next() else { return Ok(()) };
        let (_, _, epoch, seq) = last?.0.value();
        drop(newest);
        self.events.retain_in((id, stream, 0, 0)..=(id, stream, epoch, seq), |_, _| false)?;
        Ok(())
    }

    /// Takes away what a session consists of; whose it is may stay.
    pub(super) fn clear(&mut self, id: &str, keeps_identity: bool) -> Result<()> {
        let stays = |name: &str| keeps_identity && IDENTITY.contains(&name);
        self.fields.retain_in((id, "")..(id, LAST), |(_, name), _| stays(name))?;
        self.events.retain_in((id, 0, 0, 0)..=(id, u64::MAX, u64::MAX, u64::MAX), |_, _| false)?;
        Ok(())
    }

    /// Takes a session away, with all that it answered.
    pub(super) fn remove(&mut self, id: &str) -> Result<()> {
        self.clear(id, false)?;
        self.answers.retain_in((id, 0)..=(id, u64::MAX), |_, _| false)?;
        self.sessions.remove(id)?;
        Ok(())
    }

    pub(super) fn keep(&mut self, id: &str, serial: u64, kept: &Kept) -> Result<()> {
        self.answers.insert((id, serial), kept.write().as_slice())?;
        Ok(())
    }

    pub(super) fn forget(&mut self, id: &str, serial: u64) -> Result<()> {
        self.answers.remove((id, serial))?;
        Ok(())
    }

    pub(super) fn kept(&self, id: &str, serial: u64) -> Result<Option<Kept>> {
        Ok(self.answers.get((id, serial))?.and_then(|value| Kept::read(value.value())))
    }

    pub(super) fn rows(&self, id: &str) -> Result<Rows> {
        let mut rows = Rows { fields: Vec::new(), events: Vec::new() };
        for row in self.fields.range((id, "")..(id, LAST))? {
            let (key, value) = row?;
            rows.fields.push((key.value().1.to_owned(), value.value().to_vec()));
        }
        for row in self.events.range((id, 0, 0, 0)..=(id, u64::MAX, u64::MAX, u64::MAX))? {
            let (key, value) = row?;
            let (_, stream, epoch, seq) = key.value();
            rows.events.push((stream, format!("{epoch}-{seq}"), value.value().to_vec()));
        }
        Ok(rows)
    }
}

/// An answer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// Milliseconds since 1970.
    pub(super) at: u64,
    pub(super) answered: Answered,
}

impl Kept {
    /// Moment, status, whether there is a body, length of the key, key, body.
    fn write(&self) -> Vec<u8> {
        let Answered { key, status, body } = &self.answered;
        let text = body.as_ref().map_or("", |body| body.as_str());
        let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
        let mut row = Vec::with_capacity(15 + key.len() + text.len());
        row.extend(self.at.to_be_bytes());
        row.extend(status.to_be_bytes());
        row.push(u8::from(body.is_some()));
        row.extend(length.to_be_bytes());
        row.extend(key.as_bytes());
        row.extend(text.as_bytes());
        row
    }

    fn read(row: &[u8]) -> Option<Self> {
        let (at, row) = row.split_first_chunk()?;
        let (status, row) = row.split_first_chunk()?;
        let (has_body, row) = row.split_first()?;
        let (length, row) = row.split_first_chunk()?;
        let (key, body) = row.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        let body: Option<Json> = if *has_body == 0 { None } else { Some(restore::json(body.to_vec())?) };
        let key = std::str::from_utf8(key).ok()?.to_owned();
        let answered = Answered { key, status: u16::from_be_bytes(*status), body };
        Some(Self { at: u64::from_be_bytes(*at), answered })
    }
}
