//! A door for the fuzz targets in `tests/fuzz`: what the checks in front of the mesh make of a POST. No part of the interface.

use api::KeyRing;
use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use mcp::rpc::Message;
use mcp::{Era, Json};

use crate::http::admit::{self, Admitted, Refusal, Verb};

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is answered here and goes nowhere.
    Refused {
        /// HTTP status.
        status: u16,
        /// The header of this name.
        allow: Option<&'static str>,
        /// What is answered.
        body: Option<Json>,
    },
    /// One message goes to a session node.
    Message {
        /// Of the client.
        era: Era,
        /// The session it belongs to, if any.
        session: Option<String>,
        /// As it was read.
        message: Message,
        /// As it is forwarded.
        raw: Json,
        /// The headers that repeat arguments.
        param_headers: Vec<(String, Bytes)>,
    },
    /// Several messages go there.
    Batch {
        /// The session they belong to.
        session: String,
        /// Each as it was read, and as it is forwarded.
        members: Vec<(Message, Json)>,
        /// What those that are no messages are answered with.
        malformed: Vec<Json>,
    },
    /// It is a notification that means nothing to anybody.
    Noted,
}

impl From<Refusal> for Verdict {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { status: refusal.status.as_u16(), allow: refusal.allow, body: refusal.body }
    }
}

/// All checks of a POST that need neither a clock nor a session node, in their order.
#[must_use]
pub fn post(keys: &KeyRing, headers: &HeaderMap, body: &Bytes) -> Verdict {
    match admit::head(&Method::POST, headers) {
        Ok(Verb::Post | Verb::Get | Verb::Delete) => {}
        Err(refusal) => return refusal.into(),
    }
    match admit::post(keys, headers, body) {
        Ok(Admitted::Message(letter)) => Verdict::Message {
            era: letter.era,
            session: letter.session.map(|session| session.as_str().to_owned()),
            message: letter.message,
            raw: letter.raw,
            param_headers: letter.param_headers,
        },
        Ok(Admitted::Batch(batch)) => Verdict::Batch {
            session: batch.session.as_str().to_owned(),
            members: batch.members.into_iter().map(|letter| (letter.message, letter.raw)).collect(),
            malformed: batch.malformed,
        },
        Ok(Admitted::Noted) => Verdict::Noted,
        Err(refusal) => refusal.into(),
    }
}
