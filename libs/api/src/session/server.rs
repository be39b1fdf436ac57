//! The port over gRPC, session node's side.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::link::Words;
use super::{Frames, SessionHost, Surroundings, convert};
use crate::link::server::Calls;
use crate::pb::session as pb;
use crate::pb::session::session_server::{Session, SessionServer};
use crate::wire::MAX_MESSAGE;

type Stream = BoxStream<'static, Result<pb::Frame, Status>>;

/// The service of a session node: the plain calls and the link.
#[must_use]
pub fn service(host: Arc<dyn SessionHost>, surroundings: Surroundings) -> Routes {
    let server = SessionServer::new(Adapter { host, surroundings })
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    Routes::new(server)
}

struct Adapter {
    host: Arc<dyn SessionHost>,
    surroundings: Surroundings,
}

fn answer(frames: Frames) -> Response<Stream> {
    Response::new(frames.map(|item| Ok(convert::frame_to(item?))).boxed())
}

#[tonic::async_trait]
impl Session for Adapter {
    type DeliverStream = Stream;
    type AttachStream = Stream;
    type CloseStream = Stream;
    type RelayStream = Stream;
    type LinkStream = Calls<Words>;

    async fn deliver(&self, request: Request<pb::DeliverRequest>) -> Result<Response<Stream>, Status> {
        Ok(answer(self.host.deliver(convert::delivery_from(request.into_inner())?).await?))
    }

    async fn attach(&self, request: Request<pb::AttachRequest>) -> Result<Response<Stream>, Status> {
        Ok(answer(self.host.attach(convert::attach_from(request.into_inner())).await?))
    }

    async fn close(&self, request: Request<pb::CloseRequest>) -> Result<Response<Stream>, Status> {
        Ok(answer(self.host.close(convert::close_from(request.into_inner())?).await?))
    }

    async fn probe(
        &self,
        _request: Request<pb::ProbeRequest>,
    ) -> Result<Response<pb::ProbeResponse>, Status> {
        self.host.probe(None).await?;
        Ok(Response::new(pb::ProbeResponse {}))
    }

    async fn probe_other(
        &self,
        request: Request<pb::ProbeOtherRequest>,
    ) -> Result<Response<pb::ProbeResponse>, Status> {
        self.host.probe(Some(&request.into_inner().to)).await?;
        Ok(Response::new(pb::ProbeResponse {}))
    }

    async fn relay(&self, request: Request<pb::RelayRequest>) -> Result<Response<Stream>, Status> {
        let (to, request) = convert::relay_from(request.into_inner())?;
        Ok(answer(self.host.relay(&to, request).await?))
    }

    async fn link(&self, request: Request<Streaming<pb::Up>>) -> Result<Response<Calls<Words>>, Status> {
        Ok(Response::new(Calls::new(self.host.clone(), &self.surroundings, request.into_inner())))
    }
}
