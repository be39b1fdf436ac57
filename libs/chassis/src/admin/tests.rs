use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::drain;
use crate::task::{self, Kind};

async fn ask(url: &str, request: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn operators_see_metrics_and_health_and_nothing_else() {
    let process = Process::new("n1");
    let (role, watched) = drain::pair();
    process.health.role("gateway", watched, || true);
    let admin = Admin::bind(&Config::default(), process.clone()).await.unwrap().unwrap();
    let url = admin.url();
    let (_trigger, shutdown) = drain::pair();
    let _serving = task::spawn(Kind::Role, "admin", admin.serve(shutdown));
    let get = async |path: &str| ask(&url, &format!("GET {path}"), "localhost").await;

    assert!(get("/readyz").await.starts_with("HTTP/1.1 503 "), "it has not started");
    process.health.started();
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200 "));
    assert!(get("/livez").await.ends_with("alive\n"));
    let metrics = get("/metrics").await;
    assert!(metrics.contains("content-type: application/openmetrics-text") && metrics.ends_with("# EOF\n"));
    assert!(metrics.contains("trunkline_build_info{version="), "{metrics}");
    assert!(get("/health").await.contains(r#"{"status":"healthy","nodeId":"n1","activeSessions":0,"#));
    for path in ["/", "/metrics/", "/debug", "/config"] {
        assert!(get(path).await.starts_with("HTTP/1.1 404 "), "{path}");
    }
    for request in ["POST /metrics", "DELETE /health", "OPTIONS /livez"] {
        assert!(ask(&url, request, "localhost").await.starts_with("HTTP/1.1 405 "), "{request}");
    }
    role.drain();
    assert!(get("/readyz").await.starts_with("HTTP/1.1 503 "), "it drains");
    assert!(get("/livez").await.starts_with("HTTP/1.1 200 "), "and lives");
}

#[tokio::test]
async fn a_page_that_bound_its_name_to_loopback_reads_nothing() {
    let admin = Admin::bind(&Config::default(), Process::new("n1")).await.unwrap().unwrap();
    let url = admin.url();
    let (_trigger, shutdown) = drain::pair();
    let _serving = task::spawn(Kind::Role, "admin", admin.serve(shutdown));
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""] {
        assert!(ask(&url, "GET /metrics", host).await.starts_with("HTTP/1.1 403 "), "{host}");
    }
    for host in ["localhost:9090", "127.0.0.1", "[::1]:1", "LOCALHOST"] {
        assert!(ask(&url, "GET /metrics", host).await.starts_with("HTTP/1.1 200 "), "{host}");
    }
}

#[tokio::test]
async fn it_is_reachable_from_elsewhere_only_where_that_is_asked_for() {
    let config = |listen: &str, allow_remote| Config { listen: listen.into(), allow_remote };
    for listen in ["0.0.0.0:0", "[::]:0", "10.1.2.3:9090", "metrics.example.com:9090"] {
        let refused = check(&config(listen, false)).unwrap_err().to_string();
        assert!(refused.contains("allow_remote"), "{refused}");
        check(&config(listen, true)).unwrap();
    }
    for listen in ["127.0.0.1:0", "localhost:9090", "[::1]:0", ""] {
        check(&config(listen, false)).unwrap();
    }
    for listen in ["9090", "127.0.0.1", "127.0.0.1:port", ":9090"] {
        assert!(check(&config(listen, true)).is_err(), "{listen}");
    }
    assert!(Admin::bind(&config("", false), Process::default()).await.unwrap().is_none());
    assert!(Admin::bind(&config("0.0.0.0:0", true), Process::default()).await.unwrap().is_some());
}
