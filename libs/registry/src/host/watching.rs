//! One subscriber: its wishes come in, what has changed goes out.

use std::collections::VecDeque;
use std::sync::Arc;

use api::Error;
use api::registry::{Operation, SubscriptionChange, SubscriptionEvent};
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use mcp::code;
use mcp::rpc::RpcError;
use tokio::sync::Notify;

use crate::state::State;

/// Ends with the stream of wishes, or when the process has nothing left.
pub(super) fn events(
    state: Arc<State>,
    changes: BoxStream<'static, SubscriptionChange>,
    closed: BoxFuture<'static, ()>,
    most: usize,
) -> BoxStream<'static, Result<SubscriptionEvent, Error>> {
    let (number, bell) = state.subscriptions.open();
    let place = Place { state, number };
    let watching = Watching { place, bell, changes, closed, most, due: VecDeque::new() };
    stream::unfold(watching, |mut watching| async move {
        let event = watching.next().await?;
        Some((Ok(event), watching))
    })
    .boxed()
}

/// A watcher's place, given up with it.
struct Place {
    state: Arc<State>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.subscriptions.close(self.number, |uri| self.state.unwatch(uri));
    }
}

struct Watching {
    place: Place,
    bell: Arc<Notify>,
    changes: BoxStream<'static, SubscriptionChange>,
    closed: BoxFuture<'static, ()>,
    most: usize,
    due: VecDeque<SubscriptionEvent>,
}

impl Watching {
    async fn next(&mut self) -> Option<SubscriptionEvent> {
        loop {
            if let Some(event) = self.due.pop_front() {
                return Some(event);
            }
            tokio::select! {
                () = &mut self.closed => return None,
                () = self.bell.notified() => {
                    let due = self.place.state.subscriptions.take_due(self.place.number);
                    self.due.extend(due.into_iter().map(SubscriptionEvent::Updated));
                }
                change = self.changes.next() => {
                    let answer = self.apply(change?);
                    self.due.extend(answer);
                }
            }
        }
    }

    fn apply(&self, change: SubscriptionChange) -> Option<SubscriptionEvent> {
        let Place { state, number } = &self.place;
        match change {
            SubscriptionChange::Remove(uri) => {
                state.subscriptions.remove(*number, &uri, || state.unwatch(&uri));
                None
            }
            SubscriptionChange::Add(uri) => {
                let refuse = |error: crate::Error| match error.into_outcome(Operation::Read) {
                    Err(error) => error,
                    Ok(_) => RpcError::new(code::INTERNAL_ERROR, "the resource cannot be watched"),
                };
                let too_many = || {
                    crate::Error::Rpc(RpcError::reason(
                        "too many resources are watched",
                        "too_many_subscriptions",
                    ))
                };
                let added = state.subscriptions.add(*number, &uri, self.most, || state.watch(&uri), too_many);
                Some(match added {
                    Ok(()) => SubscriptionEvent::Accepted(uri),
                    Err(error) => SubscriptionEvent::Refused(uri, refuse(error)),
                })
            }
        }
    }
}
