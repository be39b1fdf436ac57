//! The numbers of a run.

use history::{Demands, History, judge};
use serde_json::{Value, json};

const MS: u64 = 1_000_000;

/// A short operation of a session: from when to when, in milliseconds.
fn asked(session: &str, op: &str, from: u64, to: u64) -> [Value; 3] {
    let line = |n: u64, t: u64, kind: &str| json!({"src": "client", "proc": op, "n": n, "t": t * MS, "session": session, "kind": kind, "op": op});
    let mut begun = line(0, from, "invoke");
    for (name, value) in [("principal", "alice"), ("f", "ping"), ("id", op)] {
        begun[name] = value.into();
    }
    begun["deadline_ms"] = 60_000.into();
    let mut answered = line(1, to, "response");
    answered["id"] = op.into();
    [begun, answered, line(2, to, "ok")]
}

#[test]
fn what_sessions_wait_for_while_their_slot_moves() {
    let store = |proc: &str, n: u64, t: u64, what: Value| {
        let mut line = json!({"src": "store", "proc": proc, "n": n, "t": t * MS});
        line.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        line
    };
    let fence = |n, t, slot: u16, epoch: u64| {
        store("redis", n, t, json!({"kind": "fence", "slot": slot, "epoch": epoch}))
    };
    let commit = |n, slot: u16, session: &str| {
        store("redis", n, 3, json!({"session": session, "kind": "commit", "slot": slot, "epoch": 1}))
    };
    let window = |n: u64, t: u64, kind: &str| json!({"src": "runner", "proc": "runner", "n": n, "t": t * MS, "kind": kind, "window": "w", "of": "planned"});
    let mut lines = vec![
        fence(0, 1, 7, 1),
        fence(1, 1, 8, 1),
        commit(2, 7, "moves"),
        commit(3, 7, "moves-too"),
        commit(4, 8, "stays"),
        window(0, 1_000, "begin"),
        // The same owner once more is no change.
        fence(5, 2_000, 8, 1),
        fence(6, 2_000, 7, 2),
        window(1, 3_000, "over"),
        // Nor is one that nobody planned or injected.
        fence(7, 9_000, 8, 2),
    ];
    for (session, op, from, to) in [
        ("moves", "before", 100, 1_400),
        ("moves", "meanwhile", 1_990, 2_080),
        ("moves", "short", 2_100, 2_101),
        ("moves", "after", 2_600, 4_000),
        ("moves-too", "meanwhile-too", 1_900, 2_300),
        ("stays", "long", 1_500, 2_900),
        ("stays", "later", 8_990, 9_990),
    ] {
        lines.extend(asked(session, op, from, to));
    }
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    let history = History::parse(&text.join("\n")).unwrap();
    let moved = judge(&history, Demands::default()).figures.moved;
    assert_eq!((moved.count, moved.p50, moved.p99, moved.max), (2, 90, 400, 400));
}
