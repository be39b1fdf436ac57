use std::cell::Cell;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Condvar;
use std::sync::atomic::{AtomicBool, Ordering};

use api::KeyRing;
use machines::snapshot::StreamChange;
use machines::{Change, StreamId};
use mcp::Json;
use mcp::log::Level;
use redb::backends::FileBackend;
use redb::{BackendError, Builder, StorageBackend};
use tempfile::TempDir;

use super::ledger::{Ledger, Moment};
use super::tables::Book;
use super::*;
use crate::store::contract;

const SETTINGS: Settings = Settings { life: Duration::from_secs(2_400), group: 256 };

fn id(random: u8) -> SessionId {
    let keys = KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef");
    SessionId::mint(&keys, Slot::new(7).unwrap(), [random; 16])
}

fn folder() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sessions.redb");
    (folder, path)
}

fn open(path: &Path) -> Embedded {
    Embedded::open(path, SETTINGS, &Metrics::default()).unwrap()
}

/// Commits to one session, and keeps its state along with it.
struct Writer {
    id: SessionId,
    state: Snapshot,
    version: u64,
}

impl Writer {
    async fn begin(store: &Embedded, random: u8) -> Self {
        let id = id(random);
        assert_eq!(store.fence(&[(id.slot(), Epoch(1))]).await, [Fenced::Done]);
        store.create(&id, Epoch(1), &Principal::default(), Transport::Streamable).await.unwrap();
        Self { id, state: Snapshot::default(), version: 0 }
    }

    async fn attempt(&self, store: &Embedded, changes: &[Change], key: &str) -> Result<(), CommitRefusal> {
        let mut after = self.state.clone();
        changes.iter().for_each(|change| after.apply(change));
        let answered = Some(answered(key));
        store.commit(&self.id, Epoch(1), self.version, Commit { changes, after: &after, answered }).await
    }

    async fn write(&mut self, store: &Embedded, changes: &[Change], key: &str) {
        self.attempt(store, changes, key).await.unwrap();
        changes.iter().for_each(|change| self.state.apply(change));
        self.version += 1;
    }

    async fn is_whole(&self, store: &Embedded) {
        let stored = store.load(&self.id).await.unwrap().unwrap();
        assert_eq!((stored.version, &stored.snapshot), (self.version, &self.state));
    }
}

fn answered(key: &str) -> Answered {
    Answered { key: key.to_owned(), status: 200, body: Some(Json::trusted("{\"a\":1}")) }
}

fn level(level: Level) -> [Change; 1] {
    [Change::LevelSet(level)]
}

fn events(from: u64, to: u64) -> Vec<Change> {
    let event = |seq| StreamChange::Appended {
        seq,
        epoch: 1,
        message: Some(Json::trusted(format!("{{\"n\":{seq}}}"))),
        delivered: false,
    };
    (from..=to).map(|seq| Change::Stream(StreamId::OWN, event(seq))).collect()
}

fn opened() -> Change {
    Change::Stream(StreamId::OWN, StreamChange::Opened { request: None, key: None })
}

#[tokio::test]
async fn a_file_keeps_the_contract() {
    let (_folder, path) = folder();
    let file = open(&path);
    assert!(!file.is_outside(), "it has all versions in memory");
    contract::all(&file).await;
}

#[tokio::test]
async fn each_commit_alone_keeps_the_contract() {
    let (_folder, path) = folder();
    let settings = Settings { group: 1, ..SETTINGS };
    contract::all(&Embedded::open(&path, settings, &Metrics::default()).unwrap()).await;
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_close_and_after_a_kill() {
    let (folder, path) = folder();
    let store = open(&path);
    assert_eq!(store.past(), Epoch(0));
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&store, &[&[opened()], &events(1, 5)[..]].concat(), "a").await;
    writer.write(&store, &level(Level::Error), "b").await;
    assert_eq!(store.fence(&[(Slot::new(9).unwrap(), Epoch(77))]).await, [Fenced::Done]);
    // What is in the file while it is open is what a kill leaves.
    let killed = folder.path().join("killed.redb");
    std::fs::copy(&path, &killed).unwrap();
    drop(store);
    for path in [path, killed] {
        let store = open(&path);
        assert_eq!(store.past(), Epoch(77));
        assert_eq!(store.is_fenced(writer.id.slot(), Epoch(1)).await, Fenced::Done);
        writer.is_whole(&store).await;
        assert_eq!(store.answered(&writer.id, "a").await, Ok(Some(answered("a"))));
        let mut writer = Writer { id: writer.id.clone(), state: writer.state.clone(), ..writer };
        writer.write(&store, &events(6, 9), "c").await;
        writer.is_whole(&store).await;
        assert_eq!(store.answered(&writer.id, "c").await, Ok(Some(answered("c"))));
    }
}

/// A disk that fails or stands still when it is told to.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<(Mutex<Trouble>, Condvar)>, Arc<AtomicBool>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Trouble {
    #[default]
    None,
    /// There is no room.
    Full,
    /// What is written is there, and nobody says so.
    Unsure,
    /// Nothing gets to an end.
    Still,
}

#[derive(Debug)]
struct Troubled(FileBackend, Disk);

impl Disk {
    fn set(&self, trouble: Trouble) {
        *self.0.0.lock().unwrap() = trouble;
        self.1.store(false, Ordering::Release);
        self.0.1.notify_all();
    }

    fn is(&self, trouble: Trouble) -> io::Result<()> {
        match *self.0.0.lock().unwrap() == trouble {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    /// Waits until somebody waits for it.
    async fn until_stuck(&self) {
        while !self.1.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
    }

    fn database(&self, path: &Path) -> Result<Database, Refused> {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let backend = Troubled(FileBackend::new(file).unwrap(), self.clone());
        let unusable =
            |why: redb::DatabaseError| Refused::Unusable { path: path.to_owned(), why: why.to_string() };
        Builder::new().create_with_backend(backend).map_err(unusable)
    }

    fn open(&self, path: &Path, metrics: &Metrics) -> Embedded {
        drop(file::open(path).unwrap());
        let (disk, again) = (self.clone(), path.to_owned());
        let open = Box::new(move || disk.database(&again));
        Embedded::start(path.to_owned(), (self.database(path).unwrap(), open), SETTINGS, metrics).unwrap()
    }
}

impl StorageBackend for Troubled {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.is(Trouble::Full)?;
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let (trouble, changed) = &*self.1.0;
        self.1.1.store(*trouble.lock().unwrap() == Trouble::Still, Ordering::Release);
        drop(changed.wait_while(trouble.lock().unwrap(), |trouble| *trouble == Trouble::Still).unwrap());
        self.1.is(Trouble::Full)?;
        self.1.is(Trouble::Unsure)?;
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.1.is(Trouble::Full)?;
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.try_lock_range(start, end)
    }
}

/// Tries again until the store is back.
async fn until_up(store: &Embedded) {
    let back = async {
        while !store.is_up().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("it comes back");
}

#[tokio::test]
async fn a_disk_without_room_is_a_store_that_is_down_and_comes_back() {
    for trouble in [Trouble::Full, Trouble::Unsure] {
        let (_folder, path) = folder();
        let (disk, metrics) = (Disk::default(), Metrics::default());
        let store = disk.open(&path, &metrics);
        let mut writer = Writer::begin(&store, 1).await;
        writer.write(&store, &[opened()], "a").await;
        disk.set(trouble);
        let refused = writer.attempt(&store, &level(Level::Error), "lost").await;
        assert_eq!((refused, store.is_up().await), (Err(CommitRefusal::Down), false));
        assert_eq!(store.load(&writer.id).await, Err(CommitRefusal::Down));
        assert!(metrics.text().contains("trunkline_store_refusals_total{role=\"session\",reason=\"down\"}"));
        disk.set(Trouble::None);
        until_up(&store).await;
        // The owner goes on with something else at the same version, whatever became of the first.
        writer.write(&store, &events(1, 2), "b").await;
        writer.is_whole(&store).await;
        assert_eq!(store.answered(&writer.id, "b").await, Ok(Some(answered("b"))));
        drop(store);
        writer.is_whole(&open(&path)).await;
    }
}

#[tokio::test]
async fn what_was_given_up_is_replaced_by_what_its_owner_commits_then() {
    let (_folder, path) = folder();
    let disk = Disk::default();
    let store = disk.open(&path, &Metrics::default());
    let mut writer = Writer::begin(&store, 1).await;
    disk.set(Trouble::Still);
    let first = level(Level::Error);
    let (refused, queued) = tokio::join!(
        writer.attempt(&store, &first, "begun"),
        // Behind it, so it is not begun, and never is.
        async {
            disk.until_stuck().await;
            store.remove(&writer.id, Epoch(1)).await
        },
    );
    assert_eq!((refused, queued), (Err(CommitRefusal::Down), Err(CommitRefusal::Down)));
    disk.set(Trouble::None);
    until_up(&store).await;
    let there = store.load(&writer.id).await.unwrap().unwrap();
    assert_eq!((there.version, there.snapshot.level), (1, Some(Level::Error)), "it was done");
    writer.write(&store, &level(Level::Info), "instead").await;
    writer.is_whole(&store).await;
    let again = writer.attempt(&store, &level(Level::Alert), "x").await;
    assert_eq!(again, Ok(()), "and it goes on from there");
    writer.version = 0;
    let late = writer.attempt(&store, &level(Level::Alert), "late").await;
    assert_eq!(late, Err(CommitRefusal::Conflict), "nothing is in doubt any more");
}

fn count(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.text();
    let line = text.lines().find(|line| line.starts_with(&format!("{name}_total{{"))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn commits_that_wait_share_one_write_and_the_queue_is_bounded() {
    let (_folder, path) = folder();
    let (disk, metrics) = (Disk::default(), Metrics::default());
    let store = disk.open(&path, &metrics);
    let mut writers = Vec::new();
    for n in 0..200 {
        writers.push(Writer::begin(&store, n).await);
    }
    let writes = || count(&metrics, "trunkline_store_file_writes");
    let before = writes();
    disk.set(Trouble::Still);
    let change = level(Level::Error);
    let asked = Cell::new(0);
    let all = futures::future::join_all(writers.iter().map(async |writer| {
        asked.set(asked.get() + 1);
        writer.attempt(&store, &change, "k").await
    }));
    let release = async {
        // All of them wait before the disk goes on: in the queue, or for the write that stands still.
        disk.until_stuck().await;
        while asked.get() < writers.len() {
            tokio::task::yield_now().await;
        }
        disk.set(Trouble::None);
    };
    let (done, ()) = tokio::join!(all, release);
    assert!(done.iter().all(Result::is_ok));
    assert!((1..=3).contains(&(writes() - before)), "{}", writes() - before);

    disk.set(Trouble::Still);
    let slots = [(Slot::new(1).unwrap(), Epoch(9))];
    let many = async {
        disk.until_stuck().await;
        let up = futures::future::join_all((0..QUEUE + 300).map(|_| store.is_up())).await;
        disk.set(Trouble::None);
        up
    };
    let (fenced, up) = tokio::join!(store.fence(&slots), many);
    assert_eq!((fenced, up.contains(&true)), (vec![Fenced::Done], false));
    until_up(&store).await;
}

#[tokio::test]
async fn what_nobody_uses_is_forgotten_in_time_and_a_stop_does_not_shorten_it_to_nothing() {
    let (_folder, path) = folder();
    let store = open(&path);
    for random in 1..=3 {
        Writer::begin(&store, random).await.write(&store, &[opened()], "k").await;
    }
    drop(store);
    let (life, day) = (2_400_000, 86_400_000);
    let wall = Moment::get().wall;
    // How many there are left so long after the start, that long after the last use.
    let left = |stopped: u64, after: u64| {
        let database = file::open(&path).unwrap();
        let start = Moment { now: 1_000, wall: wall + stopped };
        let mut ledger = Ledger::read(&database, life, start).unwrap();
        let txn = database.begin_write().unwrap();
        let mut book = Book::open(&txn).unwrap();
        let moment = Moment { now: start.now + after, wall: start.wall + after };
        assert!(ledger.sweep(&mut book, moment).unwrap());
        let has_answer = book.kept(id(1).as_str(), 0).unwrap().is_some();
        drop(book);
        txn.abort().unwrap();
        (ledger.sessions(), has_answer)
    };
    assert_eq!(left(0, 0), (3, true));
    assert_eq!(left(0, Answered::KEPT_MS + 1_000), (3, false), "answers are kept for ten minutes");
    assert_eq!(left(0, life - 60_000), (3, false));
    assert_eq!(left(0, life + 60_000), (0, false));
    assert_eq!(left(life * 2, 500_000), (3, false), "whoever comes back within minutes finds his session");
    assert_eq!(left(life * 2, 700_000), (0, false));
    assert_eq!(left(life + 2 * day, 0), (0, false));
}

#[tokio::test]
async fn a_file_of_more_slots_is_not_used_for_fewer() {
    let (_folder, path) = folder();
    let (last, beyond) = (Slot::new(4095).unwrap(), Slot::new(4096).unwrap());
    let store = open(&path);
    assert_eq!(store.fence(&[(last, Epoch(3))]).await, [Fenced::Done]);
    for slots in SlotCount::ALL {
        assert_eq!(store.live_in(slots).await, Ok(()), "{slots}: no session is out of reach");
    }
    assert_eq!(store.fence(&[(beyond, Epoch(3))]).await, [Fenced::Done]);
    drop(store);
    let store = open(&path);
    assert_eq!(store.live_in(SlotCount::Large).await, Ok(()));
    let refused = store.live_in(SlotCount::Usual).await.unwrap_err().to_string();
    assert!(
        refused.starts_with("cluster.slots: 4096 here, and ") && refused.contains("was used with 16384"),
        "{refused}"
    );
    assert!(refused.contains(path.to_str().unwrap()), "{refused}");
}

#[tokio::test]
async fn the_name_of_the_mesh_is_in_the_file() {
    let (_folder, path) = folder();
    assert_eq!(open(&path).name("one").await, Ok("one".to_owned()));
    assert_eq!(open(&path).name("two").await, Ok("one".to_owned()));
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_named() {
    use crate::store::{Config, Store};

    let (_folder, path) = folder();
    let file = path.to_str().unwrap().to_owned();
    let both = Config { redis: vec!["redis://h".into()], file: file.clone(), ..Config::default() };
    let none = Config { file: "none".into(), ..Config::default() };
    let alone = Config { file, ..Config::default() };
    let said = Store::check(&both).unwrap_err().to_string();
    assert!(said.contains("store.redis") && said.contains("store.file"), "{said}");
    Store::check(&alone).unwrap();
    Store::check(&none).unwrap();
    assert!(!path.exists(), "a check makes nothing");
    let idle = Duration::from_secs(60);
    let store = Store::connect(&alone, idle, &Metrics::default()).await.unwrap();
    Store::check(&alone).expect("whoever has it has judged it");
    drop(store);
    std::fs::write(&path, "no").unwrap();
    assert!(Store::check(&alone).is_err());
    assert!(Store::connect(&alone, idle, &Metrics::default()).await.is_err());
    Store::connect(&none, idle, &Metrics::default()).await.map(drop).unwrap();
}
