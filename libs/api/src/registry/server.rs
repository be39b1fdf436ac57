//! The port over gRPC, callee's side.

use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::link::Words;
use super::{Context, Frames, Kind, Operation, Registry, SubscriptionChange, Surroundings, convert};
use crate::error::{Code, Error};
use crate::link::server::Calls;
use crate::pb::registry as pb;
use crate::pb::registry::catalog_server::{Catalog, CatalogServer};
use crate::pb::registry::invocations_server::{Invocations, InvocationsServer};
use crate::pb::registry::links_server::{Links, LinksServer};
use crate::pb::registry::prompt_registry_server::{PromptRegistry, PromptRegistryServer};
use crate::pb::registry::resource_registry_server::{ResourceRegistry, ResourceRegistryServer};
use crate::pb::registry::tool_registry_server::{ToolRegistry, ToolRegistryServer};
use crate::wire::{self, MAX_MESSAGE};

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

macro_rules! limited {
    ($server:ident, $adapter:expr) => {
        $server::from_arc($adapter)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    };
}

/// The five services of a registry process.
#[must_use]
pub fn services(registry: Arc<dyn Registry>) -> Routes {
    let adapter = Arc::new(Adapter(registry));
    Routes::new(limited!(CatalogServer, adapter.clone()))
        .add_service(limited!(InvocationsServer, adapter.clone()))
        .add_service(limited!(ToolRegistryServer, adapter.clone()))
        .add_service(limited!(ResourceRegistryServer, adapter.clone()))
        .add_service(limited!(PromptRegistryServer, adapter))
}

/// The same, and links.
#[must_use]
pub fn services_with_links(registry: Arc<dyn Registry>, surroundings: Surroundings) -> Routes {
    let links = Arc::new(Linking { registry: registry.clone(), surroundings });
    services(registry).add_service(limited!(LinksServer, links))
}

struct Linking {
    registry: Arc<dyn Registry>,
    surroundings: Surroundings,
}

#[tonic::async_trait]
impl Links for Linking {
    type LinkStream = Calls<Words>;

    async fn link(&self, request: Request<Streaming<pb::LinkRequest>>) -> Answer<Self::LinkStream> {
        Ok(Response::new(Calls::new(self.registry.clone(), &self.surroundings, request.into_inner())))
    }
}

struct Adapter(Arc<dyn Registry>);

fn frames(frames: Frames) -> Response<Stream<pb::Frame>> {
    Response::new(frames.map(|item| Ok(convert::frame_to(item?))).boxed())
}

/// Context and message of a request, the deadline read from its metadata.
fn open<T>(
    request: Request<T>,
    take: impl FnOnce(&mut T) -> Option<pb::RequestContext>,
) -> Result<(Context, T), Error> {
    let deadline = wire::deadline(request.metadata());
    let mut message = request.into_inner();
    let context = convert::context_from(take(&mut message), deadline)?;
    Ok((context, message))
}

impl Adapter {
    async fn list(&self, request: Request<pb::ListRequest>, kind: Kind) -> Answer<pb::ListResponse> {
        let (context, message) = open(request, |m| m.context.take())?;
        let cursor = Some(message.cursor).filter(|c| !c.is_empty());
        Ok(Response::new(convert::page_to(self.0.list(context, kind, cursor).await?)))
    }

    async fn start(
        &self,
        context: Context,
        operation: Operation,
        target: String,
        raw_params: bytes::Bytes,
        continuation: Option<pb::Continuation>,
    ) -> Answer<Stream<pb::Frame>> {
        let start = convert::start_from(operation, target, raw_params, continuation)?;
        Ok(frames(self.0.start(context, start).await?))
    }
}

#[tonic::async_trait]
impl Catalog for Adapter {
    type WatchStream = Stream<pb::WatchResponse>;

    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Answer<pb::DescribeResponse> {
        Ok(Response::new(convert::description_to(self.0.describe().await?)))
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Answer<Self::WatchStream> {
        let events = self.0.watch().await?;
        Ok(Response::new(events.map(|item| Ok(convert::catalog_event_to(item?))).boxed()))
    }

    async fn complete(&self, request: Request<pb::CompleteRequest>) -> Answer<pb::CompleteResponse> {
        use pb::complete_response::Outcome;
        let (context, message) = open(request, |m| m.context.take())?;
        let outcome = match self.0.complete(context, convert::json(message.raw_params)?).await? {
            Ok(result) => Outcome::RawResult(result.bytes()),
            Err(error) => Outcome::Error(convert::failure_to(&error)),
        };
        Ok(Response::new(pb::CompleteResponse { outcome: Some(outcome) }))
    }
}

#[tonic::async_trait]
impl Invocations for Adapter {
    type AttachStream = Stream<pb::Frame>;
    type ResumeStream = Stream<pb::Frame>;

    async fn attach(&self, request: Request<pb::AttachRequest>) -> Answer<Self::AttachStream> {
        let (context, message) = open(request, |m| m.context.take())?;
        Ok(frames(self.0.attach(context, message.after).await?))
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Answer<Self::ResumeStream> {
        let (context, message) = open(request, |m| m.context.take())?;
        let responses = convert::responses_from(message.responses)?;
        Ok(frames(self.0.resume(context, message.round, responses).await?))
    }

    async fn cancel(&self, request: Request<pb::CancelRequest>) -> Answer<pb::CancelResponse> {
        let (context, message) = open(request, |m| m.context.take())?;
        self.0.cancel(context, message.reason).await?;
        Ok(Response::new(pb::CancelResponse {}))
    }

    async fn release(&self, request: Request<pb::ReleaseRequest>) -> Answer<pb::ReleaseResponse> {
        let (context, message) = open(request, |m| m.context.take())?;
        self.0.release(context, message.invocations).await?;
        Ok(Response::new(pb::ReleaseResponse {}))
    }
}

#[tonic::async_trait]
impl ToolRegistry for Adapter {
    type CallStream = Stream<pb::Frame>;

    async fn list(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListResponse> {
        Self::list(self, request, Kind::Tools).await
    }

    async fn call(&self, request: Request<pb::CallRequest>) -> Answer<Self::CallStream> {
        let (context, m) = open(request, |m| m.context.take())?;
        self.start(context, Operation::Call, m.name, m.raw_params, m.continuation).await
    }
}

#[tonic::async_trait]
impl PromptRegistry for Adapter {
    type GetStream = Stream<pb::Frame>;

    async fn list(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListResponse> {
        Self::list(self, request, Kind::Prompts).await
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Answer<Self::GetStream> {
        let (context, m) = open(request, |m| m.context.take())?;
        self.start(context, Operation::Get, m.name, m.raw_params, m.continuation).await
    }
}

#[tonic::async_trait]
impl ResourceRegistry for Adapter {
    type ReadStream = Stream<pb::Frame>;
    type SubscribeStream = Stream<pb::SubscribeResponse>;

    async fn list(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListResponse> {
        Self::list(self, request, Kind::Resources).await
    }

    async fn list_templates(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListResponse> {
        Self::list(self, request, Kind::Templates).await
    }

    async fn read(&self, request: Request<pb::ReadRequest>) -> Answer<Self::ReadStream> {
        let (context, m) = open(request, |m| m.context.take())?;
        self.start(context, Operation::Read, m.uri, m.raw_params, m.continuation).await
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Answer<Self::SubscribeStream> {
        let mut messages = request.into_inner();
        let first =
            messages.message().await?.ok_or_else(|| Error::new(Code::InvalidRequest, "no first message"))?;
        let context = convert::context_from(first.context, None)?;
        let head = futures::stream::iter(first.change.map(change));
        // A broken stream of changes ends the subscription: the caller opens a new one.
        let rest = messages
            .take_while(|item| futures::future::ready(item.is_ok()))
            .filter_map(|item| async { item.ok()?.change.map(change) });
        let events = self.0.subscribe(context, head.chain(rest).boxed()).await?;
        Ok(Response::new(events.map(|item| Ok(convert::subscription_event_to(item?))).boxed()))
    }
}

fn change(change: pb::subscribe_request::Change) -> SubscriptionChange {
    match change {
        pb::subscribe_request::Change::Add(uri) => SubscriptionChange::Add(uri),
        pb::subscribe_request::Change::Remove(uri) => SubscriptionChange::Remove(uri),
    }
}
