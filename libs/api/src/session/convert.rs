//! Between the types of the port and the messages of `trunkline.session.v1`. No decisions.

use mcp::{Era, Json};

use super::{Again, Answer, Attach, Close, Delivery, Event, Frame, Request, Transport};
use crate::error::{Code, Error};
use crate::pb::session as pb;
use crate::registry::convert::{json, optional_json, principal_from, principal_to, raw};

fn optional(text: String) -> Option<String> {
    Some(text).filter(|t| !t.is_empty())
}

const fn transport_to(transport: Transport) -> pb::Transport {
    match transport {
        Transport::Streamable => pb::Transport::Streamable,
        Transport::HttpSse => pb::Transport::HttpSse,
    }
}

fn transport_from(transport: i32) -> Result<Transport, Error> {
    match pb::Transport::try_from(transport) {
        Ok(pb::Transport::Streamable) => Ok(Transport::Streamable),
        Ok(pb::Transport::HttpSse) => Ok(Transport::HttpSse),
        Err(_) => Err(Error::new(Code::InvalidRequest, "transport is not known")),
    }
}

pub(super) fn delivery_to(d: Delivery) -> pb::DeliverRequest {
    let era = match d.era {
        Era::Older => pb::Era::Older,
        Era::Modern => pb::Era::Modern,
    };
    pb::DeliverRequest {
        raw_message: d.message.bytes(),
        era: era.into(),
        session: d.session.unwrap_or_default(),
        protocol_revision: d.revision.unwrap_or_default(),
        principal: Some(principal_to(&d.principal)),
        group: d.group,
        param_headers: d.param_headers.into_iter().map(|(name, value)| pb::Header { name, value }).collect(),
        request_key: d.request_key,
        transport: transport_to(d.transport).into(),
        again: d.again.map(|again| pb::Again {
            accepted: again.accepted,
            last_event_id: again.last_event_id.unwrap_or_default(),
        }),
        in_batch: d.in_batch,
    }
}

pub(super) fn delivery_from(d: pb::DeliverRequest) -> Result<Delivery, Error> {
    let era = match pb::Era::try_from(d.era) {
        Ok(pb::Era::Older) => Era::Older,
        Ok(pb::Era::Modern) => Era::Modern,
        Ok(pb::Era::Unspecified) | Err(_) => return Err(Error::new(Code::InvalidRequest, "era is missing")),
    };
    let transport = transport_from(d.transport)?;
    Ok(Delivery {
        message: json(d.raw_message)?,
        read: None,
        era,
        session: optional(d.session),
        revision: optional(d.protocol_revision),
        principal: principal_from(d.principal),
        group: d.group,
        param_headers: d.param_headers.into_iter().map(|h| (h.name, h.value)).collect(),
        request_key: d.request_key,
        transport,
        again: d
            .again
            .map(|again| Again { accepted: again.accepted, last_event_id: optional(again.last_event_id) }),
        in_batch: d.in_batch,
    })
}

pub(super) fn attach_to(a: Attach) -> pb::AttachRequest {
    pb::AttachRequest {
        session: a.session,
        protocol_revision: a.revision.unwrap_or_default(),
        principal: Some(principal_to(&a.principal)),
        last_event_id: a.last_event_id.unwrap_or_default(),
        begin: a.begin,
        carried: a.carried,
    }
}

pub(super) fn attach_from(a: pb::AttachRequest) -> Attach {
    Attach {
        session: a.session,
        revision: optional(a.protocol_revision),
        principal: principal_from(a.principal),
        last_event_id: optional(a.last_event_id),
        begin: a.begin,
        carried: a.carried,
    }
}

pub(super) fn close_to(c: Close) -> pb::CloseRequest {
    pb::CloseRequest {
        session: c.session,
        protocol_revision: c.revision.unwrap_or_default(),
        principal: Some(principal_to(&c.principal)),
        when_idle: c.when_idle,
        transport: transport_to(c.transport).into(),
    }
}

pub(super) fn close_from(c: pb::CloseRequest) -> Result<Close, Error> {
    Ok(Close {
        session: c.session,
        revision: optional(c.protocol_revision),
        principal: principal_from(c.principal),
        when_idle: c.when_idle,
        transport: transport_from(c.transport)?,
    })
}

pub(super) fn relay_to(to: &str, request: Request) -> pb::RelayRequest {
    use pb::relay_request::Request as R;
    let request = match request {
        Request::Deliver(delivery) => R::Deliver(delivery_to(*delivery)),
        Request::Attach(attach) => R::Attach(attach_to(attach)),
        Request::Close(close) => R::Close(close_to(close)),
    };
    pb::RelayRequest { to: to.to_owned(), request: Some(request) }
}

pub(super) fn relay_from(relay: pb::RelayRequest) -> Result<(String, Request), Error> {
    use pb::relay_request::Request as R;
    let missing = || Error::new(Code::InvalidRequest, "what is to be passed on is missing");
    let request = match relay.request.ok_or_else(missing)? {
        R::Deliver(delivery) => Request::Deliver(Box::new(delivery_from(delivery)?)),
        R::Attach(attach) => Request::Attach(attach_from(attach)),
        R::Close(close) => Request::Close(close_from(close)?),
    };
    Ok((relay.to, request))
}

pub(super) fn frame_to(frame: Frame) -> pb::Frame {
    use pb::frame::Kind as K;
    let kind = match frame {
        Frame::Accepted { session } => K::Accepted(pb::Accepted { session: session.unwrap_or_default() }),
        Frame::Refused(answer) => K::Refused(answer_to(&answer)),
        Frame::Answer(answer) => K::Answer(answer_to(&answer)),
        Frame::Open => K::Open(pb::Open {}),
        Frame::Event(event) => K::Event(pb::Event {
            id: event.id.unwrap_or_default(),
            raw_message: raw(event.message.as_ref()),
            retry_ms: event.retry_ms.unwrap_or_default(),
        }),
    };
    pb::Frame { kind: Some(kind) }
}

pub(super) fn frame_from(frame: pb::Frame) -> Result<Frame, Error> {
    use pb::frame::Kind as K;
    Ok(match frame.kind.ok_or_else(|| Error::new(Code::InvalidRequest, "kind of a frame is missing"))? {
        K::Accepted(a) => Frame::Accepted { session: optional(a.session) },
        K::Refused(answer) => Frame::Refused(answer_from(answer)?),
        K::Answer(answer) => Frame::Answer(answer_from(answer)?),
        K::Open(pb::Open {}) => Frame::Open,
        K::Event(e) => Frame::Event(Event {
            id: optional(e.id),
            message: optional_json(e.raw_message)?,
            retry_ms: Some(e.retry_ms).filter(|ms| *ms > 0),
        }),
    })
}

fn answer_to(answer: &Answer) -> pb::Answer {
    pb::Answer {
        status: u32::from(answer.status),
        raw_body: answer.body.as_ref().map(Json::bytes).unwrap_or_default(),
        retry_after_s: answer.retry_after_s.unwrap_or_default(),
    }
}

fn answer_from(answer: pb::Answer) -> Result<Answer, Error> {
    let status = u16::try_from(answer.status).unwrap_or(500);
    let retry_after_s = Some(answer.retry_after_s).filter(|s| *s > 0);
    Ok(Answer { status, body: optional_json(answer.raw_body)?, retry_after_s })
}
