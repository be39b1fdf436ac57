//! The port over gRPC, caller's side.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, stream};
use mcp::Json;
use mcp::rpc::RpcError;

use super::link::RegistryLink;
use super::{
    CatalogEvent, Context, Description, Frames, InputResponse, Kind, Operation, Page, Registry, Start,
    SubscriptionChange, SubscriptionEvent, convert,
};
use crate::error::{Code, Error};
use crate::pb::registry as pb;
use crate::pb::registry::catalog_client::CatalogClient;
use crate::pb::registry::invocations_client::InvocationsClient;
use crate::pb::registry::prompt_registry_client::PromptRegistryClient;
use crate::pb::registry::resource_registry_client::ResourceRegistryClient;
use crate::pb::registry::tool_registry_client::ToolRegistryClient;
use crate::wire::{MAX_MESSAGE, ToTheEnd, Wire, with_deadline};

/// A registry process at the other end of a [`Wire`].
#[derive(Clone)]
pub struct RegistryClient {
    catalog: CatalogClient<Wire>,
    invocations: InvocationsClient<Wire>,
    tools: ToolRegistryClient<Wire>,
    resources: ResourceRegistryClient<Wire>,
    prompts: PromptRegistryClient<Wire>,
    /// The link of whoever calls.
    link: Option<Arc<dyn Fn() -> RegistryLink + Send + Sync>>,
}

macro_rules! limited {
    ($client:ident, $wire:expr) => {
        $client::new($wire).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    };
}

impl RegistryClient {
    /// Speaks through `wire`; opens nothing yet.
    #[must_use]
    pub fn new(wire: Wire) -> Self {
        Self {
            catalog: limited!(CatalogClient, wire.clone()),
            invocations: limited!(InvocationsClient, wire.clone()),
            tools: limited!(ToolRegistryClient, wire.clone()),
            resources: limited!(ResourceRegistryClient, wire.clone()),
            prompts: limited!(PromptRegistryClient, wire),
            link: None,
        }
    }

    /// Starts with a call of its own, not over the link.
    async fn start_plainly(&self, context: &Context, start: Start) -> Result<Frames, Error> {
        let deadline = context.deadline;
        let context = Some(convert::context_to(context));
        let raw_params = start.params.bytes();
        let continuation = start.continuation.as_ref().map(convert::round_to);
        let target = start.target;
        let response = match start.operation {
            Operation::Call => {
                let message = pb::CallRequest { context, name: target, raw_params, continuation };
                self.tools.clone().call(with_deadline(message, deadline)).await?
            }
            Operation::Read => {
                let message = pb::ReadRequest { context, uri: target, raw_params, continuation };
                self.resources.clone().read(with_deadline(message, deadline)).await?
            }
            Operation::Get => {
                let message = pb::GetRequest { context, name: target, raw_params, continuation };
                self.prompts.clone().get(with_deadline(message, deadline)).await?
            }
        };
        Ok(frames(response))
    }

    /// Starts over the link that `link` gives, where that can be.
    #[must_use]
    pub fn over(mut self, link: impl Fn() -> RegistryLink + Send + Sync + 'static) -> Self {
        self.link = Some(Arc::new(link));
        self
    }
}

fn frames(response: tonic::Response<tonic::Streaming<pb::Frame>>) -> Frames {
    ToTheEnd::new(response, is_ending).map(|item| convert::frame_from(item?)).boxed()
}

fn is_ending(frame: &pb::Frame) -> bool {
    use pb::frame::Kind as B;
    match &frame.kind {
        Some(B::RawResult(_) | B::Error(_) | B::RawTask(_)) => true,
        // A question that was answered is followed by more, where all of it is read again.
        Some(
            B::Accepted(_)
            | B::RawProgress(_)
            | B::RawLog(_)
            | B::Notice(_)
            | B::Detach(_)
            | B::InputRequired(_),
        )
        | None => false,
    }
}

/// Names the type of the boxed stream: the compiler cannot prove `Send` for the anonymous one across the await.
struct Requests(BoxStream<'static, pb::SubscribeRequest>);

impl Stream for Requests {
    type Item = pb::SubscribeRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

/// The context first, then the changes.
fn subscribe_requests(
    context: &Context,
    changes: BoxStream<'static, SubscriptionChange>,
) -> BoxStream<'static, pb::SubscribeRequest> {
    use pb::subscribe_request::Change;
    let first = pb::SubscribeRequest { context: Some(convert::context_to(context)), change: None };
    let rest = changes.map(|change| {
        let change = match change {
            SubscriptionChange::Add(uri) => Change::Add(uri),
            SubscriptionChange::Remove(uri) => Change::Remove(uri),
        };
        pb::SubscribeRequest { context: None, change: Some(change) }
    });
    stream::iter([first]).chain(rest).boxed()
}

#[async_trait]
impl Registry for RegistryClient {
    async fn describe(&self) -> Result<Description, Error> {
        let response = self.catalog.clone().describe(pb::DescribeRequest {}).await?;
        convert::description_from(response.into_inner())
    }

    async fn watch(&self) -> Result<BoxStream<'static, Result<CatalogEvent, Error>>, Error> {
        let response = self.catalog.clone().watch(pb::WatchRequest {}).await?;
        let events = response.into_inner().filter_map(|item| async {
            item.map_err(Error::from).map(convert::catalog_event_from).transpose()
        });
        Ok(events.boxed())
    }

    async fn list(&self, context: Context, kind: Kind, cursor: Option<String>) -> Result<Page, Error> {
        let message = pb::ListRequest {
            context: Some(convert::context_to(&context)),
            cursor: cursor.unwrap_or_default(),
        };
        let request = with_deadline(message, context.deadline);
        let response = match kind {
            Kind::Tools => self.tools.clone().list(request).await?,
            Kind::Resources => self.resources.clone().list(request).await?,
            Kind::Templates => self.resources.clone().list_templates(request).await?,
            Kind::Prompts => self.prompts.clone().list(request).await?,
        };
        convert::page_from(response.into_inner())
    }

    async fn start(&self, context: Context, start: Start) -> Result<Frames, Error> {
        if let Some(link) = self.link.as_ref().map(|link| link())
            && link.takes(&start)
        {
            return link.start(context, start).await;
        }
        // Rare, and large: so that what every call pays for is not.
        Box::pin(self.start_plainly(&context, start)).await
    }

    async fn complete(&self, context: Context, params: Json) -> Result<Result<Json, RpcError>, Error> {
        use pb::complete_response::Outcome;
        let message =
            pb::CompleteRequest { context: Some(convert::context_to(&context)), raw_params: params.bytes() };
        let response = self.catalog.clone().complete(with_deadline(message, context.deadline)).await?;
        match response.into_inner().outcome {
            Some(Outcome::RawResult(bytes)) => Ok(Ok(convert::json(bytes)?)),
            Some(Outcome::Error(failure)) => Ok(Err(convert::failure_from(failure)?)),
            None => Err(Error::new(Code::InvalidRequest, "outcome is missing")),
        }
    }

    async fn subscribe(
        &self,
        context: Context,
        changes: BoxStream<'static, SubscriptionChange>,
    ) -> Result<BoxStream<'static, Result<SubscriptionEvent, Error>>, Error> {
        let requests = subscribe_requests(&context, changes);
        let response = self.resources.clone().subscribe(tonic::Request::new(Requests(requests))).await?;
        Ok(response.into_inner().map(|item| convert::subscription_event_from(item?)).boxed())
    }

    async fn attach(&self, context: Context, after: u64) -> Result<Frames, Error> {
        let message = pb::AttachRequest { context: Some(convert::context_to(&context)), after };
        Ok(frames(self.invocations.clone().attach(with_deadline(message, context.deadline)).await?))
    }

    async fn resume(
        &self,
        context: Context,
        round: u32,
        responses: Vec<InputResponse>,
    ) -> Result<Frames, Error> {
        let message = pb::ResumeRequest {
            context: Some(convert::context_to(&context)),
            round,
            responses: convert::responses_to(&responses),
        };
        Ok(frames(self.invocations.clone().resume(with_deadline(message, context.deadline)).await?))
    }

    async fn cancel(&self, context: Context, reason: String) -> Result<(), Error> {
        let message = pb::CancelRequest { context: Some(convert::context_to(&context)), reason };
        self.invocations.clone().cancel(with_deadline(message, context.deadline)).await?;
        Ok(())
    }

    async fn release(&self, context: Context, invocations: Vec<String>) -> Result<(), Error> {
        let message = pb::ReleaseRequest { context: Some(convert::context_to(&context)), invocations };
        self.invocations.clone().release(with_deadline(message, context.deadline)).await?;
        Ok(())
    }
}
