//! Messages as bytes, to send what the generated types cannot say.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Status, Streaming};

use api::pb::registry::v1 as pb;

use super::peer::Peer;

/// Passes bytes through.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Field 1000 as a number and field 1001 as a text: no message of version 1 has them.
const UNKNOWN: &[u8] = b"\xc0\x3e\x01\xca\x3e\x05later";

/// A message, and fields that a later version may add to it and to its context.
pub(super) fn extended(context: &pb::RequestContext, rest: &impl prost::Message) -> Bytes {
    let mut inner = context.encode_to_vec();
    inner.extend_from_slice(UNKNOWN);
    let mut whole = BytesMut::new();
    // Field 1, length-delimited: the context of every request.
    prost::encoding::bytes::encode(1, &inner, &mut whole);
    whole.put_slice(&rest.encode_to_vec());
    whole.put_slice(UNKNOWN);
    whole.freeze()
}

impl Peer {
    /// Sends a message as it is to a method that answers with frames.
    pub(super) async fn raw(&self, path: &'static str, message: Bytes) -> Result<Vec<pb::Frame>, Status> {
        let sent = async {
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let path = http::uri::PathAndQuery::from_static(path);
            let response = client.server_streaming(Request::new(message), path, Raw).await?;
            let mut stream: Streaming<Bytes> = response.into_inner();
            let mut frames = Vec::new();
            while let Some(bytes) = stream.message().await? {
                let frame = pb::Frame::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
                frames.push(frame);
            }
            Ok(frames)
        };
        tokio::time::timeout(self.waits.patience, sent)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no end within the patience of the check")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_does_not_change_what_is_known() {
        let context = pb::RequestContext { registry: "r".into(), epoch: 7, ..Default::default() };
        let rest = pb::CallRequest { name: "n".into(), ..Default::default() };
        let bytes = extended(&context, &rest);
        assert!(bytes.ends_with(UNKNOWN));
        let decoded = pb::CallRequest::decode(bytes).unwrap();
        assert_eq!(decoded, pb::CallRequest { context: Some(context), ..rest });
    }
}
