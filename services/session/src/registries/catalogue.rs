//! What clients see of all registries together. Pure: lists in, one ordered catalogue out.
//!
//! `replicas` makes one registry of all processes that serve it; here registries become one catalogue.

mod replicas;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::registry::Kind;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use foldhash::fast::RandomState;
use machines::Lists;
use mcp::edit::{self, ObjectEditor};
use mcp::header::{self, ParamHeader};
use mcp::{Json, name, scan, template};
use sha2::{Digest, Sha256};

use self::replicas::{Group, Offered};
pub(crate) use self::replicas::{Holders, Standing};

/// Names the link to a registry process, as long as this node runs.
pub(crate) type LinkId = u64;

/// One registry, however many processes serve it. Processes whose registries are called the same are its replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceKey {
    /// Prefix of its names; may be empty.
    pub(crate) namespace: String,
    /// Its name in every process that serves it.
    pub(crate) registry: String,
    /// `name` of its Implementation object; empty if it has none. Registries that call themselves differently are two.
    pub(crate) server: String,
}

/// What one process lists of one registry at present.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) key: Arc<SourceKey>,
    pub(crate) link: LinkId,
    pub(crate) standing: Standing,
    pub(crate) capabilities: Option<Json>,
    pub(crate) instructions: String,
    /// Of the content, for people; the newest replica is told by it.
    pub(crate) version: String,
    pub(crate) lists: BTreeMap<Kind, Arc<List>>,
}

/// One whole list of a registry.
#[derive(Debug, Clone, Default)]
pub(crate) struct List {
    pub(crate) items: Vec<Json>,
    pub(crate) ttl_ms: u64,
    pub(crate) public: bool,
    pub(crate) meta: Option<Json>,
}

/// One entry as clients see it.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Whose it is.
    pub(crate) source: Arc<SourceKey>,
    /// Who offers it.
    pub(crate) holders: Arc<Holders>,
    /// The registry's own name, or the URI (template).
    pub(crate) own: String,
    /// Arguments that modern clients repeat in headers.
    pub(crate) headers: Vec<ParamHeader>,
}

/// One merged list, its pages ready to be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Section {
    entries: Vec<(String, Entry)>,
    /// Hashed quickly: no client chooses what is in it.
    by_name: HashMap<String, usize, RandomState>,
    pages: Vec<Json>,
    digest: String,
    /// Shortest of the registries'.
    pub(crate) ttl_ms: u64,
    /// Only if every registry says so.
    pub(crate) public: bool,
    /// Advertised names that two entries claim, or entries that are not acceptable; never shown.
    pub(crate) hidden: Vec<String>,
}

/// Everything that is served at present.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalogue {
    sections: BTreeMap<Kind, Section>,
    /// Capabilities that registries add, merged.
    pub(crate) capabilities: Option<Json>,
    /// Instructions of all registries.
    pub(crate) instructions: String,
}

impl Catalogue {
    /// Merges the lists of all registries. Order: namespace, then name, bytewise.
    pub(crate) fn build(sources: &[Source], page_size: usize) -> Self {
        let groups = Group::all(sources);
        let sections =
            Kind::ALL.into_iter().map(|kind| (kind, Section::build(kind, &groups, page_size))).collect();
        let newest: Vec<&Source> = groups.iter().map(Group::newest).collect();
        let instructions: Vec<&str> =
            newest.iter().map(|s| s.instructions.as_str()).filter(|text| !text.is_empty()).collect();
        Self { sections, capabilities: merged_capabilities(&newest), instructions: instructions.join("\n\n") }
    }

    /// Tells this state of the lists from others, on every node.
    pub(crate) fn lists(&self) -> Lists {
        let of = |kinds: &[Kind]| {
            let mut hasher = Sha256::new();
            for section in kinds.iter().filter_map(|kind| self.section(*kind)) {
                hasher.update(&section.digest);
            }
            hasher.finalize().first_chunk().map_or(0, |start| u32::from_le_bytes(*start))
        };
        Lists {
            tools: of(&[Kind::Tools]),
            resources: of(&[Kind::Resources, Kind::Templates]),
            prompts: of(&[Kind::Prompts]),
        }
    }

    /// The merged list of a kind.
    pub(crate) fn section(&self, kind: Kind) -> Option<&Section> {
        self.sections.get(&kind)
    }

    /// The entry with this advertised name or URI (template).
    pub(crate) fn find(&self, kind: Kind, name: &str) -> Option<&Entry> {
        self.section(kind)?.find(name)
    }

    /// Which registry serves a URI: the one that lists it, else the first whose template matches.
    pub(crate) fn resource(&self, uri: &str) -> Option<&Entry> {
        // Listed twice is hidden: a template does not bring it back.
        if self
            .section(Kind::Resources)
            .is_some_and(|section| section.hidden.iter().any(|hidden| hidden == uri))
        {
            return None;
        }
        self.find(Kind::Resources, uri).or_else(|| {
            let templates = self.section(Kind::Templates)?;
            templates.entries.iter().find(|(text, _)| template::matches(text, uri)).map(|(_, entry)| entry)
        })
    }

    /// The kinds whose merged list differs.
    pub(crate) fn differs(&self, other: &Self) -> Vec<Kind> {
        let digest = |catalogue: &Self, kind| catalogue.section(kind).map(|s| s.digest.clone());
        Kind::ALL.into_iter().filter(|kind| digest(self, *kind) != digest(other, *kind)).collect()
    }
}

impl Section {
    fn build(kind: Kind, groups: &[Group<'_>], page_size: usize) -> Self {
        let mut found: Vec<(&str, String, Json, Entry)> = Vec::new();
        let mut hidden = Vec::new();
        for group in groups {
            for offered in group.offered(kind) {
                match entry(kind, group.key(), &offered) {
                    Some((advertised, item, entry)) if !offered.twice => {
                        found.push((&group.key().namespace, advertised, item, entry));
                    }
                    Some((advertised, ..)) => hidden.push(advertised),
                    None => hidden.push(offered.own),
                }
            }
        }
        found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut seen = HashSet::new();
        let twice: HashSet<String> = found
            .iter()
            .filter(|(_, name, ..)| !seen.insert(name.clone()))
            .map(|(_, name, ..)| name.clone())
            .collect();
        found.retain(|(_, name, ..)| !twice.contains(name));
        hidden.extend(twice);
        hidden.sort();
        hidden.dedup();
        let lists: Vec<&List> = groups.iter().flat_map(|group| group.lists(kind)).collect();
        let items: Vec<Json> = found.iter().map(|(_, _, item, _)| item.clone()).collect();
        let digest = digest(&items);
        let entries: Vec<(String, Entry)> =
            found.into_iter().map(|(_, name, _, entry)| (name, entry)).collect();
        let by_name = entries.iter().enumerate().map(|(i, (name, _))| (name.clone(), i)).collect();
        Self {
            pages: pages(kind, &items, &digest, page_size, &merged_meta(&lists)),
            ttl_ms: lists.iter().map(|l| l.ttl_ms).min().unwrap_or(0),
            public: !lists.is_empty() && lists.iter().all(|l| l.public),
            entries,
            by_name,
            digest,
            hidden,
        }
    }

    /// The entry with this advertised name or URI (template).
    pub(crate) fn find(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).and_then(|i| self.entries.get(*i)).map(|(_, entry)| entry)
    }

    /// A page of the list as a result object; `None` for a cursor of another list or version.
    pub(crate) fn page(&self, cursor: Option<&str>) -> Option<Json> {
        let Some(cursor) = cursor else { return self.pages.first().cloned() };
        let text = String::from_utf8(BASE64.decode(cursor).ok()?).ok()?;
        let (digest, index) = text.split_once(':')?;
        let index: usize = index.parse().ok()?;
        (digest == self.digest && index > 0).then(|| self.pages.get(index).cloned()).flatten()
    }
}

const fn name_member(kind: Kind) -> &'static str {
    match kind {
        Kind::Tools | Kind::Prompts => "name",
        Kind::Resources => "uri",
        Kind::Templates => "uriTemplate",
    }
}

const fn list_member(kind: Kind) -> &'static str {
    match kind {
        Kind::Tools => "tools",
        Kind::Resources => "resources",
        Kind::Templates => "resourceTemplates",
        Kind::Prompts => "prompts",
    }
}

/// The advertised name, the item as it is advertised, and how to find it again. `None` = not acceptable.
fn entry(kind: Kind, key: &Arc<SourceKey>, offered: &Offered<'_>) -> Option<(String, Json, Entry)> {
    let (own, item) = (offered.own.clone(), offered.item);
    if own.is_empty() {
        return None;
    }
    let (advertised, shown) = match kind {
        Kind::Resources | Kind::Templates => (own.clone(), item.clone()),
        Kind::Tools | Kind::Prompts => {
            let advertised = name::advertised(&key.namespace, &own);
            if advertised == own {
                (advertised, item.clone())
            } else {
                let renamed =
                    ObjectEditor::new(item.as_str()).set("name", edit::quote(&advertised)).finish_json();
                (advertised, renamed)
            }
        }
    };
    let headers = match (kind, scan::member(item.as_str(), "inputSchema")) {
        (Kind::Tools, Some(schema)) => header::param_headers(schema).ok()?,
        _ => Vec::new(),
    };
    Some((advertised, shown, Entry { source: key.clone(), holders: offered.holders.clone(), own, headers }))
}

fn digest(items: &[Json]) -> String {
    let mut hasher = Sha256::new();
    for item in items {
        hasher.update(item.as_str().len().to_be_bytes());
        hasher.update(item.as_str());
    }
    BASE64.encode(&hasher.finalize()[..12])
}

/// `_meta` of all lists; where two have a member of one name, the first in order wins.
fn merged_meta(lists: &[&List]) -> Option<String> {
    let mut merged = ObjectEditor::new("{}");
    for meta in lists.iter().filter_map(|list| list.meta.as_ref()) {
        for member in scan::members(meta.as_str()) {
            merged.set_default(member.key, member.value);
        }
    }
    (!merged.is_unchanged()).then(|| merged.finish())
}

fn pages(kind: Kind, items: &[Json], digest: &str, page_size: usize, meta: &Option<String>) -> Vec<Json> {
    let size = page_size.max(1);
    let count = items.len().div_ceil(size).max(1);
    (0..count)
        .map(|index| {
            let part = items.iter().skip(index * size).take(size);
            let texts: Vec<&str> = part.map(Json::as_str).collect();
            let mut text = format!("{{\"{}\":[{}]", list_member(kind), texts.join(","));
            if index + 1 < count {
                let cursor = BASE64.encode(format!("{digest}:{}", index + 1));
                text.push_str(&format!(",\"nextCursor\":\"{cursor}\""));
            }
            if let Some(meta) = meta {
                text.push_str(",\"_meta\":");
                text.push_str(meta);
            }
            text.push('}');
            Json::trusted(text)
        })
        .collect()
}

/// Capabilities beyond lists. `extensions` and `experimental` are joined member by member; the first in order wins.
fn merged_capabilities(sources: &[&Source]) -> Option<Json> {
    let mut merged = ObjectEditor::new("{}");
    for capabilities in sources.iter().filter_map(|s| s.capabilities.as_ref()) {
        for member in scan::members(capabilities.as_str()) {
            let joined = match merged.get(&member.key) {
                Some(present) if scan::is_object(present) && scan::is_object(member.value) => {
                    let mut inner = ObjectEditor::new(present);
                    for m in scan::members(member.value) {
                        inner.set_default(m.key, m.value);
                    }
                    inner.finish()
                }
                Some(present) => present.to_owned(),
                None => member.value.to_owned(),
            };
            merged.set(member.key, joined);
        }
    }
    (!merged.is_unchanged()).then(|| merged.finish_json())
}

#[cfg(test)]
mod tests;
