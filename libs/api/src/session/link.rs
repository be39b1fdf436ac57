//! The port over a link.

use std::sync::Arc;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::ready;
use tonic::{Response, Status, Streaming};

use super::{Attach, Close, Delivery, Frame, Frames, Request, SessionClient, SessionHost, convert};
use crate::error::Error;
use crate::link::client::{Caller, Sayings, pair};
use crate::link::server::Opening;
use crate::link::{Down, Driver, End, LARGE, Part, Port, Said, Trace, Up, broken};
use crate::pb::session as pb;
use crate::pb::session::session_client::SessionClient as Client;
use crate::wire::{MAX_MESSAGE, Wire};

/// What a gateway and a session node say to each other.
pub(crate) struct Words;

/// A session node at the other end of a link. Cheap to clone.
#[derive(Clone)]
pub struct LinkClient {
    caller: Caller<Words>,
    /// For what is too large for the link.
    plain: SessionClient,
    /// The trace that a call belongs to.
    trace: fn() -> Trace,
}

/// A client and what keeps its link. `trace` says which trace a call belongs to. Opens nothing yet.
#[must_use]
pub fn link(wire: Wire, trace: fn() -> Trace) -> (LinkClient, Driver) {
    let client = Client::new(wire.clone())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let (caller, driver) = pair(client);
    (LinkClient { caller, plain: SessionClient::new(wire), trace }, driver)
}

impl Port for Words {
    type Host = dyn SessionHost;
    type Request = pb::up::Kind;
    type Item = Frame;
    type Frame = pb::Frame;
    type Up = pb::Up;
    type Down = pb::Down;
    type Client = Client<Wire>;

    fn up(up: Up<pb::up::Kind>) -> pb::Up {
        use pb::up::Kind as K;
        let (kind, trace) = match up.said {
            Said::Request(request, trace) => (Some(request), trace),
            Said::Credit(more) => (Some(K::Credit(more)), Trace::default()),
            Said::Cancel => (Some(K::Cancel(pb::Cancel {})), Trace::default()),
            Said::Unknown => (None, Trace::default()),
        };
        pb::Up { call: up.call, kind, traceparent: trace.parent, tracestate: trace.state }
    }

    fn read_up(up: pb::Up) -> Up<pb::up::Kind> {
        use pb::up::Kind as K;
        let said = match up.kind {
            Some(K::Credit(more)) => Said::Credit(more),
            Some(K::Cancel(_)) => Said::Cancel,
            Some(request @ (K::Deliver(_) | K::Attach(_) | K::Close(_))) => {
                Said::Request(request, Trace { parent: up.traceparent, state: up.tracestate })
            }
            None => Said::Unknown,
        };
        Up { call: up.call, said }
    }

    fn down(down: Down<pb::Frame>) -> pb::Down {
        pb::Down {
            call: down.call,
            frames: down.frames,
            part: down.part.map(|Part { data, last }| pb::Part { data, last }),
            end: down.end.map(|End { code, message, detail }| pb::End { code, message, detail }),
            drain: down.drain.then_some(pb::Drain {}),
        }
    }

    fn read_down(down: pb::Down) -> Down<pb::Frame> {
        Down {
            call: down.call,
            frames: down.frames,
            part: down.part.map(|pb::Part { data, last }| Part { data, last }),
            end: down.end.map(|pb::End { code, message, detail }| End { code, message, detail }),
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
            Some(K::Refused(answer) | K::Answer(answer)) => answer.raw_body.len(),
            Some(K::Event(event)) => event.raw_message.len(),
            Some(K::Accepted(_) | K::Open(_)) | None => 0,
        }
    }

    fn open(host: Arc<dyn SessionHost>, request: pb::up::Kind) -> Opening<Frame> {
        use pb::up::Kind as K;
        match request {
            K::Deliver(request) => {
                async move { host.deliver(convert::delivery_from(request)?).await }.boxed()
            }
            K::Attach(request) => async move { host.attach(convert::attach_from(request)).await }.boxed(),
            K::Close(request) => async move { host.close(convert::close_from(request)?).await }.boxed(),
            K::Credit(_) | K::Cancel(_) => ready(Err(broken("this is no request"))).boxed(),
        }
    }

    async fn connect(
        client: &mut Client<Wire>,
        sayings: Sayings<Self>,
    ) -> Result<Response<Streaming<pb::Down>>, Status> {
        client.link(sayings).await
    }
}

#[async_trait]
impl SessionHost for LinkClient {
    async fn deliver(&self, delivery: Delivery) -> Result<Frames, Error> {
        let headers: usize =
            delivery.param_headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if delivery.message.as_str().len() + headers > LARGE {
            return self.plain.deliver(delivery).await;
        }
        let request = pb::up::Kind::Deliver(convert::delivery_to(delivery));
        self.caller.ask(request, (self.trace)()).await
    }

    async fn attach(&self, attach: Attach) -> Result<Frames, Error> {
        let request = pb::up::Kind::Attach(convert::attach_to(attach));
        self.caller.ask(request, (self.trace)()).await
    }

    async fn close(&self, close: Close) -> Result<Frames, Error> {
        let request = pb::up::Kind::Close(convert::close_to(close));
        self.caller.ask(request, (self.trace)()).await
    }

    async fn probe(&self, to: Option<&str>) -> Result<(), Error> {
        self.plain.probe(to).await
    }

    async fn relay(&self, to: &str, request: Request) -> Result<Frames, Error> {
        self.plain.relay(to, request).await
    }
}
