//! What things are called in Redis. Everything of a slot is behind one hash tag, so that it lives on one node of a cluster and one
//! script can check the fence and write.

use api::{SessionId, Slot};
use machines::StreamId;

/// See the module. Ids hold nothing but letters, digits, `.`, `-` and `_`; the prefix holds no brace.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    /// Put together without formatting: each commit needs several.
    fn of(&self, slot: Slot, what: &str, id: &str, more: &str) -> String {
        [self.prefix.as_str(), "{s:", &slot.number().to_string(), "}", what, id, more].concat()
    }

    /// The highest epoch that was let in. Lives for ever: there are no more of them than slots.
    pub(super) fn fence(&self, slot: Slot) -> String {
        self.of(slot, ":fence", "", "")
    }

    /// The largest number of slots that sessions were ever made in. Lives for ever.
    pub(super) fn slots(&self) -> String {
        format!("{}{{mesh}}:slots", self.prefix)
    }

    /// What the mesh is called. Lives for ever.
    pub(super) fn name(&self) -> String {
        format!("{}{{mesh}}:name", self.prefix)
    }

    /// Which store raised the fence to where it stands.
    pub(super) fn holder(&self, slot: Slot) -> String {
        self.of(slot, ":holder", "", "")
    }

    /// A hash: the session, one field for each concern.
    pub(super) fn session(&self, id: &SessionId) -> String {
        self.of(id.slot(), ":sess:", id.as_str(), "")
    }

    /// A stream: the events of one of its streams. Exists only while there are any.
    pub(super) fn log(&self, id: &SessionId, stream: StreamId) -> String {
        self.of(id.slot(), ":log:", id.as_str(), &format!(":{}", stream.0))
    }

    /// A hash: how its last requests ended; or, for a while, that it was removed.
    pub(super) fn done(&self, id: &SessionId) -> String {
        self.of(id.slot(), ":done:", id.as_str(), "")
    }
}
