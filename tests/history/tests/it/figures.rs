//! The numbers of a run.

use history::{Demands, History, Invariant, judge};
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

/// A window from 1 s to 60 s with a fault at its begin, and a session that is asked before, across its begin, and within.
fn hurt(more: Vec<Value>) -> History {
    let runner = |n: u64, t: u64, kind: &str| json!({"src": "runner", "proc": "runner", "n": n, "t": t * MS, "kind": kind});
    let mut begin = runner(0, 1_000, "begin");
    begin["of"] = "fault".into();
    begin["limit_ms"] = 2_000.into();
    let mut injected = runner(1, 1_000, "injected");
    injected["what"] = "kill".into();
    let mut over = runner(2, 60_000, "over");
    (begin["window"], over["window"]) = ("w".into(), "w".into());
    let mut lines = vec![begin, injected, over];
    for (op, from, to) in [("calm", 100, 150), ("across", 990, 1_001), ("within", 1_100, 1_900)] {
        lines.extend(asked("session", op, from, to));
    }
    lines.extend(more);
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    History::parse(&text.join("\n")).unwrap()
}

#[test]
fn what_machines_need_is_seen_where_nothing_is_hurt() {
    let calm = judge(&hurt(Vec::new()), Demands::default()).figures.calm;
    assert_eq!((calm.count, calm.p99), (1, 50));
}

#[test]
fn clients_without_a_session_are_out_each_for_itself() {
    let call = |client: &str, from: u64, to: u64, kind: &str| {
        let line = |n: u64, t: u64, kind: &str| json!({"src": "client", "proc": client, "n": n, "t": t * MS, "kind": kind, "op": format!("{client}/{from}")});
        let mut begun = line(2 * from, from, "invoke");
        for (name, value) in [("principal", "alice"), ("f", "echo"), ("id", client)] {
            begun[name] = value.into();
        }
        (begun["modern"], begun["deadline_ms"]) = (true.into(), 60_000.into());
        let mut ended = line(2 * from + 1, to, kind);
        if kind == "info" {
            (ended["explicit"], ended["body"]) = (true.into(), "".into());
        }
        [begun, ended]
    };
    let lost = call("one", 1_100, 5_000, "info");
    let others = [call("two", 1_200, 1_250, "ok"), call("one", 5_100, 5_150, "ok")].concat();
    let judgement = judge(&hurt([lost.to_vec(), others].concat()), Demands::default());
    assert!(
        judgement.broken().any(|invariant| invariant == Invariant::I15),
        "another client's success is none"
    );
}
