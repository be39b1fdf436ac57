//! 2024-11-05's transport: a client opens one event stream, is told where to post, and everything comes back on the stream.

use std::sync::{Arc, Mutex, PoisonError};

use api::session::{Close, Event, Frame, Frames, Transport};
use api::{KeyRing, Principal, SessionId, Slot};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::{StreamExt as _, future, stream};
use tokio::sync::mpsc;

use super::admit::http_sse as admit;
use super::{body, caller, post, quota, reply};
use crate::app::Edge;
use crate::forward::{Call, Forward};

/// Sessions whose clients have gone that may wait to be ended; what finds no room ends by itself, a while later.
const WAITING: usize = 4096;
/// Of these, how many are ended at a time.
const AT_A_TIME: usize = 64;

/// Opens a session on any node. It ends with this response.
pub(super) async fn events(State(edge): State<Edge>, request: Request) -> Response {
    if let Err(refusal) = admit::events(request.method(), request.headers()) {
        return reply::refusal(refusal);
    }
    let caller = match caller::of(request.extensions()) {
        Ok(caller) => caller,
        Err(refusal) => return *refusal,
    };
    let place = match quota::stream(request.extensions(), None) {
        Ok(place) => place,
        Err(refusal) => return *refusal,
    };
    let slot_of = |session: &str| slot_of(edge.keys(), session);
    let taken = edge.forward().begin(caller.principal.clone(), slot_of).await;
    let endpoint = |session: &str| format!("{}?{}={session}", edge.message_path(), admit::SESSION);
    reply::begun(&edge, caller, taken, place, endpoint).await
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

/// Once this gateway drains, asks the session's node to end it with its last call.
pub(super) async fn leave(edge: Edge, session: String, principal: Principal) {
    edge.shutdown().requested().await;
    let Some(slot) = slot_of(edge.keys(), &session) else { return };
    let transport = Transport::HttpSse;
    let call = Call::Close(Close { session, revision: None, principal, when_idle: true, transport });
    if let Err(error) = edge.forward().send(call, Some(slot)).await {
        tracing::debug!(error = %error.message, "a session was not told that its gateway drains");
    }
}

/// A session that ends when its client goes.
pub(super) struct Client {
    farewells: Arc<Farewells>,
    session: Option<(String, Principal)>,
}

impl Client {
    pub(super) fn new(farewells: Arc<Farewells>, session: String, principal: Principal) -> Self {
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
        let end = |(session, principal): (String, Principal)| {
            let (forward, slot) = (forward.clone(), slot_of(keys, &session));
            async move {
                let transport = Transport::HttpSse;
                let close = Close { session, revision: None, principal, when_idle: false, transport };
                if let Err(error) = forward.send(Call::Close(close), slot).await {
                    tracing::debug!(error = %error.message, "a session was not told that its client has gone");
                }
            }
        };
        stream::poll_fn(move |cx| waiting.poll_recv(cx)).for_each_concurrent(AT_A_TIME, end).await;
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
