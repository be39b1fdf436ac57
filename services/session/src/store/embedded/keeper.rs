//! The thread that owns the file. It takes whatever waits, does all of it in one transaction, and answers once the disk has it:
//! many commits share one write.
//!
//! A transaction that fails leaves the library unsure of the file: it is closed, everybody hears that the store is down, and it is
//! opened again with a later order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use api::{Slot, SlotCount};
use chassis::metrics::{Counter, Gauge, Metrics};
use machines::CommitRefusal;
use redb::Database;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Refused;
use super::ledger::{Doubts, Ledger, Moment};
use super::order::{Errand, Order, Said};
use super::tables::Book;

/// Between two attempts to open a file that could not be written.
const AGAIN: Duration = Duration::from_millis(500);
/// Between two sweeps.
const SWEEP: Duration = Duration::from_secs(30);

/// How the file is opened again.
pub(super) type Open = Box<dyn FnMut() -> Result<Database, Refused> + Send>;

/// The fences as the file has them.
pub(super) struct Fences(Box<[AtomicU64]>);

impl Fences {
    fn new() -> Self {
        Self((0..Slot::MOST).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn get(&self, slot: Slot) -> u64 {
        self.0[usize::from(slot.number())].load(Ordering::Acquire)
    }

    fn set(&self, fences: &[u64]) {
        for (to, from) in self.0.iter().zip(fences) {
            to.store(*from, Ordering::Release);
        }
    }

    /// Whether no slot was ever owned that a mesh of so many does not have.
    pub(super) fn is_none_beyond(&self, slots: SlotCount) -> bool {
        let beyond = self.0.iter().skip(usize::from(slots.get()));
        beyond.into_iter().all(|fence| fence.load(Ordering::Acquire) == 0)
    }

    pub(super) fn highest(&self) -> u64 {
        self.0.iter().map(|fence| fence.load(Ordering::Acquire)).max().unwrap_or(0)
    }
}

struct Counts {
    writes: Counter,
    orders: Counter,
    sessions: Gauge,
}

impl Counts {
    fn new(metrics: &Metrics) -> Self {
        let (writes, orders) = ("trunkline_store_file_writes", "trunkline_store_file_orders");
        Self {
            writes: metrics.counter(writes, "Times that the session file was written to the disk", &[]),
            orders: metrics.counter(orders, "What these writes were for: commits and the like", &[]),
            sessions: metrics.gauge("trunkline_store_file_sessions", "Sessions in the session file", &[]),
        }
    }
}

/// Who waits, and for what.
struct Ear {
    heard: oneshot::Sender<Said>,
    mark: Option<(Box<str>, u64)>,
}

/// See the module.
pub(super) struct Keeper {
    open: Open,
    file: Option<(Database, Ledger)>,
    doubts: Doubts,
    life_ms: u64,
    /// Most orders that share a write.
    group: usize,
    tried: Instant,
    swept: Instant,
    fences: Arc<Fences>,
    counts: Counts,
}

impl Keeper {
    /// Of an open file.
    pub(super) fn new(
        database: Database,
        open: Open,
        (life, group): (Duration, usize),
        metrics: &Metrics,
    ) -> Result<Self, redb::Error> {
        let life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let ledger = Ledger::read(&database, life_ms, Moment::get())?;
        let now = Instant::now();
        let keeper = Self {
            open,
            file: None,
            doubts: Doubts::default(),
            life_ms,
            group: group.max(1),
            tried: now,
            swept: now,
            fences: Arc::new(Fences::new()),
            counts: Counts::new(metrics),
        };
        keeper.fences.set(ledger.fences());
        Ok(Self { file: Some((database, ledger)), ..keeper })
    }

    pub(super) fn fences(&self) -> Arc<Fences> {
        self.fences.clone()
    }

    /// Works until nobody can ask any more, and closes the file.
    pub(super) fn run(mut self, mut orders: mpsc::Receiver<Errand>, runtime: &Runtime) {
        let mut errands = Vec::new();
        loop {
            let waiting = async { timeout(SWEEP, orders.recv_many(&mut errands, self.group)).await };
            match runtime.block_on(waiting) {
                Ok(0) => break,
                Ok(_) => self.round(errands.drain(..)),
                Err(_) => {}
            }
            if self.swept.elapsed() >= SWEEP {
                self.sweep();
            }
        }
        if let Some((database, _)) = self.file.take()
            && let Err(error) = database.close()
        {
            tracing::warn!(%error, "the session file was not closed well; the next start will check it");
        }
    }

    fn round(&mut self, errands: impl Iterator<Item = Errand>) {
        // Whoever has given up is told nothing, so nothing is done.
        let wanted = errands.filter(|errand| !errand.heard.is_closed());
        let (orders, ears): (Vec<Order>, Vec<Ear>) = wanted
            .map(|Errand { order, heard }| {
                let mark = order.mark();
                (order, Ear { heard, mark })
            })
            .unzip();
        match self.attempt(orders) {
            Some(said) => {
                for (ear, said) in ears.into_iter().zip(said) {
                    self.tell(ear, said);
                }
            }
            None => {
                for Ear { heard, mark } in ears {
                    mark.into_iter().for_each(|mark| self.doubts.add(mark));
                    // Who has given up meanwhile thinks the same.
                    let _told = heard.send(Said::Refused(CommitRefusal::Down)).is_ok();
                }
            }
        }
    }

    fn tell(&mut self, Ear { heard, mark }: Ear, said: Said) {
        let is_written = matches!(said, Said::Done);
        let is_told = heard.send(said).is_ok();
        match mark {
            Some(mark) if is_written && !is_told => self.doubts.add(mark),
            Some((id, _)) if is_written => self.doubts.settle(&id),
            Some(_) | None => {}
        }
    }

    /// All of it in one transaction; `None` if that came to nothing.
    fn attempt(&mut self, orders: Vec<Order>) -> Option<Vec<Said>> {
        let doubts = std::mem::take(&mut self.doubts);
        let count = orders.len();
        let said = self.transact(|book, ledger| {
            let moment = Moment::get();
            orders.into_iter().map(|order| ledger.apply(book, order, &doubts, moment)).collect()
        });
        self.doubts = doubts;
        if said.is_some() {
            self.counts.orders.inc_by(u64::try_from(count).unwrap_or_default());
        }
        said
    }

    fn sweep(&mut self) {
        self.swept = Instant::now();
        while self.transact(|book, ledger| ledger.sweep(book, Moment::get())) == Some(false) {}
    }

    fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Book<'_>, &mut Ledger) -> Result<T, redb::Error>,
    ) -> Option<T> {
        self.reopen();
        let (database, ledger) = self.file.as_mut()?;
        // The library panics at some damage that comes up while it works.
        let done = catch_unwind(AssertUnwindSafe(|| transaction(database, ledger, work)));
        let error = match done {
            Ok(Ok((value, has_written))) => {
                if has_written {
                    self.counts.writes.inc();
                    self.fences.set(ledger.fences());
                    self.counts.sessions.set(i64::try_from(ledger.sessions()).unwrap_or(i64::MAX));
                }
                return Some(value);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the library gave up".to_owned(),
        };
        tracing::error!(
            error,
            "the session file cannot be written: requests that need a session are refused"
        );
        self.tried = Instant::now();
        // Nothing more is written when it is dropped: the library remembers that it failed.
        drop(catch_unwind(AssertUnwindSafe(|| self.file = None)));
        None
    }

    /// Opens the file again if it was given up, now and then.
    fn reopen(&mut self) {
        if self.file.is_some() || self.tried.elapsed() < AGAIN {
            return;
        }
        let opened = (self.open)();
        self.tried = Instant::now();
        let database = match opened {
            Ok(database) => database,
            Err(error) => return tracing::debug!(%error, "the session file cannot be opened yet"),
        };
        let read = || Ledger::read(&database, self.life_ms, Moment::get());
        let Ok(Ok(ledger)) = catch_unwind(AssertUnwindSafe(read)) else {
            return tracing::debug!("the session file cannot be read yet");
        };
        tracing::info!(sessions = ledger.sessions(), "the session file is open again");
        self.fences.set(ledger.fences());
        self.file = Some((database, ledger));
    }
}

fn transaction<T>(
    database: &Database,
    ledger: &mut Ledger,
    work: impl FnOnce(&mut Book<'_>, &mut Ledger) -> Result<T, redb::Error>,
) -> Result<(T, bool), redb::Error> {
    let txn = database.begin_write()?;
    let mut book = Book::open(&txn)?;
    let value = work(&mut book, ledger)?;
    drop(book);
    let has_written = ledger.take_written();
    if has_written {
        txn.commit()?;
    } else {
        txn.abort()?;
    }
    Ok((value, has_written))
}
