//! A caller's reading of an invocation's frames, from some number on, until the ending.

use std::sync::Arc;

use api::registry::{Frame, FrameBody, Frames};
use futures::stream::{self, StreamExt as _};

use super::{Invocation, Phase};

struct Reader {
    invocation: Arc<Invocation>,
    seen: u64,
    done: bool,
}

enum Step {
    Say { frame: Frame, is_last: bool },
    Wait,
    Over,
}

impl Invocation {
    /// Its frames behind number `after`. A question that still waits for its answer ends the reading, unless the reader
    /// has seen it already; one that has been answered or given up does not.
    pub(crate) fn frames(self: &Arc<Self>, after: u64) -> Frames {
        self.lock().readers += 1;
        let reader = Reader { invocation: self.clone(), seen: after, done: false };
        stream::unfold(reader, |mut reader| async move {
            let frame = reader.next().await?;
            Some((Ok(frame), reader))
        })
        .boxed()
    }

    fn step(&self, seen: u64) -> Step {
        let inner = self.lock();
        let next = usize::try_from(seen).ok().and_then(|seen| inner.frames.get(seen));
        match (next, &inner.phase) {
            (Some(frame), phase) => {
                let is_pending = matches!(phase, Phase::Parked(parked) if parked.number == frame.number);
                let is_final = matches!(phase, Phase::Ended)
                    && frame.number == inner.frames.last().map_or(0, |last| last.number);
                let is_last = match &frame.body {
                    FrameBody::InputRequired(_) => is_pending || is_final,
                    FrameBody::Result(_) | FrameBody::Error(_) | FrameBody::Task(_) => true,
                    FrameBody::Accepted { .. }
                    | FrameBody::Progress(_)
                    | FrameBody::Log(_)
                    | FrameBody::Notice { .. }
                    | FrameBody::Detach { .. } => false,
                };
                Step::Say { frame: frame.clone(), is_last }
            }
            (None, Phase::Running | Phase::Parked(_)) => Step::Wait,
            (None, Phase::Ended) => Step::Over,
        }
    }

    fn reader_gone(&self, done: bool, seen: u64) {
        let mut inner = self.lock();
        inner.readers -= 1;
        let last_one = inner.readers == 0;
        let unheard = match &inner.phase {
            Phase::Running => true,
            Phase::Parked(parked) => seen < parked.number,
            Phase::Ended => false,
        };
        drop(inner);
        if !self.owned && !done && last_one && unheard {
            self.cancel();
        }
    }
}

impl Reader {
    async fn next(&mut self) -> Option<Frame> {
        if self.done {
            return None;
        }
        loop {
            // Made before looking, so that nothing is missed that comes after.
            let changed = self.invocation.changed.notified();
            match self.invocation.step(self.seen) {
                Step::Say { frame, is_last } => {
                    self.seen = frame.number;
                    self.done = is_last;
                    return Some(frame);
                }
                Step::Over => {
                    self.done = true;
                    return None;
                }
                Step::Wait => changed.await,
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.invocation.reader_gone(self.done, self.seen);
    }
}
