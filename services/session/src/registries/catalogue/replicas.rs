//! Several processes that serve the same registry, seen as one.
//!
//! An entry is offered while at least one replica that serves offers it. Where replicas define it differently, as they do
//! while a new version is rolled out, the definition of the newest is shown: that of the highest version, then the one that
//! most replicas have, then the last by its bytes. Every node that sees the same replicas so shows the same, and a roll-out
//! changes a definition once. A replica that was lost keeps its entries listed until it is forgotten; one that leaves on
//! purpose does so only while nobody serves in its place.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::registry::Kind;
use mcp::Json;

use super::{LinkId, List, Source, SourceKey, name_member};

/// How a process stands to new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It drains, or is no longer announced.
    Leaving,
    /// It is out of reach, and may come back.
    Lost,
    /// It takes them.
    Serving,
}

/// Who offers an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holders {
    /// As it is shown.
    pub(crate) alike: Vec<LinkId>,
    /// Under another definition.
    pub(crate) others: Vec<LinkId>,
}

/// One entry of a registry.
pub(super) struct Offered<'a> {
    pub(super) own: String,
    /// The definition that is shown.
    pub(super) item: &'a Json,
    pub(super) holders: Arc<Holders>,
    /// One process lists it twice.
    pub(super) twice: bool,
}

/// The replicas of one registry whose lists count.
pub(super) struct Group<'a> {
    /// Newest first; never empty.
    first: &'a Source,
    replicas: Vec<&'a Source>,
}

/// One way in which an entry is defined.
struct Definition<'a> {
    item: &'a Json,
    by: Vec<&'a Source>,
}

impl<'a> Group<'a> {
    /// All registries, by their keys.
    pub(super) fn all(sources: &'a [Source]) -> Vec<Self> {
        let mut by_key: BTreeMap<&SourceKey, Vec<&Source>> = BTreeMap::new();
        for source in sources {
            by_key.entry(&source.key).or_default().push(source);
        }
        by_key.into_values().filter_map(Self::of).collect()
    }

    fn of(mut replicas: Vec<&'a Source>) -> Option<Self> {
        if replicas.iter().any(|source| source.standing == Standing::Serving) {
            replicas.retain(|source| source.standing != Standing::Leaving);
        }
        replicas.sort_by(|a, b| newer(b, a));
        Some(Self { first: replicas.first()?, replicas })
    }

    pub(super) const fn key(&self) -> &'a Arc<SourceKey> {
        &self.first.key
    }

    /// The replica that speaks for all where only one can.
    pub(super) const fn newest(&self) -> &'a Source {
        self.first
    }

    /// The lists of a kind, those of the newest first.
    pub(super) fn lists(&self, kind: Kind) -> impl Iterator<Item = &'a List> {
        self.replicas.iter().filter_map(move |source| source.lists.get(&kind).map(Arc::as_ref))
    }

    /// Every entry of a kind once.
    pub(super) fn offered(&self, kind: Kind) -> Vec<Offered<'a>> {
        let mut by_name: BTreeMap<String, Vec<(&'a Source, &'a Json)>> = BTreeMap::new();
        for source in &self.replicas {
            for item in source.lists.get(&kind).into_iter().flat_map(|list| &list.items) {
                let own = item.text(name_member(kind)).unwrap_or_default();
                by_name.entry(own).or_default().push((source, item));
            }
        }
        let mut known: BTreeSet<Arc<Holders>> = BTreeSet::new();
        let offered = by_name.into_iter().filter_map(|(own, offers)| {
            let mut links: Vec<LinkId> = offers.iter().map(|(source, _)| source.link).collect();
            links.sort_unstable();
            let twice = links.windows(2).any(|pair| pair[0] == pair[1]);
            let shown = shown(&offers)?;
            let is_alike = |link: &LinkId| shown.by.iter().any(|source| source.link == *link);
            let (alike, others) = links.into_iter().partition(is_alike);
            let holders = Holders { alike, others };
            // Most entries have the same holders.
            let holders = known.get(&holders).cloned().unwrap_or_else(|| {
                let holders = Arc::new(holders);
                known.insert(holders.clone());
                holders
            });
            Some(Offered { own, item: shown.item, holders, twice })
        });
        offered.collect()
    }
}

fn shown<'a>(offers: &[(&'a Source, &'a Json)]) -> Option<Definition<'a>> {
    let mut definitions: Vec<Definition<'a>> = Vec::with_capacity(1);
    for (source, item) in offers {
        match definitions.iter_mut().find(|known| known.item.as_str() == item.as_str()) {
            Some(known) => known.by.push(source),
            None => definitions.push(Definition { item, by: vec![source] }),
        }
    }
    definitions.into_iter().max_by(Definition::compare)
}

impl Definition<'_> {
    fn compare(&self, other: &Self) -> Ordering {
        let serving = |of: &Self| of.by.iter().filter(|source| source.standing == Standing::Serving).count();
        let newest =
            |of: &Self| of.by.iter().copied().max_by(|a, b| compare_versions(&a.version, &b.version));
        let by_version = match (newest(self), newest(other)) {
            (Some(a), Some(b)) => compare_versions(&a.version, &b.version),
            (None, _) | (_, None) => Ordering::Equal,
        };
        (serving(self) > 0)
            .cmp(&(serving(other) > 0))
            .then(by_version)
            .then_with(|| serving(self).cmp(&serving(other)))
            .then_with(|| self.item.as_str().cmp(other.item.as_str()))
    }
}

/// Which of two replicas speaks for both. Never undecided between replicas that say different things.
fn newer(a: &Source, b: &Source) -> Ordering {
    let serving = |source: &Source| source.standing == Standing::Serving;
    let said = |source: &Source| source.capabilities.as_ref().map(|json| json.as_str().to_owned());
    serving(a)
        .cmp(&serving(b))
        .then_with(|| compare_versions(&a.version, &b.version))
        .then_with(|| a.instructions.cmp(&b.instructions))
        .then_with(|| said(a).cmp(&said(b)))
        .then_with(|| a.link.cmp(&b.link))
}

/// Numbers as numbers, anything else by its bytes. What stands behind a hyphen comes before the version it is behind.
fn compare_versions(a: &str, b: &str) -> Ordering {
    let split = |text| match str::split_once(text, '-') {
        Some((core, before)) => (core, Some(before)),
        None => (text, None),
    };
    let ((core_a, before_a), (core_b, before_b)) = (split(a), split(b));
    compare_parts(core_a, core_b).then_with(|| match (before_a, before_b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(a), Some(b)) => compare_parts(a, b),
    })
}

fn compare_parts(a: &str, b: &str) -> Ordering {
    let part = |text: &str| (text.parse::<u64>().unwrap_or_default(), text.to_owned());
    a.split('.').map(part).cmp(b.split('.').map(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (older, newer) in
            [("", "1"), ("1.9.0", "1.10.0"), ("1.0", "1.0.1"), ("2.0.0-rc.1", "2.0.0"), ("2-rc.2", "2-rc.10")]
        {
            assert_eq!(compare_versions(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(compare_versions(newer, older), Ordering::Greater, "{older} {newer}");
            assert_eq!(compare_versions(newer, newer), Ordering::Equal);
        }
    }
}
