//! What the settings mean, and how errors name them.

use chassis::metrics::Metrics;
use session::store::{Config, Store};

use crate::server::{IDLE, Server, config, connect, refusal};
use crate::writer::Writer;

#[tokio::test]
async fn without_settings_sessions_live_in_memory() {
    let store = Store::connect(&Config::default(), IDLE, &Metrics::default()).await.unwrap();
    assert!(store.is_up().await);
    Writer::begin(&store, 1).await.is_whole().await;
}

#[tokio::test]
async fn errors_name_the_setting_and_no_secret() {
    let one = |address: &str| Config { redis: vec![address.to_owned()], ..Config::default() };
    let table = [
        (one("http://127.0.0.1:1"), "store.redis: \"http://127.0.0.1:1\" is not redis://"),
        (one("redis://u:geheim@127.0.0.1:1"), "store.redis: the password of \"127.0.0.1:1\" belongs into"),
        (one("nonsense://u:geheim@h"), "store.redis: \"h\" is not"),
        (
            Config { password_file: "/not/there".into(), ..one("redis://h") },
            "store.password_file: \"/not/there\"",
        ),
        (Config { ca: "/not/there".into(), ..one("rediss://h") }, "store.ca: \"/not/there\""),
        (Config { key_prefix: "a{b".into(), ..one("redis://h") }, "store.key_prefix: "),
        (Config { key_prefix: "a b".into(), ..one("redis://h") }, "store.key_prefix: "),
        (Config { wait_replicas: 1, wait_ms: 401, ..one("redis://h") }, "store.wait_ms: 401"),
        (Config { wait_replicas: 1, wait_ms: 0, ..one("redis://h") }, "store.wait_ms: 0"),
    ];
    for (config, expected) in table {
        let text = refusal(&config).await.to_string();
        assert!(text.starts_with(expected) && !text.contains("geheim"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_may_evict_is_refused_unless_that_is_wanted() {
    let server = Server::start(&["--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"]);
    let text = refusal(&config(&[&server])).await.to_string();
    assert!(text.contains("allkeys-lru") && text.contains("store.allow_eviction"), "{text}");
    let allowed = Config { allow_eviction: true, ..config(&[&server]) };
    Writer::begin(&connect(&allowed).await, 1).await.is_whole().await;
}

#[tokio::test]
async fn a_password_is_asked_for() {
    let server = Server::start_as(&["--requirepass", "s3cret"], Some("s3cret"));
    let given = Config { password_file: crate::server::file(&server, "p", "s3cret"), ..config(&[&server]) };
    Writer::begin(&connect(&given).await, 1).await.is_whole().await;
    let text = refusal(&config(&[&server])).await.to_string();
    assert!(
        text.starts_with("store.redis") && text.contains("NOAUTH") || text.contains("uthentication"),
        "{text}"
    );
}
