use super::*;

fn list(items: &[&'static str]) -> Arc<List> {
    Arc::new(List { items: items.iter().map(|i| Json::trusted(*i)).collect(), ..List::default() })
}

/// A process with a registry of its own.
fn source(link: LinkId, namespace: &str, kind: Kind, items: &[&'static str]) -> Source {
    let registry = format!("r{link}");
    Source {
        key: Arc::new(SourceKey { namespace: namespace.into(), registry, server: String::new() }),
        link,
        standing: Standing::Serving,
        capabilities: None,
        version: String::new(),
        instructions: String::new(),
        lists: BTreeMap::from([(kind, list(items))]),
    }
}

/// One of several processes with the same registry.
fn replica(link: LinkId, version: &str, items: &[&'static str]) -> Source {
    let key = Arc::new(SourceKey { registry: "r".into(), ..SourceKey::default() });
    Source { key, version: version.into(), ..source(link, "", Kind::Tools, items) }
}

fn tools(sources: &[Source]) -> String {
    Catalogue::build(sources, 10).section(Kind::Tools).unwrap().page(None).unwrap().to_string()
}

fn holders(sources: &[Source], name: &str) -> (Vec<LinkId>, Vec<LinkId>) {
    let holders = Catalogue::build(sources, 10).find(Kind::Tools, name).unwrap().holders.clone();
    (holders.alike.clone(), holders.others.clone())
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
    one.lists.insert(Kind::Templates, Arc::default());
    let two = source(1, "", Kind::Templates, &[r#"{"uriTemplate":"t://x/{id}"}"#]);
    let catalogue = Catalogue::build(&[one, two], 10);
    assert_eq!(catalogue.resource("t://x/1").unwrap().holders.alike, [0]);
    assert_eq!(catalogue.resource("t://x/2").unwrap().holders.alike, [1]);
    assert!(catalogue.resource("t://y/2").is_none());
    let [mut one, mut two] = [0, 1].map(|link| source(link, "", Kind::Resources, &[r#"{"uri":"t://x/1"}"#]));
    let template = List { items: vec![Json::trusted(r#"{"uriTemplate":"t://x/{id}"}"#)], ..List::default() };
    one.lists.insert(Kind::Templates, Arc::new(template));
    two.lists.insert(Kind::Templates, Arc::default());
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

const OLD: &str = r#"{"name":"a","title":"old"}"#;
const NEW: &str = r#"{"name":"a","title":"new"}"#;
const B: &str = r#"{"name":"b"}"#;

#[test]
fn replicas_are_one_registry_and_each_entry_is_listed_once() {
    let two = [replica(1, "1", &[OLD, B]), replica(2, "1", &[OLD, B])];
    assert_eq!(tools(&two), format!(r#"{{"tools":[{OLD},{B}]}}"#));
    assert_eq!(holders(&two, "a"), (vec![1, 2], vec![]));
    assert_eq!(Catalogue::build(&two, 10).differs(&Catalogue::build(&two[..1], 10)), []);
}

#[test]
fn an_entry_is_offered_while_one_replica_that_serves_offers_it() {
    let two = [replica(1, "1", &[OLD]), replica(2, "1", &[OLD, B])];
    assert_eq!(tools(&two), format!(r#"{{"tools":[{OLD},{B}]}}"#));
    assert_eq!(holders(&two, "b"), (vec![2], vec![]), "it is called where it is");
    assert_eq!(tools(&two[..1]), format!(r#"{{"tools":[{OLD}]}}"#));
}

#[test]
fn the_definition_of_the_highest_version_is_shown_and_called_first() {
    for two in [["9", "10"], ["10", "9"]] {
        let new = two.iter().position(|version| *version == "10").unwrap();
        let of = |at: usize| replica(at as LinkId, two[at], &[if at == new { NEW } else { OLD }]);
        let two = [of(0), of(1)];
        assert_eq!(tools(&two), format!(r#"{{"tools":[{NEW}]}}"#));
        assert_eq!(holders(&two, "a"), (vec![new as LinkId], vec![1 - new as LinkId]));
    }
}

#[test]
fn a_roll_out_changes_a_definition_once_whatever_versions_say() {
    for (old, new) in [("1", "2"), ("1", "1"), ("", "")] {
        let (old, new) = (|link| replica(link, old, &[OLD]), |link| replica(link, new, &[NEW]));
        let steps =
            [vec![old(1), old(2)], vec![old(2)], vec![old(2), new(3)], vec![new(3)], vec![new(3), new(4)]];
        let shown: Vec<String> = steps.iter().map(|step| tools(step)).collect();
        let changes = shown.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert_eq!(changes, 1, "{shown:?}");
        assert_eq!(shown.last(), Some(&format!(r#"{{"tools":[{NEW}]}}"#)));
    }
}

#[test]
fn between_equal_versions_most_replicas_count() {
    let three = [replica(1, "1", &[NEW]), replica(2, "1", &[OLD]), replica(3, "1", &[OLD])];
    assert_eq!(tools(&three), format!(r#"{{"tools":[{OLD}]}}"#));
}

#[test]
fn one_that_leaves_counts_only_where_nobody_serves_and_a_lost_one_till_it_is_forgotten() {
    let stands = |source: Source, standing| Source { standing, ..source };
    let leaving = stands(replica(1, "2", &[NEW, B]), Standing::Leaving);
    assert_eq!(tools(&[leaving.clone(), replica(2, "1", &[OLD])]), format!(r#"{{"tools":[{OLD}]}}"#));
    assert_eq!(tools(std::slice::from_ref(&leaving)), format!(r#"{{"tools":[{NEW},{B}]}}"#));
    let lost = stands(leaving, Standing::Lost);
    let both = [lost, replica(2, "1", &[OLD])];
    assert_eq!(tools(&both), format!(r#"{{"tools":[{OLD},{B}]}}"#), "what serves is shown as it is there");
}

#[test]
fn a_process_that_lists_an_entry_twice_hides_it() {
    let two = [replica(1, "1", &[OLD, NEW]), replica(2, "1", &[OLD, B])];
    assert_eq!(tools(&two), format!(r#"{{"tools":[{B}]}}"#));
    assert_eq!(Catalogue::build(&two, 10).section(Kind::Tools).unwrap().hidden, ["a"]);
}

#[test]
fn registries_that_call_themselves_differently_are_no_replicas() {
    let other = SourceKey { registry: "r".into(), server: "other".into(), ..SourceKey::default() };
    let two = [replica(1, "1", &[OLD]), Source { key: Arc::new(other), ..replica(2, "1", &[OLD]) }];
    assert_eq!(tools(&two), r#"{"tools":[]}"#);
}
