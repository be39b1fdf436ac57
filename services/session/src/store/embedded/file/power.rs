//! The power goes at any moment: of what was written and not synced yet, any part may be on the disk, and sectors of it only.
//! What a sync has confirmed must be there, whole.

use std::io;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::tables::Book;
use super::*;

const SECTOR: usize = 512;
const SESSIONS: u64 = 40;
const COMMITS: u64 = 60;
const CUTS: usize = 150;

#[derive(Debug, Clone)]
enum Event {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
    /// The writer was told that this commit is done.
    Told(u64),
}

#[derive(Debug)]
struct Recorder(FileBackend, Arc<Mutex<Vec<Event>>>);

impl Recorder {
    fn note(&self, event: Event) {
        self.1.lock().unwrap().push(event);
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Event::Length(len));
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note(Event::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note(Event::Write(offset, data.to_vec()));
        self.0.write(offset, data)
    }
}

/// Numbers that look random and are the same in each run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

fn write(image: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let from = usize::try_from(offset).unwrap();
    image.resize(image.len().max(from + data.len()), 0);
    image[from..from + data.len()].copy_from_slice(data);
}

fn apply(image: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write(offset, data) => write(image, *offset, data),
        Event::Length(length) => image.resize(usize::try_from(*length).unwrap(), 0),
        Event::Sync | Event::Told(_) => {}
    }
}

/// The file after a loss of power behind so many events, and the last commit that somebody was told of.
fn cut(before: &[u8], events: &[Event], draw: &mut Draw) -> (Vec<u8>, u64) {
    let synced = events.iter().rposition(|event| matches!(event, Event::Sync)).map_or(0, |at| at + 1);
    let (mut image, mut told) = (before.to_vec(), 0);
    events[..synced].iter().for_each(|event| apply(&mut image, event));
    for event in events {
        if let Event::Told(commit) = event {
            told = *commit;
        }
    }
    for event in &events[synced..] {
        match (event, draw.below(3)) {
            (_, 0) => {}
            (Event::Write(offset, data), 1) => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if draw.below(2) == 0 {
                        write(&mut image, offset + (index * SECTOR) as u64, sector);
                    }
                }
            }
            (event, _) => apply(&mut image, event),
        }
    }
    (image, told)
}

#[test]
fn what_was_confirmed_outlasts_a_loss_of_power_and_nothing_is_half_there() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sessions.redb");
    drop(open(&path).unwrap());
    let before = fs::read(&path).unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let recorder = Recorder(FileBackend::new(file).unwrap(), events.clone());
    let database = builder().create_with_backend(recorder).unwrap();
    for commit in 1..=COMMITS {
        let txn = database.begin_write().unwrap();
        let mut book = Book::open(&txn).unwrap();
        (0..SESSIONS).for_each(|n| book.stamp(&format!("session {n}"), commit, commit).unwrap());
        drop(book);
        txn.commit().unwrap();
        events.lock().unwrap().push(Event::Told(commit));
    }
    let events = events.lock().unwrap().clone();
    let (mut draw, mut torn) = (Draw(7), 0);
    for _ in 0..CUTS {
        let at = draw.below(events.len() + 1);
        let (image, told) = cut(&before, &events[..at], &mut draw);
        let copy = folder.path().join("copy.redb");
        fs::write(&copy, image).unwrap();
        let database = open(&copy).unwrap_or_else(|why| panic!("cut at {at} of {}: {why}", events.len()));
        let mut seen = Vec::new();
        let txn = database.begin_read().unwrap();
        tables::sessions(&txn, |_, version, _| seen.push(version)).unwrap();
        seen.dedup();
        assert!(seen.len() <= 1, "cut at {at}: half of a commit: {seen:?}");
        let version = seen.first().copied().unwrap_or(0);
        assert!((told..=told + 1).contains(&version), "cut at {at}: {version} after {told} was confirmed");
        torn += u64::from(version == told);
    }
    assert!(torn > 20, "{torn}");
}
