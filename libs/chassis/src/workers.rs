//! Several single-threaded runtimes, between which connections are dealt out.
//!
//! What happens on one connection happens on one thread: nothing that serves a call wakes another thread, which costs more
//! than the call. The process' own runtime, on the main thread, accepts connections and keeps things fresh.
//!
//! Where no [`Pool`] was installed, as in tests, everything runs where it is started.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Handle};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

thread_local! {
    static CURRENT: RefCell<Option<Workers>> = const { RefCell::new(None) };
    static INDEX: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Between two timers that fire on every runtime. Shorter than what a call waits for before it says that it goes on.
const TICK: Duration = Duration::from_millis(250);
/// How long the end of the threads is waited for. One that is stuck in a computation ends with the process.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runtimes that connections are dealt out to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    handles: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// Those installed for this thread, or the runtime this is called in.
    #[must_use]
    pub fn current() -> Self {
        let installed = CURRENT.with_borrow(Clone::clone);
        installed.unwrap_or_else(|| Self::of(vec![Handle::current()]))
    }

    fn of(handles: Vec<Handle>) -> Self {
        Self(Arc::new(Inner { handles, next: AtomicUsize::new(0) }))
    }

    /// All of them.
    #[must_use]
    pub fn handles(&self) -> &[Handle] {
        &self.0.handles
    }

    /// The place in [`Workers::handles`] whose turn it is.
    #[must_use]
    pub fn deal(&self) -> usize {
        self.0.next.fetch_add(1, Ordering::Relaxed) % self.0.handles.len().max(1)
    }
}

/// Returns once each runtime has run something: none of them stands still.
pub async fn all_work() {
    let workers = Workers::current();
    let turns = workers.handles().iter().map(|worker| {
        #[allow(clippy::disallowed_methods, reason = "it does nothing, and is waited for")]
        worker.spawn(async {})
    });
    futures::future::join_all(turns).await;
}

/// One of a thing for each runtime, so that using it wakes no other thread. Made for all that are known where it is made.
#[derive(Debug, Clone)]
pub struct PerWorker<T>(Arc<[T]>);

impl<T> PerWorker<T> {
    /// `make` is called inside each runtime, and once more inside the current one if that is none of them.
    pub fn new(mut make: impl FnMut() -> T) -> Self {
        let workers = Workers::current();
        let mut all: Vec<T> = Vec::with_capacity(workers.handles().len() + 1);
        for handle in workers.handles() {
            let _entered = handle.enter();
            all.push(make());
        }
        if CURRENT.with_borrow(Option::is_some) {
            all.push(make());
        }
        Self(all.into())
    }

    /// One for each of the first `most` runtimes; the others share them.
    pub fn at_most(most: usize, mut make: impl FnMut() -> T) -> Self {
        let workers = Workers::current();
        let make = |handle: &Handle| {
            let _entered = handle.enter();
            make()
        };
        Self(workers.handles().iter().take(most.max(1)).map(make).collect())
    }

    /// That of the runtime this is called in.
    #[must_use]
    pub fn get(&self) -> &T {
        let index = INDEX.get().unwrap_or(self.0.len() - 1);
        &self.0[index % self.0.len()]
    }
}

/// The threads behind [`Workers`]. Dropping it ends them and everything that runs on them; do that outside of async code.
#[derive(Debug)]
pub struct Pool {
    stop: CancellationToken,
    /// Closed when the last thread has ended.
    alive: Receiver<()>,
}

impl Pool {
    /// Starts `threads` runtimes (0 = one for each core) and installs them for this thread and for theirs.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(threads: usize) -> io::Result<Self> {
        let count = match threads {
            0 => thread::available_parallelism()?.get(),
            given => given,
        };
        let runtimes: Vec<_> = (0..count)
            .map(|_| Builder::new_current_thread().enable_all().build())
            .collect::<io::Result<_>>()?;
        let workers = Workers::of(runtimes.iter().map(|runtime| runtime.handle().clone()).collect());
        let stop = CancellationToken::new();
        let (living, alive) = mpsc::channel();
        let pool = Self { stop: stop.clone(), alive };
        for (index, runtime) in runtimes.into_iter().enumerate() {
            let (workers, stop, living) = (workers.clone(), stop.clone(), living.clone());
            let run = move || {
                CURRENT.set(Some(workers));
                INDEX.set(Some(index));
                runtime.block_on(tick_until(stop));
                runtime.shutdown_background();
                drop(living);
            };
            thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
        }
        CURRENT.set(Some(workers));
        Ok(pool)
    }
}

/// A runtime wakes itself, with a write and another look at all its sockets, for each timer that is to fire before all others.
/// Where a call is under way alone, its deadline is such a timer. Here is always one that fires sooner.
async fn tick_until(stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
    }
}

/// Lets this process open as many files as it may. Each connection is one, and what processes may have without asking is
/// often 1,024: a thousand silent clients would lock all others out.
pub fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit on open files stays");
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        CURRENT.set(None);
        self.stop.cancel();
        if self.alive.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("a worker thread does not end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn name() -> String {
        thread::current().name().unwrap_or_default().to_owned()
    }

    #[test]
    fn work_is_dealt_out_in_turn_and_stays_where_it_is() {
        let pool = Pool::start(3).unwrap();
        let workers = Workers::current();
        let (tell, told) = mpsc::channel();
        let main = Builder::new_current_thread().build().unwrap();
        let _entered = main.enter();
        let own = PerWorker::new(|| Handle::current().id().to_string());
        for _ in 0..6 {
            let (tell, own) = (tell.clone(), own.clone());
            let work = async move {
                let here = Handle::current().id().to_string();
                tell.send((name(), *own.get() == here)).unwrap();
            };
            let place = workers.deal();
            #[allow(clippy::disallowed_methods, reason = "ends with the pool")]
            workers.handles()[place].spawn(work);
        }
        let told: Vec<_> = (0..6).map(|_| told.recv().unwrap()).collect();
        assert!(told.iter().all(|(_, own)| *own), "{told:?}");
        let names: BTreeSet<_> = told.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["worker-0", "worker-1", "worker-2"]);
        assert_eq!(*own.get(), Handle::current().id().to_string(), "the main thread has its own");
        drop(pool);
    }

    #[test]
    fn a_worker_that_stands_still_is_waited_for() {
        let pool = Pool::start(2).unwrap();
        let workers = Workers::current();
        let (free, stuck) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        #[allow(clippy::disallowed_methods, reason = "it ends with what it waits for")]
        workers.handles()[1].spawn(async move {
            tell.send(()).unwrap();
            stuck.recv().unwrap_err();
        });
        told.recv().unwrap();
        let main = Builder::new_current_thread().build().unwrap();
        main.block_on(async {
            let mut all = std::pin::pin!(all_work());
            assert!(futures::poll!(&mut all).is_pending());
            // What the other one was asked before this it has done.
            #[allow(clippy::disallowed_methods, reason = "it does nothing, and is waited for")]
            workers.handles()[0].spawn(async {}).await.unwrap();
            assert!(futures::poll!(&mut all).is_pending(), "one of two works");
            drop(free);
            all.await;
        });
        drop(pool);
    }

    #[tokio::test]
    async fn without_a_pool_everything_is_here() {
        let workers = Workers::current();
        assert_eq!(workers.handles().len(), 1);
        assert_eq!(workers.handles()[0].id(), Handle::current().id());
        assert_eq!(PerWorker::new(|| 7).get(), &7);
    }
}
