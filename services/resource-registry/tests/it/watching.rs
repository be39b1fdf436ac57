//! What is told when something on the disk changes. The periodic look is set so far off that it plays no part.

use super::*;

#[tokio::test]
async fn files_that_come_and_go_change_the_list() {
    let ground = ground(&[("a.md", "A")], |_| {}).await;
    ground.write("b.md", "B");
    ground.until_listed(&["a.md", "b.md"]).await;
    fs::rename(ground.path("b.md"), ground.path("c.md")).unwrap();
    ground.until_listed(&["a.md", "c.md"]).await;
    fs::remove_file(ground.path("a.md")).unwrap();
    ground.until_listed(&["c.md"]).await;
    assert_eq!(ground.read("file:///docs/a.md").await.unwrap_err().code, -32602);
}

#[tokio::test]
async fn one_change_is_one_event() {
    let ground = ground(&[("a.md", "A"), ("b.md", "B"), ("end.md", "")], |_| {}).await;
    let mut subscriber = ground.subscriber().await;
    for name in ["a.md", "end.md"] {
        assert_eq!(subscriber.add(name).await, accepted(name));
    }
    ground.write("a.md", "changed");
    assert_eq!(subscriber.next().await, updated("a.md"));
    // Nothing is told of a file nobody watches, and nothing twice: the next event is the next change.
    ground.write("b.md", "changed");
    ground.write("end.md", "changed");
    assert_eq!(subscriber.next().await, updated("end.md"));
    assert_eq!(ground.read("file:///docs/a.md").await.unwrap().as_str().matches("changed").count(), 1);
}

#[tokio::test]
async fn a_change_of_one_file_changes_the_list_once() {
    let ground = ground(&[("a.md", "A")], |_| {}).await;
    let mut subscriber = ground.subscriber().await;
    assert_eq!(subscriber.add("a.md").await, accepted("a.md"));
    let before = page(&*ground.port, Kind::Resources, None).await.digest;
    let mut changes = ground.list_changes().await;
    ground.write("a.md", "longer");
    assert_eq!(subscriber.next().await, updated("a.md"));
    let changed = soon(changes.next(), "a change").await.unwrap().unwrap();
    let after = page(&*ground.port, Kind::Resources, None).await.digest;
    assert_ne!(before, after);
    let expected =
        CatalogEvent::Changed { registry: "resources".into(), kind: Kind::Resources, digest: after };
    assert_eq!(changed, expected);
    // Looking again because of a touched directory finds nothing new; the next event is the next real change.
    fs::create_dir(ground.path(".hidden")).unwrap();
    ground.write("b.md", "");
    let next = soon(changes.next(), "a change").await.unwrap().unwrap();
    let digest = page(&*ground.port, Kind::Resources, None).await.digest;
    assert_eq!(next, CatalogEvent::Changed { registry: "resources".into(), kind: Kind::Resources, digest });
}

#[tokio::test]
async fn a_file_that_is_replaced_is_updated() {
    let ground = ground(&[("a.md", "A")], |_| {}).await;
    let mut subscriber = ground.subscriber().await;
    assert_eq!(subscriber.add("a.md").await, accepted("a.md"));
    ground.write(".a.md.swp", "B");
    fs::rename(ground.path(".a.md.swp"), ground.path("a.md")).unwrap();
    assert_eq!(subscriber.next().await, updated("a.md"));
    fs::remove_file(ground.path("a.md")).unwrap();
    assert_eq!(subscriber.next().await, updated("a.md"));
    ground.write("a.md", "C");
    assert_eq!(subscriber.next().await, updated("a.md"));
}

#[tokio::test]
async fn watchers_hear_the_spelling_they_used() {
    let ground = ground(&[("a b.md", "A")], |_| {}).await;
    let mut subscriber = ground.subscriber().await;
    for spelling in ["a%20b.md", "%61%20b.md"] {
        assert_eq!(subscriber.add(spelling).await, accepted(spelling));
    }
    ground.write("a b.md", "changed");
    assert_eq!(subscriber.next().await, updated("%61%20b.md"));
    assert_eq!(subscriber.next().await, updated("a%20b.md"));
}

#[tokio::test]
async fn a_watcher_that_left_hears_nothing() {
    let ground = ground(&[("a.md", "A"), ("b.md", "B")], |_| {}).await;
    let mut subscriber = ground.subscriber().await;
    for name in ["a.md", "b.md"] {
        assert_eq!(subscriber.add(name).await, accepted(name));
    }
    subscriber.send(SubscriptionChange::Remove(format!("{PREFIX}a.md"))).await;
    // The answer to a later wish shows that the earlier one was heard.
    assert!(matches!(subscriber.add("none.md").await, SubscriptionEvent::Refused(uri, error)
        if uri == "file:///docs/none.md" && error.code == -32602));
    ground.write("a.md", "changed");
    ground.write("b.md", "changed");
    assert_eq!(subscriber.next().await, updated("b.md"));
}

#[tokio::test]
async fn directories_that_are_new_are_watched_too() {
    let ground = ground(&[("a.md", "A")], |_| {}).await;
    fs::create_dir_all(ground.path("x/y/z")).unwrap();
    ground.write("x/y/z/c.md", "C");
    ground.until_listed(&["a.md", "x/y/z/c.md"]).await;
    let mut subscriber = ground.subscriber().await;
    assert_eq!(subscriber.add("x/y/z/c.md").await, accepted("x/y/z/c.md"));
    ground.write("x/y/z/c.md", "changed");
    assert_eq!(subscriber.next().await, updated("x/y/z/c.md"));
    ground.write("x/y/d.md", "D");
    ground.until_listed(&["a.md", "x/y/d.md", "x/y/z/c.md"]).await;
    fs::remove_dir_all(ground.path("x")).unwrap();
    ground.until_listed(&["a.md"]).await;
    // The same names again are other directories.
    fs::create_dir_all(ground.path("x/y/z")).unwrap();
    ground.write("x/y/z/c.md", "C");
    ground.until_listed(&["a.md", "x/y/z/c.md"]).await;
    ground.write("x/y/z/e.md", "E");
    ground.until_listed(&["a.md", "x/y/z/c.md", "x/y/z/e.md"]).await;
}

#[tokio::test]
async fn a_directory_that_disappears_comes_back_by_itself() {
    let ground = ground(&[("a.md", "A"), ("sub/b.md", "B")], |_| {}).await;
    let away = ground.top.path().join("away");
    fs::rename(ground.path(""), &away).unwrap();
    ground.until_listed(&[]).await;
    assert_eq!(ground.read("file:///docs/a.md").await.unwrap_err().code, -32602);
    fs::rename(&away, ground.path("")).unwrap();
    ground.until_listed(&["a.md", "sub/b.md"]).await;
    fs::remove_dir_all(ground.path("")).unwrap();
    ground.until_listed(&[]).await;
    fs::create_dir(ground.path("")).unwrap();
    ground.write("c.md", "C");
    ground.until_listed(&["c.md"]).await;
    // It is watched again, not only looked at.
    ground.write("d.md", "D");
    ground.until_listed(&["c.md", "d.md"]).await;
}

#[tokio::test]
async fn what_happened_before_serving_is_noticed() {
    let top = tempfile::tempdir().unwrap();
    let config = config(top.path());
    let app = build(&config).await;
    fs::write(top.path().join("late.md"), "").unwrap();
    let port = app.handle();
    assert_eq!(uris(&*port).await, Vec::<String>::new());
    let mut events = port.watch().await.unwrap();
    let (_trigger, shutdown) = drain::pair();
    let _running = task::spawn(task::Kind::Role, "resources", app.serve(Incoming::None, shutdown));
    while uris(&*port).await != ["file:///docs/late.md"] {
        soon(events.next(), "a change").await.unwrap().unwrap();
    }
}
