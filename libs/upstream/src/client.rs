//! A connection to one server: who it is, and what is kept about it between requests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use mcp::edit::ObjectEditor;
use mcp::header::ParamHeader;
use mcp::log::Level;
use mcp::{Era, Json, Method, Revision, edit};

use crate::error::Error;
use crate::headers;
use crate::options::Options;
use crate::wire::Wire;

/// Time for what is only polite: the end of a session, a cancellation.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

/// What a server said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// What is spoken with it.
    pub revision: Revision,
    /// Its implementation, where it says.
    pub info: Option<Json>,
    /// What it offers.
    pub capabilities: Json,
    /// What it wants the model to know.
    pub instructions: Option<String>,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What for.
    pub method: Method,
    /// An object; `_meta` of the protocol is added.
    pub params: Json,
    /// When to give up, also if there is progress.
    pub deadline: Duration,
    /// Whether progress is wanted.
    pub progress: bool,
    /// Log messages that are wanted. A modern server sends none without; an older one has to be told by `logging/setLevel`.
    pub log: Option<Level>,
}

impl Ask {
    /// A request that is given up after `deadline`.
    #[must_use]
    pub const fn new(method: Method, params: Json, deadline: Duration) -> Self {
        Self { method, params, deadline, progress: false, log: None }
    }
}

/// A connection to one server.
pub struct Client {
    pub(crate) wire: Wire,
    pub(crate) identity: Identity,
    pub(crate) server: Server,
    state: Mutex<State>,
    ids: AtomicU64,
    /// Headers that repeat arguments, by tool.
    tools: Mutex<BTreeMap<String, Vec<ParamHeader>>>,
}

/// Who is asking.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) info: Json,
    pub(crate) capabilities: Json,
}

/// What the next request is sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) session: Option<HeaderValue>,
}

impl Identity {
    pub(crate) fn of(options: &Options) -> Self {
        let mut info = ObjectEditor::new("{}");
        info.set("name", edit::quote(&options.name)).set("version", edit::quote(&options.version));
        Self { info: info.finish_json(), capabilities: options.capabilities.clone() }
    }
}

impl Client {
    pub(crate) fn assemble(
        wire: Wire,
        identity: Identity,
        server: Server,
        session: Option<HeaderValue>,
    ) -> Self {
        let state = Mutex::new(State { revision: server.revision, session });
        Self { wire, identity, server, state, ids: AtomicU64::new(100), tools: Mutex::default() }
    }

    /// What the server said of itself.
    #[must_use]
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// The era that is spoken.
    #[must_use]
    pub const fn era(&self) -> Era {
        self.server.revision.era()
    }

    /// Id of the session, of a server that gave one.
    #[must_use]
    pub fn session(&self) -> Option<String> {
        self.state().session.and_then(|id| id.to_str().map(str::to_owned).ok())
    }

    /// Ends the session, if there is one.
    pub async fn close(self) {
        let state = self.state();
        if state.session.is_none() {
            return;
        }
        let farewell = self.wire.delete(headers::older(&state));
        tokio::select! {
            // 405 is an answer too: the server ends sessions by itself.
            _answered = farewell => {}
            () = self.wire.sleep(FAREWELL) => {}
        }
    }

    pub(crate) fn state(&self) -> State {
        unpoisoned(&self.state).clone()
    }

    pub(crate) fn renew(&self, state: State) {
        *unpoisoned(&self.state) = state;
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// The headers that repeat this tool's arguments, as far as its definition was seen.
    pub(crate) fn tool_headers(&self, name: &str) -> Vec<ParamHeader> {
        unpoisoned(&self.tools).get(name).cloned().unwrap_or_default()
    }

    pub(crate) fn learn(&self, name: String, headers: Vec<ParamHeader>) {
        let mut tools = unpoisoned(&self.tools);
        if headers.is_empty() {
            tools.remove(&name);
        } else {
            tools.insert(name, headers);
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Nothing that is kept here can be left half-made by a panic.
fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// From the result of `server/discover` or `initialize`.
    pub(crate) fn read(revision: Revision, result: &Json) -> Self {
        let info = match revision.era() {
            Era::Modern => {
                result.member(mcp::meta::META).and_then(|meta| meta.member(mcp::meta::SERVER_INFO))
            }
            Era::Older => result.member("serverInfo"),
        };
        Self {
            revision,
            info,
            capabilities: result.member("capabilities").unwrap_or_else(Json::empty_object),
            instructions: result.text("instructions"),
        }
    }
}

pub(crate) fn broken(what: &str) -> Error {
    Error::protocol(what)
}
