//! How many commits a store takes: `cargo run --release -p session --example store_speed -- redis://127.0.0.1:6379`, with the path
//! of a file for that (and the most commits that share a write), or without anything for memory. Each client has a session of
//! its own and commits what a tool call commits: that it begins, and that it has ended.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement, not a service"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use api::session::Transport;
use api::{Epoch, KeyRing, Principal, SessionId, Slot};
use chassis::metrics::Metrics;
use machines::journal::{Entry, JournalState};
use machines::snapshot::CallChange;
use machines::{CallId, Change, Snapshot, StreamId};
use mcp::{Json, Method};
use session::store::{Answered, Commit, Config, SessionStore, Store};

const TIME: Duration = Duration::from_secs(3);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let place = arguments.next().unwrap_or_default();
    let number = arguments.next().map(|number| number.parse().unwrap());
    let config = match place.starts_with("redis") {
        true => Config { redis: vec![place], wait_replicas: number.unwrap_or_default(), ..Config::default() },
        false => Config { file: place, file_group: number.unwrap_or(256), ..Config::default() },
    };
    let store = Store::connect(&config, Duration::from_secs(1800), &Metrics::default()).await.unwrap();
    println!("clients  commits/s  ms each  CPU s per 1,000 of this process");
    for clients in [1, 16, 64, 200] {
        let (began, cpu) = (Instant::now(), cpu());
        let run = |client: u8| tokio::spawn(call_and_call(store.clone(), client, began + TIME));
        let mut commits = 0;
        for client in (0..clients).map(run).collect::<Vec<_>>() {
            commits += client.await.unwrap();
        }
        let (per_s, cpu) = (f64::from(commits) / began.elapsed().as_secs_f64(), self::cpu() - cpu);
        let (each, cpu) = (1e3 * f64::from(clients) / per_s, 1e3 * cpu / f64::from(commits));
        println!("{clients:7}  {per_s:9.0}  {each:7.3}  {cpu:.4}");
    }
}

/// Commits until the time is over; gives how often.
async fn call_and_call(store: Arc<dyn SessionStore>, client: u8, until: Instant) -> u32 {
    let slot = Slot::new(u16::from(client)).unwrap();
    let random = chassis::clock::random().unwrap();
    let id = SessionId::mint(&KeyRing::single("k1", [7; 32]), slot, random);
    let epoch = Epoch(chassis::clock::unix_millis());
    store.fence(&[(slot, epoch)]).await;
    store.create(&id, epoch, &Principal::default(), Transport::Streamable).await.unwrap();
    let (mut state, mut version) = (Snapshot::default(), 0);
    while Instant::now() < until {
        let call = CallId(state.next_call);
        let begins = [
            Change::Call(call, CallChange::Accepted(entry(&state).into())),
            Change::Call(call, CallChange::Dispatched),
        ];
        let ends = [Change::Call(call, CallChange::Ended(JournalState::Done))];
        let body = Json::trusted(
            r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"hello"}]}}"#,
        );
        let answered = Answered { key: call.0.to_string(), status: 200, body: Some(body) };
        for (changes, answered) in [(&begins[..], None), (&ends[..], Some(answered))] {
            changes.iter().for_each(|change| state.apply(change));
            store.commit(&id, epoch, version, Commit { changes, after: &state, answered }).await.unwrap();
            version += 1;
        }
    }
    store.remove(&id, epoch).await.unwrap();
    u32::try_from(version).unwrap()
}

fn entry(state: &Snapshot) -> Entry {
    Entry {
        id: mcp::rpc::Id::text("1"),
        method: Method::ToolsCall,
        stream: StreamId(state.next_stream),
        key: Some("a-key-of-a-gateway".into()),
        epoch: 1,
        generation: 0,
        heard: 0,
        params: Json::trusted(r#"{"name":"echo","arguments":{"text":"hello"}}"#),
        token: None,
        deadline: 1_790_000_000_000,
        state: JournalState::Accepted,
        instance: None,
        round: None,
        answered: None,
    }
}

/// CPU seconds of this process so far.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|f| f.parse().ok())
        .collect();
    // Behind the state: user and system time, in hundredths.
    fields.get(10..12).map_or(0.0, |times| times.iter().sum::<f64>() / 100.0)
}
