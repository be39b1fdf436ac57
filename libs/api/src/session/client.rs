//! The port over gRPC, gateway's side: a server stream per call.

use async_trait::async_trait;
use futures::StreamExt as _;

use super::{Attach, Close, Delivery, Frames, Request, SessionHost, convert};
use crate::error::Error;
use crate::pb::session as pb;
use crate::pb::session::session_client::SessionClient as Client;
use crate::wire::{MAX_MESSAGE, ToTheEnd, Wire};

/// A session node at the other end of a [`Wire`].
#[derive(Clone)]
pub struct SessionClient(Client<Wire>);

impl SessionClient {
    /// Speaks through `wire`; opens nothing yet.
    #[must_use]
    pub fn new(wire: Wire) -> Self {
        Self(Client::new(wire).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }
}

fn frames(response: tonic::Response<tonic::Streaming<pb::Frame>>) -> Frames {
    let is_ending = |frame: &pb::Frame| {
        matches!(&frame.kind, Some(pb::frame::Kind::Refused(_) | pb::frame::Kind::Answer(_)))
    };
    ToTheEnd::new(response, is_ending).map(|item| convert::frame_from(item?)).boxed()
}

#[async_trait]
impl SessionHost for SessionClient {
    async fn deliver(&self, delivery: Delivery) -> Result<Frames, Error> {
        Ok(frames(self.0.clone().deliver(convert::delivery_to(delivery)).await?))
    }

    async fn attach(&self, attach: Attach) -> Result<Frames, Error> {
        Ok(frames(self.0.clone().attach(convert::attach_to(attach)).await?))
    }

    async fn close(&self, close: Close) -> Result<Frames, Error> {
        Ok(frames(self.0.clone().close(convert::close_to(close)).await?))
    }

    async fn probe(&self, to: Option<&str>) -> Result<(), Error> {
        let mut client = self.0.clone();
        match to.map(str::to_owned) {
            None => client.probe(pb::ProbeRequest {}).await?,
            Some(to) => client.probe_other(pb::ProbeOtherRequest { to }).await?,
        };
        Ok(())
    }

    async fn relay(&self, to: &str, request: Request) -> Result<Frames, Error> {
        Ok(frames(self.0.clone().relay(convert::relay_to(to, request)).await?))
    }
}
