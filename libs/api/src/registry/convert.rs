//! Between the types of the port and the messages of `trunkline.registry.v1`. No decisions.

use bytes::Bytes;
use mcp::Json;
use mcp::rpc::RpcError;
use mcp::scan::Limits;

use super::{
    CatalogEvent, Context, Continuation, Description, Frame, FrameBody, InputRequired, InputResponse, Kind,
    Operation, Page, RegistryDescription, Round, Start, SubscriptionEvent,
};
use crate::error::{Code, Error};
use crate::pb::registry as pb;
use crate::{Epoch, Principal, Slot};

/// Text that must be one JSON value.
pub(crate) fn json(bytes: Bytes) -> Result<Json, Error> {
    Json::parse(bytes, &Limits::RESULT)
        .map_err(|e| Error::new(Code::InvalidRequest, format!("raw field: {e}")))
}

/// Text that may be absent.
pub(crate) fn optional_json(bytes: Bytes) -> Result<Option<Json>, Error> {
    if bytes.is_empty() { Ok(None) } else { json(bytes).map(Some) }
}

pub(crate) fn raw(json: Option<&Json>) -> Bytes {
    json.map(Json::bytes).unwrap_or_default()
}

fn missing(what: &str) -> Error {
    Error::new(Code::InvalidRequest, format!("{what} is missing"))
}

pub(crate) fn principal_to(p: &Principal) -> pb::Principal {
    let Principal { subject, issuer, tenant, client } = p.clone();
    pb::Principal { subject, issuer, tenant, client }
}

pub(crate) fn principal_from(p: Option<pb::Principal>) -> Principal {
    let p = p.unwrap_or_default();
    Principal { subject: p.subject, issuer: p.issuer, tenant: p.tenant, client: p.client }
}

pub(super) fn context_to(c: &Context) -> pb::RequestContext {
    let (slot, epoch) = c.owner.map_or((0, 0), |(slot, epoch)| (u32::from(slot.number()), epoch.0));
    pb::RequestContext {
        mesh: c.mesh.clone(),
        registry: c.registry.clone(),
        invocation: c.invocation.clone(),
        slot,
        epoch,
        principal: Some(principal_to(&c.principal)),
        affinity: c.affinity.clone(),
        protocol_revision: c.revision.as_str().to_owned(),
        raw_client_capabilities: raw(c.client_capabilities.as_ref()),
        log_level: c.log_level.map_or_else(String::new, |l| l.as_str().to_owned()),
        progress: c.progress,
        catalogue_digest: c.catalogue_digest.clone(),
    }
}

pub(super) fn context_from(
    c: Option<pb::RequestContext>,
    deadline: Option<std::time::Instant>,
) -> Result<Context, Error> {
    let c = c.ok_or_else(|| missing("context"))?;
    let owner = match (c.slot, c.epoch) {
        (0, 0) => None,
        (slot, epoch) => {
            let slot = u16::try_from(slot).ok().and_then(Slot::new);
            let slot = slot.ok_or_else(|| missing("a slot of 0..16383"))?;
            if epoch == 0 {
                return Err(missing("an epoch from 1"));
            }
            Some((slot, Epoch(epoch)))
        }
    };
    Ok(Context {
        mesh: c.mesh,
        registry: c.registry,
        invocation: c.invocation,
        owner,
        principal: principal_from(c.principal),
        affinity: c.affinity,
        revision: crate::revision_or_latest(&c.protocol_revision),
        client_capabilities: optional_json(c.raw_client_capabilities)?,
        log_level: mcp::log::Level::parse(&c.log_level),
        progress: c.progress,
        catalogue_digest: c.catalogue_digest,
        deadline,
    })
}

pub(super) const fn kind_to(kind: Kind) -> pb::Kind {
    match kind {
        Kind::Tools => pb::Kind::Tools,
        Kind::Resources => pb::Kind::Resources,
        Kind::Templates => pb::Kind::ResourceTemplates,
        Kind::Prompts => pb::Kind::Prompts,
    }
}

/// `None` for kinds this build does not know: additions to the contract are ignored.
pub(super) fn kind_from(kind: i32) -> Option<Kind> {
    match pb::Kind::try_from(kind).ok()? {
        pb::Kind::Unspecified => None,
        pb::Kind::Tools => Some(Kind::Tools),
        pb::Kind::Resources => Some(Kind::Resources),
        pb::Kind::ResourceTemplates => Some(Kind::Templates),
        pb::Kind::Prompts => Some(Kind::Prompts),
    }
}

pub(super) fn description_to(d: Description) -> pb::DescribeResponse {
    let registries = d.registries.into_iter().map(|r| pb::RegistryDescription {
        name: r.name,
        kinds: r
            .kinds
            .into_iter()
            .map(|(kind, digest)| pb::KindDigest { kind: kind_to(kind).into(), digest })
            .collect(),
        version: r.version,
        namespace: r.namespace,
        raw_capabilities: raw(r.capabilities.as_ref()),
        instructions: r.instructions,
        raw_server_info: raw(r.server_info.as_ref()),
        completions: r.completions,
        subscriptions: r.subscriptions,
    });
    pb::DescribeResponse { instance: d.instance, registries: registries.collect() }
}

pub(super) fn description_from(d: pb::DescribeResponse) -> Result<Description, Error> {
    let registries = d.registries.into_iter().map(|r| {
        Ok(RegistryDescription {
            name: r.name,
            kinds: r.kinds.into_iter().filter_map(|k| Some((kind_from(k.kind)?, k.digest))).collect(),
            version: r.version,
            namespace: r.namespace,
            capabilities: optional_json(r.raw_capabilities)?,
            instructions: r.instructions,
            server_info: optional_json(r.raw_server_info)?,
            completions: r.completions,
            subscriptions: r.subscriptions,
        })
    });
    Ok(Description { instance: d.instance, registries: registries.collect::<Result<_, Error>>()? })
}

pub(super) fn catalog_event_to(event: CatalogEvent) -> pb::WatchResponse {
    use pb::watch_response::Event;
    let event = match event {
        CatalogEvent::Changed { registry, kind, digest } => {
            Event::Changed(pb::Changed { registry, kind: kind_to(kind).into(), digest })
        }
        CatalogEvent::NotServing => Event::NotServing(pb::NotServing {}),
    };
    pb::WatchResponse { event: Some(event) }
}

/// `None` for events this build does not know.
pub(super) fn catalog_event_from(event: pb::WatchResponse) -> Option<CatalogEvent> {
    use pb::watch_response::Event;
    match event.event? {
        Event::Changed(c) => {
            Some(CatalogEvent::Changed { registry: c.registry, kind: kind_from(c.kind)?, digest: c.digest })
        }
        Event::NotServing(pb::NotServing {}) => Some(CatalogEvent::NotServing),
    }
}

pub(super) fn page_to(page: Page) -> pb::ListResponse {
    let scope = if page.public { pb::CacheScope::Public } else { pb::CacheScope::Private };
    pb::ListResponse {
        raw_items: page.items.iter().map(Json::bytes).collect(),
        next_cursor: page.next_cursor.unwrap_or_default(),
        ttl_ms: page.ttl_ms,
        cache_scope: scope.into(),
        digest: page.digest,
        raw_meta: raw(page.meta.as_ref()),
    }
}

pub(super) fn page_from(page: pb::ListResponse) -> Result<Page, Error> {
    Ok(Page {
        items: page.raw_items.into_iter().map(json).collect::<Result<_, _>>()?,
        next_cursor: Some(page.next_cursor).filter(|c| !c.is_empty()),
        ttl_ms: page.ttl_ms,
        public: page.cache_scope == i32::from(pb::CacheScope::Public),
        digest: page.digest,
        meta: optional_json(page.raw_meta)?,
    })
}

pub(super) fn failure_to(error: &RpcError) -> pb::Failure {
    pb::Failure { code: error.code, message: error.message.clone(), raw_data: raw(error.data.as_ref()) }
}

pub(super) fn failure_from(failure: pb::Failure) -> Result<RpcError, Error> {
    Ok(RpcError { code: failure.code, message: failure.message, data: optional_json(failure.raw_data)? })
}

pub(super) fn responses_to(responses: &[InputResponse]) -> Vec<pb::InputResponse> {
    use pb::input_response::Answer;
    let one = |r: &InputResponse| pb::InputResponse {
        key: r.key.clone(),
        answer: Some(match &r.answer {
            Ok(result) => Answer::RawResult(result.bytes()),
            Err(error) => Answer::Error(failure_to(error)),
        }),
    };
    responses.iter().map(one).collect()
}

pub(super) fn responses_from(responses: Vec<pb::InputResponse>) -> Result<Vec<InputResponse>, Error> {
    use pb::input_response::Answer;
    let one = |r: pb::InputResponse| {
        let answer = match r.answer.ok_or_else(|| missing("answer"))? {
            Answer::RawResult(bytes) => Ok(json(bytes)?),
            Answer::Error(failure) => Err(failure_from(failure)?),
        };
        Ok(InputResponse { key: r.key, answer })
    };
    responses.into_iter().map(one).collect()
}

pub(super) fn round_to(round: &Round) -> pb::Continuation {
    pb::Continuation {
        state: round.state.clone(),
        round: round.round,
        responses: responses_to(&round.responses),
    }
}

fn round_from(c: Option<pb::Continuation>) -> Result<Option<Round>, Error> {
    c.map(|c| Ok(Round { state: c.state, round: c.round, responses: responses_from(c.responses)? }))
        .transpose()
}

pub(super) fn start_from(
    operation: Operation,
    target: String,
    raw_params: Bytes,
    continuation: Option<pb::Continuation>,
) -> Result<Start, Error> {
    let params = optional_json(raw_params)?.unwrap_or_else(Json::empty_object);
    Ok(Start { operation, target, params, continuation: round_from(continuation)? })
}

pub(super) fn frame_to(frame: Frame) -> pb::Frame {
    use pb::frame::Kind as K;
    let kind = match frame.body {
        FrameBody::Accepted { invocation, instance } => K::Accepted(pb::Accepted { invocation, instance }),
        FrameBody::Progress(params) => K::RawProgress(params.bytes()),
        FrameBody::Log(params) => K::RawLog(params.bytes()),
        FrameBody::Notice { method, params } => K::Notice(pb::Notice { method, raw_params: params.bytes() }),
        FrameBody::Detach { retry_ms } => K::Detach(pb::Detach { retry_ms }),
        FrameBody::Result(result) => K::RawResult(result.bytes()),
        FrameBody::Error(error) => K::Error(failure_to(&error)),
        FrameBody::InputRequired(input) => K::InputRequired(input_required_to(input)),
        FrameBody::Task(task) => K::RawTask(task.bytes()),
    };
    pb::Frame { number: frame.number, kind: Some(kind) }
}

fn input_required_to(input: InputRequired) -> pb::InputRequired {
    use pb::input_required::Continuation as C;
    pb::InputRequired {
        raw_input_requests: input.requests.bytes(),
        round: input.round,
        expires_unix_ms: input.expires_unix_ms,
        continuation: Some(match input.continuation {
            Continuation::Parked => C::Parked(true),
            Continuation::State(state) => C::State(state),
        }),
    }
}

pub(super) fn frame_from(frame: pb::Frame) -> Result<Frame, Error> {
    use pb::frame::Kind as K;
    let body = match frame.kind.ok_or_else(|| missing("kind of a frame"))? {
        K::Accepted(a) => FrameBody::Accepted { invocation: a.invocation, instance: a.instance },
        K::RawProgress(bytes) => FrameBody::Progress(json(bytes)?),
        K::RawLog(bytes) => FrameBody::Log(json(bytes)?),
        K::Notice(n) => FrameBody::Notice { method: n.method, params: json(n.raw_params)? },
        K::Detach(d) => FrameBody::Detach { retry_ms: d.retry_ms },
        K::RawResult(bytes) => FrameBody::Result(json(bytes)?),
        K::Error(failure) => FrameBody::Error(failure_from(failure)?),
        K::InputRequired(input) => FrameBody::InputRequired(input_required_from(input)?),
        K::RawTask(bytes) => FrameBody::Task(json(bytes)?),
    };
    Ok(Frame { number: frame.number, body })
}

fn input_required_from(input: pb::InputRequired) -> Result<InputRequired, Error> {
    use pb::input_required::Continuation as C;
    let continuation = match input.continuation.ok_or_else(|| missing("continuation"))? {
        C::Parked(_) => Continuation::Parked,
        C::State(state) => Continuation::State(state),
    };
    let requests = optional_json(input.raw_input_requests)?.unwrap_or_else(Json::empty_object);
    Ok(InputRequired { requests, round: input.round, expires_unix_ms: input.expires_unix_ms, continuation })
}

pub(super) fn subscription_event_to(event: SubscriptionEvent) -> pb::SubscribeResponse {
    use pb::subscribe_response::Event;
    let event = match event {
        SubscriptionEvent::Accepted(uri) => Event::Accepted(uri),
        SubscriptionEvent::Refused(uri, error) => {
            Event::Refused(pb::SubscriptionRefused { uri, error: Some(failure_to(&error)) })
        }
        SubscriptionEvent::Updated(params) => Event::RawUpdated(params.bytes()),
    };
    pb::SubscribeResponse { event: Some(event) }
}

pub(super) fn subscription_event_from(event: pb::SubscribeResponse) -> Result<SubscriptionEvent, Error> {
    use pb::subscribe_response::Event;
    Ok(match event.event.ok_or_else(|| missing("event"))? {
        Event::Accepted(uri) => SubscriptionEvent::Accepted(uri),
        Event::Refused(r) => SubscriptionEvent::Refused(r.uri, failure_from(r.error.unwrap_or_default())?),
        Event::RawUpdated(bytes) => SubscriptionEvent::Updated(json(bytes)?),
    })
}
