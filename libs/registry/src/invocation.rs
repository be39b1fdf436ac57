//! One invocation: the frames said so far, whether it runs, waits or has ended, and who listens.
//!
//! The frames are the truth: every answer to a caller (the first one, one that comes back, one that answers a question) is
//! a reading of them from some number on.

mod park;
mod reader;
mod run;
mod table;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use api::registry::{Context, Frame, FrameBody, Operation};
use mcp::rpc::RpcError;
use mcp::{Json, code};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use self::park::Parked;
pub(crate) use self::run::{Work, start};
pub use self::table::CutShort;
pub(crate) use self::table::{Begun, Table};
use crate::limits::Limits;
use crate::runtime::Clock;

/// Names an invocation within the process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) mesh: String,
    pub(crate) invocation: String,
}

impl Hash for Key {
    /// Few processes serve several meshes, and none of them the same invocation in two.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.invocation.hash(state);
    }
}

impl Key {
    pub(crate) fn of(context: &Context) -> Self {
        Self { mesh: context.mesh.clone(), invocation: context.invocation.clone() }
    }
}

/// What every invocation of a process shares.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    /// Places for invocations that wait for their client.
    pub(crate) parking: Arc<Semaphore>,
    pub(crate) instance: Arc<str>,
}

/// See the module.
pub(crate) struct Invocation {
    pub(crate) key: Arc<Key>,
    pub(crate) registry: String,
    pub(crate) operation: Operation,
    /// Whether a session owns it: only then it outlives its callers and its own ending.
    pub(crate) owned: bool,
    shared: Shared,
    inner: Mutex<Inner>,
    /// Told of every frame and every change of phase.
    changed: Notify,
    /// Told when the deadline has moved.
    moved: Notify,
    cancel: CancellationToken,
    /// Whether the handler wants to end by itself when cancelled.
    listens: AtomicBool,
    /// One question at a time.
    asking: Semaphore,
}

struct Inner {
    frames: Vec<Frame>,
    bytes: usize,
    note_bytes: usize,
    progress: f64,
    phase: Phase,
    /// Number of the latest `InputRequired` frame of each round.
    rounds: Vec<u64>,
    readers: usize,
    /// When the present round ends without having an ending.
    deadline: Option<Instant>,
    context: Arc<Context>,
}

enum Phase {
    Running,
    Parked(Parked),
    Ended,
}

/// What an invocation did when it was to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Was {
    Running,
    Parked,
    Ended,
}

impl Invocation {
    pub(crate) fn new(
        key: Arc<Key>,
        context: Arc<Context>,
        operation: Operation,
        shared: Shared,
    ) -> Arc<Self> {
        let deadline = context.deadline;
        let (registry, owned) = (context.registry.clone(), context.owner.is_some());
        let instance = shared.instance.to_string();
        let accepted = FrameBody::Accepted { invocation: context.invocation.clone(), instance };
        // Most have an ending and nothing else.
        let mut frames = Vec::with_capacity(2);
        frames.push(Frame { number: 1, body: accepted });
        let inner = Inner {
            frames,
            bytes: FRAME_BYTES,
            note_bytes: 0,
            progress: f64::NEG_INFINITY,
            phase: Phase::Running,
            rounds: Vec::new(),
            readers: 0,
            deadline,
            context,
        };
        Arc::new(Self {
            key,
            registry,
            operation,
            owned,
            shared,
            inner: Mutex::new(inner),
            changed: Notify::new(),
            moved: Notify::new(),
            cancel: CancellationToken::new(),
            listens: AtomicBool::new(false),
            asking: Semaphore::new(1),
        })
    }

    /// The context of the latest request: a client may change its wishes from round to round.
    pub(crate) fn context(&self) -> Arc<Context> {
        self.lock().context.clone()
    }

    /// Adds a progress frame, unless it goes backwards.
    pub(crate) fn progress(&self, done: f64, params: Json) {
        let mut inner = self.lock();
        if inner.context.progress && done > inner.progress {
            inner.progress = done;
            self.note(inner, FrameBody::Progress(params));
        }
    }

    /// Adds a frame that is not an ending.
    pub(crate) fn say(&self, body: FrameBody) {
        self.note(self.lock(), body);
    }

    /// Asks the handler to stop.
    pub(crate) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Ends it now, and says what it did until then. Whether its work was done nobody can say any more.
    fn give_up(&self) -> Was {
        let data = Json::trusted(r#"{"reason":"stopped","outcome":"unknown"}"#);
        let stopped = RpcError::new(code::INTERNAL_ERROR, "the registry has stopped").with_data(data);
        let was = self.end(FrameBody::Error(stopped));
        self.cancel();
        was
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Ends when the handler is asked to stop; it is then given time to end by itself.
    pub(crate) async fn cancelled(&self) {
        self.listens.store(true, Ordering::Relaxed);
        self.cancel.cancelled().await;
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }

    fn note(&self, mut inner: MutexGuard<'_, Inner>, body: FrameBody) {
        let size = size(&body);
        if matches!(inner.phase, Phase::Ended) || inner.note_bytes + size > self.shared.limits.notes_bytes {
            return;
        }
        inner.note_bytes += size;
        inner.push(body);
        drop(inner);
        self.changed.notify_waiters();
    }

    /// Adds the last frame, and says what it did until then.
    fn end(&self, body: FrameBody) -> Was {
        let mut inner = self.lock();
        let was = match inner.phase {
            Phase::Running => Was::Running,
            Phase::Parked(_) => Was::Parked,
            Phase::Ended => return Was::Ended,
        };
        inner.push(body);
        inner.phase = Phase::Ended;
        drop(inner);
        self.changed.notify_waiters();
        was
    }

    /// Bytes its frames take.
    fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn is_ended(&self) -> bool {
        matches!(self.lock().phase, Phase::Ended)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Returns the number of the new frame.
    fn push(&mut self, body: FrameBody) -> u64 {
        self.bytes += size(&body);
        let number = self.frames.last().map_or(1, |frame| frame.number + 1);
        self.frames.push(Frame { number, body });
        number
    }
}

impl fmt::Debug for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What a frame takes beside its text.
const FRAME_BYTES: usize = 128;

fn size(body: &FrameBody) -> usize {
    let text = match body {
        FrameBody::Accepted { .. } | FrameBody::Detach { .. } => 0,
        FrameBody::Progress(json)
        | FrameBody::Log(json)
        | FrameBody::Result(json)
        | FrameBody::Task(json) => json.as_str().len(),
        FrameBody::Notice { method, params } => method.len() + params.as_str().len(),
        FrameBody::Error(error) => {
            error.message.len() + error.data.as_ref().map_or(0, |data| data.as_str().len())
        }
        FrameBody::InputRequired(input) => input.requests.as_str().len(),
    };
    FRAME_BYTES + text
}
