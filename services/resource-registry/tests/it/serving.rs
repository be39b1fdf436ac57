//! Starting, serving over the network, stopping.

use api::registry::RegistryClient;

use super::*;

#[tokio::test]
async fn without_directories_there_is_an_empty_registry() {
    let app = build(&Config::default()).await;
    let port = app.handle();
    assert_eq!(page(&*port, Kind::Resources, None).await.items, []);
    assert_eq!(page(&*port, Kind::Templates, None).await.items, []);
    assert_eq!(read(&*port, "file:///x").await.unwrap_err().code, -32602);
    let description = port.describe().await.unwrap();
    let kinds: Vec<Kind> = description.registries[0].kinds.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::Resources, Kind::Templates]);
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_named() {
    let error = Deps::connect(&config(std::path::Path::new("/nonexistent/x"))).await.unwrap_err().to_string();
    assert!(
        error.starts_with(
            "resource-registry.directories[0].path: cannot read the directory /nonexistent/x: No such file"
        ),
        "{error}"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Deps::connect(&config(file.path())).await.unwrap_err().to_string();
    assert!(error.contains("Not a directory"), "{error}");
}

#[tokio::test]
async fn it_is_served_over_the_network_and_stops_when_asked() {
    let top = tempfile::tempdir().unwrap();
    fs::write(top.path().join("a.md"), "A").unwrap();
    let app = build(&config(top.path())).await;
    let local = app.handle();
    let listener = chassis::serve::bind("resource-registry.listen", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (trigger, shutdown) = drain::pair();
    let running = task::spawn(task::Kind::Role, "resources", app.serve(Incoming::Tcp(listener), shutdown));
    let remote = RegistryClient::new(api::wire::wire(chassis::grpc::channel::dial(&address).unwrap()));
    assert_eq!(remote.describe().await.unwrap(), local.describe().await.unwrap());
    assert_eq!(uris(&remote).await, ["file:///docs/a.md"]);
    assert_eq!(
        read(&remote, "file:///docs/a.md").await.unwrap(),
        read(&*local, "file:///docs/a.md").await.unwrap()
    );
    let mut events = remote.watch().await.unwrap();
    for _ in 0..2 {
        soon(events.next(), "the present state").await.unwrap().unwrap();
    }
    fs::write(top.path().join("b.md"), "B").unwrap();
    soon(events.next(), "a change").await.unwrap().unwrap();
    assert_eq!(uris(&remote).await, ["file:///docs/a.md", "file:///docs/b.md"]);
    trigger.drain();
    assert_eq!(soon(events.next(), "the end of serving").await.unwrap().unwrap(), CatalogEvent::NotServing);
    soon(running, "the end").await.unwrap().unwrap();
}
