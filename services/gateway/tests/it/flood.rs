//! HTTP/2 as a weapon, frame by frame.

use gateway::Config;

use crate::kit::{Act, Connection, Gateway, Node, soon};

const HEADERS: u8 = 1;
const RESET: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const DATA: u8 = 0;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CALM: u8 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The head of a request that is admitted, uncompressed.
fn head() -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/mcp"),
        (":authority", "localhost"),
        ("content-type", "application/json"),
        ("accept", "*/*"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/list"),
    ];
    fields.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

async fn begin(gateway: &Gateway) -> Connection {
    let mut connection = gateway.connect().await;
    let settings = frame(4, 0, 0, &[]);
    connection.write(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), settings].concat()).await;
    connection
}

/// What a GOAWAY says, if there is one before the connection ends.
async fn farewell(connection: &mut Connection) -> Option<u8> {
    let mut said = Vec::new();
    connection.all(&mut said).await;
    let mut rest = said.as_slice();
    while rest.len() >= 9 {
        let length = usize::from(rest[1]) << 8 | usize::from(rest[2]);
        if rest[3] == GOAWAY {
            return rest.get(16).copied();
        }
        rest = rest.get(9 + length..)?;
    }
    None
}

#[tokio::test]
async fn requests_that_are_cancelled_at_once_end_the_connection() {
    let node = Node::new((0..200).map(|_| Act::Hang));
    let gateway = Gateway::one(&node).await;
    let mut connection = begin(&gateway).await;
    let mut flood = Vec::new();
    for n in 0..5000_u32 {
        flood.extend(frame(HEADERS, END_HEADERS, 2 * n + 1, &head()));
        flood.extend(frame(RESET, 0, 2 * n + 1, &8_u32.to_be_bytes()));
    }
    connection.try_write(&flood).await;
    assert_eq!(farewell(&mut connection).await, Some(CALM));
    node.streams_open(0).await;
    assert!(node.seen().len() <= 100, "{}", node.seen().len());
}

#[tokio::test]
async fn heads_without_an_end_and_empty_frames_end_the_connection() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let mut heads = begin(&gateway).await;
    let mut flood = frame(HEADERS, END_STREAM, 1, &head());
    for _ in 0..10_000 {
        flood.extend(frame(CONTINUATION, 0, 1, &literal("x", &"y".repeat(100))));
    }
    heads.try_write(&flood).await;
    assert_eq!(farewell(&mut heads).await, Some(CALM));
    let mut empty = begin(&gateway).await;
    let mut flood = frame(HEADERS, END_HEADERS, 1, &head());
    for _ in 0..200_000 {
        flood.extend(frame(DATA, 0, 1, &[]));
    }
    empty.try_write(&flood).await;
    assert_eq!(farewell(&mut empty).await, Some(CALM));
    assert_eq!(node.seen(), []);
}

#[tokio::test]
async fn a_connection_has_so_many_requests_under_way() {
    let node = Node::new((0..9).map(|_| Act::Hang));
    let config = Config { http2_max_streams: 3, ..Config::default() };
    let gateway = Gateway::start(config, &[("a", &node)], 1).await;
    let mut connection = begin(&gateway).await;
    let body = crate::kit::Request::modern("tools/list", "");
    for n in 0..5_u32 {
        connection.write(&frame(HEADERS, END_HEADERS, 2 * n + 1, &head())).await;
        connection.write(&frame(DATA, END_STREAM, 2 * n + 1, body.body_bytes())).await;
    }
    // Each of the others is refused as a stream, unprocessed.
    let mut refused = 0;
    soon(async {
        while refused < 2 {
            let head = connection.bytes(9).await;
            let payload = connection.bytes(usize::from(head[1]) << 8 | usize::from(head[2])).await;
            if head[3] == RESET {
                assert_eq!(payload, 7_u32.to_be_bytes(), "REFUSED_STREAM");
                refused += 1;
            }
        }
    })
    .await;
    node.streams_open(3).await;
    assert_eq!(node.seen().len(), 3);
}

#[tokio::test]
async fn a_head_has_a_size() {
    let node = Node::new([]);
    let gateway = Gateway::one(&node).await;
    let mut connection = begin(&gateway).await;
    let filler: Vec<_> = (0..200).flat_map(|n| literal(&format!("x-{n}"), &"y".repeat(90))).collect();
    let whole = [head(), filler].concat();
    let (first, rest) = whole.split_at(16_000);
    connection.write(&frame(HEADERS, END_STREAM, 1, first)).await;
    connection.write(&frame(CONTINUATION, END_HEADERS, 1, rest)).await;
    // `:status` in HPACK: a literal with a name of the table, and 431 in its Huffman code.
    soon(async {
        loop {
            let head = connection.bytes(9).await;
            let payload = connection.bytes(usize::from(head[1]) << 8 | usize::from(head[2])).await;
            if head[3] == HEADERS {
                assert!(payload.starts_with(b"\x48\x83\x69\x90\xff"), "{}", payload.escape_ascii());
                break;
            }
        }
    })
    .await;
    assert_eq!(node.seen(), []);
}
