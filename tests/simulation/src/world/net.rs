//! What lies between processes: connections that are slow, stall, are cut in one direction or both, and break.
//!
//! A connection keeps its order, as TCP does; two connections do not keep any. What is lost is sent again until the cut is
//! over. A process that is killed breaks its connections, one that is stopped does not.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use futures::channel::oneshot;

use super::exec::{Ctx, Micros, Proc, Sim};

/// Between two attempts to get through.
const AGAIN: Micros = 40_000;

/// See the module.
#[derive(Clone)]
pub(crate) struct Net(Rc<Inner>);

struct Inner {
    sim: Sim,
    cut: RefCell<BTreeSet<(Proc, Proc)>>,
    /// Messages in a thousand that are lost at first.
    loss: Cell<u64>,
    slow: Cell<Micros>,
}

impl Net {
    pub(crate) fn new(sim: &Sim) -> Self {
        let (cut, loss) = (RefCell::default(), Cell::new(2));
        Self(Rc::new(Inner { sim: sim.clone(), cut, loss, slow: Cell::new(0) }))
    }

    /// Nothing gets from one to the other any more.
    pub(crate) fn cut(&self, from: Proc, to: Proc) {
        self.0.cut.borrow_mut().insert((from, to));
    }

    pub(crate) fn cut_both(&self, a: Proc, b: Proc) {
        self.cut(a, b);
        self.cut(b, a);
    }

    pub(crate) fn mend(&self, a: Proc, b: Proc) {
        let mut cut = self.0.cut.borrow_mut();
        cut.remove(&(a, b));
        cut.remove(&(b, a));
    }

    pub(crate) fn heal(&self) {
        self.0.cut.borrow_mut().clear();
        self.weather(2, 0);
    }

    /// How much is lost at first, in thousandths, and what every message takes longer.
    pub(crate) fn weather(&self, loss: u64, slow: Micros) {
        self.0.loss.set(loss);
        self.0.slow.set(slow);
    }

    pub(crate) fn is_cut(&self, from: Proc, to: Proc) -> bool {
        self.0.cut.borrow().contains(&(from, to))
    }

    fn delay(&self) -> Micros {
        let (loss, slow) = (self.0.loss.get(), self.0.slow.get());
        self.0.sim.draw(|rng| {
            let stall = if rng.per_mille(loss) { rng.range(20_000, 250_000) } else { 0 };
            rng.range(80, 900) + stall + if slow > 0 { rng.range(0, slow) } else { 0 }
        })
    }

    /// Does something at the other end, when it gets there. What does not get through for long is given up.
    pub(crate) fn carry(&self, from: Proc, to: Proc, run: impl FnOnce() + 'static) {
        self.carry_until(from, to, 60, Box::new(run));
    }

    fn carry_until(&self, from: Proc, to: Proc, left: u32, run: Box<dyn FnOnce()>) {
        let (net, at) = (self.clone(), self.0.sim.now() + self.delay());
        self.0.sim.at(at, move || {
            if !net.is_cut(from, to) {
                run();
            } else if left > 0 {
                let later = net.clone();
                let at = net.0.sim.now() + AGAIN;
                net.0.sim.at(at, move || later.carry_until(from, to, left - 1, run));
            }
        });
    }

    /// Asks a service: `answer` is what it does, `None` while it says nothing. No answer does not mean that it was not done.
    pub(crate) async fn ask<T: 'static>(
        &self,
        ctx: &Ctx,
        to: Proc,
        ms: u64,
        answer: impl FnOnce() -> Option<T> + 'static,
    ) -> Option<T> {
        let (tx, rx) = oneshot::channel();
        let (net, from) = (self.clone(), ctx.me);
        self.carry(from, to, move || {
            if let Some(answer) = answer() {
                // Whoever gave up does not want to know.
                net.carry(to, from, move || drop(tx.send(answer)));
            }
        });
        ctx.within_ms(ms, rx).await.and_then(Result::ok)
    }

    /// A one-way connection.
    pub(crate) fn pipe<T: 'static>(&self, from: Proc, to: Proc) -> (Tx<T>, Rx<T>) {
        let shared = Rc::new(Shared {
            net: self.clone(),
            from,
            to,
            flying: RefCell::default(),
            inbox: RefCell::default(),
            closed: Cell::new(false),
            gone: Cell::new(false),
            reader: RefCell::default(),
            writer: RefCell::default(),
            pumping: Cell::new(false),
        });
        (Tx { shared: Rc::clone(&shared) }, Rx { shared })
    }
}

struct Shared<T> {
    net: Net,
    from: Proc,
    to: Proc,
    /// On its way: when it is there, and what; `None` is the end.
    flying: RefCell<VecDeque<(Micros, Option<T>)>>,
    inbox: RefCell<VecDeque<T>>,
    closed: Cell<bool>,
    /// The reader is gone, and the writer's end knows.
    gone: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    pumping: Cell<bool>,
}

impl<T: 'static> Shared<T> {
    fn fly(self: &Rc<Self>, what: Option<T>) {
        let sim = &self.net.0.sim;
        let last = self.flying.borrow().back().map_or(0, |(at, _)| *at);
        let at = (sim.now() + self.net.delay()).max(last + 1);
        self.flying.borrow_mut().push_back((at, what));
        if !self.pumping.replace(true) {
            let this = Rc::clone(self);
            sim.at(at, move || this.pump());
        }
    }

    fn pump(self: &Rc<Self>) {
        let sim = &self.net.0.sim;
        let cut = self.net.is_cut(self.from, self.to);
        let due = self.flying.borrow().front().map(|(at, _)| *at);
        let next = match due {
            Some(_) if cut => Some(sim.now() + AGAIN),
            Some(at) if at <= sim.now() => {
                let arrived = self.flying.borrow_mut().pop_front();
                match arrived {
                    Some((_, Some(item))) => self.inbox.borrow_mut().push_back(item),
                    Some((_, None)) => self.closed.set(true),
                    None => {}
                }
                ring(&self.reader);
                self.flying.borrow().front().map(|(at, _)| *at)
            }
            other => other,
        };
        match next {
            Some(at) => {
                let this = Rc::clone(self);
                sim.at(at, move || this.pump());
            }
            None => self.pumping.set(false),
        }
    }
}

fn ring(waker: &RefCell<Option<Waker>>) {
    let waker = waker.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// The writing end.
pub(crate) struct Tx<T: 'static> {
    shared: Rc<Shared<T>>,
}

impl<T: 'static> Tx<T> {
    /// False if the reader is known to be gone.
    pub(crate) fn send(&self, item: T) -> bool {
        if self.shared.gone.get() {
            return false;
        }
        self.shared.fly(Some(item));
        true
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.shared.gone.get()
    }

    /// Waits until the reader is known to be gone.
    pub(crate) fn watch(&self) -> impl Future<Output = ()> + use<T> {
        let shared = Rc::clone(&self.shared);
        poll_fn(move |cx| {
            if shared.gone.get() {
                return Poll::Ready(());
            }
            *shared.writer.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
    }
}

impl<T: 'static> Drop for Tx<T> {
    fn drop(&mut self) {
        self.shared.fly(None);
    }
}

/// The reading end.
pub(crate) struct Rx<T: 'static> {
    shared: Rc<Shared<T>>,
}

impl<T: 'static> Rx<T> {
    /// What comes next; `None` once the connection is closed or broken.
    pub(crate) async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| {
            if let Some(item) = self.shared.inbox.borrow_mut().pop_front() {
                return Poll::Ready(Some(item));
            }
            if self.shared.closed.get() {
                return Poll::Ready(None);
            }
            *self.shared.reader.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl<T: 'static> Drop for Rx<T> {
    fn drop(&mut self) {
        let shared = Rc::clone(&self.shared);
        let (from, to) = (shared.from, shared.to);
        let net = shared.net.clone();
        net.carry(to, from, move || {
            shared.gone.set(true);
            ring(&shared.writer);
        });
    }
}

type Waiting<T> = (RefCell<VecDeque<T>>, RefCell<Option<Waker>>);

/// A queue inside a process.
pub(crate) struct Queue<T>(Rc<Waiting<T>>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(Rc::new((RefCell::default(), RefCell::default())))
    }
}

impl<T> Queue<T> {
    pub(crate) fn push(&self, item: T) {
        self.0.0.borrow_mut().push_back(item);
        ring(&self.0.1);
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.0.0.borrow_mut().pop_front()
    }

    pub(crate) async fn next(&self) -> T {
        poll_fn(|cx| match self.pop() {
            Some(item) => Poll::Ready(item),
            None => {
                *self.0.1.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}
