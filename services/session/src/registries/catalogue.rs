//! What clients see of all registries together. Pure: lists in, one ordered catalogue out.

use std::collections::{BTreeMap, HashMap, HashSet};

use api::registry::Kind;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use mcp::edit::{self, ObjectEditor};
use mcp::header::{self, ParamHeader};
use mcp::{Json, name, scan, template};
use sha2::{Digest, Sha256};

/// One registry among all: which process, and its name there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceKey {
    /// Index of the process in the configuration.
    pub(crate) link: usize,
    /// Name of the registry in that process.
    pub(crate) registry: String,
}

/// What one registry lists at present.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) key: SourceKey,
    pub(crate) namespace: String,
    pub(crate) capabilities: Option<Json>,
    pub(crate) instructions: String,
    /// Of the content, for people.
    pub(crate) version: String,
    pub(crate) lists: BTreeMap<Kind, List>,
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
    pub(crate) source: SourceKey,
    /// The registry's own name, or the URI (template).
    pub(crate) own: String,
    /// Arguments that modern clients repeat in headers.
    pub(crate) headers: Vec<ParamHeader>,
}

/// One merged list, its pages ready to be sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Section {
    entries: Vec<(String, Entry)>,
    by_name: HashMap<String, usize>,
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
        let mut ordered: Vec<&Source> = sources.iter().collect();
        ordered.sort_by(|a, b| (&a.namespace, &a.key).cmp(&(&b.namespace, &b.key)));
        let sections =
            Kind::ALL.into_iter().map(|kind| (kind, Section::build(kind, &ordered, page_size))).collect();
        let instructions: Vec<&str> =
            ordered.iter().map(|s| s.instructions.as_str()).filter(|text| !text.is_empty()).collect();
        Self {
            sections,
            capabilities: merged_capabilities(&ordered),
            instructions: instructions.join("\n\n"),
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
    fn build(kind: Kind, sources: &[&Source], page_size: usize) -> Self {
        let mut found: Vec<(&str, String, Json, Entry)> = Vec::new();
        let mut hidden = Vec::new();
        for source in sources {
            for item in source.lists.get(&kind).into_iter().flat_map(|list| &list.items) {
                match entry(kind, source, item) {
                    Some((advertised, item, entry)) => {
                        found.push((&source.namespace, advertised, item, entry))
                    }
                    None => hidden.push(item.text(name_member(kind)).unwrap_or_default()),
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
        let lists: Vec<&List> = sources.iter().filter_map(|s| s.lists.get(&kind)).collect();
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
fn entry(kind: Kind, source: &Source, item: &Json) -> Option<(String, Json, Entry)> {
    let own = item.text(name_member(kind)).filter(|text| !text.is_empty())?;
    let (advertised, shown) = match kind {
        Kind::Resources | Kind::Templates => (own.clone(), item.clone()),
        Kind::Tools | Kind::Prompts => {
            let advertised = name::advertised(&source.namespace, &own);
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
    Some((advertised, shown, Entry { source: source.key.clone(), own, headers }))
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
mod tests {
    use super::*;

    fn source(link: usize, namespace: &str, kind: Kind, items: &[&'static str]) -> Source {
        let list = List { items: items.iter().map(|i| Json::trusted(*i)).collect(), ..List::default() };
        Source {
            key: SourceKey { link, registry: "r".into() },
            namespace: namespace.into(),
            capabilities: None,
            version: String::new(),
            instructions: String::new(),
            lists: BTreeMap::from([(kind, list)]),
        }
    }

    fn names(catalogue: &Catalogue, kind: Kind) -> Vec<String> {
        catalogue.sections[&kind].entries.iter().map(|(name, _)| name.clone()).collect()
    }

    #[test]
    fn order_is_namespace_then_name_and_other_bytes_stay() {
        let b = source(0, "b", Kind::Tools, &[r#"{ "x":1.0, "name":"z" }"#, r#"{"name":"a"}"#]);
        let plain = source(1, "", Kind::Tools, &[r#"{"name":"zz"}"#]);
        let catalogue = Catalogue::build(&[b, plain], 10);
        assert_eq!(names(&catalogue, Kind::Tools), ["zz", "b__a", "b__z"]);
        let page = catalogue.section(Kind::Tools).unwrap().page(None).unwrap();
        assert_eq!(page.as_str(), r#"{"tools":[{"name":"zz"},{"name":"b__a"},{ "x":1.0, "name":"b__z" }]}"#);
        assert_eq!(catalogue.find(Kind::Tools, "b__z").unwrap().own, "z");
    }

    #[test]
    fn the_same_advertised_name_twice_hides_both() {
        let one = source(0, "", Kind::Tools, &[r#"{"name":"same"}"#, r#"{"name":"own"}"#]);
        let two = source(1, "", Kind::Tools, &[r#"{"name":"same"}"#]);
        let catalogue = Catalogue::build(&[one, two], 10);
        assert_eq!(names(&catalogue, Kind::Tools), ["own"]);
        assert_eq!(catalogue.section(Kind::Tools).unwrap().hidden, ["same"]);
        assert!(catalogue.find(Kind::Tools, "same").is_none());
    }

    #[test]
    fn a_name_never_moves_because_a_neighbour_joined() {
        let team = source(0, "team", Kind::Prompts, &[r#"{"name":"p"}"#]);
        let alone = names(&Catalogue::build(std::slice::from_ref(&team), 10), Kind::Prompts);
        let joined = Catalogue::build(&[source(1, "", Kind::Prompts, &[r#"{"name":"q"}"#]), team], 10);
        assert!(names(&joined, Kind::Prompts).contains(&alone[0]));
    }

    #[test]
    fn cursors_are_bound_to_their_list_and_version() {
        let items = [r#"{"uri":"a:1"}"#, r#"{"uri":"a:2"}"#, r#"{"uri":"a:3"}"#];
        let catalogue = Catalogue::build(&[source(0, "", Kind::Resources, &items)], 2);
        let section = catalogue.section(Kind::Resources).unwrap();
        let first = section.page(None).unwrap();
        let cursor = first.text("nextCursor").unwrap();
        assert_eq!(section.page(Some(&cursor)).unwrap().as_str(), r#"{"resources":[{"uri":"a:3"}]}"#);
        let other = Catalogue::build(&[source(0, "", Kind::Resources, &items[..2])], 1);
        for bad in [cursor.as_str(), "", "x", "AAAA"] {
            assert_eq!(other.section(Kind::Resources).unwrap().page(Some(bad)), None, "{bad}");
        }
        assert_eq!(catalogue.differs(&other), [Kind::Resources]);
    }

    #[test]
    fn uris_are_served_by_who_lists_them_then_by_template() {
        let mut one = source(0, "", Kind::Resources, &[r#"{"uri":"t://x/1"}"#]);
        one.lists.insert(Kind::Templates, List::default());
        let two = source(1, "", Kind::Templates, &[r#"{"uriTemplate":"t://x/{id}"}"#]);
        let catalogue = Catalogue::build(&[one, two], 10);
        assert_eq!(catalogue.resource("t://x/1").unwrap().source.link, 0);
        assert_eq!(catalogue.resource("t://x/2").unwrap().source.link, 1);
        assert!(catalogue.resource("t://y/2").is_none());
        let [mut one, mut two] =
            [0, 1].map(|link| source(link, "", Kind::Resources, &[r#"{"uri":"t://x/1"}"#]));
        let template =
            List { items: vec![Json::trusted(r#"{"uriTemplate":"t://x/{id}"}"#)], ..List::default() };
        one.lists.insert(Kind::Templates, template);
        two.lists.insert(Kind::Templates, List::default());
        let catalogue = Catalogue::build(&[one, two], 10);
        assert!(catalogue.resource("t://x/1").is_none(), "listed twice, so hidden");
        assert!(catalogue.resource("t://x/2").is_some());
    }

    #[test]
    fn tools_with_illegal_header_annotations_are_hidden() {
        let bad = r#"{"name":"bad","inputSchema":{"type":"object","properties":{"a":{"type":"number","x-mcp-header":"A"}}}}"#;
        let catalogue = Catalogue::build(&[source(0, "", Kind::Tools, &[bad, r#"{"name":"good"}"#])], 10);
        assert_eq!(names(&catalogue, Kind::Tools), ["good"]);
        assert_eq!(catalogue.section(Kind::Tools).unwrap().hidden, ["bad"]);
    }

    #[test]
    fn extension_capabilities_are_joined_unchanged() {
        let mut one = source(0, "", Kind::Tools, &[]);
        one.capabilities = Some(Json::trusted(r#"{"extensions":{"a/x":{ "n":1.0 }},"vendor":[1]}"#));
        let mut two = source(1, "", Kind::Tools, &[]);
        two.capabilities = Some(Json::trusted(r#"{"extensions":{"b/y":{},"a/x":{"n":2}}}"#));
        let merged = Catalogue::build(&[one, two], 10).capabilities.unwrap();
        assert_eq!(merged.as_str(), r#"{"extensions":{"a/x":{ "n":1.0 },"b/y":{}},"vendor":[1]}"#);
    }
}
