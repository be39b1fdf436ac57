//! The process under test, as the checker speaks to it: every wait is limited.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use api::pb::registry::catalog_client::CatalogClient;
use api::pb::registry::invocations_client::InvocationsClient;
use api::pb::registry::prompt_registry_client::PromptRegistryClient;
use api::pb::registry::resource_registry_client::ResourceRegistryClient;
use api::pb::registry::tool_registry_client::ToolRegistryClient;
use api::pb::registry::v1 as pb;
use api::registry::{Kind, Operation};
use api::wire::MAX_MESSAGE;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use super::frames;

/// How far away the deadline of an ordinary request is.
const DEADLINE: Duration = Duration::from_secs(60);
/// No answer of an honest registry to this checker has as many frames.
const FLOOD: usize = 10_000;

/// What is started.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) operation: Operation,
    pub(super) name: String,
    pub(super) raw_params: String,
}

impl Target {
    pub(super) fn new(operation: Operation, name: &str) -> Self {
        let params = match operation {
            Operation::Call => json!({"name": name, "arguments": {}}),
            Operation::Read => json!({"uri": name}),
            Operation::Get => json!({"name": name}),
        };
        Self { operation, name: name.to_owned(), raw_params: params.to_string() }
    }

    /// Something that does not exist.
    pub(super) fn unknown(operation: Operation, unique: &str) -> Self {
        match operation {
            Operation::Call | Operation::Get => Self::new(operation, unique),
            Operation::Read => Self::new(operation, &format!("registry-check://{unique}")),
        }
    }
}

/// How a stream of frames stands.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// Closed in order.
    Closed,
    /// Refused, or broken off.
    Status(Status),
    /// Nothing came for as long as the patience lasts.
    Open,
    /// More frames than anybody wants.
    Flood,
}

impl End {
    pub(super) fn code(&self) -> Option<Code> {
        match self {
            Self::Status(status) => Some(status.code()),
            Self::Closed | Self::Open | Self::Flood => None,
        }
    }
}

/// A stream of frames that is being read. A server may send its headers with the first frame only, so waiting for them
/// is part of reading.
pub(super) struct Flow {
    pub(super) frames: Vec<pb::Frame>,
    pub(super) end: End,
    stream: Option<BoxStream<'static, Result<pb::Frame, Status>>>,
    waits: Waits,
}

/// How long to wait for what.
#[derive(Debug, Clone)]
pub(super) struct Waits {
    /// For what has to come.
    pub(super) patience: Duration,
    /// For what must not come.
    pub(super) silence: Duration,
    /// Set once a stream stayed open behind its ending: others of this registry will too.
    stays_open: Arc<AtomicBool>,
}

impl Waits {
    pub(super) fn new(patience: Duration, silence: Duration) -> Self {
        Self { patience, silence, stays_open: Arc::default() }
    }
}

impl Flow {
    /// Reads until the stream ends, which it is expected to do.
    pub(super) async fn finish(&mut self) {
        self.read(self.waits.patience, self.waits.patience).await;
    }

    /// Reads until nothing more comes for a while; a first frame is expected.
    pub(super) async fn settle(&mut self) {
        self.read(self.waits.patience, self.waits.silence).await;
    }

    /// Reads what should be nothing.
    pub(super) async fn listen(&mut self) {
        self.read(self.waits.silence, self.waits.silence).await;
    }

    /// Reads until the stream ends, or nothing has come for the given times, or thrice the patience has passed.
    async fn read(&mut self, first: Duration, then: Duration) {
        let last = Instant::now() + self.waits.patience * 3;
        let mut wait = first;
        while let Some(stream) = &mut self.stream {
            let ended = frames::ended(&self.frames);
            if ended && self.waits.stays_open.load(Ordering::Relaxed) {
                wait = wait.min(self.waits.silence);
            }
            let until = last.min(Instant::now() + wait);
            wait = then;
            let end = match timeout_at(until, stream.next()).await {
                Ok(Some(Ok(frame))) if self.frames.len() < FLOOD => {
                    self.frames.push(frame);
                    continue;
                }
                Ok(Some(Ok(_))) => End::Flood,
                Ok(Some(Err(status))) => End::Status(status),
                Ok(None) => End::Closed,
                Err(_) => {
                    self.end = End::Open;
                    if ended {
                        self.waits.stays_open.store(true, Ordering::Relaxed);
                    }
                    return;
                }
            };
            self.end = end;
            self.stream = None;
        }
    }

    /// Frames that were put together from several streams.
    pub(super) const fn closed(frames: Vec<pb::Frame>, waits: Waits) -> Self {
        Self { frames, end: End::Closed, stream: None, waits }
    }

    /// Reads one frame.
    pub(super) async fn first(&mut self) {
        if let Some(stream) = &mut self.stream
            && let Ok(Some(Ok(frame))) = timeout(self.waits.patience, stream.next()).await
        {
            self.frames.push(frame);
        }
    }

    /// The status of a stream that was refused before its first frame.
    pub(super) fn refusal(&self) -> Option<Code> {
        if self.frames.is_empty() { self.end.code() } else { None }
    }

    /// What came, for a message.
    pub(super) fn told(&self) -> String {
        let end = match &self.end {
            End::Closed => "closed".to_owned(),
            End::Status(status) => format!("{:?} ({})", status.code(), status.message()),
            End::Open => "still open".to_owned(),
            End::Flood => "a flood".to_owned(),
        };
        format!("{} frames, then {end}", self.frames.len())
    }
}

/// The connection.
pub(super) struct Peer {
    pub(super) channel: Channel,
    pub(super) waits: Waits,
    mesh: String,
    serial: AtomicU64,
}

fn late() -> Status {
    Status::deadline_exceeded("no answer within the patience of the check")
}

impl Peer {
    pub(super) fn new(address: &str, waits: Waits) -> Self {
        let uri = format!("http://{address}");
        let endpoint =
            Endpoint::from_shared(uri).unwrap_or_else(|_| Endpoint::from_static("http://invalid:1"));
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        Self {
            channel: endpoint.connect_timeout(waits.patience).connect_lazy(),
            waits,
            mesh: format!("registry-check-{}-{nanos}", std::process::id()),
            serial: AtomicU64::new(1),
        }
    }

    /// A text that was not used before.
    pub(super) fn fresh(&self, what: &str) -> String {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        format!("{what}-{serial}-{}", self.mesh)
    }

    /// A context with a new invocation, owned by a slot nobody has used.
    pub(super) fn context(&self, registry: &str) -> pb::RequestContext {
        let slot = u32::try_from(self.serial.fetch_add(1, Ordering::Relaxed) % 4095).unwrap_or(0) + 1;
        let capabilities = json!({"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}});
        pb::RequestContext {
            mesh: self.mesh.clone(),
            registry: registry.to_owned(),
            invocation: self.fresh("invocation"),
            slot: slot.min(4095),
            epoch: 1,
            principal: Some(pb::Principal { subject: "registry-check".to_owned(), ..Default::default() }),
            affinity: String::new(),
            protocol_revision: "2025-11-25".to_owned(),
            raw_client_capabilities: capabilities.to_string().into(),
            log_level: "debug".to_owned(),
            progress: true,
            catalogue_digest: String::new(),
        }
    }

    /// A context without owner, for a client that wants neither progress nor log messages.
    pub(super) fn ownerless(&self, registry: &str) -> pb::RequestContext {
        let owned = self.context(registry);
        pb::RequestContext { slot: 0, epoch: 0, log_level: String::new(), progress: false, ..owned }
    }

    async fn unary<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        timeout(self.waits.patience, call).await.map_err(|_| late())?.map(Response::into_inner)
    }

    /// The request is sent when reading begins.
    fn flow(
        &self,
        call: impl Future<Output = Result<Response<Streaming<pb::Frame>>, Status>> + Send + 'static,
    ) -> Flow {
        let opened = stream::once(call.map_ok(Response::into_inner)).try_flatten();
        Flow { frames: Vec::new(), end: End::Open, stream: Some(opened.boxed()), waits: self.waits.clone() }
    }

    fn request<T>(message: T, deadline: Duration) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(deadline);
        request
    }

    fn catalog(&self) -> CatalogClient<Channel> {
        CatalogClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn invocations(&self) -> InvocationsClient<Channel> {
        InvocationsClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn tools(&self) -> ToolRegistryClient<Channel> {
        ToolRegistryClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn resources(&self) -> ResourceRegistryClient<Channel> {
        ResourceRegistryClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    fn prompts(&self) -> PromptRegistryClient<Channel> {
        PromptRegistryClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(super) async fn describe(&self) -> Result<pb::DescribeResponse, Status> {
        self.unary(self.catalog().describe(pb::DescribeRequest {})).await
    }

    pub(super) async fn watch(&self) -> Result<Streaming<pb::WatchResponse>, Status> {
        self.unary(self.catalog().watch(pb::WatchRequest {})).await
    }

    pub(super) async fn list(
        &self,
        context: pb::RequestContext,
        kind: Kind,
        cursor: &str,
    ) -> Result<pb::ListResponse, Status> {
        let message = pb::ListRequest { context: Some(context), cursor: cursor.to_owned() };
        let request = Self::request(message, DEADLINE);
        match kind {
            Kind::Tools => self.unary(self.tools().list(request)).await,
            Kind::Resources => self.unary(self.resources().list(request)).await,
            Kind::Templates => self.unary(self.resources().list_templates(request)).await,
            Kind::Prompts => self.unary(self.prompts().list(request)).await,
        }
    }

    pub(super) fn start(&self, context: &pb::RequestContext, target: &Target) -> Flow {
        self.begin(context, target, None, DEADLINE)
    }

    pub(super) fn begin(
        &self,
        context: &pb::RequestContext,
        target: &Target,
        continuation: Option<pb::Continuation>,
        deadline: Duration,
    ) -> Flow {
        let context = Some(context.clone());
        let (name, raw_params) = (target.name.clone(), target.raw_params.clone().into());
        match target.operation {
            Operation::Call => {
                let message = pb::CallRequest { context, name, raw_params, continuation };
                let (mut client, request) = (self.tools(), Self::request(message, deadline));
                self.flow(async move { client.call(request).await })
            }
            Operation::Read => {
                let message = pb::ReadRequest { context, uri: name, raw_params, continuation };
                let (mut client, request) = (self.resources(), Self::request(message, deadline));
                self.flow(async move { client.read(request).await })
            }
            Operation::Get => {
                let message = pb::GetRequest { context, name, raw_params, continuation };
                let (mut client, request) = (self.prompts(), Self::request(message, deadline));
                self.flow(async move { client.get(request).await })
            }
        }
    }

    /// Starts something and reads its frames.
    pub(super) async fn answer(&self, context: &pb::RequestContext, target: &Target) -> Flow {
        let mut flow = self.start(context, target);
        flow.finish().await;
        flow
    }

    /// Starts something that goes on, and reads its frames so far.
    pub(super) async fn running(&self, context: &pb::RequestContext, target: &Target) -> Flow {
        let mut flow = self.start(context, target);
        flow.settle().await;
        flow
    }

    /// Attaches to something that has ended, or is about to.
    pub(super) async fn attach(&self, context: &pb::RequestContext, after: u64) -> Flow {
        let mut flow = self.attaching(context, after);
        flow.finish().await;
        flow
    }

    pub(super) fn attaching(&self, context: &pb::RequestContext, after: u64) -> Flow {
        let message = pb::AttachRequest { context: Some(context.clone()), after };
        let (mut client, request) = (self.invocations(), Self::request(message, DEADLINE));
        self.flow(async move { client.attach(request).await })
    }

    pub(super) async fn resume(
        &self,
        context: &pb::RequestContext,
        round: u32,
        responses: Vec<pb::InputResponse>,
    ) -> Flow {
        let message = pb::ResumeRequest { context: Some(context.clone()), round, responses };
        let (mut client, request) = (self.invocations(), Self::request(message, DEADLINE));
        let mut flow = self.flow(async move { client.resume(request).await });
        flow.finish().await;
        flow
    }

    pub(super) async fn cancel(&self, context: &pb::RequestContext) -> Result<(), Status> {
        let message = pb::CancelRequest { context: Some(context.clone()), reason: "checked".to_owned() };
        self.unary(self.invocations().cancel(Self::request(message, DEADLINE))).await.map(|_| ())
    }

    /// Releases the invocation of the context.
    pub(super) async fn release(&self, context: &pb::RequestContext) -> Result<(), Status> {
        let invocations = vec![context.invocation.clone()];
        let context = pb::RequestContext { invocation: self.fresh("release"), ..context.clone() };
        let message = pb::ReleaseRequest { context: Some(context), invocations };
        self.unary(self.invocations().release(Self::request(message, DEADLINE))).await.map(|_| ())
    }

    pub(super) async fn complete(
        &self,
        context: pb::RequestContext,
        raw_params: String,
    ) -> Result<pb::CompleteResponse, Status> {
        let message = pb::CompleteRequest { context: Some(context), raw_params: raw_params.into() };
        self.unary(self.catalog().complete(Self::request(message, DEADLINE))).await
    }

    pub(super) async fn subscribe(
        &self,
        requests: impl Stream<Item = pb::SubscribeRequest> + Send + 'static,
    ) -> Result<Streaming<pb::SubscribeResponse>, Status> {
        self.unary(self.resources().subscribe(Request::new(requests))).await
    }
}
