//! `start` over a link, where the registry offers one. Everything else is rare, and a call of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::ready;
use tonic::{Response, Status, Streaming};

use super::{Context, Frame, Frames, Operation, Registry, Start, convert};
use crate::error::Error;
use crate::link::client::{Caller, Sayings, pair};
use crate::link::server::Opening;
use crate::link::{Down, Driver, End, LARGE, Part, Port, Said, Trace, Up, broken};
use crate::pb::registry as pb;
use crate::pb::registry::link_request::Kind;
use crate::pb::registry::links_client::LinksClient;
use crate::wire::{MAX_MESSAGE, Wire};

/// What a session node and a registry say to each other.
pub(crate) struct Words;

/// One link to a registry process. Cheap to clone.
#[derive(Clone)]
pub struct RegistryLink {
    caller: Caller<Words>,
    /// The trace that a call belongs to.
    trace: fn() -> Trace,
}

/// A link and what keeps it. `trace` says which trace a call belongs to. Opens nothing yet.
#[must_use]
pub fn link(wire: Wire, trace: fn() -> Trace) -> (RegistryLink, Driver) {
    let client =
        LinksClient::new(wire).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
    let (caller, driver) = pair(client);
    (RegistryLink { caller, trace }, driver)
}

impl RegistryLink {
    /// Whether calls can go over it. If not, it is being made, unless the registry offers none.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.caller.is_linked()
    }

    /// Whether this can go over it now.
    pub(super) fn takes(&self, start: &Start) -> bool {
        // States and answers of a continuation have no bound but that of a message.
        start.continuation.is_none()
            && start.params.as_str().len() + start.target.len() <= LARGE
            && self.is_up()
    }

    pub(super) async fn start(&self, context: Context, start: Start) -> Result<Frames, Error> {
        let deadline = context.deadline;
        let kind = request(&context, start);
        self.caller.ask(Asked { kind, deadline }, (self.trace)()).await
    }
}

/// The message of a request.
fn request(context: &Context, start: Start) -> Kind {
    let context = Some(convert::context_to(context));
    let raw_params = start.params.bytes();
    let continuation = start.continuation.as_ref().map(convert::round_to);
    let target = start.target;
    match start.operation {
        Operation::Call => Kind::Call(pb::CallRequest { context, name: target, raw_params, continuation }),
        Operation::Read => Kind::Read(pb::ReadRequest { context, uri: target, raw_params, continuation }),
        Operation::Get => Kind::Get(pb::GetRequest { context, name: target, raw_params, continuation }),
    }
}

/// The request of a message.
fn requested(asked: Asked) -> Result<(Context, Start), Error> {
    let (operation, context, target, params, continuation) = match asked.kind {
        Kind::Call(m) => (Operation::Call, m.context, m.name, m.raw_params, m.continuation),
        Kind::Read(m) => (Operation::Read, m.context, m.uri, m.raw_params, m.continuation),
        Kind::Get(m) => (Operation::Get, m.context, m.name, m.raw_params, m.continuation),
        Kind::Credit(_) | Kind::Hangup(_) => return Err(broken("this is no request")),
    };
    let context = convert::context_from(context, asked.deadline)?;
    Ok((context, convert::start_from(operation, target, params, continuation)?))
}

/// A request, and when its caller stops waiting.
pub(crate) struct Asked {
    kind: Kind,
    deadline: Option<Instant>,
}

impl Port for Words {
    type Host = dyn Registry;
    type Request = Asked;
    type Item = Frame;
    type Frame = pb::Frame;
    type Up = pb::LinkRequest;
    type Down = pb::LinkResponse;
    type Client = LinksClient<Wire>;

    fn up(up: Up<Asked>) -> pb::LinkRequest {
        let message = pb::LinkRequest { number: up.call, ..pb::LinkRequest::default() };
        match up.said {
            Said::Request(asked, trace) => {
                let left = asked.deadline.map(|at| at.saturating_duration_since(Instant::now()));
                pb::LinkRequest {
                    kind: Some(asked.kind),
                    timeout_us: left.map(|left| u64::try_from(left.as_micros()).unwrap_or(u64::MAX)),
                    traceparent: trace.parent,
                    tracestate: trace.state,
                    ..message
                }
            }
            Said::Credit(more) => pb::LinkRequest { kind: Some(Kind::Credit(more)), ..message },
            Said::Cancel => pb::LinkRequest { kind: Some(Kind::Hangup(pb::LinkHangup {})), ..message },
            Said::Unknown => message,
        }
    }

    fn read_up(up: pb::LinkRequest) -> Up<Asked> {
        let said = match up.kind {
            Some(Kind::Credit(more)) => Said::Credit(more),
            Some(Kind::Hangup(_)) => Said::Cancel,
            Some(kind @ (Kind::Call(_) | Kind::Read(_) | Kind::Get(_))) => {
                let deadline =
                    up.timeout_us.and_then(|left| Instant::now().checked_add(Duration::from_micros(left)));
                let trace = Trace { parent: up.traceparent, state: up.tracestate };
                Said::Request(Asked { kind, deadline }, trace)
            }
            None => Said::Unknown,
        };
        Up { call: up.number, said }
    }

    fn down(down: Down<pb::Frame>) -> pb::LinkResponse {
        pb::LinkResponse {
            number: down.call,
            frames: down.frames,
            part: down.part.map(|Part { data, last }| pb::LinkPart { data, last }),
            end: down.end.map(|End { code, message, detail }| pb::LinkEnd { code, message, detail }),
            drain: down.drain.then_some(pb::LinkDrain {}),
        }
    }

    fn read_down(down: pb::LinkResponse) -> Down<pb::Frame> {
        Down {
            call: down.number,
            frames: down.frames,
            part: down.part.map(|pb::LinkPart { data, last }| Part { data, last }),
            end: down.end.map(|pb::LinkEnd { code, message, detail }| End { code, message, detail }),
            drain: down.drain.is_some(),
        }
    }

    fn frame(item: Frame) -> pb::Frame {
        convert::frame_to(item)
    }

    fn read_frame(frame: pb::Frame) -> Result<Frame, Error> {
        convert::frame_from(frame)
    }

    fn payload(frame: &pb::Frame) -> usize {
        use pb::frame::Kind as K;
        match &frame.kind {
            Some(K::RawProgress(raw) | K::RawLog(raw) | K::RawResult(raw) | K::RawTask(raw)) => raw.len(),
            Some(K::Notice(notice)) => notice.raw_params.len(),
            Some(K::InputRequired(input)) => input.raw_input_requests.len(),
            Some(K::Error(failure)) => failure.raw_data.len(),
            Some(K::Accepted(_) | K::Detach(_)) | None => 0,
        }
    }

    fn open(host: Arc<dyn Registry>, asked: Asked) -> Opening<Frame> {
        match requested(asked) {
            Ok((context, start)) => async move { host.start(context, start).await }.boxed(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }

    async fn connect(
        client: &mut LinksClient<Wire>,
        sayings: Sayings<Self>,
    ) -> Result<Response<Streaming<pb::LinkResponse>>, Status> {
        client.link(sayings).await
    }
}
