//! Which replica of a registry a request goes to.
//!
//! Requests with the same affinity go to the same replica on every node, as long as it serves and offers what they name. What
//! provably was not executed goes to another one; while there is none, it waits for a moment, as in a restart.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use api::registry::{Context, Kind, Operation, Registry};
use api::{Code, Detail, Error};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::catalogue::{Catalogue, Entry, Holders, LinkId, Standing};
use super::{Link, Registries};

/// How long a request waits for a replica to serve.
const HOLD: Duration = Duration::from_secs(2);
/// Between two attempts to ask again.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// How long a registry may be out of reach before it is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Where a request goes.
#[derive(Clone)]
pub(crate) struct Route {
    pub(crate) all: Arc<Registries>,
    pub(crate) entry: Entry,
    /// What the client named.
    pub(super) named: Named,
}

/// What a client names.
#[derive(Debug, Clone)]
pub(super) enum Named {
    /// By the advertised name or the URI template.
    Entry(Kind, String),
    /// By a URI, which may be that of a template.
    Resource(String),
}

impl Named {
    pub(super) fn of(operation: Operation, target: &str) -> Self {
        match operation {
            Operation::Call => Self::Entry(Kind::Tools, target.to_owned()),
            Operation::Get => Self::Entry(Kind::Prompts, target.to_owned()),
            Operation::Read => Self::Resource(target.to_owned()),
        }
    }

    pub(super) fn find<'a>(&self, catalogue: &'a Catalogue) -> Option<&'a Entry> {
        match self {
            Self::Entry(kind, name) => catalogue.find(*kind, name),
            Self::Resource(uri) => catalogue.resource(uri),
        }
    }
}

impl Route {
    /// The replica for requests of this affinity, leaving some out: of those that offer the entry as it is listed, else of
    /// those that offer it at all.
    pub(crate) fn choose(&self, affinity: &str, not: &[LinkId]) -> Option<Arc<Link>> {
        let links = self.all.links.read().unwrap_or_else(PoisonError::into_inner);
        let among = |holders: &Holders| {
            [&holders.alike, &holders.others].into_iter().find_map(|holders| {
                let serving = holders.iter().filter(|id| !not.contains(id)).filter_map(|id| links.get(id));
                let serving = serving.filter(|link| link.standing() == Standing::Serving);
                serving.max_by_key(|link| weight(affinity, link.address())).cloned()
            })
        };
        among(&self.entry.holders).or_else(|| {
            // Others may have come since.
            let catalogue = self.all.catalogue();
            let entry = self.named.find(&catalogue).filter(|entry| entry.source == self.entry.source)?;
            among(&entry.holders)
        })
    }

    /// Looks for replicas one after the other.
    pub(super) fn search(&self, context: &Context) -> Search<'_> {
        let by = if context.affinity.is_empty() { &context.invocation } else { &context.affinity };
        Search { route: self, affinity: by.clone(), tried: Vec::new(), until: None, stirred: None }
    }

    /// Asks for one answer, and again while it can be had nowhere.
    ///
    /// # Errors
    /// What kept the registry from answering.
    pub(crate) async fn ask<T, F>(
        &self,
        context: &Context,
        mut ask: impl FnMut(Arc<dyn Registry>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let until = Instant::now() + PATIENCE;
        let mut search = self.search(context);
        let mut refused = nobody();
        while let Some(link) = search.next().await {
            match ask(link.port.clone()).await {
                Err(error) if is_transient(&error) && Instant::now() < until => {
                    if !search.leave_out(link.id) {
                        sleep(PAUSE).await;
                    }
                    refused = error;
                }
                answered => return answered,
            }
        }
        Err(refused)
    }
}

/// See [`Route::search`].
pub(super) struct Search<'a> {
    route: &'a Route,
    affinity: String,
    /// Replicas that refused.
    tried: Vec<LinkId>,
    /// Until when it is waited; set when there is first nobody to ask.
    until: Option<Instant>,
    /// Tells when anything has changed; nearly always nobody wants to know.
    stirred: Option<watch::Receiver<()>>,
}

impl Search<'_> {
    /// The next replica to ask; `None` if none serves for too long. Who has refused is asked again when anything has changed.
    pub(super) async fn next(&mut self) -> Option<Arc<Link>> {
        if let Some(link) = self.route.choose(&self.affinity, &self.tried) {
            return Some(link);
        }
        let stirred = self.stirred.get_or_insert_with(|| self.route.all.stirred.subscribe());
        loop {
            stirred.mark_unchanged();
            if let Some(link) = self.route.choose(&self.affinity, &self.tried) {
                return Some(link);
            }
            let until = *self.until.get_or_insert_with(|| Instant::now() + HOLD);
            let changed = timeout_at(until, stirred.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                return None;
            }
            self.tried.clear();
        }
    }

    /// This replica is not asked again before the others. Whether there is one to ask now.
    pub(super) fn leave_out(&mut self, link: LinkId) -> bool {
        self.tried.push(link);
        let another = self.route.choose(&self.affinity, &self.tried).is_some();
        if !another {
            self.tried.clear();
        }
        another
    }

    /// This replica is not asked again before something has changed.
    pub(super) fn exclude(&mut self, link: LinkId) {
        self.tried.push(link);
    }
}

/// The peer cannot be reached or is busy: it may be asked again what is safe to ask twice.
pub(super) const fn is_transient(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::Overloaded)
}

/// Provably not executed, and another replica may do it.
pub(super) const fn goes_elsewhere(error: &Error) -> bool {
    matches!(error.detail, Some(Detail::Draining | Detail::NotReached))
}

/// No replica serves.
pub(super) fn nobody() -> Error {
    Error::new(Code::Unavailable, "no replica of the registry serves").with(Detail::NotReached)
}

/// Rendezvous: on every node the same replica weighs most, and only its own requests move when it goes.
fn weight(affinity: &str, address: &str) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let bytes = affinity.bytes().chain([0xff]).chain(address.bytes());
    let mut hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    // The last bytes have moved few of the bits yet.
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinities_are_spread_and_only_those_of_a_lost_replica_move() {
        let best = |affinity: &str, among: &[&'static str]| {
            among.iter().copied().max_by_key(|address| weight(affinity, address)).unwrap()
        };
        let all = ["10.0.0.1:7201", "10.0.0.2:7201", "10.0.0.3:7201"];
        let mut counts = [0_usize; 3];
        for n in 0..3000 {
            let affinity = format!("affinity-{n}");
            let before = best(&affinity, &all);
            counts[all.iter().position(|address| *address == before).unwrap()] += 1;
            if before != all[2] {
                assert_eq!(best(&affinity, &all[..2]), before);
            }
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
