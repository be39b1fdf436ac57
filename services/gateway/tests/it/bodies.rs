//! Bodies and heads that are too large, lie about their size, or never end.

use crate::kit::{Gateway, Node, Request, refused};

const LIMIT: usize = 4 << 20;

/// A request whose body has exactly this many bytes.
fn of(size: usize) -> Request {
    let request = Request::modern("tools/list", "");
    let mut body = request.body_bytes().to_vec();
    // White space is JSON, too.
    body.resize(size, b' ');
    request.body(body)
}

#[tokio::test]
async fn the_limit_is_exact() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    assert_eq!(gateway.ask(&of(LIMIT)).await.status, 200);
    assert_eq!(node.delivered().unwrap().message.as_str().len(), LIMIT);
    refused([("one more".to_owned(), of(LIMIT + 1), 413, Some(-32600), None)]).await;
}

#[tokio::test]
async fn size_is_what_comes_not_what_was_announced() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let head = of(1).head();
    let chunk = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();

    // No length at all, and no end: refused after 4 MiB, while more would come.
    let mut endless = gateway.connect().await;
    endless.write(&[head.clone(), b"Transfer-Encoding: chunked\r\n\r\n".to_vec()].concat()).await;
    for _ in 0..5 {
        endless.write(&chunk).await;
    }
    let response = endless.response().await;
    assert_eq!(response.verdict(), (413, Some(-32600), None));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(endless.rest().await, "");

    // A length that is a lie: what goes beyond it is no part of the message.
    let mut long = gateway.connect().await;
    long.write(&[head.clone(), b"Content-Length: 10737418240\r\n\r\n".to_vec()].concat()).await;
    for _ in 0..5 {
        long.write(&vec![b' '; 1 << 20]).await;
    }
    assert_eq!(long.response().await.status, 413);

    // Two ways to tell the end.
    let mut both = gateway.connect().await;
    both.write(
        &[head.clone(), b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec()]
            .concat(),
    )
    .await;
    assert_eq!(both.response().await.status, 400);

    let mut two = gateway.connect().await;
    two.write(&[head.clone(), b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}".to_vec()].concat()).await;
    assert_eq!(two.response().await.status, 400);

    // A body that ends early is not a message.
    let mut broken = gateway.connect().await;
    broken.write(&[head, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec()].concat()).await;
    assert_eq!(broken.response().await.verdict(), (400, Some(-32700), None));
    assert_eq!(node.seen(), []);
}

#[tokio::test]
async fn heads_have_a_limit_too() {
    let fits = Request::modern("tools/list", "").with("X-Filler", "x".repeat(15 << 10));
    let gateway = Gateway::one(&Node::new([])).await;
    assert_eq!(gateway.ask(&fits).await.status, 200);
    let one = Request::modern("tools/list", "").with("X-Filler", "x".repeat(16 << 10));
    let many =
        (0..90).fold(Request::modern("tools/list", ""), |r, n| r.with(&format!("X-{n}"), "x".repeat(200)));
    refused([
        ("one large header".to_owned(), one, 431, Some(-32600), None),
        ("many headers".to_owned(), many, 431, Some(-32600), None),
        (
            "a long target".to_owned(),
            Request::new("GET").at(&format!("/mcp?{}", "x".repeat(9 << 10))),
            414,
            None,
            None,
        ),
    ])
    .await;
    let huge = Request::new("GET").with("X-Filler", "x".repeat(200 << 10));
    assert_eq!(gateway.ask(&huge).await.status, 431);
    let countless = (0..150).fold(Request::new("GET"), |r, n| r.with(&format!("X-{n}"), "x"));
    assert_eq!(gateway.ask(&countless).await.status, 431);
}
