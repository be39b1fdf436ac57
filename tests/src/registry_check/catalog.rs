//! Describe, Watch and the lists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::pb::registry::v1 as pb;
use api::registry::Kind;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Streaming};

use super::frames::{raw, raw_or_empty};
use super::report::{Rule, Verdict};
use super::{Check, shapes};

/// Pages of one list.
const PAGES: usize = 1_000;
/// How long to wait for what Watch may have to say at the moment.
const SOON: Duration = Duration::from_millis(50);
/// How often a list is read again because it changed meanwhile.
const TRIES: usize = 3;

/// One registry of the process.
pub(super) struct Held {
    pub(super) name: String,
    pub(super) kinds: BTreeSet<Kind>,
    pub(super) completions: bool,
    pub(super) subscriptions: bool,
    pub(super) lists: BTreeMap<Kind, List>,
}

impl Held {
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// The items of a kind; empty where there are none.
    pub(super) fn items(&self, kind: Kind) -> &[Value] {
        self.lists.get(&kind).map_or(&[], |list| &list.items)
    }

    /// Names or URIs of the items of a kind.
    pub(super) fn keys(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.items(kind).iter().filter_map(move |item| item.get(shapes::key(kind))?.as_str())
    }
}

/// What a list looked like.
#[derive(Default)]
pub(super) struct List {
    pub(super) digest: String,
    /// Cursor of the second page.
    pub(super) cursor: Option<String>,
    raw: Vec<bytes::Bytes>,
    items: Vec<Value>,
}

/// Kinds this build knows.
pub(super) fn kind(number: i32) -> Option<Kind> {
    match pb::Kind::try_from(number).ok()? {
        pb::Kind::Unspecified => None,
        pb::Kind::Tools => Some(Kind::Tools),
        pb::Kind::Resources => Some(Kind::Resources),
        pb::Kind::ResourceTemplates => Some(Kind::Templates),
        pb::Kind::Prompts => Some(Kind::Prompts),
    }
}

/// Judges what Describe says. Pure.
fn judge(described: &pb::DescribeResponse) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let mut names = BTreeSet::new();
    let legal = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    for one in &described.registries {
        let name = &one.name;
        let good = (1..=64).contains(&name.len()) && name.bytes().all(legal) && names.insert(name);
        let seen = if good { Ok(()) } else { Err(format!("{name:?} is not legal or stands twice")) };
        verdicts.push((Rule::RegistryNames, seen));
        let space = &one.namespace;
        let good = space.is_empty() || mcp::name::is_namespace(space);
        let seen = if good { Ok(()) } else { Err(format!("namespace {space:?} of {name:?}")) };
        verdicts.push((Rule::Namespaces, seen));
        let kinds: BTreeSet<i32> = one.kinds.iter().map(|kind| kind.kind).collect();
        let named = one.kinds.iter().all(|kind| kind.kind != 0 && !kind.digest.is_empty());
        let good = kinds.len() == one.kinds.len() && named && !kinds.is_empty();
        let seen = if good { Ok(()) } else { Err(format!("kinds of {name:?}: {:?}", one.kinds)) };
        verdicts.push((Rule::Kinds, seen));
        for (what, bytes) in
            [("raw_capabilities", &one.raw_capabilities), ("raw_server_info", &one.raw_server_info)]
        {
            verdicts.push((Rule::RawJson, raw_or_empty(what, bytes)));
        }
    }
    if described.registries.is_empty() {
        verdicts.push((Rule::RegistryNames, Err("there is no registry".to_owned())));
    }
    verdicts
}

/// What a Watch stream has said so far.
pub(super) struct Watcher {
    stream: Option<Streaming<pb::WatchResponse>>,
    latest: BTreeMap<(String, Kind), String>,
    repeated: Option<String>,
    ended: Option<String>,
    not_serving: bool,
}

impl Watcher {
    fn new(stream: Streaming<pb::WatchResponse>) -> Self {
        let stream = Some(stream);
        Self { stream, latest: BTreeMap::new(), repeated: None, ended: None, not_serving: false }
    }

    fn take(&mut self, event: pb::WatchResponse) {
        use pb::watch_response::Event;
        match event.event {
            Some(Event::Changed(changed)) => {
                let Some(kind) = kind(changed.kind) else { return };
                let key = (changed.registry, kind);
                if self.latest.get(&key) == Some(&changed.digest) {
                    self.repeated = Some(format!("{:?} {kind:?} {:?} came again", key.0, changed.digest));
                }
                self.latest.insert(key, changed.digest);
            }
            Some(Event::NotServing(pb::NotServing {})) => self.not_serving = true,
            None => {}
        }
    }

    /// Reads until `enough`, or until nothing has come for `patience`.
    async fn read(&mut self, patience: Duration, mut enough: impl FnMut(&Self) -> bool) -> bool {
        let last = Instant::now() + patience;
        while !enough(self) {
            let Some(stream) = &mut self.stream else { return false };
            match timeout_at(last, stream.message()).await {
                Ok(Ok(Some(event))) => self.take(event),
                Ok(Ok(None)) => self.end("it closed".to_owned()),
                Ok(Err(status)) => self.end(format!("it broke: {status}")),
                Err(_) => return false,
            }
        }
        true
    }

    fn end(&mut self, how: String) {
        self.stream = None;
        self.ended = Some(how);
    }

    /// Waits for NOT_SERVING.
    pub(super) async fn not_serving(&mut self, patience: Duration) -> bool {
        self.read(patience, |watcher| watcher.not_serving).await
    }
}

impl Check {
    /// Whether the process answers at all.
    pub(super) async fn describe(&mut self) -> bool {
        let (first, again) = match (self.peer.describe().await, self.peer.describe().await) {
            (Ok(first), Ok(again)) => (first, again),
            (Err(status), _) | (_, Err(status)) => {
                let text = format!("Describe: {:?} {}", status.code(), status.message());
                self.report.note(Rule::Instance, Err(text));
                return false;
            }
        };
        let same = !first.instance.is_empty() && first.instance == again.instance;
        let told = format!("{:?}, then {:?}", first.instance, again.instance);
        self.report.note(Rule::Instance, if same { Ok(()) } else { Err(told) });
        self.report.all(judge(&first));
        self.instance = first.instance;
        self.registries = first
            .registries
            .into_iter()
            .map(|one| Held {
                name: one.name,
                kinds: one.kinds.iter().filter_map(|digest| kind(digest.kind)).collect(),
                completions: one.completions,
                subscriptions: one.subscriptions,
                lists: BTreeMap::new(),
            })
            .collect();
        true
    }

    pub(super) async fn watch(&mut self) {
        let patience = self.peer.waits.patience;
        let stream = match self.peer.watch().await {
            Ok(stream) => stream,
            Err(status) => return self.report.note(Rule::WatchFirst, Err(format!("Watch: {status}"))),
        };
        let mut watcher = Watcher::new(stream);
        let wanted: BTreeSet<(String, Kind)> = self
            .registries
            .iter()
            .flat_map(|held| held.kinds.iter().map(|kind| (held.name.clone(), *kind)))
            .collect();
        watcher.read(patience, |w| wanted.iter().all(|key| w.latest.contains_key(key))).await;
        let missing: Vec<_> = wanted.iter().filter(|key| !watcher.latest.contains_key(key)).collect();
        let seen = if missing.is_empty() { Ok(()) } else { Err(format!("nothing of {missing:?}")) };
        self.report.note(Rule::WatchFirst, seen);
        if let Ok(described) = self.peer.describe().await {
            watcher.read(SOON, |_| false).await;
            for one in described.registries {
                for held in one.kinds {
                    let Some(kind) = kind(held.kind) else { continue };
                    let watched = watcher.latest.get(&(one.name.clone(), kind));
                    let differs = watched.is_some_and(|digest| *digest != held.digest);
                    let told =
                        format!("{:?} {kind:?}: Describe {:?}, Watch {watched:?}", one.name, held.digest);
                    self.report.note(Rule::WatchFirst, if differs { Err(told) } else { Ok(()) });
                }
            }
        }
        self.watcher = Some(watcher);
    }

    pub(super) async fn lists(&mut self) {
        let wanted: Vec<(usize, String, Kind)> = self
            .registries
            .iter()
            .enumerate()
            .flat_map(|(at, held)| held.kinds.iter().map(move |kind| (at, held.name.clone(), *kind)))
            .collect();
        for (at, registry, kind) in &wanted {
            self.bad_cursor(registry, *kind).await;
            if let Some(list) = self.listed(registry, *kind).await {
                self.judge_items(*kind, &list);
                if let Some(held) = self.registries.get_mut(*at) {
                    held.lists.insert(*kind, list);
                }
            }
        }
        self.foreign_cursors(&wanted).await;
    }

    /// Reads a list, again if it changes meanwhile, and compares it with what Watch says.
    async fn listed(&mut self, registry: &str, kind: Kind) -> Option<List> {
        let mut trouble = (Rule::Paging, "the list was never the same for long enough".to_owned());
        for _ in 0..TRIES {
            let list = match self.pages(registry, kind).await {
                Ok(list) => list,
                Err(offence) => {
                    trouble = offence;
                    continue;
                }
            };
            let again = match self.pages(registry, kind).await {
                Ok(again) => again,
                Err(offence) => {
                    trouble = offence;
                    continue;
                }
            };
            let watched = match &mut self.watcher {
                Some(watcher) => {
                    watcher.read(SOON, |_| false).await;
                    watcher.latest.get(&(registry.to_owned(), kind)).cloned()
                }
                None => None,
            };
            if list.digest != again.digest {
                continue;
            }
            if list.raw != again.raw {
                trouble = (Rule::Stable, format!("{registry:?} {kind:?}: other items, same digest"));
            } else if watched.as_ref().is_some_and(|digest| *digest != list.digest) {
                let told = format!("{registry:?} {kind:?}: List {:?}, Watch {watched:?}", list.digest);
                trouble = (Rule::ListDigest, told);
            } else {
                self.report.all([Rule::Paging, Rule::Stable, Rule::ListDigest].map(|rule| (rule, Ok(()))));
                return Some(list);
            }
        }
        self.report.note(trouble.0, Err(trouble.1));
        self.pages(registry, kind).await.ok()
    }

    async fn pages(&mut self, registry: &str, kind: Kind) -> Result<List, (Rule, String)> {
        let offence = |text: String| (Rule::Paging, format!("{registry:?} {kind:?}: {text}"));
        let mut list = List::default();
        let (mut cursor, mut used, mut scope) = (String::new(), BTreeSet::new(), None);
        for _ in 0..PAGES {
            let page = self.peer.list(self.peer.context(registry), kind, &cursor).await;
            let page = page.map_err(|s| offence(format!("{:?} {}", s.code(), s.message())))?;
            if cursor.is_empty() {
                list.digest.clone_from(&page.digest);
                list.cursor = Some(page.next_cursor.clone()).filter(|cursor| !cursor.is_empty());
            }
            if page.digest != list.digest || page.digest.is_empty() {
                return Err(offence(format!("a page of {:?} behind {:?}", page.digest, list.digest)));
            }
            if *scope.get_or_insert(page.cache_scope) != page.cache_scope {
                return Err(offence("pages of different cache scope".to_owned()));
            }
            self.report.note(Rule::RawJson, raw_or_empty("raw_meta", &page.raw_meta));
            list.items.extend(page.raw_items.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()));
            list.raw.extend(page.raw_items);
            cursor = page.next_cursor;
            if cursor.is_empty() {
                return Ok(list);
            }
            if !used.insert(cursor.clone()) {
                return Err(offence("a cursor comes again".to_owned()));
            }
        }
        Err(offence(format!("more than {PAGES} pages")))
    }

    fn judge_items(&mut self, kind: Kind, list: &List) {
        let mut names = BTreeSet::new();
        for bytes in &list.raw {
            self.report.note(Rule::RawJson, raw("raw_items", bytes));
            let Ok(item) = serde_json::from_slice::<Value>(bytes) else { continue };
            self.report.note(Rule::Items, shapes::item(kind, &item));
            let Some(name) = item.get(shapes::key(kind)).and_then(Value::as_str) else { continue };
            self.report.note(Rule::Names, shapes::name(kind, name));
            let once = names.insert(name.to_owned());
            self.report.note(Rule::Unique, if once { Ok(()) } else { Err(format!("{kind:?} {name:?}")) });
        }
    }

    async fn bad_cursor(&mut self, registry: &str, kind: Kind) {
        let seen = match self.peer.list(self.peer.context(registry), kind, "no such cursor").await {
            Err(status) if status.code() == Code::InvalidArgument => Ok(()),
            Err(status) => Err(format!("{kind:?}: {:?} {}", status.code(), status.message())),
            Ok(_) => Err(format!("{kind:?}: it was taken")),
        };
        self.report.note(Rule::Cursor, seen);
    }

    /// Uses the cursors of one list for the others.
    async fn foreign_cursors(&mut self, wanted: &[(usize, String, Kind)]) {
        let cursors: Vec<(String, String)> = self
            .registries
            .iter()
            .flat_map(|held| held.lists.values())
            .filter_map(|list| Some((list.digest.clone(), list.cursor.clone()?)))
            .collect();
        self.report.skip(Rule::CursorBound, "no list has a second page and another a digest of its own");
        for (at, registry, kind) in wanted {
            let own = self.registries.get(*at).and_then(|held| held.lists.get(kind));
            let Some(own) = own.map(|list| list.digest.clone()) else { continue };
            for (digest, cursor) in &cursors {
                if *digest != own {
                    self.refused_cursor(registry, *kind, cursor).await;
                }
            }
        }
    }

    async fn refused_cursor(&mut self, registry: &str, kind: Kind, cursor: &str) {
        let seen = match self.peer.list(self.peer.context(registry), kind, cursor).await {
            Err(status) if status.code() == Code::InvalidArgument => Ok(()),
            Err(status) => Err(format!("{kind:?}: {:?} {}", status.code(), status.message())),
            Ok(_) => Err(format!("{kind:?}: the cursor {cursor:?} of another list was taken")),
        };
        self.report.note(Rule::CursorBound, seen);
    }

    /// Calls the tool that changes a list.
    pub(super) async fn changes(&mut self) {
        let Some(name) = self.options.changing.clone() else {
            return self.report.skip(Rule::WatchChange, "no tool that changes a list was named");
        };
        let Some(watcher) = &mut self.watcher else {
            return self.report.skip(Rule::WatchChange, "there is no Watch stream");
        };
        let Some(held) = self.registries.iter().find(|held| held.keys(Kind::Tools).any(|tool| tool == name))
        else {
            return self.report.note(Rule::WatchChange, Err(format!("tool {name:?} is not listed")));
        };
        let registry = held.name.clone();
        watcher.read(SOON, |_| false).await;
        let before = watcher.latest.clone();
        let target = super::Target::new(api::registry::Operation::Call, &name);
        self.peer.answer(&self.peer.context(&registry), &target).await;
        watcher.read(self.peer.waits.patience, |w| w.latest != before).await;
        let changed = watcher.latest.iter().find(|(key, digest)| before.get(*key) != Some(*digest));
        let Some(((registry, kind), digest)) = changed.map(|(key, digest)| (key.clone(), digest.clone()))
        else {
            return self.report.note(Rule::WatchChange, Err(format!("nothing came after {name:?}")));
        };
        let seen = match self.peer.list(self.peer.context(&registry), kind, "").await {
            Ok(page) if page.digest == digest => Ok(()),
            Ok(page) => Err(format!("Watch says {digest:?}, List {:?}", page.digest)),
            Err(status) => Err(format!("List: {status}")),
        };
        self.report.note(Rule::WatchChange, seen);
        let held = self.registries.iter().find(|held| held.name == registry);
        let cursor = held.and_then(|held| held.lists.get(&kind)?.cursor.clone());
        if let Some(cursor) = cursor {
            self.refused_cursor(&registry, kind, &cursor).await;
        }
    }

    /// What Watch has said besides.
    pub(super) async fn quiet(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            return self.report.skip(Rule::WatchQuiet, "there is no Watch stream");
        };
        watcher.read(SOON, |_| false).await;
        let offence = watcher.ended.clone().or_else(|| watcher.repeated.clone());
        self.report.note(Rule::WatchQuiet, offence.map_or(Ok(()), Err));
    }
}
