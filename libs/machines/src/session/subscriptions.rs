//! Watched resources and changed lists.

use mcp::method::notification;
use mcp::rpc::{self, Request};
use mcp::{Json, Method};

use super::phase::Phase;
use super::turn::Turn;
use crate::effect::Effect;
use crate::input::{CallId, ListKind, StreamId};
use crate::journal::JournalState;
use crate::snapshot::Change;
use crate::wire;

impl Turn<'_> {
    /// `resources/subscribe`: answered when a registry has accepted it.
    pub(super) fn subscribe(&mut self, stream: StreamId, request: &Request) {
        let Some(uri) = request.params.as_ref().and_then(|params| params.text("uri")) else {
            return self.bad_params(stream, request, "`uri` must be a string");
        };
        if self.saved.subscriptions.contains(&uri) {
            return self.succeed(stream, &request.id);
        }
        if self.saved.subscriptions.len() >= self.settings.max_subscriptions {
            let error = wire::rate_limited("too many resources are watched");
            return self.refuse(stream, 429, Some(&request.id), &error);
        }
        if !self.has_room(stream, request) {
            return;
        }
        let params = request.params.clone().unwrap_or_else(Json::empty_object);
        let (call, _) = self.take_on(stream, Method::ResourcesSubscribe, request, params, None);
        self.want(Effect::Subscribe { call, uri });
    }

    /// A registry watches the resource.
    pub(super) fn subscribed(&mut self, call: CallId, _result: &Json) {
        let uri = self.live.calls.get(&call).and_then(|c| c.params.text("uri"));
        if let Some(uri) = uri.filter(|uri| !self.saved.subscriptions.contains(uri)) {
            self.change(Change::Subscribed(uri));
        }
        self.end(call, Ok(Json::empty_object()), JournalState::Done);
    }

    /// `resources/unsubscribe`: for what is not watched, too, the answer is yes.
    pub(super) fn unsubscribe(&mut self, stream: StreamId, request: &Request) {
        let Some(uri) = request.params.as_ref().and_then(|params| params.text("uri")) else {
            return self.bad_params(stream, request, "`uri` must be a string");
        };
        if self.saved.subscriptions.contains(&uri) {
            self.change(Change::Unsubscribed(uri.clone()));
            self.want(Effect::Unsubscribe { uri });
        }
        self.succeed(stream, &request.id);
    }

    /// Whether the client may be told anything it did not ask for.
    const fn may_notify(&self) -> bool {
        match self.live.phase {
            Phase::Initialised | Phase::Processing => true,
            Phase::Uninitialised | Phase::Initialising | Phase::Failed | Phase::Terminated => false,
        }
    }

    pub(super) fn catalog_changed(&mut self, kind: ListKind) {
        if self.may_notify() && wire::announces(&self.settings.capabilities, kind) {
            let (now, handshake) = (self.settings.lists, self.saved.handshake.as_ref());
            let told = handshake.and_then(|handshake| handshake.lists);
            let lists = told.map_or(now, |told| told.with(kind, now.of(kind)));
            if told != Some(lists) {
                self.change(Change::Listed(lists));
            }
            self.notify(rpc::notification(wire::list_changed(kind), None));
        }
    }

    pub(super) fn resource_updated(&mut self, uri: &str, params: &Json) {
        if self.may_notify() && self.saved.subscriptions.contains(uri) {
            self.notify(rpc::notification(notification::RESOURCE_UPDATED, Some(params)));
        }
    }
}
