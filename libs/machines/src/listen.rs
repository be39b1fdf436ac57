//! The listen machine: one `subscriptions/listen` of a 2026-07-28 client.
//!
//! Its first message is the acknowledgement of what was accepted, so it waits until it is known which resources are
//! watched. Nothing is kept: whoever comes back listens anew.

use std::collections::{BTreeMap, BTreeSet};

use mcp::edit::{self, ObjectEditor};
use mcp::method::notification;
use mcp::rpc::{self, Id, RpcError};
use mcp::{Json, code, meta, scan};

use crate::effect::{Effect, Effects, Event, StopReason};
use crate::input::{CallFrame, CallId, Input, ListKind, Millis, StreamId};
use crate::wire;

/// What a client wants to hear about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// `toolsListChanged`
    pub tools: bool,
    /// `promptsListChanged`
    pub prompts: bool,
    /// `resourcesListChanged`
    pub resources: bool,
    /// `resourceSubscriptions`
    pub uris: BTreeSet<String>,
}

impl Filter {
    /// Reads `params.notifications`; members it does not know are left alone.
    ///
    /// # Errors
    /// -32602 if it is missing or a member has another type.
    pub fn read(params: Option<&Json>) -> Result<Self, RpcError> {
        let bad = |why: &str| RpcError::new(code::INVALID_PARAMS, why);
        let filter = params.and_then(|p| p.member("notifications")).filter(|f| scan::is_object(f.as_str()));
        let Some(filter) = filter else { return Err(bad("`notifications` must be an object")) };
        let flag = |key: &str| match scan::member(filter.as_str(), key) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(bad("a list is listened to with true or false")),
        };
        let mut uris = BTreeSet::new();
        if let Some(raw) = scan::member(filter.as_str(), "resourceSubscriptions") {
            if !raw.starts_with('[') {
                return Err(bad("`resourceSubscriptions` must be an array of URIs"));
            }
            for item in scan::elements(raw) {
                let uri = scan::string(item)
                    .ok_or_else(|| bad("`resourceSubscriptions` must be an array of URIs"))?;
                uris.insert(uri.into_owned());
            }
        }
        Ok(Self {
            tools: flag("toolsListChanged")?,
            prompts: flag("promptsListChanged")?,
            resources: flag("resourcesListChanged")?,
            uris,
        })
    }

    const fn wants(&self, kind: ListKind) -> bool {
        match kind {
            ListKind::Tools => self.tools,
            ListKind::Resources => self.resources,
            ListKind::Prompts => self.prompts,
        }
    }

    fn text(&self) -> Json {
        let mut editor = ObjectEditor::new("{}");
        let flags = [
            ("toolsListChanged", self.tools),
            ("promptsListChanged", self.prompts),
            ("resourcesListChanged", self.resources),
        ];
        for (key, _) in flags.into_iter().filter(|(_, set)| *set) {
            editor.set(key, "true");
        }
        let uris = Json::of(&self.uris);
        if !self.uris.is_empty() {
            editor.set("resourceSubscriptions", uris.as_str());
        }
        editor.finish_json()
    }
}

/// What a listen is told once.
#[derive(Debug, Clone, PartialEq)]
pub struct ListenSettings {
    /// The server's Implementation object.
    pub server_info: Json,
    /// The server's capabilities: only what they offer is accepted.
    pub capabilities: Json,
    /// The client's request id.
    pub id: Id,
    /// What the client wants.
    pub filter: Filter,
    /// Most resources of one listen; more are not accepted.
    pub max_subscriptions: usize,
    /// A resource that no registry has accepted within this is not accepted.
    pub accept_within_ms: Millis,
}

/// One listen. Its stream is [`Listen::STREAM`]; each resource is subscribed to under a call of its own.
#[derive(Debug, Clone)]
pub struct Listen {
    settings: ListenSettings,
    stage: Stage,
    deadline: Millis,
    accepted: Filter,
    /// Resources that no registry has answered for.
    asked: BTreeMap<CallId, String>,
    /// Lists that changed before the acknowledgement.
    changed: BTreeSet<ListKind>,
    /// Resources that changed before the acknowledgement.
    updated: BTreeMap<String, Json>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Subscribing,
    Acknowledged,
    Over,
}

impl Listen {
    /// The stream of the answer.
    pub const STREAM: StreamId = StreamId(1);

    /// A listen that has not started.
    #[must_use]
    pub fn new(settings: ListenSettings, now: Millis) -> Self {
        let deadline = now.saturating_add(settings.accept_within_ms);
        let offered = |kind| settings.filter.wants(kind) && wire::announces(&settings.capabilities, kind);
        let accepted = Filter {
            tools: offered(ListKind::Tools),
            prompts: offered(ListKind::Prompts),
            resources: offered(ListKind::Resources),
            uris: BTreeSet::new(),
        };
        let watches = scan::path(settings.capabilities.as_str(), &["resources", "subscribe"]) == Some("true");
        let most = if watches { settings.max_subscriptions } else { 0 };
        let asked = (1..).map(CallId).zip(settings.filter.uris.iter().take(most).cloned()).collect();
        Self {
            settings,
            stage: Stage::Subscribing,
            deadline,
            accepted,
            asked,
            changed: BTreeSet::new(),
            updated: BTreeMap::new(),
        }
    }

    /// Opens the stream and subscribes to the resources; acknowledges as soon as it is known which are accepted.
    pub fn start(&mut self) -> Effects {
        let mut effects = vec![Effect::Open { stream: Self::STREAM }];
        let subscribe = |(call, uri): (&CallId, &String)| Effect::Subscribe { call: *call, uri: uri.clone() };
        effects.extend(self.asked.iter().map(subscribe));
        if self.asked.is_empty() {
            self.acknowledge(&mut effects);
        } else {
            effects.push(Effect::WakeAt(self.deadline));
        }
        effects
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// What was accepted so far.
    #[must_use]
    pub const fn accepted(&self) -> &Filter {
        &self.accepted
    }

    /// Takes one input and says what is to be done.
    pub fn step(&mut self, now: Millis, input: Input) -> Effects {
        let mut effects = Effects::new();
        if self.is_over() {
            return effects;
        }
        match input {
            Input::Frame { call, frame, .. } => self.frame(call, &frame, &mut effects),
            Input::DeadlineReached => match self.stage {
                Stage::Subscribing if self.deadline <= now => self.acknowledge(&mut effects),
                Stage::Subscribing => effects.push(Effect::WakeAt(self.deadline)),
                Stage::Acknowledged | Stage::Over => {}
            },
            Input::CatalogChanged(kind) if self.accepted.wants(kind) => match self.stage {
                Stage::Subscribing => {
                    self.changed.insert(kind);
                }
                Stage::Acknowledged => effects.push(self.list_changed(kind)),
                Stage::Over => {}
            },
            Input::ResourceUpdated { uri, params } => match self.stage {
                Stage::Subscribing => {
                    self.updated.insert(uri, params);
                }
                Stage::Acknowledged if self.accepted.uris.contains(&uri) => {
                    effects.push(self.resource_updated(&params))
                }
                Stage::Acknowledged | Stage::Over => {}
            },
            Input::ReaderGone(_) => self.end(&mut effects),
            Input::Drain => {
                if self.stage == Stage::Subscribing {
                    self.acknowledge(&mut effects);
                }
                effects.push(send(self.final_response()));
                effects.push(Effect::Finish { stream: Self::STREAM });
                self.end(&mut effects);
            }
            // A message that is not this listen's business.
            Input::Client { stream, .. } | Input::Forgotten { stream, .. } | Input::Close { stream } => {
                effects.push(Effect::Answer { stream, status: 400, body: None });
            }
            Input::CatalogChanged(_) | Input::ReaderAttached(_) | Input::CommitRefused(_) => {}
        }
        effects
    }

    fn frame(&mut self, call: CallId, frame: &CallFrame, effects: &mut Effects) {
        let accepts = match frame {
            CallFrame::Accepted { .. }
            | CallFrame::Progress(_)
            | CallFrame::Log(_)
            | CallFrame::Notice { .. }
            | CallFrame::Detach { .. } => return,
            CallFrame::Result(_) => true,
            CallFrame::Error(_)
            | CallFrame::InputRequired { .. }
            | CallFrame::Task(_)
            | CallFrame::Lost { .. } => false,
        };
        let Some(uri) = self.asked.remove(&call) else { return };
        if accepts {
            self.accepted.uris.insert(uri);
        }
        if self.asked.is_empty() && self.stage == Stage::Subscribing {
            self.acknowledge(effects);
        }
    }

    /// Says what was accepted, and then what has happened meanwhile.
    fn acknowledge(&mut self, effects: &mut Effects) {
        self.stage = Stage::Acknowledged;
        let unsubscribe = |uri| Effect::Unsubscribe { uri };
        effects.extend(std::mem::take(&mut self.asked).into_values().map(unsubscribe));
        let filter = self.accepted.text();
        let params = edit::object([("notifications", filter.as_str().into())]);
        effects.push(self.tagged(notification::LISTEN_ACKNOWLEDGED, params.as_str()));
        for kind in std::mem::take(&mut self.changed) {
            effects.push(self.list_changed(kind));
        }
        for (uri, params) in std::mem::take(&mut self.updated) {
            if self.accepted.uris.contains(&uri) {
                effects.push(self.resource_updated(&params));
            }
        }
    }

    fn end(&mut self, effects: &mut Effects) {
        self.stage = Stage::Over;
        let uris = std::mem::take(&mut self.accepted.uris).into_iter();
        let unanswered = std::mem::take(&mut self.asked).into_values();
        effects.extend(uris.chain(unanswered).map(|uri| Effect::Unsubscribe { uri }));
        effects.push(Effect::Stop(StopReason::Done));
    }

    fn list_changed(&self, kind: ListKind) -> Effect {
        self.tagged(wire::list_changed(kind), "{}")
    }

    fn resource_updated(&self, params: &Json) -> Effect {
        self.tagged(notification::RESOURCE_UPDATED, params.as_str())
    }

    /// A notification that says which listen it belongs to.
    fn tagged(&self, method: &str, params: &str) -> Effect {
        let id = self.settings.id.raw();
        let params = edit::set_inside(params, meta::META, &[(meta::SUBSCRIPTION_ID, id)]);
        send(rpc::notification(method, Some(&Json::trusted(params))))
    }

    fn final_response(&self) -> Json {
        let (id, info) = (self.settings.id.raw(), self.settings.server_info.as_str());
        let result = edit::set_inside(
            "{\"resultType\":\"complete\"}",
            meta::META,
            &[(meta::SUBSCRIPTION_ID, id), (meta::SERVER_INFO, info)],
        );
        rpc::result(&self.settings.id, &Json::trusted(result))
    }
}

fn send(message: Json) -> Effect {
    let event = Event { seq: None, epoch: 0, message: Some(message), retry_ms: None };
    Effect::Send { stream: Listen::STREAM, event }
}
