//! What is written down about a call, so that it ends exactly once, whoever owns the session by then.
//!
//! Journaled are `tools/call`, from before its dispatch, and any other call from the moment it asks the client something.
//! Everything else is simply lost with its owner, and said to be lost.

use mcp::rpc::{Id, RpcError};
use mcp::{Json, Method};
use serde::{Deserialize, Serialize};

use crate::input::{Continuation, Millis, StreamId};

/// How far a call has come. Entries in an ending state are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum JournalState {
    /// Taken on; no registry has heard of it.
    Accepted,
    /// A registry may be executing it.
    Dispatched,
    /// Ended with a result.
    Done,
    /// Ended with an error that says it did not do what was asked, or was not executed.
    Failed,
    /// Ended by the client.
    Cancelled,
    /// Ended without anybody knowing whether it was executed.
    Unknown,
}

impl JournalState {
    /// Every state.
    pub const ALL: [Self; 6] =
        [Self::Accepted, Self::Dispatched, Self::Done, Self::Failed, Self::Cancelled, Self::Unknown];

    /// Whether nothing follows.
    #[must_use]
    pub const fn is_ending(self) -> bool {
        match self {
            Self::Accepted | Self::Dispatched => false,
            Self::Done | Self::Failed | Self::Cancelled | Self::Unknown => true,
        }
    }

    /// The one table of transitions.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match self {
            Self::Accepted => matches!(next, Self::Dispatched | Self::Failed | Self::Cancelled),
            Self::Dispatched => next.is_ending(),
            Self::Done | Self::Failed | Self::Cancelled | Self::Unknown => false,
        }
    }
}

/// A call that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The client's request id.
    pub id: Id,
    /// What was asked for.
    #[serde(with = "method_name")]
    pub method: Method,
    /// Where the answer goes.
    pub stream: StreamId,
    /// As they go to the registry.
    pub params: Json,
    /// The client's progress token.
    pub token: Option<Json>,
    /// When it is given up.
    pub deadline: Millis,
    /// How far it has come.
    pub state: JournalState,
    /// The registry instance that took it on.
    pub instance: Option<String>,
    /// What the client is being asked.
    pub round: Option<Round>,
}

/// One round of questions to the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The registry's number for it, from 1.
    pub number: u32,
    /// How the call goes on with the answers.
    pub continuation: Continuation,
    /// The questions, in the registry's order.
    pub asks: Vec<Ask>,
    /// When the answers are given up.
    pub deadline: Millis,
}

impl Round {
    /// The questions that were sent and are not answered.
    pub fn open(&self) -> impl Iterator<Item = &Ask> {
        self.asks.iter().filter(|ask| ask.answer.is_none())
    }
}

/// One question to the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The registry's key for it.
    pub key: String,
    /// Number in our request id; `None` if the client was not asked because it cannot answer.
    pub number: Option<u64>,
    /// What came back.
    pub answer: Option<Answer>,
}

/// The client's answer to a request of ours.
pub type Answer = Result<Json, RpcError>;

/// Our id of a question.
#[must_use]
pub fn ask_id(number: u64) -> Id {
    Id::text(&format!("ask-{number}"))
}

mod method_name {
    use mcp::Method;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(super) fn serialize<S: Serializer>(method: &Method, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(method.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Method, D::Error> {
        let name = String::deserialize(deserializer)?;
        Method::parse(&name).ok_or_else(|| D::Error::custom("unknown method"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_ends_once_and_only_after_dispatch_unknown() {
        let mut allowed = Vec::new();
        for from in JournalState::ALL {
            for to in JournalState::ALL {
                if from.may_become(to) {
                    allowed.push(format!("{from:?}>{to:?}"));
                }
                assert!(!(from.is_ending() && from.may_become(to)), "{from:?} is an ending");
            }
        }
        assert_eq!(
            allowed.join(" "),
            "Accepted>Dispatched Accepted>Failed Accepted>Cancelled Dispatched>Done Dispatched>Failed \
             Dispatched>Cancelled Dispatched>Unknown"
        );
    }
}
