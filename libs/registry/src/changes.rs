//! The handle through which a source or a handler says that something has changed.

use std::fmt;
use std::sync::Weak;

use mcp::Json;

use crate::state::State;

/// Reports changes to the registry a source was put into. Cheap to clone; outlives the registry without harm.
#[derive(Clone)]
pub struct Changes {
    state: Weak<State>,
}

impl Changes {
    pub(crate) fn new(state: Weak<State>) -> Self {
        Self { state }
    }

    /// A list of this source may have changed: it is read again now, and watchers hear of it if it differs.
    pub fn listed(&self) {
        if let Some(state) = self.state.upgrade() {
            state.refresh();
        }
    }

    /// A resource has changed: its watchers hear of it, once however often this is said before they are told.
    pub fn updated(&self, uri: &str) {
        if let Some(state) = self.state.upgrade() {
            state.subscriptions.updated(uri, None);
        }
    }

    /// The same with params of `notifications/resources/updated` that are sent as they are.
    pub fn updated_raw(&self, uri: &str, params: Json) {
        if let Some(state) = self.state.upgrade() {
            state.subscriptions.updated(uri, Some(params));
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changes")
    }
}
