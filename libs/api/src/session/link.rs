//! The link: the port's calls over one long-lived gRPC stream for each pair of runtimes.
//!
//! A gRPC call costs more than everything else that is done for a request; on the link a request costs two messages. What a
//! stream of its own would give is here: numbers tell calls apart, each has its own credit, so that a reader who stalls
//! stops nobody else, a cancelled call ends at the node, and when the link ends every open call hears of it. Neither side
//! spawns: the gateway drives [`client::Driver`], at the node the connection's own task drives [`server::Calls`].

pub(super) mod client;
pub(super) mod server;

use std::borrow::Cow;

use tonic::Code as Grpc;

use crate::error::{Code, Error};
use crate::pb::session as pb;

/// Payload bytes of a call that may be under way unread.
const WINDOW: i64 = 256 << 10;
/// A frame larger than this is sent in pieces, a request larger than this as a call of its own.
const LARGE: usize = 64 << 10;
/// What a frame costs besides its payload, so that many small ones are bounded too.
const FRAME: usize = 64;
/// Calls that may be open on one link.
const MAX_CALLS: usize = 16_384;

/// The W3C trace context that crosses the link beside a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// `traceparent`; empty = none.
    pub parent: String,
    /// `tracestate`; empty = none.
    pub state: String,
}

/// What a frame takes of the credit. Both sides count the same, whatever their versions add to the encoding.
fn cost(frame: &pb::Frame) -> i64 {
    use pb::frame::Kind as K;
    let payload = match &frame.kind {
        Some(K::Refused(answer) | K::Answer(answer)) => answer.raw_body.len(),
        Some(K::Event(event)) => event.raw_message.len(),
        Some(K::Accepted(_) | K::Open(_)) | None => 0,
    };
    i64::try_from(payload + FRAME).unwrap_or(i64::MAX)
}

fn end(error: Option<Error>) -> pb::End {
    error.map_or_else(pb::End::default, |error| {
        let (code, message, detail) = error.into_parts();
        pb::End { code: code as u32, message, detail: detail.into() }
    })
}

fn ended(end: pb::End) -> Result<(), Error> {
    if end.code == 0 {
        return Ok(());
    }
    let code = i32::try_from(end.code).map_or(Grpc::Unknown, Grpc::from_i32);
    Err(Error::from_parts(code, end.message, &end.detail))
}

fn broken(text: impl Into<Cow<'static, str>>) -> Error {
    Error::new(Code::Internal, text.into())
}
