//! What is written down about a call, so that it ends exactly once, whoever owns the session by then.
//!
//! Journaled are `tools/call`, from before its dispatch, and any other call from the moment it asks the client something.
//! Everything else is lost with its owner: a gateway that waits for it makes it again, and on a stream that nobody waits for any
//! more it is said to be lost.

use mcp::rpc::{Id, RpcError};
use mcp::{Json, Method};
use serde::{Deserialize, Serialize};

use crate::input::{Continuation, Millis, StreamId};
use crate::wire::{self, Outcome};

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
    /// Of the delivery it came with: a gateway that has lost the owner asks for it under this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Epoch of the owner that began it. With the call's number and `generation` it names the invocation.
    #[serde(default)]
    pub epoch: u64,
    /// The round with whose state it was begun again, after its handler had returned; 0 = it was not.
    #[serde(default)]
    pub generation: u32,
    /// Number of the last frame of the invocation that what is stored takes account of.
    #[serde(default)]
    pub heard: u64,
    /// As they go to the registry.
    pub params: Json,
    /// The client's progress token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Json>,
    /// When it is given up.
    pub deadline: Millis,
    /// How far it has come.
    pub state: JournalState,
    /// The registry instance that took it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// What the client is being asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// The round whose answers were handed to the registry, until it is heard of again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<Round>,
}

impl Entry {
    /// Whether the next owner may as well make it again: it executes nothing, and has asked the client nothing.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        self.method != Method::ToolsCall
            && self.round.is_none()
            && self.answered.is_none()
            && self.generation == 0
    }

    /// How the next owner takes the call up again.
    #[must_use]
    pub fn pickup(&self) -> Pickup {
        match (&self.answered, &self.round) {
            (Some(round), _) => round.pickup(),
            (None, Some(Round { continuation: Continuation::State(_), .. })) => Pickup::Wait,
            (None, Some(_) | None) => Pickup::Attach { after: self.heard },
        }
    }
}

/// How a call goes on with its next owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pickup {
    /// Its handler has returned; it is called again once the client has answered.
    Wait,
    /// Its frames are asked for from this number on.
    Attach {
        /// The last number that was heard.
        after: u64,
    },
    /// The answers to its questions are handed over again; a registry that has them already goes on all the same.
    Resume {
        /// The registry's number of the round.
        round: u32,
        /// The client's answers by key.
        responses: Vec<(String, Answer)>,
        /// `None`: the handler is parked. Else the state to call it again with.
        state: Option<bytes::Bytes>,
    },
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

    /// What the registry is told.
    #[must_use]
    pub fn pickup(&self) -> Pickup {
        let state = match &self.continuation {
            Continuation::Parked | Continuation::Sealed(_) => None,
            Continuation::State(state) => Some(state.clone()),
        };
        let unanswered = || Err(wire::lost("timeout", Outcome::Unknown));
        let with_key = |ask: &Ask| (ask.key.clone(), ask.answer.clone().unwrap_or_else(unanswered));
        Pickup::Resume { round: self.number, responses: self.asks.iter().map(with_key).collect(), state }
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
