//! Coming back to a call that another owner of its session began.
//!
//! The process that took it on is asked, or, where that is not known or it does not know the call any more, every replica of
//! its registry. Whoever is asked remembers the epoch of the new owner, so "not known" is final: what the old owner still sends
//! there is refused. A replica that cannot be asked may know it; so it is asked again, until the call's deadline.

use std::sync::Arc;
use std::time::Duration;

use api::registry::{Context, Frames, Operation};
use api::{Code, Detail, Error};
use chassis::telemetry::{Scope, adopt};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream, FuturesUnordered};
use machines::CallFrame;
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

impl Call {
    /// Comes back to it, from the last frame that is known, until the ending of the round.
    pub(crate) fn reattach(self: Arc<Self>) -> BoxStream<'static, Reattached> {
        let scope = self.scope();
        let heard = async_stream::stream! {
            match (Search { call: &self }).run(false).await {
                Found::At(frames) => {
                    let mut following = self.clone().follow(Some(frames), Again::Attach);
                    while let Some(heard) = following.next().await {
                        yield Reattached::Heard(heard);
                    }
                }
                Found::NotKnown => yield Reattached::NotKnown,
                Found::OutOfReach => yield Reattached::OutOfReach,
                Found::Superseded => {
                    let lost = CallFrame::Lost { reason: "owner_changed", not_executed: false };
                    yield Reattached::Heard(Heard::Frame(self.note(lost)));
                }
            }
        };
        scope.within(heard).boxed()
    }

    /// The same for who ends it with an unknown outcome where it is not found.
    pub(crate) fn pick_up(self: Arc<Self>) -> BoxStream<'static, Heard> {
        let call = self.clone();
        let lost = move |reason| Heard::Frame(call.note(CallFrame::Lost { reason, not_executed: false }));
        let heard = self.reattach().map(move |reattached| match reattached {
            Reattached::Heard(heard) => heard,
            Reattached::NotKnown => lost("owner_failover"),
            Reattached::OutOfReach => lost("registry_lost"),
        });
        heard.boxed()
    }

    /// Whoever asks for it again has come: see [`Asking::show`].
    pub(crate) fn show(&self, hop: &Scope, key: &str) {
        let revision = self.context().revision;
        self.asking(|asking| asking.show(hop, key, (&self.route, &*self.begin), revision));
    }

    /// On whose behalf its registry is asked; known only later where another owner has begun it.
    pub(super) fn scope(&self) -> Scope {
        self.asking(|asking| asking.scope())
    }

    /// Finds the process that has it, for what it is to be told.
    pub(super) async fn locate(&self) -> Option<Arc<Link>> {
        // The frames are somebody else's.
        let _found = (Search { call: self }).run(true).await;
        self.place()
    }
}

impl Registries {
    /// Where a call went that another owner routed. What nobody lists any more goes nowhere new.
    pub(crate) fn route_taken(self: &Arc<Self>, operation: Operation, target: &str) -> Route {
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
struct Search<'a> {
    call: &'a Call,
}

impl Search<'_> {
    /// Asks until there is an answer. Where the process is known that must have it, it need not be asked to be told.
    async fn run(&self, to_tell: bool) -> Found {
        let mut stirred = self.call.route.all.stirred.subscribe();
        let mut pause = FIRST_PAUSE;
        let until = self.call.context().deadline.map_or_else(|| Instant::now() + PATIENCE, Instant::from_std);
        loop {
            stirred.mark_unchanged();
            let found = timeout_at(until, self.ask(to_tell)).await.unwrap_or(Found::OutOfReach);
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
    async fn ask(&self, to_tell: bool) -> Found {
        let links = self.call.route.all.links();
        let instance = self.call.instance();
        let is_it = |link: &&Arc<Link>| instance.is_some() && link.instance() == instance;
        let holder = links.values().find(is_it).cloned();
        if let Some(link) = &holder {
            // Answers, and cancellations, need not wait for what it says.
            let registries = self.registries_of(link).unwrap_or_default();
            if let [registry] = registries.as_slice() {
                self.call.found_in(registry);
            }
            self.call.put(link);
            if to_tell {
                return Found::At(stream::empty().boxed());
            }
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
        let Route { all, named, .. } = &self.call.route;
        let listed = named.find(&all.catalogue()).map(|entry| entry.source.clone());
        let known = self.call.context().registry;
        let may = |source: &Arc<SourceKey>| match (&listed, named) {
            (Some(listed), _) => listed == source,
            (None, _) if !known.is_empty() => source.registry == known,
            (None, Named::Resource(_)) => true,
            (None, Named::Entry(_, name)) => {
                let rest = name.strip_prefix(source.namespace.as_str());
                source.namespace.is_empty() || rest.is_some_and(|rest| rest.starts_with(SEPARATOR))
            }
        };
        let serves = link.serves()?;
        Some(serves.iter().filter(|source| may(source)).map(|source| source.registry.clone()).collect())
    }

    async fn probe(&self, link: &Arc<Link>, registry: &str) -> Probe {
        let context = Context { registry: registry.to_owned(), ..self.call.context() };
        // Whoever asks for the call may have come meanwhile.
        adopt(self.call.scope());
        let mut frames = match link.port.attach(context, self.call.last()).await {
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
