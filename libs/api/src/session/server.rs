//! The port over gRPC, session node's side.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::{Frames, SessionHost, convert};
use crate::pb::session as pb;
use crate::pb::session::session_server::{Session, SessionServer};
use crate::wire::MAX_MESSAGE;

type Stream = BoxStream<'static, Result<pb::Frame, Status>>;

/// The service of a session node.
#[must_use]
pub fn service(host: Arc<dyn SessionHost>) -> Routes {
    let server = SessionServer::new(Adapter(host))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    Routes::new(server)
}

struct Adapter(Arc<dyn SessionHost>);

fn answer(frames: Frames) -> Response<Stream> {
    Response::new(frames.map(|item| Ok(convert::frame_to(item?))).boxed())
}

#[tonic::async_trait]
impl Session for Adapter {
    type DeliverStream = Stream;
    type AttachStream = Stream;
    type CloseStream = Stream;

    async fn deliver(&self, request: Request<pb::DeliverRequest>) -> Result<Response<Stream>, Status> {
        Ok(answer(self.0.deliver(convert::delivery_from(request.into_inner())?).await?))
    }

    async fn attach(&self, request: Request<pb::AttachRequest>) -> Result<Response<Stream>, Status> {
        Ok(answer(self.0.attach(convert::attach_from(request.into_inner())).await?))
    }

    async fn close(&self, request: Request<pb::CloseRequest>) -> Result<Response<Stream>, Status> {
        Ok(answer(self.0.close(convert::close_from(request.into_inner())).await?))
    }
}
