//! Bodies that are no JSON, beyond a limit on JSON, or no message: by hand, and made from good ones.

use crate::kit::{Request, refused, session};

const PARSE: i32 = -32700;
const INVALID: i32 = -32600;

type Case = (String, Request, u16, Option<i32>, Option<&'static str>);

/// In a session, where an envelope is all that is needed.
fn older(name: &str, body: impl Into<Vec<u8>>, code: i32, id: Option<&'static str>) -> Case {
    (name.to_owned(), Request::older(&session(3), "").body(body), 400, Some(code), id)
}

/// The value of a member where it decides nothing.
fn within(value: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"echo","arguments":{{"a":{value}}}}}}}"#
    )
}

/// No values.
const VALUES: &[&str] = &[
    "",
    "tru",
    "True",
    "TRUE",
    "nul",
    "Null",
    "undefined",
    "NaN",
    "Infinity",
    "-Infinity",
    "-",
    "+1",
    "01",
    "-01",
    "1.",
    ".5",
    "1.e1",
    "1e",
    "1e+",
    "0x10",
    "1_000",
    "1,000",
    "'a'",
    "\"a",
    "a\"",
    "\"\\x41\"",
    "\"\\u12\"",
    "\"\\u12g4\"",
    "\"\\U0041\"",
    "\"\\'\"",
    "\"\\\"",
    "\"\t\"",
    "\"\n\"",
    "\"\r\"",
    "\"\u{1}\"",
    "\"\u{1f}\"",
    "\"\0\"",
    "\0",
    "[",
    "]",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[1,,2]",
    "[1 2]",
    "{",
    "{]",
    "[}",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{\"a\" 1}",
    "{a:1}",
    "{1:1}",
    "{,}",
    "{\"a\":1 \"b\":2}",
    "{\"a\":1;\"b\":2}",
    "{'a':1}",
    "{\"a\"::1}",
    "//c\n1",
    "/*c*/1",
    "#c\n1",
    "\u{a0}1",
    "\u{feff}1",
    "\u{2028}1",
    "\"\\ud800\"",
    "\"\\udc00\"",
    "\"\\ud800x\"",
    "\"\\ud800\\u0041\"",
    "\"\\ud800\\ud800\"",
    "\"\\udc00\\ud800\"",
    "\"\\uD83D\"",
    "\"a\\\"",
];

/// No UTF-8 where a value stands.
const BYTES: [(&str, &[u8]); 14] = [
    ("a lone continuation", b"\"\x80\""),
    ("an overlong slash", b"\"\xc0\xaf\""),
    ("an overlong slash in three", b"\"\xe0\x80\xaf\""),
    ("an overlong NUL", b"\"\xc0\x80\""),
    ("a surrogate in UTF-8", b"\"\xed\xa0\x80\""),
    ("a pair of surrogates in UTF-8", b"\"\xed\xa0\xbd\xed\xb8\x80\""),
    ("beyond Unicode", b"\"\xf4\x90\x80\x80\""),
    ("five bytes", b"\"\xf8\x88\x80\x80\x80\""),
    ("a truncated letter", b"\"\xe4\xb8\""),
    ("0xfe", b"\"\xfe\""),
    ("0xff", b"\"\xff\""),
    ("Latin-1", b"\"caf\xe9\""),
    ("a name that is no UTF-8", b"{\"\xff\":1}"),
    ("outside of a string", b"1\xff"),
];

/// No messages, and nobody to answer to.
const WITHOUT_ID: [&str; 27] = [
    r#"{"jsonrpc":"2.0"}"#,
    r#"{"jsonrpc":"2.0","params":{}}"#,
    r#"{"method":"ping"}"#,
    r#"{"jsonrpc":"1.0","method":"ping"}"#,
    r#"{"jsonrpc":2.0,"method":"ping"}"#,
    r#"{"jsonrpc":"2","method":"ping"}"#,
    r#"{"jsonrpc":"2.0 ","method":"ping"}"#,
    r#"{"jsonrpc":null,"method":"ping"}"#,
    r#"{"jsonrpc":["2.0"],"method":"ping"}"#,
    r#"{"JSONRPC":"2.0","method":"ping"}"#,
    r#"{"jsonRpc":"2.0","method":"ping"}"#,
    r#"{"jsonrpc":"2.0","Method":"ping"}"#,
    r#"{"jsonrpc":"2.0","METHOD":"ping"}"#,
    r#"{"jsonrpc":"2.0","method":7}"#,
    r#"{"jsonrpc":"2.0","method":null}"#,
    r#"{"jsonrpc":"2.0","method":["ping"]}"#,
    r#"{"jsonrpc":"2.0","method":{"ping":1}}"#,
    r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":1e3,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":[7],"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":{"a":7},"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":7,"id":7,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":7,"id":8,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":7,"\u0069d":8,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","result":{}}"#,
];

/// No messages, from somebody.
const WITH_ID: [&str; 33] = [
    r#"{"id":7,"method":"ping"}"#,
    r#"{"jsonrpc":"1.0","id":7,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":7}"#,
    r#"{"jsonrpc":"2.0","id":7,"Method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":7}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","method":"tools/call"}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","\u006dethod":"tools/call"}"#,
    r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":7,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":[{}]}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":null}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":"x"}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":7}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":true}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","params":{},"params":{}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","result":{}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"ping","error":{"code":1,"message":""}}"#,
    r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1,"message":""}}"#,
    r#"{"jsonrpc":"2.0","id":7,"result":{},"result":{}}"#,
    r#"{"jsonrpc":"2.0","id":7,"error":{}}"#,
    r#"{"jsonrpc":"2.0","id":7,"error":7}"#,
    r#"{"jsonrpc":"2.0","id":7,"error":{"code":"x","message":""}}"#,
    r#"{"jsonrpc":"2.0","id":7,"error":{"code":1.5,"message":""}}"#,
    r#"{"jsonrpc":"2.0","id":7,"error":{"code":1}}"#,
    r#"{"jsonrpc":"2.0","id":7,"error":null}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","name":"a"}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","arguments":{},"arguments":{}}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","_meta":{},"_meta":{}}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a","_meta":{"a":1,"a":2}}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"resources/read","params":{"uri":"a:b","uri":"a:c"}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{"cursor":"a","cursor":"b"}}"#,
];

/// Not JSON (RFC 8259): R1, and nobody to answer to.
#[tokio::test]
async fn what_is_no_json() {
    let mut table: Vec<_> =
        VALUES.iter().map(|v| older(&v.escape_debug().to_string(), within(v), PARSE, None)).collect();
    table.extend(BYTES.map(|(name, value)| {
        let [before, after] =
            within("@").split('@').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
        older(name, [before.as_bytes(), value, after.as_bytes()].concat(), PARSE, None)
    }));
    let good = within("1");
    table.extend([
        older("nothing", "", PARSE, None),
        older("white space", " \t\r\n", PARSE, None),
        older("a byte order mark", format!("\u{feff}{good}"), PARSE, None),
        older("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>(), PARSE, None),
        older(
            "UTF-16 with a mark",
            [0xfe, 0xff]
                .into_iter()
                .chain(good.encode_utf16().flat_map(u16::to_be_bytes))
                .collect::<Vec<_>>(),
            PARSE,
            None,
        ),
        older("two messages", format!("{good}{good}"), PARSE, None),
        older("two lines", format!("{good}\n{good}"), PARSE, None),
        older("a comma behind it", format!("{good},"), PARSE, None),
        older("a bracket behind it", format!("{good}}}"), PARSE, None),
        older("NUL behind it", format!("{good}\0"), PARSE, None),
        older("a form", "jsonrpc=2.0&method=ping", PARSE, None),
        older("XML", "<methodCall><methodName>ping</methodName></methodCall>", PARSE, None),
        older("an LSP message", format!("Content-Length: {}\r\n\r\n{good}", good.len()), PARSE, None),
        older("an event", format!("data: {good}\n\n"), PARSE, None),
    ]);
    // Cut off anywhere.
    table.extend((1..good.len()).map(|at| older(&format!("cut at {at}"), &good[..at], PARSE, None)));
    let count = refused(table).await;
    println!("{count} bodies that are no JSON");
    assert_eq!(count, 74 + 14 + 14 + good.len() - 1);
}

/// JSON beyond a limit: R2, and nobody to answer to.
#[tokio::test]
async fn what_is_too_much_json() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    let many = |count: usize| format!("[{}]", vec!["1"; count].join(","));
    let text = |length: usize| format!("\"{}\"", "x".repeat(length));
    let named = |length: usize| format!("{{\"{}\":1}}", "k".repeat(length));
    // `arguments` stand in the third object; there are eight values around.
    let fits = [
        nested(61),
        objects(61),
        many(99_991),
        text(1 << 20),
        named(1024),
        "1".repeat(64),
        format!("-1e{}", "1".repeat(61)),
    ];
    let beyond = [
        nested(62),
        objects(62),
        nested(10_000),
        "[".repeat(100_000),
        objects(10_000),
        many(100_001),
        format!("[{}]", vec!["[]"; 100_001].join(",")),
        format!("[{}]", vec!["\"\""; 100_001].join(",")),
        text((1 << 20) + 1),
        text(3 << 20),
        format!("\"{}\"", "\\u0041".repeat(180_000)),
        named(1025),
        named(1 << 20),
        format!("{{\"{}\":1}}", "\\u006b".repeat(200)),
        "1".repeat(65),
        format!("-{}", "9".repeat(64)),
        format!("0.{}", "0".repeat(63)),
        format!("1e{}", "9".repeat(63)),
        "9".repeat(100_000),
    ];
    let table = beyond.iter().map(|value| {
        let name = format!("{} bytes: {}", value.len(), &value[..value.len().min(12)]);
        older(&name, within(value), INVALID, None)
    });
    let count = refused(table).await;
    println!("{count} bodies beyond a limit");
    assert_eq!(count, 19);
    let table = fits
        .iter()
        .map(|value| (value[..8.min(value.len())].to_owned(), Request::older(&session(3), &within(value))));
    assert_eq!(crate::kit::admitted(table).await, 7);
}

/// JSON, and no message: R2, to whoever can be told from it.
#[tokio::test]
async fn what_is_no_message() {
    let one = Some("7");
    let bare = [
        "1",
        "-1",
        "1.5",
        "\"ping\"",
        "true",
        "false",
        "null",
        "[]",
        "{}",
        "[1]",
        "[null]",
        "[[]]",
        "[{}]",
        r#"["jsonrpc"]"#,
    ];
    // An empty array, and one without messages, is no batch to the gateway; one of other things is answered by the session.
    let mut table: Vec<_> = bare
        .iter()
        .filter(|text| !text.starts_with("[") || **text == "[]")
        .map(|text| older(text, *text, INVALID, None))
        .collect();
    table.extend(WITHOUT_ID.map(|text| older(text, text, INVALID, None)));
    // Answers to requests of ours carry an id of ours, which is nobody's to be answered with.
    table.extend(WITH_ID.map(|text| older(text, text, INVALID, one)));
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "i".repeat(257));
    let digits = format!(r#"{{"jsonrpc":"2.0","id":{},"method":"ping"}}"#, "1".repeat(65));
    table.push(older("a long id", long, INVALID, None));
    table.push(older("a long number as id", digits, INVALID, None));
    let count = refused(table).await;
    println!("{count} bodies that are no message");
    assert_eq!(count, 9 + 27 + 33 + 2);
}

/// The same in a modern request, whose headers are right: the body comes first.
#[tokio::test]
async fn what_is_no_message_of_a_modern_client() {
    let good = Request::modern("tools/list", "");
    let text = String::from_utf8(good.body_bytes().to_vec()).unwrap();
    let mut table: Vec<Case> = Vec::new();
    // Every byte of structure left out.
    for (at, c) in text.char_indices().filter(|(_, c)| "{}:,\"".contains(*c)) {
        let broken = format!("{}{}", &text[..at], &text[at + 1..]);
        table.push((format!("without {c} at {at}"), good.clone().body(broken), 400, Some(PARSE), None));
    }
    let structure = table.len();
    // Every byte of structure twice, where that is no JSON.
    for (at, c) in text.char_indices().filter(|(_, c)| "}:,".contains(*c)) {
        let broken = format!("{}{c}{}", &text[..at], &text[at..]);
        table.push((format!("two {c} at {at}"), good.clone().body(broken), 400, Some(PARSE), None));
    }
    for (name, body, code, id) in [
        ("a response", r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, INVALID, None),
        ("an array", "[]", INVALID, None),
        ("a message in an array", r#"[{"jsonrpc":"2.0","id":7,"method":"tools/list"}]"#, INVALID, None),
        (
            "params that are none",
            r#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":[]}"#,
            INVALID,
            Some("7"),
        ),
    ] {
        table.push((name.to_owned(), good.clone().body(body), 400, Some(code), id));
    }
    let count = refused(table).await;
    println!("{count} bodies of modern clients that are no message");
    assert_eq!((structure, count), (39, 58));
}
