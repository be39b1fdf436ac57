//! Requests that two parsers could read differently: refused, or read in one way that hides nothing.

use crate::kit::{Gateway, Node, Request};

/// Something that must never be served: it stands where a second request would.
const HIDDEN: &[u8] = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/list\r\nContent-Length: 2\r\n\r\n{}";

#[tokio::test]
async fn what_says_two_things_about_its_length_is_refused_and_ends_its_connection() {
    let head = String::from_utf8(Request::modern("tools/list", "").head()).unwrap();
    let lengths = [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2\r\nContent-Length: 0",
        "Content-Length: 2, 3",
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 0x2",
        "Content-Length: 2 3",
        "Content-Length: ",
        "Content-Length: 99999999999999999999999",
        "Content-Length : 2",
        "Content-Length\t: 2",
        " Content-Length: 2",
        "Content-Length: 2\r\n folded: x",
        "Content-\0Length: 2",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding: \x0bchunked",
        "Transfer-Encoding: chunked\0",
    ];
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    for lengths in lengths {
        let mut connection = gateway.connect().await;
        let request = [head.as_bytes(), lengths.as_bytes(), b"\r\n\r\n0\r\n\r\n", HIDDEN].concat();
        connection.write(&request).await;
        let mut said = Vec::new();
        connection.all(&mut said).await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with("HTTP/1.1 400 ") || said.is_empty(), "{lengths:?}: {said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), usize::from(!said.is_empty()), "{lengths:?}: {said}");
        assert_eq!(node.seen(), [], "{lengths:?}");
    }
    println!("{} ways to say two things", lengths.len());
}

#[tokio::test]
async fn what_hides_in_a_body_stays_there() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let head = Request::modern("tools/list", "").head();
    // A body that is refused, with a request inside, and one that is cut off by its length.
    for (lengths, body) in [
        (format!("Content-Length: {}", HIDDEN.len()), HIDDEN.to_vec()),
        (
            "Transfer-Encoding: chunked".to_owned(),
            [format!("{:x}\r\n", HIDDEN.len()).as_bytes(), HIDDEN, b"\r\n0\r\n\r\n"].concat(),
        ),
        (
            "Transfer-Encoding: chunked".to_owned(),
            [b"2;".as_slice(), b"a=\"b\"\r\n{}\r\n0\r\nX-Trailer: ", b"POST /mcp\r\n\r\n"].concat(),
        ),
    ] {
        let mut connection = gateway.connect().await;
        connection
            .write(&[&head, lengths.as_bytes(), b"\r\nConnection: close\r\n\r\n", &body].concat())
            .await;
        let said = connection.rest().await;
        assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{said}");
    }
    assert_eq!(node.seen(), []);
}

#[tokio::test]
async fn lines_and_chunks_are_read_strictly() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let request = Request::modern("tools/list", "");
    let head = request.head();
    let chunked = [head.clone(), b"Transfer-Encoding: chunked\r\n\r\n".to_vec()].concat();
    let bad: [(&str, Vec<u8>); 12] = [
        ("a chunk without a size", [chunked.clone(), b"\r\n{}\r\n0\r\n\r\n".to_vec()].concat()),
        ("a negative chunk", [chunked.clone(), b"-2\r\n{}\r\n0\r\n\r\n".to_vec()].concat()),
        ("a chunk in 0x", [chunked.clone(), b"0x2\r\n{}\r\n0\r\n\r\n".to_vec()].concat()),
        ("a huge chunk", [chunked.clone(), b"fffffffffffffffff\r\n{}".to_vec()].concat()),
        ("a chunk that is longer than it says", [chunked, b"1\r\n{}\r\n0\r\n\r\n".to_vec()].concat()),
        ("no version", b"POST /mcp\r\nHost: localhost\r\n\r\n".to_vec()),
        ("another version", b"POST /mcp HTTP/3.0\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a space in the target", b"POST /mcp x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a NUL in a value", [head.clone(), b"X: a\0b\r\nContent-Length: 0\r\n\r\n".to_vec()].concat()),
        (
            "a line feed in a value",
            [head.clone(), b"X: a\r\n b: c\r\nContent-Length: 0\r\n\r\n".to_vec()].concat(),
        ),
        ("a name with a space", [head, b"X Y: a\r\nContent-Length: 0\r\n\r\n".to_vec()].concat()),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
    ];
    for (name, bytes) in bad {
        let mut connection = gateway.connect().await;
        connection.write(&bytes).await;
        connection.finish().await;
        let mut said = Vec::new();
        connection.all(&mut said).await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with("HTTP/1.1 400 ") || said.is_empty(), "{name}: {said}");
        assert_eq!(node.seen(), [], "{name}");
    }
}
