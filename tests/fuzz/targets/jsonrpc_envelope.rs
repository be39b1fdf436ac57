//! A body: what is accepted, others read as we do; it survives being written and edited; what is refused says why.

#![no_main]

use bytes::Bytes;
use fuzz::{bounds::bounded, view};
use libfuzzer_sys::fuzz_target;
use mcp::edit::ObjectEditor;
use mcp::rpc::{self, Body, Malformed, Message};
use mcp::scan::{self, Limits};
use mcp::{Json, code};

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    match bounded(data.len(), || Body::parse(&body)) {
        Ok(Body::One(message)) => accepted(&body, &message),
        Ok(Body::Batch(members)) => batch(&body, &members),
        Err(refusal) => refused(&body, &refusal),
    }
});

fn text(body: &Bytes) -> &str {
    std::str::from_utf8(body).expect("what is accepted is text")
}

fn accepted(body: &Bytes, message: &Message) {
    let raw = text(body);
    assert!(view::is_json(body));
    view::agrees(raw.trim_ascii(), message);
    assert_eq!(Message::parse(body).as_ref(), Ok(message));
    written(message);
    edited(raw);
}

/// What we write of it is read as the same.
fn written(message: &Message) {
    let again = match message {
        Message::Request(r) => rpc::request(&r.id, &r.method, r.params.as_ref()),
        Message::Notification(n) => rpc::notification(&n.method, n.params.as_ref()),
        Message::Response(r) => match &r.outcome {
            Ok(result) => rpc::result(&r.id, result),
            Err(error) => rpc::error(Some(&r.id), error),
        },
    };
    assert!(view::is_json(&again.bytes()));
    view::agrees(again.as_str(), message);
    assert_eq!(Message::parse(&again.bytes()).as_ref(), Ok(message), "{again}");
}

/// The members of an object: names and values as written.
fn members(object: &str) -> Vec<(String, String)> {
    scan::members(object).map(|m| (m.key.into_owned(), m.value.to_owned())).collect()
}

fn edited(object: &str) {
    let before = members(object);
    let keys = before.iter().map(|(key, _)| key.as_str()).take(4).chain(["_meta", "new \"\n\u{1}"]);
    for key in keys {
        let others: Vec<_> = before.iter().filter(|(name, _)| name != key).cloned().collect();
        let mut editor = ObjectEditor::new(object);
        let set = editor.set(key, "[1]").finish();
        assert_eq!(editor.get(key), Some("[1]"));
        checked(&set);
        assert_eq!(scan::member(&set, key), Some("[1]"));
        assert_eq!(view::member(&set, key).as_deref(), Some("[1]"));
        let rest: Vec<_> = members(&set).into_iter().filter(|(name, _)| name != key).collect();
        assert_eq!(rest, others);

        let removed = editor.remove(key).finish();
        assert_eq!(editor.get(key), None);
        checked(&removed);
        assert_eq!(members(&removed), others);
    }
    let untouched = ObjectEditor::new(object);
    assert!(untouched.is_unchanged());
    assert_eq!(untouched.finish(), object);
}

fn checked(text: &str) {
    // An edit may go over a limit by what it adds, and never over the grammar.
    let roomy = Limits { depth: 66, values: 100_010, ..Limits::MESSAGE };
    assert_eq!(scan::check(text.as_bytes(), &roomy), Ok(text));
    assert!(view::is_json(text.as_bytes()));
}

fn batch(body: &Bytes, members: &[Result<Message, Malformed>]) {
    let theirs: Vec<&serde_json::value::RawValue> =
        serde_json::from_slice(body).expect("what we accept is an array to others too");
    assert_eq!(theirs.len(), members.len());
    for (theirs, ours) in theirs.iter().zip(members) {
        let alone = Bytes::copy_from_slice(theirs.get().as_bytes());
        match ours {
            Ok(message) => {
                assert_eq!(Message::parse(&alone).as_ref(), Ok(message));
                view::agrees(theirs.get(), message);
            }
            Err(refusal) => {
                let same = Message::parse(&alone).expect_err("a member is judged as if it were alone");
                assert_eq!((same.code, &same.id), (refusal.code, &refusal.id));
            }
        }
    }
}

fn refused(body: &Bytes, refusal: &Malformed) {
    match scan::check(body, &Limits::MESSAGE) {
        // Where we say that it is no JSON, a strict reader says so as well.
        Err(scan::ScanError::Syntax(_)) => {
            assert_eq!(refusal.code, code::PARSE_ERROR);
            assert_eq!(refusal.id, None);
            let strict = serde_json::from_slice::<serde_json::Value>(body);
            assert!(strict.is_err(), "{strict:?}");
        }
        Err(scan::ScanError::Limit(_)) => assert_eq!(refusal.code, code::INVALID_REQUEST),
        Ok(raw) => {
            assert_eq!(refusal.code, code::INVALID_REQUEST);
            assert!(view::is_json(body));
            if let Some(id) = &refusal.id {
                // An id that is answered with is the only one there is.
                let named: Vec<_> = scan::members(raw).filter(|m| m.key == "id").collect();
                assert!(matches!(&named[..], [only] if only.value == id.raw()));
            }
            let json = Json::trusted_bytes(body.clone());
            assert_eq!(json.as_str(), raw);
        }
    }
}
