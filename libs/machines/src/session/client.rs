//! What each message of a client leads to.

use mcp::log::Level;
use mcp::method::notification;
use mcp::rpc::{self, Id, Message, Notification, Request, RpcError};
use mcp::{Json, Method, Revision, code};

use super::phase::{Phase, Trigger};
use super::turn::Turn;
use crate::input::StreamId;
use crate::snapshot::Change;
use crate::wire::{self, Outcome};

impl Turn<'_> {
    pub(super) fn client(&mut self, stream: StreamId, message: Message, key: Option<String>) {
        self.key = key;
        self.live.readers.insert(stream);
        self.live.active = self.now;
        match self.live.phase {
            Phase::Failed | Phase::Terminated => {
                let id = if let Message::Request(request) = &message { Some(&request.id) } else { None };
                self.too_late(stream, id);
            }
            Phase::Uninitialised => self.first_message(stream, &message),
            Phase::Initialising | Phase::Initialised | Phase::Processing => match message {
                Message::Request(request) => self.request(stream, request),
                Message::Notification(notification) => self.notification(stream, &notification),
                Message::Response(response) => self.response(stream, response),
            },
        }
        if self.live.carried {
            self.acknowledge(stream);
        }
    }

    /// A request that an owner before may have begun, or even answered: that is all that can be said of it.
    pub(super) fn forgotten(&mut self, stream: StreamId, id: &Id) {
        self.live.readers.insert(stream);
        self.live.active = self.now;
        if !self.live.phase.is_alive() {
            return self.too_late(stream, Some(id));
        }
        self.refuse(stream, 200, Some(id), &wire::lost("owner_failover", Outcome::Unknown));
    }

    fn too_late(&mut self, stream: StreamId, id: Option<&Id>) {
        self.refuse(stream, 404, id, &wire::session_not_found());
        if self.live.phase == Phase::Failed {
            self.advance(Trigger::CleanedUp);
        }
    }

    /// Before `initialize` only `ping` is answered.
    fn first_message(&mut self, stream: StreamId, message: &Message) {
        let refusal = RpcError::new(code::INVALID_REQUEST, "the session must begin with `initialize`");
        match message {
            Message::Request(request) => {
                let method = Method::parse(&request.method);
                if method == Some(Method::Initialize) {
                    self.initialize(stream, request);
                } else if method == Some(Method::Ping) {
                    self.succeed(stream, &request.id);
                } else {
                    self.refuse(stream, 400, Some(&request.id), &refusal);
                }
            }
            Message::Notification(_) | Message::Response(_) => self.refuse(stream, 400, None, &refusal),
        }
    }

    /// Answers `{}`.
    pub(super) fn succeed(&mut self, stream: StreamId, id: &Id) {
        self.answer(stream, 200, Some(rpc::result(id, &Json::empty_object())));
    }

    /// A request after `initialize` was answered. It need not wait for `notifications/initialized`: whoever sends it has
    /// the answer, and the notification may still be on its way.
    fn request(&mut self, stream: StreamId, request: Request) {
        let id = &request.id;
        if self.live.calls.values().any(|call| call.id == *id) {
            let error = RpcError::new(code::INVALID_REQUEST, "a request with this id is still under way");
            return self.refuse(stream, 400, Some(id), &error);
        }
        let method = Method::parse(&request.method);
        if method == Some(Method::Initialize) {
            let error = RpcError::new(code::INVALID_REQUEST, "the session is already initialised");
            return self.refuse(stream, 400, Some(id), &error);
        }
        if method == Some(Method::Ping) {
            return self.succeed(stream, id);
        }
        if self.live.phase == Phase::Initialising {
            self.confirmed();
        }
        let Some(method) = method.filter(|m| m.exists_in(self.revision()) && self.serves(*m)) else {
            let error = RpcError::new(code::METHOD_NOT_FOUND, "method not found");
            return self.refuse(stream, 200, Some(id), &error);
        };
        self.serve(stream, method, request);
    }

    fn serve(&mut self, stream: StreamId, method: Method, request: Request) {
        match method {
            // Answered before, or not of this era.
            Method::Initialize | Method::Ping | Method::Discover | Method::Listen => {}
            Method::SetLevel => self.set_level(stream, &request),
            Method::ResourcesSubscribe => self.subscribe(stream, &request),
            Method::ResourcesUnsubscribe => self.unsubscribe(stream, &request),
            Method::ToolsList
            | Method::ToolsCall
            | Method::ResourcesList
            | Method::ResourceTemplatesList
            | Method::ResourcesRead
            | Method::PromptsList
            | Method::PromptsGet
            | Method::Complete => self.start(stream, method, request),
        }
    }

    /// Whether the server has declared what the method belongs to.
    fn serves(&self, method: Method) -> bool {
        match method {
            Method::Initialize | Method::Ping => true,
            Method::Discover | Method::Listen => false,
            Method::ToolsList | Method::ToolsCall => self.offers(&["tools"]),
            Method::PromptsList | Method::PromptsGet => self.offers(&["prompts"]),
            Method::ResourcesList | Method::ResourceTemplatesList | Method::ResourcesRead => {
                self.offers(&["resources"])
            }
            Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => {
                self.offers(&["resources", "subscribe"])
            }
            Method::Complete => self.offers(&["completions"]),
            Method::SetLevel => self.offers(&["logging"]),
        }
    }

    fn set_level(&mut self, stream: StreamId, request: &Request) {
        let named = request.params.as_ref().and_then(|params| params.text("level"));
        let Some(level) = named.and_then(|name| Level::parse(&name)) else {
            let error = RpcError::new(code::INVALID_PARAMS, "`level` must be one of the eight log levels");
            return self.refuse(stream, 200, Some(&request.id), &error);
        };
        if self.saved.level != Some(level) {
            self.change(Change::LevelSet(level));
        }
        self.succeed(stream, &request.id);
    }

    /// Notifications are always accepted; those that mean nothing here are ignored.
    fn notification(&mut self, stream: StreamId, notification: &Notification) {
        match notification.method.as_str() {
            notification::INITIALIZED if self.live.phase == Phase::Initialising => self.confirmed(),
            notification::CANCELLED => self.cancelled(notification.params.as_ref()),
            _ => {}
        }
        self.answer(stream, 202, None);
    }

    /// Events have numbers that a client can come back with.
    pub(super) fn resumable(&self) -> bool {
        self.revision() >= Revision::V2025_03_26
    }
}
