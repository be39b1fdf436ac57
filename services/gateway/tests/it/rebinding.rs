//! Pages and names that may not call.

use gateway::auth::Anonymous;
use gateway::{App, BuildError, Config, Deps, Local};
use placement::Static;
use std::sync::Arc;

use crate::kit::{Gateway, Node, Request, admitted, keys, refused};

fn list() -> Request {
    Request::modern("tools/list", "")
}

#[tokio::test]
async fn strange_hosts_and_origins_are_refused() {
    let hosts = [
        "evil.example",
        "localhost.evil.example",
        "evil-localhost",
        "localhost.",
        "localhost:",
        "localhost:x",
        "localhost:99999",
        "127.0.0.1.evil.example",
        "127.1",
        "127.0.0.2",
        "2130706433",
        "0.0.0.0",
        "[::1",
        "[::1%25lo]",
        "[::ffff:7f00:1]",
        "[::2]",
        "user@localhost",
        "localhost, localhost",
        "localhost/mcp",
        "mesh.example.com",
        "",
        "l\u{f6}calhost",
    ];
    let origins = [
        "null",
        "",
        "http://evil.example",
        "https://localhost.evil.example",
        "http://localhost.",
        "http://localhost/",
        "http://user@localhost",
        "http://evil.example@localhost",
        "localhost",
        "//localhost",
        "file://",
        "ftp://localhost",
        "chrome-extension://abc",
        "http://127.1",
        "http://[::1%25lo]",
        "http://localhost http://evil.example",
        "http://localhost,http://evil.example",
        "http://localhost:",
        "http://xn--lcalhost-84a",
        "http://l\u{f6}calhost",
    ];
    let mut table: Vec<_> =
        hosts.iter().map(|host| (format!("host {host}"), list().set("Host", host))).collect();
    table.extend(origins.iter().map(|origin| (format!("origin {origin}"), list().with("Origin", origin))));
    let named = |name: &str, request| (name.to_owned(), request);
    table.extend([
        named("two equal hosts", list().with("Host", "localhost")),
        named("two hosts", list().with("Host", "evil.example")),
        named(
            "two equal origins",
            list().with("Origin", "http://localhost").with("Origin", "http://localhost"),
        ),
        named("two origins", list().with("Origin", "http://localhost").with("Origin", "http://evil.example")),
        named("another target", list().at("http://evil.example/mcp")),
        named("a target with another port", list().at("http://localhost:1/mcp").set("Host", "localhost:2")),
        named("a target of another scheme", list().at("ftp://localhost/mcp")),
        named("a target with a user", list().at("http://user@localhost/mcp")),
        named("every method", Request::new("GET").set("Host", "evil.example")),
        named("every path", Request::new("GET").at("/other").set("Host", "evil.example")),
        named("the older endpoint", Request::new("GET").at("/sse").set("Host", "evil.example")),
        named("its other half", Request::post("{}").at("/messages").set("Host", "evil.example")),
        named("health", Request::new("GET").at("/health").set("Host", "evil.example")),
        named(
            "metadata",
            Request::new("GET").at("/.well-known/oauth-protected-resource").set("Host", "evil.example"),
        ),
        named("before everything else", Request::post("{").without("Accept").set("Host", "evil.example")),
    ]);
    let count =
        refused(table.into_iter().map(|(name, request)| (name, request, 403, Some(-32600), None))).await;
    println!("{count} hosts and origins that are refused");
    assert_eq!(count, 22 + 20 + 15);
}

#[tokio::test]
async fn this_machine_may_call_itself_by_its_names() {
    let hosts = [
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:65535",
        "[0:0:0:0:0:0:0:1]:80",
    ];
    let origins = [
        "http://localhost",
        "https://localhost:6274",
        "http://127.0.0.1:1",
        "http://[::1]:80",
        "HTTP://LocalHost",
    ];
    let mut table: Vec<_> =
        hosts.iter().map(|host| (format!("host {host}"), list().set("Host", host))).collect();
    table.extend(origins.iter().map(|origin| (format!("origin {origin}"), list().with("Origin", origin))));
    table.push(("absolute target".to_owned(), list().at("http://localhost/mcp")));
    // A proxy that speaks HTTPS for us says so.
    table.push(("absolute target behind TLS".to_owned(), list().at("https://localhost/mcp")));
    assert_eq!(admitted(table).await, 14);
}

#[tokio::test]
async fn configured_names_may_call_too() {
    let node = Node::new([]);
    let config = Config {
        allowed_hosts: vec!["mesh.example.com".into(), "other.example.com:8443".into()],
        allowed_origins: vec!["https://app.example.com".into()],
        ..Config::default()
    };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let status = async |request: Request| gateway.ask(&request).await.status;
    assert_eq!(status(list().set("Host", "Mesh.Example.com:9")).await, 200);
    assert_eq!(status(list().set("Host", "other.example.com:8443")).await, 200);
    assert_eq!(status(list().set("Host", "other.example.com")).await, 403);
    assert_eq!(status(list().set("Host", "sub.mesh.example.com")).await, 403);
    assert_eq!(status(list().with("Origin", "https://app.example.com:443")).await, 200);
    assert_eq!(status(list().with("Origin", "http://app.example.com")).await, 403);
    assert_eq!(status(list().with("Origin", "https://mesh.example.com")).await, 403);
}

#[tokio::test]
async fn nothing_of_a_refused_body_is_read() {
    let gateway = Gateway::one(&Node::new([])).await;
    let mut connection = gateway.connect().await;
    // The body never comes.
    let head = [
        list().set("Host", "evil.example").head(),
        b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n".to_vec(),
    ];
    connection.write(&head.concat()).await;
    assert_eq!(connection.response().await.status, 403);
}

#[tokio::test]
async fn a_public_listener_needs_names() {
    let deps = || Deps {
        keys: keys(),
        locator: Arc::new(Static::embedded(Default::default(), "a")),
        peers: Arc::new(Local(Node::new([]))),
        auth: Arc::new(Anonymous),
        process: Default::default(),
    };
    let config = |listen: &str| Config { listen: listen.into(), ..Config::default() };
    for public in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80", "mesh.example.com:80"] {
        let error = App::build(&config(public), deps()).err().expect(public);
        assert!(matches!(&error, BuildError::Public(listen) if listen == public), "{error}");
        assert!(error.to_string().contains("allowed_hosts = [\"mesh.example.com\"]"), "{error}");
        let named = Config { allowed_hosts: vec!["mesh".into()], ..config(public) };
        let error = App::build(&named, deps()).err().expect(public);
        assert!(matches!(&error, BuildError::NoAuth(listen) if listen == public), "{error}");
        assert!(error.to_string().contains("gateway.insecure_no_auth = true"), "{error}");
        let open = Config { insecure_no_auth: true, ..named };
        assert!(App::build(&open, deps()).is_ok());
        let open = Config { insecure_no_auth: true, ..config(public) };
        assert!(
            matches!(App::build(&open, deps()), Err(BuildError::Public(_))),
            "names are needed all the same"
        );
    }
    for near in ["127.0.0.1:0", "[::1]:0", "localhost:0", "127.0.0.9:1"] {
        assert!(App::build(&config(near), deps()).is_ok(), "{near}");
    }
    for bad in ["", "8080", "127.0.0.1", "localhost:http", ":80"] {
        assert!(matches!(App::build(&config(bad), deps()), Err(BuildError::Listen(_))), "{bad}");
    }
    for bad in ["", "/", "mcp", "/{x}", "/a b", "/a?b"] {
        let config = Config { mcp_path: bad.into(), ..Config::default() };
        assert!(
            matches!(App::build(&config, deps()), Err(BuildError::Path { key: "mcp_path", .. })),
            "{bad}"
        );
    }
    let config = Config { allowed_hosts: vec!["*".into()], ..Config::default() };
    assert!(matches!(App::build(&config, deps()), Err(BuildError::Entry(_))));
}
