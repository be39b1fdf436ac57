//! The numbers of a run.

use history::{Demands, History, Invariant, allowed, judge};
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

/// A run with an operation before its fault, and a session that is out for a while during it.
fn hurt(busy: bool, out: u64) -> History {
    let runner = |n: u64, t: u64, kind: &str| json!({"src": "runner", "proc": "runner", "n": n, "t": t * MS, "kind": kind});
    let mut run = runner(0, 0, "run");
    for (name, value) in [("fault", json!("F1")), ("seed", json!(1)), ("commit", json!("x"))] {
        run[name] = value;
    }
    if busy {
        run["busy"] = true.into();
    }
    let mut begin = runner(1, 1_000, "begin");
    begin["of"] = "fault".into();
    begin["limit_ms"] = 2_000.into();
    let mut injected = runner(2, 1_000, "injected");
    injected["what"] = "kill".into();
    let mut over = runner(3, 60_000, "over");
    (begin["window"], over["window"]) = ("w".into(), "w".into());
    let mut lines = vec![run, begin, injected, over];
    for (op, from, to) in [("calm", 100, 150), ("out", 1_100, 1_100 + out), ("across", 990, 1_001)] {
        lines.extend(asked("session", op, from, to));
    }
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    History::parse(&text.join("\n")).unwrap()
}

#[test]
fn outages_may_last_longer_where_the_machine_may_be_busy() {
    let holds = |history: &History| {
        let judgement = judge(history, Demands::default());
        assert_eq!((judgement.figures.calm.count, judgement.figures.calm.p99), (1, 50));
        !judgement.broken().any(|invariant| invariant == Invariant::I15)
    };
    // Twice two seconds, and ten times the 50 ms of what met nothing.
    for (busy, most) in [(false, 2_000), (true, 4_500)] {
        assert_eq!(allowed(&hurt(busy, 1), 2_000), most);
        assert!(holds(&hurt(busy, most)), "{most} ms");
        assert!(!holds(&hurt(busy, most + 1)), "{most} ms and one more");
    }
}
