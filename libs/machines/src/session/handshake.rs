//! `initialize`: the revision, the capabilities, or a refusal.

use std::borrow::Cow;

use mcp::edit::{self, ObjectEditor};
use mcp::rpc::{self, Request, RpcError};
use mcp::{Json, Revision, code, scan};

use super::phase::Trigger;
use super::turn::Turn;
use crate::effect::{Effect, StopReason};
use crate::input::{Millis, StreamId};
use crate::settings::Settings;
use crate::snapshot::{Change, Handshake};

impl Turn<'_> {
    /// Answers `initialize` in a session where nothing has been settled.
    pub(super) fn initialize(&mut self, stream: StreamId, request: &Request) {
        self.advance(Trigger::InitializeReceived);
        match read(request.params.as_ref(), self.now) {
            Ok(handshake) => {
                let handshake = Handshake { lists: Some(self.settings.lists), ..handshake };
                let result = self.greeting(handshake.revision);
                self.change(Change::Greeted(Box::new(handshake)));
                self.answer(stream, 200, Some(rpc::result(&request.id, &result)));
            }
            Err(why) => {
                self.advance(Trigger::InitializeRefused);
                self.refuse(stream, 400, Some(&request.id), &RpcError::new(code::INVALID_PARAMS, why));
                self.let_go_of_readers();
                self.want(Effect::Stop(StopReason::Failed));
            }
        }
    }

    /// The client has the answer: it said so, or acts on it.
    pub(super) fn confirmed(&mut self) {
        self.change(Change::Ready);
        self.advance(Trigger::ClientConfirmed);
    }

    fn greeting(&self, revision: Revision) -> Json {
        let version = edit::quote(revision.as_str());
        let capabilities = capabilities_for(&self.settings.capabilities, revision);
        let mut result = ObjectEditor::new("{}");
        result.set("protocolVersion", version);
        result.set("capabilities", capabilities.as_str());
        result.set("serverInfo", self.settings.server_info.as_str());
        if let Some(instructions) = &self.settings.instructions {
            result.set("instructions", edit::quote(instructions));
        }
        result.finish_json()
    }

    /// Whether the server has what a method needs.
    pub(super) fn offers(&self, path: &[&str]) -> bool {
        offers(self.settings, path)
    }
}

/// Whether the server has declared a capability.
pub(super) fn offers(settings: &Settings, path: &[&str]) -> bool {
    let all = settings.capabilities.part();
    let found = path.iter().try_fold(all, |part, name| part.get(name));
    !matches!(found.map(|part| part.as_str()), None | Some("false" | "null"))
}

fn read(params: Option<&Json>, now: Millis) -> Result<Handshake, Cow<'static, str>> {
    let params = params.ok_or("`initialize` needs params")?;
    let requested = params.text("protocolVersion").ok_or("`protocolVersion` must be a string")?;
    let object = |key: &str| {
        let value = params.member(key).filter(|value| scan::is_object(value.as_str()));
        value.map(|v| detached(&v)).ok_or_else(|| Cow::Owned(format!("`{key}` must be an object")))
    };
    Ok(Handshake {
        revision: Revision::negotiate(&requested),
        capabilities: object("capabilities")?,
        client_info: object("clientInfo")?,
        ready: false,
        at: now,
        lists: None,
    })
}

/// A copy of its own, so that a session does not keep the whole message for the sake of a part.
fn detached(part: &Json) -> Json {
    Json::trusted(part.as_str().to_owned())
}

/// Server capabilities without what a revision gives another meaning to. Unknown members stay, extensions among them.
fn capabilities_for(capabilities: &Json, revision: Revision) -> Json {
    let mut editor = ObjectEditor::new(capabilities.as_str());
    if revision < Revision::V2025_11_25 {
        editor.remove("tasks");
    }
    if revision < Revision::V2025_03_26 {
        editor.remove("completions");
    }
    editor.finish_json()
}
