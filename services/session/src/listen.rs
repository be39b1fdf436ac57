//! Serves one `subscriptions/listen` of a 2026-07-28 client for as long as its stream is open.

use std::collections::HashMap;
use std::sync::Arc;

use api::Principal;
use api::registry::Operation;
use api::session::{Answer, Event, Frame, Frames};
use chassis::telemetry::Scope;
use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use machines::{CallFrame, CallId, Effect, Filter, Input, ListKind, Listen, ListenSettings, Millis};
use mcp::Json;
use mcp::rpc::{Id, RpcError};
use tokio::sync::{broadcast, mpsc};

use crate::budget::Inside;
use crate::host::Shared;
use crate::refuse;
use crate::registries::watches::{Listener, Subscription};
use crate::wake;

/// Updates that may wait for a reader; more are dropped and logged.
const UPDATES: usize = 1024;
/// Most resources of one listen.
const MAX_RESOURCES: usize = 1024;
/// How long registries have to accept the resources before the client is acknowledged.
const ACCEPT_WITHIN_MS: Millis = 500;

/// What was asked for.
pub(crate) struct Wanted {
    pub(crate) principal: Principal,
    pub(crate) id: Id,
    pub(crate) params: Json,
}

type Outcome = (CallId, String, Result<Subscription, RpcError>);

struct Serving {
    _place: Inside,
    shared: Arc<Shared>,
    listen: Listen,
    subscriptions: HashMap<String, Subscription>,
    outcomes: SelectAll<BoxStream<'static, Outcome>>,
    changes: broadcast::Receiver<ListKind>,
    updates: mpsc::Receiver<(String, Json)>,
    updated: mpsc::Sender<(String, Json)>,
    wake: Option<Millis>,
    out: Vec<Frame>,
    done: bool,
}

/// Answers with a stream that lasts.
pub(crate) fn serve(shared: &Arc<Shared>, wanted: Wanted, scope: Scope) -> Frames {
    let filter = match Filter::read(Some(&wanted.params)) {
        Ok(filter) => filter,
        Err(error) => return refuse::refused(400, Some(&wanted.id), &error),
    };
    let place = match shared.budget.listen(&wanted.principal) {
        Ok(place) => place,
        Err(wait) => return refuse::rate_limited_for(Some(&wanted.id), "too many listen streams", wait),
    };
    let settings = shared.facts.settings(&shared.registries.catalogue());
    let listen = Listen::new(
        ListenSettings {
            server_info: settings.server_info.clone(),
            capabilities: settings.capabilities.clone(),
            id: wanted.id,
            filter,
            max_subscriptions: MAX_RESOURCES,
            accept_within_ms: ACCEPT_WITHIN_MS,
        },
        chassis::clock::dated_millis(),
    );
    let (updated, updates) = mpsc::channel(UPDATES);
    let mut serving = Serving {
        _place: place,
        shared: shared.clone(),
        listen,
        subscriptions: HashMap::new(),
        outcomes: SelectAll::new(),
        changes: shared.registries.changes(),
        updates,
        updated,
        wake: None,
        out: vec![Frame::Accepted { session: None }],
        done: false,
    };
    let frames = async_stream::stream! {
        let effects = serving.listen.start();
        serving.perform(effects);
        loop {
            for frame in serving.out.drain(..) {
                yield Ok(frame);
            }
            if serving.done {
                return;
            }
            serving.turn().await;
        }
    };
    scope.within(frames).boxed()
}

impl Serving {
    async fn turn(&mut self) {
        let timer = wake::reached(self.wake);
        let drain = self.shared.drain.clone();
        tokio::select! {
            change = self.changes.recv() => match change {
                Ok(kind) => self.take(Input::CatalogChanged(kind)),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    for kind in ListKind::ALL {
                        self.take(Input::CatalogChanged(kind));
                    }
                }
                Err(broadcast::error::RecvError::Closed) => self.take(Input::Drain),
            },
            Some((uri, params)) = self.updates.recv() => self.take(Input::ResourceUpdated { uri, params }),
            Some((call, uri, outcome)) = self.outcomes.next(), if !self.outcomes.is_empty() => {
                match outcome {
                    Ok(subscription) => {
                        self.take(Input::Frame { call, number: 0, frame: CallFrame::Result(Json::empty_object()) });
                        // What comes after the acknowledgement is not accepted any more.
                        if self.listen.accepted().uris.contains(&uri) {
                            self.subscriptions.insert(uri, subscription);
                        }
                    }
                    Err(error) => self.take(Input::Frame { call, number: 0, frame: CallFrame::Error(error) }),
                }
            }
            () = drain.cancelled() => self.take(Input::Drain),
            () = timer => {
                self.wake = None;
                self.take(Input::DeadlineReached);
            }
        }
    }

    fn take(&mut self, input: Input) {
        let effects = self.listen.step(chassis::clock::dated_millis(), input);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer { status, body, .. } => {
                    self.out.push(Frame::Answer(Answer::new(status, body)))
                }
                Effect::Open { .. } => self.out.push(Frame::Open),
                Effect::Send { event, .. } => {
                    self.out.push(Frame::Event(Event { message: event.message, ..Event::default() }));
                }
                Effect::Subscribe { call, uri } => self.subscribe(call, uri),
                Effect::Unsubscribe { uri } => {
                    self.subscriptions.remove(&uri);
                }
                Effect::WakeAt(at) => self.wake = Some(at),
                Effect::Finish { .. } | Effect::Stop(_) => self.done = true,
                Effect::Commit(_)
                | Effect::Pause { .. }
                | Effect::Call { .. }
                | Effect::Resume { .. }
                | Effect::CancelCall { .. }
                | Effect::Release { .. } => {}
            }
        }
    }

    fn subscribe(&mut self, call: CallId, uri: String) {
        let registries = self.shared.registries.clone();
        let updated = self.updated.clone();
        let outcome = async move {
            let route = match registries.route(Operation::Read, &uri, true) {
                Ok(route) => route,
                Err(error) => return (call, uri, Err(error)),
            };
            let listener: Listener = Arc::new(move |uri: &str, params: &Json| {
                if updated.try_send((uri.to_owned(), params.clone())).is_err() {
                    tracing::warn!("a listener does not keep up: an update of a resource was dropped");
                }
            });
            let subscribed = registries.subscribe(&route, &uri, listener).await;
            (call, uri, subscribed)
        };
        self.outcomes.push(futures::stream::once(outcome).boxed());
    }
}
