//! 2024-11-05's transport: a client opens one event stream, is told where to post, and everything comes back on the stream.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api::session::{Close, Event, Frame, Frames, Transport};
use api::{KeyRing, Principal, SessionId, Slot};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::{StreamExt as _, future, stream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::admit::http_sse as admit;
use super::{body, caller, post, quota, reply};
use crate::app::Edge;
use crate::forward::{Call, Forward, Taken};

/// Sessions whose clients have gone that may wait for their owners to be told; as many again wait behind them. What finds no room
/// there ends by itself: ten seconds after it was loaded by an owner, else with what the store keeps of it.
const WAITING: usize = 4096;
/// How many are told at a time.
const AT_A_TIME: usize = 64;
/// One that takes longer waits for an owner, and keeps nobody else from being told.
const PROMPT: Duration = Duration::from_secs(1);
/// When an owner that could not be told that this gateway drains is told again.
const AGAIN: Duration = Duration::from_secs(1);

/// Opens a session on any node. It ends with this response.
pub(super) async fn events(State(edge): State<Edge>, request: Request) -> Response {
    if let Err(refusal) = admit::events(request.method(), request.headers()) {
        return reply::refusal(refusal);
    }
    let caller = match caller::of(request.extensions()) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    let place = match quota::stream(edge.limits(), request.extensions(), None) {
        Ok(place) => place,
        Err(refusal) => return *refusal,
    };
    let slot_of = |session: &str| slot_of(edge.keys(), session);
    let (tell, owners) = watch::channel(0);
    let taken = edge.forward().begin(caller.principal.clone(), slot_of, tell).await;
    let endpoint = |session: &str| format!("{}?{}={session}", edge.message_path(), admit::SESSION);
    reply::begun(&edge, caller, (taken, owners), place, endpoint).await
}

fn slot_of(keys: &KeyRing, session: &str) -> Option<Slot> {
    SessionId::parse(keys, session).map(|id| id.slot())
}

/// What the client is shown of the frames: no ids, and nothing that has only one.
pub(super) fn shown(frames: Frames) -> Frames {
    let without_id = |frame| match frame {
        Ok(Frame::Event(Event { id: Some(_), message: None, .. })) => None,
        Ok(Frame::Event(event)) => Some(Ok(Frame::Event(Event { id: None, ..event }))),
        other => Some(other),
    };
    frames.filter_map(move |frame| future::ready(without_id(frame))).boxed()
}

/// Once this gateway drains, asks the session's node to end it with its last call, and each of the `owners` that go on with its
/// stream after that.
pub(super) async fn leave(
    edge: Edge,
    session: String,
    principal: Principal,
    mut owners: watch::Receiver<u64>,
) {
    edge.shutdown().requested().await;
    let Some(slot) = slot_of(edge.keys(), &session) else { return };
    let transport = Transport::HttpSse;
    let close = Close { session, revision: None, principal, when_idle: true, transport };
    loop {
        owners.mark_unchanged();
        let told = edge.forward().send(Call::Close(close.clone()), Some(slot)).await;
        let next = owners.changed();
        let is_over = match told {
            Ok(Taken::Accepted { .. }) => next.await.is_err(),
            // Not now, or by nobody that could be found.
            Ok(Taken::Refused(_)) | Err(_) => matches!(timeout(AGAIN, next).await, Ok(Err(_))),
        };
        if is_over {
            return;
        }
    }
}

/// A session that ends when its client goes.
pub(crate) struct Client {
    farewells: Arc<Farewells>,
    session: Option<(String, Principal)>,
}

impl Client {
    pub(crate) fn new(farewells: Arc<Farewells>, session: String, principal: Principal) -> Self {
        Self { farewells, session: Some((session, principal)) }
    }

    /// The session has ended before.
    pub(super) fn forget(mut self) {
        self.session = None;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(gone) = self.session.take() {
            // The session's own patience ends it where this does not.
            let _told = self.farewells.gone.try_send(gone).is_ok();
        }
    }
}

/// Ends sessions whose clients have gone: their nodes cannot tell that from a link that broke.
#[derive(Debug)]
pub(crate) struct Farewells {
    gone: mpsc::Sender<(String, Principal)>,
    waiting: Mutex<Option<mpsc::Receiver<(String, Principal)>>>,
}

impl Farewells {
    pub(crate) fn new() -> Arc<Self> {
        let (gone, waiting) = mpsc::channel(WAITING);
        Arc::new(Self { gone, waiting: Mutex::new(Some(waiting)) })
    }

    /// Runs as long as it is polled. The second time there is nothing to do.
    pub(crate) async fn run(&self, forward: Arc<Forward>, keys: &KeyRing) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut waiting) = waiting else { return future::pending().await };
        let room = Semaphore::new(AT_A_TIME);
        let end = |(session, principal): (String, Principal)| tell(&forward, keys, &room, session, principal);
        stream::poll_fn(move |cx| waiting.poll_recv(cx)).for_each_concurrent(WAITING, end).await;
    }
}

/// Tells the owner of a session that its client has gone.
async fn tell(
    forward: &Arc<Forward>,
    keys: &KeyRing,
    room: &Semaphore,
    session: String,
    principal: Principal,
) {
    let Some(slot) = slot_of(keys, &session) else { return };
    let transport = Transport::HttpSse;
    let close = Close { session, revision: None, principal, when_idle: false, transport };
    // It is never closed.
    let place = room.acquire().await.ok();
    let mut telling = pin!(forward.part(close, slot));
    let told = match timeout(PROMPT, telling.as_mut()).await {
        Ok(told) => told,
        Err(_late) => {
            drop(place);
            telling.await
        }
    };
    if let Err(error) = told {
        tracing::debug!(error = %error.message, "a session was not told that its client has gone");
    }
}

/// Takes a message of such a session, at whichever gateway it lands.
pub(super) async fn messages(State(edge): State<Edge>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let session = match admit::head(edge.keys(), &parts.method, &parts.uri, &parts.headers) {
        Ok(session) => session,
        Err(refusal) => return reply::refusal(refusal),
    };
    match body::read(body, edge.body()).await {
        Ok(body) => {
            let admitted = admit::message(session, &parts.headers, &body);
            post::pass_on(&edge, &parts, &body, admitted, Transport::HttpSse).await
        }
        Err(unread) => body::refuse(unread),
    }
}
