//! Stops an owner at a point of what it does, to the microsecond.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::Poll;

use futures::channel::oneshot;
use machines::Change;
use machines::snapshot::CallChange;

use crate::world::{Ctx, Micros, Proc};

/// What an owner is stopped around.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Around {
    /// A commit.
    Commit,
    /// The commit that says that a call is sent, and the sending.
    Dispatch,
}

/// A point that an owner passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    /// Before a commit leaves.
    Commit,
    /// The same, of one that says that a call is sent.
    Dispatch,
    /// Before a call is sent, which the store knows of.
    Send,
}

impl Point {
    pub(crate) fn of(changes: &[Change]) -> Self {
        let sends = |change: &Change| matches!(change, Change::Call(_, CallChange::Dispatched));
        if changes.iter().any(sends) { Self::Dispatch } else { Self::Commit }
    }

    const fn is(self, around: Around, exactly: bool) -> bool {
        match around {
            Around::Commit => matches!(self, Self::Commit | Self::Dispatch),
            Around::Dispatch if exactly => matches!(self, Self::Send),
            Around::Dispatch => matches!(self, Self::Dispatch),
        }
    }
}

struct Set {
    around: Around,
    /// Points that pass before it springs.
    left: Cell<u64>,
    /// How long behind the point; 0 = exactly there.
    after: Micros,
    sprung: oneshot::Sender<Proc>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Trap(RefCell<Option<Set>>);

impl Trap {
    /// Sets it. What comes back says who was caught.
    pub(crate) fn set(&self, around: Around, passing: u64, after: Micros) -> oneshot::Receiver<Proc> {
        let (sprung, caught) = oneshot::channel();
        *self.0.borrow_mut() = Some(Set { around, left: Cell::new(passing), after, sprung });
        caught
    }

    /// A process passes a point, and may not get on from there for a while.
    pub(crate) async fn pass(&self, ctx: &Ctx, point: Point) {
        let springs = |set: &mut Set| {
            let fits = point.is(set.around, set.after == 0);
            fits && set.left.replace(set.left.get().saturating_sub(1)) == 0
        };
        let Some(set) = self.0.borrow_mut().take_if(springs) else { return };
        let (sim, me) = (ctx.sim.clone(), ctx.me);
        // Whoever set it waits.
        let _heard = set.sprung.send(me).is_ok();
        if set.after > 0 {
            let stopping = sim.clone();
            return sim.at(sim.now() + set.after, move || stopping.stop(me));
        }
        sim.stop(me);
        let mut is_back = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut is_back, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
