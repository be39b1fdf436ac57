//! Which era a server speaks, and the handshake of the older one.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use mcp::edit::ObjectEditor;
use mcp::method::notification;
use mcp::{Json, Method, Revision, code, edit, meta, rpc, scan};

use crate::client::{Client, Identity, Server, State};
use crate::error::Error;
use crate::exchange::Outgoing;
use crate::headers;
use crate::host::Host;
use crate::listener::Silent;
use crate::options::{Options, Speak};
use crate::wire::Wire;

/// What `server/discover` tells.
enum Probe {
    Modern(Server),
    /// A handshake is worth trying, with this revision.
    Older(Revision),
}

impl Client {
    /// Finds out what the server speaks, and opens a session if it is of an older revision.
    ///
    /// # Errors
    /// [`Error`]; nothing was executed.
    pub async fn connect(options: &Options, host: Arc<dyn Host>) -> Result<Self, Error> {
        let wire = Wire::new(options, host)?;
        let identity = Identity::of(options);
        let wanted = match options.speak {
            Speak::Older(revision) => revision,
            Speak::Modern => {
                return match probe(&wire, &identity).await? {
                    Probe::Modern(server) => Ok(Self::assemble(wire, identity, server, None)),
                    Probe::Older(offered) => Err(Error::Revision(offered.to_string())),
                };
            }
            Speak::Auto => match probe(&wire, &identity).await {
                Ok(Probe::Modern(server)) => return Ok(Self::assemble(wire, identity, server, None)),
                Ok(Probe::Older(revision)) => revision,
                Err(error) if says_older(&error) => Revision::LATEST_OLDER,
                Err(error) => return Err(error),
            },
        };
        let (server, session) = handshake(&wire, &identity, wanted).await?;
        Ok(Self::assemble(wire, identity, server, session))
    }

    /// Opens a new session in place of one that the server has lost. `lost` says which: another request may have been quicker.
    pub(crate) async fn reopen(&self, lost: &State) -> Result<(), Error> {
        if self.state() != *lost {
            return Ok(());
        }
        let (server, session) = handshake(&self.wire, &self.identity, lost.revision).await?;
        self.renew(State { revision: server.revision, session });
        Ok(())
    }
}

/// Asks the modern way.
async fn probe(wire: &Wire, identity: &Identity) -> Result<Probe, Error> {
    let params = modern_params(&Json::empty_object(), identity, &[]);
    let state = State { revision: Revision::LATEST, session: None };
    let out = Outgoing {
        id: 1,
        method: Method::Discover.as_str(),
        headers: headers::modern(Method::Discover, &params, &[]),
        params,
        state: &state,
        listener: &Silent,
    };
    let answered = tokio::select! {
        answered = wire.exchange(out) => answered,
        () = wire.sleep(wire.limits.probe) => Err(Error::Timeout),
    };
    let result = match answered {
        Ok(answer) => answer.result,
        Err(error) if error.code() == Some(code::UNSUPPORTED_VERSION) => return offered(&error),
        Err(error) => return Err(error),
    };
    let versions = scan::member(result.as_str(), "supportedVersions").map(texts).unwrap_or_default();
    let known = newest(&versions).ok_or_else(|| Error::Revision(versions.join(", ")))?;
    Ok(match known == Revision::LATEST {
        true => Probe::Modern(Server::read(known, &result)),
        false => Probe::Older(known),
    })
}

/// What a server that does not speak the newest revision names instead.
fn offered(error: &Error) -> Result<Probe, Error> {
    let data =
        error.refusal().and_then(|refusal| refusal.error.as_ref()).and_then(|error| error.data.clone());
    let versions =
        data.and_then(|data| data.member("supported")).map(|list| texts(list.as_str())).unwrap_or_default();
    match newest(&versions) {
        None if versions.is_empty() => Ok(Probe::Older(Revision::LATEST_OLDER)),
        Some(revision) if revision != Revision::LATEST => Ok(Probe::Older(revision)),
        Some(_) | None => Err(Error::Revision(versions.join(", "))),
    }
}

/// Whether this is how a server of an older revision takes a modern request. One that knows the modern errors is modern, and
/// one that wants credentials first has not said.
fn says_older(error: &Error) -> bool {
    match error {
        Error::Refused(refusal) => {
            let modern = [code::HEADER_MISMATCH, code::MISSING_CAPABILITY];
            let known = refusal.error.as_ref().is_some_and(|error| modern.contains(&error.code));
            !known && !matches!(refusal.status, 401 | 403 | 407 | 429 | 502 | 503 | 504)
        }
        // Servers that wait for `initialize` first, or answer nonsense.
        Error::Timeout | Error::Protocol(_) => true,
        Error::Unreachable(_)
        | Error::Lost(_)
        | Error::Redirect { .. }
        | Error::TooLarge(_)
        | Error::Revision(_)
        | Error::Cancelled
        | Error::Rounds(_)
        | Error::Unanswerable(_) => false,
    }
}

/// `initialize` and `notifications/initialized`.
async fn handshake(
    wire: &Wire,
    identity: &Identity,
    wanted: Revision,
) -> Result<(Server, Option<HeaderValue>), Error> {
    let mut params = ObjectEditor::new("{}");
    params
        .set("protocolVersion", edit::quote(wanted.as_str()))
        .set("capabilities", identity.capabilities.as_str())
        .set("clientInfo", identity.info.as_str());
    let state = State { revision: wanted, session: None };
    let out = Outgoing {
        id: 1,
        method: Method::Initialize.as_str(),
        params: params.finish_json(),
        headers: HeaderMap::new(),
        state: &state,
        listener: &Silent,
    };
    let answer = tokio::select! {
        answered = wire.exchange(out) => answered?,
        () = wire.sleep(wire.limits.probe) => return Err(Error::Timeout),
    };
    let named = answer.result.text("protocolVersion").unwrap_or_default();
    let revision = Revision::parse(&named)
        .filter(|revision| *revision < Revision::LATEST)
        .ok_or_else(|| Error::Revision(if named.is_empty() { "none".to_owned() } else { named }))?;
    let server = Server::read(revision, &answer.result);
    let state = State { revision, session: answer.session };
    wire.tell(&state, &rpc::notification(notification::INITIALIZED, None)).await?;
    Ok((server, state.session))
}

/// `params` with what every modern request says in `_meta`, and `more` of it.
pub(crate) fn modern_params(params: &Json, identity: &Identity, more: &[(&str, &str)]) -> Json {
    let version = edit::quote(Revision::LATEST.as_str());
    let mut members = vec![
        (meta::PROTOCOL_VERSION, version.as_str()),
        (meta::CLIENT_CAPABILITIES, identity.capabilities.as_str()),
        (meta::CLIENT_INFO, identity.info.as_str()),
    ];
    members.extend_from_slice(more);
    Json::trusted(edit::set_inside(params.as_str(), meta::META, &members))
}

fn texts(list: &str) -> Vec<String> {
    scan::elements(list).filter_map(scan::string).map(std::borrow::Cow::into_owned).collect()
}

fn newest(versions: &[String]) -> Option<Revision> {
    versions.iter().filter_map(|name| Revision::parse(name)).max()
}
