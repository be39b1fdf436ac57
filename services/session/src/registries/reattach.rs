//! Coming back to a call that another owner of its session began.
//!
//! The process that took it on is asked, or, where that is not known or it does not know the call any more, every replica of
//! its registry. Whoever is asked remembers the epoch of the new owner, so "not known" is final: what the old owner still sends
//! there is refused. A replica that cannot be asked may know it; so it is asked again, until the call's deadline.

use std::sync::Arc;
use std::time::Duration;

use api::registry::{Context, Frames, Operation, Start};
use api::{Code, Detail, Error};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream, FuturesUnordered};
use machines::CallFrame;
use mcp::Json;
use mcp::name::SEPARATOR;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::call::{Again, Call, Heard};
use super::catalogue::{Entry, SourceKey};
use super::route::{Named, PATIENCE};
use super::{Link, Registries, Route};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How soon a registry that does not know an invocation says so.
const SILENT: Duration = Duration::from_secs(1);

/// What is known of a call that another owner began.
pub(crate) struct Begun {
    /// What was asked for.
    pub(crate) operation: Operation,
    /// The advertised name, or the URI, as the client named it.
    pub(crate) target: String,
    /// As they went to the registry.
    pub(crate) params: Json,
    /// Its invocation, with the new owner; the registry is found out here. Its deadline bounds the search.
    pub(crate) context: Context,
    /// The instance that took it on, if that was heard.
    pub(crate) instance: Option<String>,
    /// Number of the last frame that needs no hearing again.
    pub(crate) after: u64,
}

/// What becomes of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reattached {
    /// A registry has it: this is what it says. There always is an ending.
    Heard(Heard),
    /// Every replica of its registry was asked, and none knows it or will execute it for an older owner.
    NotKnown,
    /// Somebody who may have it could not be asked until the deadline.
    OutOfReach,
}

/// What one process answers.
enum Probe {
    Known(Frames),
    NotKnown,
    OutOfReach,
    /// There is an owner after this one.
    Superseded,
}

enum Found {
    At(Frames),
    NotKnown,
    OutOfReach,
    Superseded,
}

impl Registries {
    /// Comes back to a call. What is asked of the call meanwhile reaches whoever may have it.
    pub(crate) fn reattach(self: &Arc<Self>, begun: Begun) -> (Arc<Call>, BoxStream<'static, Reattached>) {
        let Begun { operation, target, params, mut context, instance, after } = begun;
        let route = self.route_of(operation, &target);
        if context.registry.is_empty() {
            context.registry.clone_from(&route.entry.source.registry);
        }
        let own = match operation {
            Operation::Read => target.clone(),
            Operation::Call | Operation::Get => route.entry.own.clone(),
        };
        let begin = Start { operation, target: own, params, continuation: None };
        let call = Call::new(self.observed(), route, begin, context);
        call.skip(after);
        let search = Search { all: self.clone(), call: call.clone(), operation, target, instance, after };
        let heard = async_stream::stream! {
            let call = search.call.clone();
            match search.run().await {
                Found::At(frames) => {
                    let mut following = call.follow(Some(frames), Again::Attach);
                    while let Some(heard) = following.next().await {
                        yield Reattached::Heard(heard);
                    }
                }
                Found::NotKnown => yield Reattached::NotKnown,
                Found::OutOfReach => yield Reattached::OutOfReach,
                Found::Superseded => {
                    let lost = CallFrame::Lost { reason: "owner_changed", not_executed: false };
                    yield Reattached::Heard(Heard::Frame(call.note(lost)));
                }
            }
        };
        (call, heard.boxed())
    }

    /// Where a call went that somebody else routed. What nobody lists any more goes nowhere new.
    fn route_of(self: &Arc<Self>, operation: Operation, target: &str) -> Route {
        let named = Named::of(operation, target);
        let entry = named.find(&self.catalogue()).cloned().unwrap_or_else(|| Entry {
            source: Arc::default(),
            holders: Arc::default(),
            own: target.to_owned(),
            headers: Vec::new(),
        });
        Route { all: self.clone(), entry, named }
    }
}

/// The search for the process that has it.
struct Search {
    all: Arc<Registries>,
    call: Arc<Call>,
    operation: Operation,
    target: String,
    instance: Option<String>,
    after: u64,
}

impl Search {
    async fn run(self) -> Found {
        let mut stirred = self.all.stirred.subscribe();
        let mut pause = FIRST_PAUSE;
        let until = self.call.context().deadline.map_or_else(|| Instant::now() + PATIENCE, Instant::from_std);
        loop {
            stirred.mark_unchanged();
            let found = timeout_at(until, self.ask()).await.unwrap_or(Found::OutOfReach);
            if !matches!(found, Found::OutOfReach) || Instant::now() + pause >= until {
                if matches!(found, Found::NotKnown | Found::OutOfReach) {
                    self.call.put_nowhere();
                }
                return found;
            }
            tokio::select! {
                () = sleep(pause) => {}
                _closed = stirred.changed() => sleep(FIRST_PAUSE).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks the one that took it on, else all that may have.
    async fn ask(&self) -> Found {
        let links = self.all.links();
        let is_it = |link: &&Arc<Link>| self.instance.is_some() && link.instance() == self.instance;
        let holder = links.values().find(is_it).cloned();
        if let Some(link) = &holder {
            // Answers, and cancellations, need not wait for what it says.
            let registries = self.registries_of(link).unwrap_or_default();
            if let [registry] = registries.as_slice() {
                self.call.found_in(registry);
            }
            self.call.put(link);
            for registry in registries {
                match self.probe(link, &registry).await {
                    Probe::Known(frames) => return Found::At(frames),
                    Probe::NotKnown => {}
                    Probe::OutOfReach => return Found::OutOfReach,
                    Probe::Superseded => return Found::Superseded,
                }
            }
        }
        let mut is_sure = true;
        let mut asked = FuturesUnordered::new();
        let others = links.values().filter(|link| holder.as_ref().is_none_or(|holder| holder.id != link.id));
        for link in others {
            match self.registries_of(link) {
                None => is_sure = false,
                Some(registries) => asked.extend(registries.into_iter().map(|registry| async move {
                    let probe = self.probe(link, &registry).await;
                    (link, probe)
                })),
            }
        }
        while let Some((link, probe)) = asked.next().await {
            match probe {
                Probe::Known(frames) => {
                    self.call.put(link);
                    return Found::At(frames);
                }
                Probe::NotKnown => {}
                Probe::OutOfReach => is_sure = false,
                Probe::Superseded => return Found::Superseded,
            }
        }
        if is_sure { Found::NotKnown } else { Found::OutOfReach }
    }

    /// The registries of a process that may have been asked for it; `None` if it has never said which it has.
    fn registries_of(&self, link: &Link) -> Option<Vec<String>> {
        let named = Named::of(self.operation, &self.target);
        let listed = named.find(&self.all.catalogue()).map(|entry| entry.source.clone());
        let known = self.call.context().registry;
        let may = |source: &Arc<SourceKey>| match (&listed, self.operation) {
            (Some(listed), _) => listed == source,
            (None, _) if !known.is_empty() => source.registry == known,
            (None, Operation::Read) => true,
            (None, Operation::Call | Operation::Get) => {
                let rest = self.target.strip_prefix(source.namespace.as_str());
                source.namespace.is_empty() || rest.is_some_and(|rest| rest.starts_with(SEPARATOR))
            }
        };
        let serves = link.serves()?;
        Some(serves.iter().filter(|source| may(source)).map(|source| source.registry.clone()).collect())
    }

    async fn probe(&self, link: &Arc<Link>, registry: &str) -> Probe {
        let context = Context { registry: registry.to_owned(), ..self.call.context() };
        let mut frames = match link.port.attach(context, self.after).await {
            Ok(frames) => frames,
            Err(error) => return Probe::of(&error),
        };
        // A refusal may come as the first thing in the stream; what is silent has nothing new to say.
        let frames = match timeout(SILENT, frames.next()).await {
            Ok(Some(Err(error))) => return Probe::of(&error),
            Ok(Some(Ok(first))) => stream::iter([Ok(first)]).chain(frames).boxed(),
            Ok(None) => stream::empty().boxed(),
            Err(_elapsed) => frames,
        };
        self.call.found_in(registry);
        Probe::Known(frames)
    }
}

impl Probe {
    const fn of(error: &Error) -> Self {
        match (error.code, &error.detail) {
            (_, Some(Detail::StaleEpoch { .. })) => Self::Superseded,
            (Code::NotFound | Code::Unimplemented, _) => Self::NotKnown,
            (
                Code::InvalidRequest
                | Code::Precondition
                | Code::Unauthenticated
                | Code::Denied
                | Code::Overloaded
                | Code::Deadline
                | Code::Unavailable
                | Code::Cancelled
                | Code::OutcomeUnknown
                | Code::Internal,
                _,
            ) => Self::OutOfReach,
        }
    }
}

#[cfg(test)]
mod tests;
