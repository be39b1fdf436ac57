//! Virtual time and processes: an executor of futures whose order follows from the seed alone.
//!
//! Owns: the clock of the world, the clocks of processes (each with its own rate and its own idea of the date), tasks, and
//! what a process can suffer: it is stopped and goes on later, or is killed. Must not know: what the processes do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::FutureExt as _;
use futures::future::{Either, LocalBoxFuture, select};

use super::rng::Rng;

/// Microseconds of the world.
pub(crate) type Micros = u64;
/// The date at which every world begins, in milliseconds since 1970.
const DATE: u64 = 1_800_000_000_000;
const PARTS: u64 = 1_000_000;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Proc(pub(crate) usize);

/// The world.
#[derive(Clone)]
pub(crate) struct Sim(Rc<Core>);

struct Core {
    now: Cell<Micros>,
    order: Cell<u64>,
    timers: RefCell<BTreeMap<(Micros, u64), Due>>,
    ready: Arc<Mutex<VecDeque<u64>>>,
    tasks: RefCell<BTreeMap<u64, Task>>,
    processes: RefCell<Vec<Process>>,
    rng: RefCell<Rng>,
    /// Of everything that was done, in order.
    digest: Cell<u64>,
    steps: Cell<u64>,
}

enum Due {
    Wake(Waker),
    Run(Box<dyn FnOnce()>),
}

struct Task {
    process: Proc,
    future: Option<LocalBoxFuture<'static, ()>>,
    ringer: Arc<Ringer>,
}

struct Process {
    alive: bool,
    stopped: bool,
    /// Tasks that were woken while it was stopped.
    backlog: Vec<u64>,
    /// Millionths of a second that pass for it in a second.
    rate: u64,
    since: Micros,
    local: Micros,
    /// When it was started, in milliseconds of the world: its date is right then.
    born_ms: u64,
    /// How far its date is off, in milliseconds.
    off_ms: i64,
}

struct Ringer {
    task: u64,
    queued: AtomicBool,
    ready: Arc<Mutex<VecDeque<u64>>>,
}

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.task);
        }
    }
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Rc::new(Core {
            now: Cell::new(0),
            order: Cell::new(0),
            timers: RefCell::default(),
            ready: Arc::default(),
            tasks: RefCell::default(),
            processes: RefCell::default(),
            rng: RefCell::new(Rng::new(seed)),
            digest: Cell::new(0),
            steps: Cell::new(0),
        }))
    }

    pub(crate) fn now(&self) -> Micros {
        self.0.now.get()
    }

    /// Tasks that were polled so far.
    pub(crate) fn steps(&self) -> u64 {
        self.0.steps.get()
    }

    /// What everything so far comes to.
    pub(crate) fn digest(&self) -> u64 {
        self.0.digest.get()
    }

    pub(crate) fn note(&self, what: u64) {
        let mixed = (self.0.digest.get().rotate_left(5) ^ what).wrapping_mul(0x517c_c1b7_2722_0a95);
        self.0.digest.set(mixed);
    }

    pub(crate) fn draw<T>(&self, f: impl FnOnce(&mut Rng) -> T) -> T {
        f(&mut self.0.rng.borrow_mut())
    }

    pub(crate) fn range(&self, low: u64, high: u64) -> u64 {
        self.draw(|rng| rng.range(low, high))
    }

    pub(crate) fn per_mille(&self, share: u64) -> bool {
        self.draw(|rng| rng.per_mille(share))
    }

    fn next_order(&self) -> u64 {
        let order = self.0.order.get();
        self.0.order.set(order + 1);
        order
    }

    /// Does something later, whatever becomes of any process.
    pub(crate) fn at(&self, at: Micros, run: impl FnOnce() + 'static) {
        let key = (at.max(self.now()), self.next_order());
        self.0.timers.borrow_mut().insert(key, Due::Run(Box::new(run)));
    }

    pub(crate) fn process(&self) -> Proc {
        let mut processes = self.0.processes.borrow_mut();
        processes.push(Process {
            alive: true,
            stopped: false,
            backlog: Vec::new(),
            rate: PARTS,
            since: self.now(),
            local: 0,
            born_ms: self.now() / 1000,
            off_ms: 0,
        });
        Proc(processes.len() - 1)
    }

    fn of<T>(&self, process: Proc, f: impl FnOnce(&mut Process) -> T) -> Option<T> {
        self.0.processes.borrow_mut().get_mut(process.0).map(f)
    }

    pub(crate) fn is_alive(&self, process: Proc) -> bool {
        self.of(process, |p| p.alive).unwrap_or(false)
    }

    pub(crate) fn is_stopped(&self, process: Proc) -> bool {
        self.of(process, |p| p.stopped).unwrap_or(false)
    }

    /// It does nothing until it is continued; what comes meanwhile waits.
    pub(crate) fn stop(&self, process: Proc) {
        self.of(process, |p| p.stopped = true);
    }

    pub(crate) fn go_on(&self, process: Proc) {
        let backlog = self.of(process, |p| {
            p.stopped = false;
            std::mem::take(&mut p.backlog)
        });
        self.0.ready.lock().unwrap_or_else(PoisonError::into_inner).extend(backlog.unwrap_or_default());
    }

    /// It is gone, with all it knew.
    pub(crate) fn kill(&self, process: Proc) {
        self.of(process, |p| (p.alive, p.stopped) = (false, false));
        let gone: Vec<Task> = {
            let mut tasks = self.0.tasks.borrow_mut();
            let ids: Vec<u64> =
                tasks.iter().filter(|(_, task)| task.process == process).map(|(id, _)| *id).collect();
            ids.into_iter().filter_map(|id| tasks.remove(&id)).collect()
        };
        drop(gone);
    }

    /// From now on its time passes at this rate.
    pub(crate) fn set_rate(&self, process: Proc, rate: u64) {
        let now = self.now();
        self.of(process, |p| {
            p.local += (now - p.since) * p.rate / PARTS;
            (p.since, p.rate) = (now, rate);
        });
    }

    /// Its date jumps.
    pub(crate) fn jump(&self, process: Proc, by_ms: i64) {
        self.of(process, |p| p.off_ms += by_ms);
    }

    pub(crate) fn spawn(&self, process: Proc, future: impl Future<Output = ()> + 'static) {
        if !self.is_alive(process) {
            return;
        }
        let id = self.next_order();
        let ready = Arc::clone(&self.0.ready);
        let ringer = Arc::new(Ringer { task: id, queued: AtomicBool::new(false), ready });
        let task = Task { process, future: Some(future.boxed_local()), ringer: Arc::clone(&ringer) };
        self.0.tasks.borrow_mut().insert(id, task);
        ringer.wake();
    }

    /// Lets time pass.
    pub(crate) fn run_until(&self, end: Micros) {
        loop {
            let next = self.0.ready.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(id) = next {
                self.poll(id);
                continue;
            }
            let due = {
                let mut timers = self.0.timers.borrow_mut();
                let is_due = timers.first_key_value().is_some_and(|((at, _), _)| *at <= end);
                if is_due { timers.pop_first() } else { None }
            };
            match due {
                Some(((at, _), due)) => {
                    self.0.now.set(at);
                    match due {
                        Due::Wake(waker) => waker.wake(),
                        Due::Run(run) => run(),
                    }
                }
                None => break,
            }
        }
        self.0.now.set(end);
    }

    fn poll(&self, id: u64) {
        let (mut future, ringer) = {
            let mut tasks = self.0.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&id) else { return };
            let waits = self.of(task.process, |p| {
                if p.stopped {
                    p.backlog.push(id);
                }
                p.stopped
            });
            if waits.unwrap_or(true) {
                return;
            }
            let Some(future) = task.future.take() else { return };
            (future, Arc::clone(&task.ringer))
        };
        ringer.queued.store(false, Ordering::Relaxed);
        self.0.steps.set(self.0.steps.get() + 1);
        self.note(id ^ self.now());
        let waker = Waker::from(ringer);
        let is_done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let gone = {
            let mut tasks = self.0.tasks.borrow_mut();
            match tasks.get_mut(&id) {
                Some(task) if !is_done => {
                    task.future = Some(future);
                    None
                }
                Some(_) => tasks.remove(&id).map(|_| future),
                None => Some(future),
            }
        };
        drop(gone);
    }

    /// Ends everything, so that nothing keeps the world alive.
    pub(crate) fn end(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        let timers = std::mem::take(&mut *self.0.timers.borrow_mut());
        drop(timers);
        self.0.tasks.borrow_mut().clear();
        self.0.timers.borrow_mut().clear();
    }
}

/// A process, as what runs in it sees the world.
#[derive(Clone)]
pub(crate) struct Ctx {
    pub(crate) sim: Sim,
    pub(crate) me: Proc,
}

impl Ctx {
    pub(crate) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), me: sim.process() }
    }

    /// Milliseconds on a clock that never goes back, and may be fast or slow.
    pub(crate) fn now_ms(&self) -> u64 {
        let now = self.sim.now();
        self.sim.of(self.me, |p| (p.local + (now - p.since) * p.rate / PARTS) / 1000).unwrap_or(0)
    }

    /// The date, as this process believes.
    pub(crate) fn wall_ms(&self) -> u64 {
        let (born_ms, off) = self.sim.of(self.me, |p| (p.born_ms, p.off_ms)).unwrap_or_default();
        (DATE + born_ms + self.now_ms()).saturating_add_signed(off)
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.sim.spawn(self.me, future);
    }

    /// Waits, on this process' clock.
    pub(crate) fn sleep_ms(&self, ms: u64) -> Sleep {
        let rate = self.sim.of(self.me, |p| p.rate).unwrap_or(PARTS).max(1);
        let micros = ms.saturating_mul(1000).saturating_mul(PARTS) / rate;
        Sleep { sim: self.sim.clone(), at: self.sim.now().saturating_add(micros), known: None }
    }

    /// `None` if it took longer.
    pub(crate) async fn within_ms<F: Future>(&self, ms: u64, future: F) -> Option<F::Output> {
        match select(Box::pin(future), self.sleep_ms(ms)).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(_) => None,
        }
    }
}

/// See [`Ctx::sleep_ms`].
pub(crate) struct Sleep {
    sim: Sim,
    at: Micros,
    known: Option<Waker>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.sim.now() >= self.at {
            return Poll::Ready(());
        }
        if !self.known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.known = Some(cx.waker().clone());
            let key = (self.at, self.sim.next_order());
            self.sim.0.timers.borrow_mut().insert(key, Due::Wake(cx.waker().clone()));
        }
        Poll::Pending
    }
}
