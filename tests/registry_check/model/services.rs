//! The five services of the model.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api::pb::registry::catalog_server::{Catalog, CatalogServer};
use api::pb::registry::invocations_server::{Invocations, InvocationsServer};
use api::pb::registry::prompt_registry_server::{PromptRegistry, PromptRegistryServer};
use api::pb::registry::resource_registry_server::{ResourceRegistry, ResourceRegistryServer};
use api::pb::registry::tool_registry_server::{ToolRegistry, ToolRegistryServer};
use api::pb::registry::v1 as pb;
use api::registry::Operation;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::call::{Frames, Phase};
use super::lists::KINDS;
use super::{Ask, Fault, Model};

type Answer<T> = Result<Response<T>, Status>;

pub(super) async fn serve(model: Arc<Model>, listener: TcpListener) -> Result<(), tonic::transport::Error> {
    let limit = if model.is(Fault::MessagesSmall) { 4 << 20 } else { 8 << 20 };
    let tools = ToolRegistryServer::from_arc(Arc::new(Tools(model.clone()))).max_decoding_message_size(limit);
    Server::builder()
        .add_service(CatalogServer::from_arc(Arc::new(Shared(model.clone()))))
        .add_service(InvocationsServer::from_arc(Arc::new(Shared(model.clone()))))
        .add_service(Strict { inner: tools, on: model.is(Fault::FieldsStrict) })
        .add_service(ResourceRegistryServer::from_arc(Arc::new(Resources(model.clone()))))
        .add_service(PromptRegistryServer::from_arc(Arc::new(Prompts(model))))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
}

struct Shared(Arc<Model>);
struct Tools(Arc<Model>);
struct Resources(Arc<Model>);
struct Prompts(Arc<Model>);

#[tonic::async_trait]
impl Catalog for Shared {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Answer<pb::DescribeResponse> {
        let model = &self.0;
        let digest = |kind: pb::Kind| pb::KindDigest { kind: kind.into(), digest: model.digest(kind) };
        let mut kinds: Vec<pb::KindDigest> = KINDS.into_iter().map(digest).collect();
        if model.is(Fault::KindTwice) {
            kinds.extend(kinds.last().cloned());
        }
        let changes = model.is(Fault::InstanceChanges);
        let instance = if changes { format!("i{}", model.next()) } else { model.instance() };
        let namespace = if model.is(Fault::NamespaceIllegal) { "a__b" } else { "model" }.to_owned();
        let one = pb::RegistryDescription {
            name: model.name(),
            kinds,
            namespace,
            completions: true,
            subscriptions: true,
            ..Default::default()
        };
        Ok(Response::new(pb::DescribeResponse { instance, registries: vec![one] }))
    }

    async fn watch(&self, _: Request<pb::WatchRequest>) -> Answer<Self::WatchStream> {
        let model = self.0.clone();
        let mut first: Vec<pb::WatchResponse> = match model.fault {
            Some(Fault::WatchSilent) => Vec::new(),
            Some(_) | None => KINDS.into_iter().map(|kind| model.changed(kind)).collect(),
        };
        if model.is(Fault::WatchRepeats) {
            first.extend(first.clone());
        }
        let first = stream::iter(first);
        let news = model.news.subscribe();
        let known = model.digest(pb::Kind::Resources);
        let later = stream::unfold((model.clone(), news, known), |(model, mut news, known)| async move {
            loop {
                news.changed().await.ok()?;
                let draining = *news.borrow_and_update();
                if draining && !model.is(Fault::DrainSilent) {
                    let event = pb::watch_response::Event::NotServing(pb::NotServing {});
                    return Some((pb::WatchResponse { event: Some(event) }, (model, news, known)));
                }
                let digest = model.digest(pb::Kind::Resources);
                if digest != known && !model.is(Fault::WatchMissesChange) {
                    return Some((model.changed(pb::Kind::Resources), (model, news, digest)));
                }
            }
        });
        let all = if model.is(Fault::WatchCloses) { first.boxed() } else { first.chain(later).boxed() };
        Ok(Response::new(all.map(Ok).boxed()))
    }

    async fn complete(&self, request: Request<pb::CompleteRequest>) -> Answer<pb::CompleteResponse> {
        use pb::complete_response::Outcome;
        let request = request.into_inner();
        self.0.admit(request.context.as_ref(), Ask::Other)?;
        let params = String::from_utf8_lossy(&request.raw_params).into_owned();
        let known = !params.contains("no-such") || self.0.is(Fault::CompletionOfAnything);
        let outcome = if self.0.is(Fault::CompletionEmpty) && known {
            Outcome::RawResult(json!({"completion": {}}).to_string().into())
        } else if known {
            Outcome::RawResult(json!({"completion": {"values": ["a"]}}).to_string().into())
        } else {
            Outcome::Error(pb::Failure { code: -32602, message: "unknown".into(), ..Default::default() })
        };
        Ok(Response::new(pb::CompleteResponse { outcome: Some(outcome) }))
    }
}

#[tonic::async_trait]
impl Invocations for Shared {
    type AttachStream = Frames;
    type ResumeStream = Frames;

    async fn attach(&self, request: Request<pb::AttachRequest>) -> Answer<Frames> {
        let model = &self.0;
        let pb::AttachRequest { context, after } = request.into_inner();
        let Some(call) = model.find(context.as_ref(), Ask::Attach)? else {
            let empty = model.is(Fault::AttachUnknownEmpty);
            let unknown = Err(Status::not_found("no such invocation"));
            return if empty { Ok(Response::new(stream::empty().boxed())) } else { unknown };
        };
        let frames = match model.fault {
            Some(Fault::AttachStartsOver) => call.frames(0),
            Some(Fault::AttachBeyondRepeats) if after > 50 => call.frames(0),
            Some(Fault::AttachLosesFrames) if call.phase() == Phase::Over => call.frames(after + 1),
            Some(_) | None => call.frames(after),
        };
        Ok(Response::new(frames))
    }

    async fn resume(&self, request: Request<pb::ResumeRequest>) -> Answer<Frames> {
        let model = &self.0;
        let request = request.into_inner();
        let Some(call) = model.find(request.context.as_ref(), Ask::Other)? else {
            let empty = model.is(Fault::ResumeUnknownEmpty);
            let unknown = Err(Status::not_found("no such invocation"));
            return if empty { Ok(Response::new(stream::empty().boxed())) } else { unknown };
        };
        let after = call.resume(request).ok_or_else(|| Status::invalid_argument("not asked"))?;
        let frames = call.frames(after);
        if !model.is(Fault::ResumeStartsOver) {
            return Ok(Response::new(frames));
        }
        let renumbered = frames.enumerate().map(|(at, frame)| {
            let frame = frame?;
            Ok(pb::Frame { number: at as u64 + 1, ..frame })
        });
        Ok(Response::new(renumbered.boxed()))
    }

    async fn cancel(&self, request: Request<pb::CancelRequest>) -> Answer<pb::CancelResponse> {
        match self.0.find(request.into_inner().context.as_ref(), Ask::Other)? {
            Some(call) if !self.0.is(Fault::CancelIgnored) => call.cancelled.notify_one(),
            None if self.0.is(Fault::CancelUnknownFails) => return Err(Status::not_found("unknown")),
            Some(_) | None => {}
        }
        Ok(Response::new(pb::CancelResponse {}))
    }

    async fn release(&self, request: Request<pb::ReleaseRequest>) -> Answer<pb::ReleaseResponse> {
        let request = request.into_inner();
        let (mesh, _) = self.0.admit(request.context.as_ref(), Ask::Other)?;
        let mut calls = self.0.calls.lock().unwrap();
        for invocation in request.invocations {
            let key = (mesh.clone(), invocation);
            let call = calls.get(&key).cloned();
            let over = call.as_ref().is_some_and(|call| call.release() == Phase::Over);
            if over && !self.0.is(Fault::ReleaseKeeps) {
                calls.remove(&key);
            }
            if call.is_none() && self.0.is(Fault::ReleaseUnknownFails) {
                return Err(Status::not_found("unknown"));
            }
        }
        Ok(Response::new(pb::ReleaseResponse {}))
    }
}

/// What the client leaves of its deadline, in milliseconds as this checker sends it or in another unit.
fn deadline<T>(request: &Request<T>) -> Option<Duration> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at(text.len() - 1);
    let value: u64 = digits.parse().ok()?;
    match unit {
        "n" => Some(Duration::from_nanos(value)),
        "u" => Some(Duration::from_micros(value)),
        "m" => Some(Duration::from_millis(value)),
        "S" => Some(Duration::from_secs(value)),
        _ => None,
    }
}

impl Model {
    fn list(&self, request: Request<pb::ListRequest>, kind: pb::Kind) -> Answer<pb::ListResponse> {
        let request = request.into_inner();
        self.admit(request.context.as_ref(), Ask::Other)?;
        Ok(Response::new(self.page(kind, &request.cursor)?))
    }
}

#[tonic::async_trait]
impl ToolRegistry for Tools {
    type CallStream = Frames;

    async fn list(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListResponse> {
        self.0.list(request, pb::Kind::Tools)
    }

    async fn call(&self, request: Request<pb::CallRequest>) -> Answer<Frames> {
        let left = deadline(&request);
        let m = request.into_inner();
        self.0.start(Operation::Call, m.name, (m.context, m.continuation), left).map(Response::new)
    }
}

#[tonic::async_trait]
impl ResourceRegistry for Resources {
    type ReadStream = Frames;
    type SubscribeStream = BoxStream<'static, Result<pb::SubscribeResponse, Status>>;

    async fn list(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListResponse> {
        self.0.list(request, pb::Kind::Resources)
    }

    async fn list_templates(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListResponse> {
        self.0.list(request, pb::Kind::ResourceTemplates)
    }

    async fn read(&self, request: Request<pb::ReadRequest>) -> Answer<Frames> {
        let left = deadline(&request);
        let m = request.into_inner();
        self.0.start(Operation::Read, m.uri, (m.context, m.continuation), left).map(Response::new)
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<pb::SubscribeRequest>>,
    ) -> Answer<Self::SubscribeStream> {
        use pb::subscribe_request::Change;
        use pb::subscribe_response::Event;
        let fault = self.0.fault;
        let events = request.into_inner().filter_map(move |message| async move {
            let Some(Change::Add(uri)) = message.ok()?.change else { return None };
            let known = uri.starts_with("model://") && fault != Some(Fault::SubscriptionsRefused);
            let event = if known || fault == Some(Fault::SubscriptionToAnything) {
                Event::Accepted(uri)
            } else {
                Event::Refused(pb::SubscriptionRefused { uri, ..Default::default() })
            };
            Some(Ok(pb::SubscribeResponse { event: Some(event) }))
        });
        Ok(Response::new(events.boxed()))
    }
}

#[tonic::async_trait]
impl PromptRegistry for Prompts {
    type GetStream = Frames;

    async fn list(&self, request: Request<pb::ListRequest>) -> Answer<pb::ListResponse> {
        self.0.list(request, pb::Kind::Prompts)
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Answer<Frames> {
        let left = deadline(&request);
        let m = request.into_inner();
        self.0.start(Operation::Get, m.name, (m.context, m.continuation), left).map(Response::new)
    }
}

/// Refuses messages with fields that it does not know, if it is told to.
#[derive(Clone)]
struct Strict<S> {
    inner: S,
    on: bool,
}

impl<S: NamedService> NamedService for Strict<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Strict<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (mut inner, on) = (self.inner.clone(), self.on);
        Box::pin(async move {
            if !on {
                return inner.call(request).await;
            }
            let (head, body) = request.into_parts();
            let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            if bytes.windows(5).any(|window| window == b"later") {
                return Ok(Status::invalid_argument("unknown field").into_http());
            }
            inner.call(http::Request::from_parts(head, Body::new(Full::new(bytes)))).await
        })
    }
}
