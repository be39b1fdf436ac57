use axum::http::{HeaderValue, Method as Verbatim};
use proptest::prelude::*;

use super::*;

fn keys() -> KeyRing {
    KeyRing::single("k1", *b"0123456789abcdef0123456789abcdef")
}

fn session() -> String {
    SessionId::mint(&keys(), Slot::new(5).unwrap(), [3; 16]).as_str().to_owned()
}

fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in list {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

#[test]
fn the_era_is_told_from_header_and_claim() {
    let (older, modern) = (Era::Older, Era::Modern);
    let table: [(&[&str], Option<&str>, Era); 16] = [
        (&[], None, older),
        (&["2024-11-05"], None, older),
        (&["2025-03-26"], None, older),
        (&["2025-06-18"], None, older),
        (&[" 2025-11-25\t"], None, older),
        (&["2025-11-25", "2025-11-25"], None, older),
        (&["2026-07-28"], None, modern),
        (&["2099-01-01"], None, modern),
        (&["2025-11-26"], None, modern),
        (&["2025-11-25,2025-11-25"], None, modern),
        (&[""], None, modern),
        (&["2025-11-25", "2026-07-28"], None, modern),
        (&[], Some("\"2026-07-28\""), modern),
        (&[], Some("\"2025-11-25\""), modern),
        (&[], Some("null"), modern),
        (&["2025-11-25"], Some("7"), modern),
    ];
    for (versions, claim, era) in table {
        let list: Vec<_> = versions.iter().map(|version| (names::PROTOCOL_VERSION, *version)).collect();
        assert_eq!(classify(&headers(&list), claim), era, "{versions:?} {claim:?}");
    }
}

#[test]
fn a_claim_is_a_member_of_metadata_and_of_nothing_else() {
    let claimed = |params: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{params}}}"#);
        let message = Message::parse(&Bytes::from(body)).unwrap();
        claim(&message).map(str::to_owned)
    };
    let key = "\"io.modelcontextprotocol/protocolVersion\"";
    assert_eq!(claimed(&format!(r#"{{"_meta":{{{key}:[1]}}}}"#)).as_deref(), Some("[1]"));
    assert_eq!(claimed(r#"{"_meta":{"io.modelcontextprotocol\/protocolVersion":0}}"#).as_deref(), Some("0"));
    for params in [
        "{}".to_owned(),
        format!("{{{key}:1}}"),
        format!(r#"{{"_meta":[{key}]}}"#),
        format!(r#"{{"_meta":{{"_meta":{{{key}:1}}}}}}"#),
        format!(r#"{{"arguments":{{"_meta":{{{key}:1}}}}}}"#),
        r#"{"_meta":{"io.modelcontextprotocol/protocolversion":1}}"#.to_owned(),
    ] {
        assert_eq!(claimed(&params), None, "{params}");
    }
}

#[test]
fn a_letter_has_what_the_request_said() {
    let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":"q","method":"tools/list"}"#);
    let session = session();
    let headers = headers(&[
        (names::SESSION_ID, &session),
        (names::PROTOCOL_VERSION, "2025-06-18"),
        ("mcp-param-a", "1"),
    ]);
    let Ok(Admitted::Message(letter)) = post(&keys(), &headers, &body) else { panic!("refused") };
    assert_eq!(letter.id().map(Id::raw), Some("\"q\""));
    assert_eq!(letter.slot(), Slot::new(5));
    assert_eq!(
        (letter.era, letter.method, letter.revision.as_deref()),
        (Era::Older, Some(Method::ToolsList), Some("2025-06-18"))
    );
    assert_eq!(letter.raw.bytes(), body);
    assert_eq!(letter.param_headers, [("mcp-param-a".to_owned(), Bytes::from_static(b"1"))]);
}

fn any_headers() -> impl Strategy<Value = HeaderMap> {
    let value = prop_oneof![
        Just("2026-07-28".to_owned()),
        Just("2025-11-25".to_owned()),
        Just("tools/call".to_owned()),
        Just("initialize".to_owned()),
        Just("echo".to_owned()),
        Just("=?base64?ZWNobw==?=".to_owned()),
        Just(session()),
        "[ -~]{0,8}",
    ];
    let name = prop_oneof![
        Just(names::PROTOCOL_VERSION),
        Just(names::METHOD),
        Just(names::NAME),
        Just(names::SESSION_ID),
        Just(names::LAST_EVENT_ID),
        Just("mcp-param-x"),
        Just("accept"),
        Just("content-type"),
    ];
    proptest::collection::vec((name, value), 0..6).prop_map(|list| {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(name, HeaderValue::from_str(&value).unwrap());
        }
        headers
    })
}

fn any_body() -> impl Strategy<Value = Bytes> {
    let method = prop_oneof![Just("initialize"), Just("tools/call"), Just("ping"), Just("no/such")];
    let version = prop_oneof![Just("\"2026-07-28\""), Just("\"2025-11-25\""), Just("7")];
    let meta = (version, any::<bool>(), any::<bool>()).prop_map(|(version, whole, claims)| {
        let key = if claims { "io.modelcontextprotocol/protocolVersion" } else { "x" };
        let rest = if whole { r#","io.modelcontextprotocol/clientCapabilities":{}"# } else { "" };
        format!(r#"{{"{key}":{version}{rest}}}"#)
    });
    let array = prop_oneof![4 => Just(0), 1 => 1..60_usize];
    (method, meta, any::<bool>(), any::<bool>(), array).prop_map(
        |(method, meta, is_request, is_whole, array)| {
            let id = if is_request { r#""id":1,"# } else { "" };
            let text = format!(
                r#"{{"jsonrpc":"2.0",{id}"method":"{method}","params":{{"name":"echo","_meta":{meta}}}}}"#
            );
            let text = if array > 0 { format!("[{}]", vec![text; array].join(",")) } else { text };
            if is_whole { Bytes::from(text) } else { Bytes::from(text[..text.len() / 2].to_owned()) }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn whatever_is_admitted_agrees_with_itself(headers in any_headers(), body in any_body()) {
        match post(&keys(), &headers, &body) {
            Ok(Admitted::Message(letter)) => match letter.era {
                Era::Modern => {
                    prop_assert_eq!(&letter.session, &None);
                    prop_assert_eq!(letter.revision.as_deref(), Some("2026-07-28"));
                    prop_assert_eq!(headers.get_all(names::PROTOCOL_VERSION).iter().count(), 1);
                    prop_assert!(letter.method.is_some_and(|method| method.exists_in(Revision::LATEST)));
                    prop_assert!(letter.id().is_some());
                    let header = headers.get(names::METHOD).map(|value| names::trim(value.as_bytes()));
                    prop_assert_eq!(header, letter.message.method().map(str::as_bytes));
                }
                Era::Older => {
                    let begins = letter.method == Some(Method::Initialize) && letter.id().is_some();
                    prop_assert_eq!(letter.session.is_none(), begins);
                    prop_assert_eq!(claim(&letter.message), None);
                }
            },
            Ok(Admitted::Batch(batch)) => {
                prop_assert!(matches!(Body::parse(&body), Ok(Body::Batch(members)) if (1..=50).contains(&members.len())));
                prop_assert_eq!(batch.session.as_str(), session());
                prop_assert!(batch.revision.is_none_or(|revision| revision == "2025-03-26"));
                prop_assert!(!batch.raw.as_str().contains("initialize"));
                prop_assert!(!batch.raw.as_str().contains("protocolVersion"));
                let Ok(Body::Batch(members)) = Body::parse(&body) else { return Ok(()) };
                let valid: Vec<Message> = members.into_iter().flatten().collect();
                prop_assert!(!valid.is_empty());
                for letter in &batch.members {
                    prop_assert_eq!(&Message::parse(&letter.raw.bytes()), &Ok(letter.message.clone()));
                    prop_assert_eq!(letter.session.as_ref(), Some(&batch.session));
                }
                let read: Vec<Message> = batch.members.into_iter().map(|letter| letter.message).collect();
                prop_assert_eq!(read, valid);
            }
            Ok(Admitted::Noted) => prop_assert!(matches!(Message::parse(&body), Ok(Message::Notification(_)))),
            Err(refusal) => prop_assert!(matches!(refusal.status.as_u16(), 400 | 404), "{}", refusal.status),
        }
    }

    #[test]
    fn every_head_has_an_answer(headers in any_headers()) {
        for method in [Verbatim::POST, Verbatim::GET, Verbatim::DELETE, Verbatim::OPTIONS] {
            if let Err(refusal) = head(&method, &headers) {
                prop_assert_eq!(refusal.allow.is_some(), refusal.status == StatusCode::METHOD_NOT_ALLOWED);
            }
        }
        prop_assert!(!matches!(get(&keys(), &headers), Ok(visit) if visit.session.as_str() != session()));
    }
}
