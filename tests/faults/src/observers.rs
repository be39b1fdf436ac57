//! What outsiders see: the stores' own records, the ledger, the metrics, what is left. Nothing here asks the mesh for its
//! opinion but the metrics, which are only counted.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use history::line::{Phase, Place, Source, What};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::{Cluster, PREFIX, Role};
use crate::recorder::{Pen, Recorder, digest};

/// The counter of writes that were refused because their writer was no owner any more.
const REFUSED: &str = "trunkline_stale_writes";
/// What the operations begin with that only try whether the mesh is there.
pub const PROBE: &str = "probe";
/// Silence after which etcd has told everything.
const QUIET: Duration = Duration::from_millis(1_000);
/// More open files than before that are nothing: connections come and go.
const FILES: i64 = 60;
/// More threads than before that are nothing: blocking ones end when they have been idle.
const THREADS: i64 = 40;

/// Listens to what both Redis do, for as long as it lives.
pub struct Monitors {
    _listening: JoinSet<()>,
    seen: Arc<Mutex<Vec<Told>>>,
}

/// Something that Redis did.
struct Told {
    /// Nanoseconds since 1970.
    at: u64,
    node: usize,
    words: Vec<String>,
    /// Whether a script did it here, as opposed to hearing of it from the primary.
    here: bool,
}

impl Monitors {
    /// Begins to listen.
    #[must_use]
    pub fn start(ports: &[u16]) -> Self {
        let seen: Arc<Mutex<Vec<Told>>> = Arc::default();
        let mut listening = JoinSet::new();
        for (node, port) in ports.iter().copied().enumerate() {
            listening.spawn(listen(node, crate::stores::local(port), Arc::clone(&seen)));
        }
        Self { _listening: listening, seen }
    }

    /// Writes down what was heard. `names` are the clients' names of sessions, by id.
    pub fn write(&self, recorder: &Recorder, names: &BTreeMap<String, String>) {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let pens: Vec<Pen> =
            (1..=2).map(|node| recorder.pen(Source::Store, &format!("redis-{node}"))).collect();
        let mut kept: HashMap<(String, Place), ()> = HashMap::new();
        for told in seen {
            let Some(pen) = pens.get(told.node) else { continue };
            let at = told.at.saturating_sub(recorder.begun_unix());
            let Some((session, what)) = meaning(&told) else { continue };
            let session = session.map(|id| names.get(&id).cloned().unwrap_or(id));
            if let (Some(session), What::Log { at: place, .. }) = (&session, &what)
                && kept.insert((session.clone(), place.clone()), ()).is_some()
            {
                continue;
            }
            pen.write_at(at, session.as_deref(), what);
        }
    }
}

async fn listen(node: usize, address: SocketAddr, seen: Arc<Mutex<Vec<Told>>>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await
            && stream.write_all(b"MONITOR\r\n").await.is_ok()
        {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).await.is_ok_and(|length| length > 0) {
                if let Some(told) = told(node, &line) {
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(told);
                }
                line.clear();
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A line such as `+1700000000.123456 [0 lua] "HSET" "{s:7}:sess:x" ..`; `None` for what is of no interest.
fn told(node: usize, line: &[u8]) -> Option<Told> {
    let text = String::from_utf8_lossy(line);
    let (time, rest) = text.strip_prefix('+')?.split_once(" [")?;
    let (from, command) = rest.split_once("] ")?;
    let interesting = ["\"XADD\"", "\"HSET\"", "\"SET\"", "\"xadd\"", "\"hset\"", "\"set\""];
    if !interesting.iter().any(|name| command.starts_with(name)) {
        return None;
    }
    let (seconds, micros) = time.split_once('.')?;
    let at = seconds.parse::<u64>().ok()? * 1_000_000_000 + micros.parse::<u64>().ok()? * 1_000;
    Some(Told { at, node, words: words(command.trim_end()), here: from.ends_with("lua") })
}

/// Quoted words with their escapes undone.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut bytes = command.bytes();
    let mut word: Option<Vec<u8>> = None;
    while let Some(byte) = bytes.next() {
        match (byte, &mut word) {
            (b'"', None) => word = Some(Vec::new()),
            (b'"', Some(_)) => {
                let whole = word.take().unwrap_or_default();
                words.push(String::from_utf8_lossy(&whole).into_owned());
            }
            (b'\\', Some(word)) => match bytes.next() {
                Some(b'n') => word.push(b'\n'),
                Some(b'r') => word.push(b'\r'),
                Some(b't') => word.push(b'\t'),
                Some(b'a') => word.push(7),
                Some(b'b') => word.push(8),
                Some(b'x') => {
                    let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                    let text = String::from_utf8_lossy(&digits).into_owned();
                    word.push(u8::from_str_radix(&text, 16).unwrap_or(b'?'));
                }
                Some(other) => word.push(other),
                None => {}
            },
            (other, Some(word)) => word.push(other),
            (_, None) => {}
        }
    }
    words
}

/// What Redis did, as it stands in a history: the session's id and the line.
fn meaning(told: &Told) -> Option<(Option<String>, What)> {
    let mut words = told.words.iter().map(String::as_str);
    let (command, key) = (words.next()?.to_ascii_lowercase(), words.next()?);
    let (slot, rest) = key.split_once("{s:")?.1.split_once("}:")?;
    let slot = slot.parse().ok()?;
    let arguments: Vec<&str> = words.collect();
    match (command.as_str(), rest.split(':').collect::<Vec<_>>().as_slice()) {
        ("set", ["fence"]) if told.here => {
            Some((None, What::Fence { slot, epoch: arguments.first()?.parse().ok()? }))
        }
        ("hset", ["sess", session]) if told.here => {
            let by = arguments.chunks(2).find_map(|pair| match pair {
                ["by", by] => Some(*by),
                _ => None,
            })?;
            let epoch = by.split('.').next()?.parse().ok()?;
            Some((Some((*session).to_owned()), What::Commit { slot, epoch }))
        }
        ("xadd", ["log", session, stream]) => {
            let (epoch, seq) = arguments.first()?.split_once('-')?;
            let at =
                Place { stream: (*stream).to_owned(), epoch: epoch.parse().ok()?, seq: seq.parse().ok()? };
            Some((Some((*session).to_owned()), What::Log { at, data: digest(arguments.get(2)?) }))
        }
        _ => None,
    }
}

/// Writes down who took over which slot, from all that etcd ever knew; how many take-overs there were.
///
/// # Errors
/// When etcd cannot be asked.
pub async fn acquisitions(cluster: &Cluster, recorder: &Recorder) -> Result<usize> {
    let pen = recorder.pen(Source::Store, "etcd");
    let mut command = cluster.etcd.watch(&format!("{PREFIX}/slots/"))?;
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().context("no output of etcdctl")?;
    let mut lines = BufReader::new(stdout).lines();
    let mut count = 0;
    let mut before = Vec::new();
    while let Ok(Ok(Some(line))) = timeout(QUIET, lines.next_line()).await {
        before.push(line);
        let [.., put, key, value] = before.as_slice() else { continue };
        if put != "PUT" {
            continue;
        }
        let record: Value = serde_json::from_str(value).unwrap_or(Value::Null);
        let slot = key.rsplit('/').next().and_then(|slot| slot.parse().ok());
        let text = |name: &str| {
            record.get(name).map(|value| value.as_str().map_or(value.to_string(), str::to_owned))
        };
        if let (Some(slot), Some(epoch), Some(incarnation)) = (slot, text("epoch"), text("incarnation")) {
            let epoch = epoch.parse().unwrap_or(0);
            pen.write(None, What::Acquire { slot, epoch, incarnation });
            count += 1;
        }
        before.clear();
    }
    child.kill().await?;
    Ok(count)
}

/// Writes down what tools did.
///
/// # Errors
/// When the ledger cannot be read.
pub fn ledger(path: &Path, recorder: &Recorder) -> Result<()> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // Replicas take turns, so that all lines are in one order.
    let pen = recorder.pen(Source::Ledger, "ledger");
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let Ok(entry) = serde_json::from_str::<Value>(line) else { continue };
        let unix = entry.get("t").and_then(Value::as_u64).context("a line of the ledger without a time")?;
        let what: What = serde_json::from_value(entry).context("a line of the ledger")?;
        // Calls that only tried whether the mesh is there are nobody's.
        if matches!(&what, What::Execute { op, .. } if op.starts_with(PROBE)) {
            continue;
        }
        pen.write_at(unix.saturating_sub(recorder.begun_unix()), None, what);
    }
    Ok(())
}

/// Counts refused writes, for as long as it lives: processes that are killed take their counters along.
pub struct Counters {
    most: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Counters {
    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        Self { most: Arc::default() }
    }

    /// Looks at all processes that are there.
    pub async fn look(&self, targets: &[(String, String)]) {
        for (name, admin) in targets {
            let Some(text) = metrics(admin).await else { continue };
            let count = sum(&text, REFUSED);
            let mut most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
            let known = most.entry(format!("{name} {admin}")).or_default();
            *known = (*known).max(count);
        }
    }

    /// Writes down the most that each counted.
    pub fn write(&self, recorder: &Recorder) {
        let most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, count) in most.values().enumerate() {
            let pen = recorder.pen(Source::Runner, &format!("metrics-{number}"));
            pen.write(None, What::Refused { count: *count });
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// Session nodes that can be asked for their metrics.
#[must_use]
pub fn scrapable(cluster: &Cluster) -> Vec<(String, String)> {
    let units = cluster.of(Role::Session).filter(|unit| unit.is_up());
    units.filter_map(|unit| Some((format!("{}/{:?}", unit.name, unit.pid()), unit.admin.clone()?))).collect()
}

/// What a process counts, as text.
pub async fn metrics(admin: &str) -> Option<String> {
    page(admin, "/metrics").await
}

/// Whether a process says that it takes work.
pub async fn is_ready(admin: &str) -> bool {
    page(admin, "/readyz").await.is_some_and(|answer| {
        let status = answer.lines().next().unwrap_or_default();
        status.split(' ').nth(1) == Some("200")
    })
}

/// A page for operators, head and all.
async fn page(admin: &str, path: &str) -> Option<String> {
    let host = admin.strip_prefix("http://").unwrap_or(admin).split('/').next()?.to_owned();
    let ask = async {
        let mut stream = TcpStream::connect(&host).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    };
    timeout(Duration::from_secs(2), ask).await.ok().flatten()
}

/// The sum of a counter over all its labels.
#[must_use]
pub fn sum(metrics: &str, name: &str) -> u64 {
    let own = metrics.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| {
            let rest = rest.strip_prefix("_total").unwrap_or(rest);
            rest.starts_with([' ', '{'])
        })
    });
    own.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map(|count| count as u64).sum()
}

/// What there is now: keys in the stores, and open files and threads of each process. `names` are the sessions that clients
/// were told of: what a handshake left whose answer never came goes away with its time to live, if it has one.
///
/// # Errors
/// When a store does not answer.
pub async fn inventory(
    cluster: &Cluster,
    names: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, (i64, i64)>> {
    let mut found = BTreeMap::new();
    let primary = cluster.redis.primary();
    let all = cluster.redis.ask(primary, &["--scan"]).await?;
    let mut keys = 0_i64;
    for key in all
        .lines()
        .filter(|key| !key.trim().is_empty() && !key.ends_with(":fence") && !key.ends_with(":holder"))
    {
        let session = key.split(':').nth(3).unwrap_or_default();
        let ends = match names.contains_key(session) {
            true => false,
            false => cluster.redis.ask(primary, &["pttl", key]).await?.trim().parse::<i64>()? > 0,
        };
        keys += i64::from(!ends);
    }
    found.insert("redis-keys".to_owned(), (keys, 0));
    let etcd = cluster.etcd.list(PREFIX).await?;
    // Suspicions end by themselves.
    let lasting = etcd.iter().filter(|(key, _)| !key.contains("/suspects/")).count();
    found.insert("etcd-keys".to_owned(), (i64::try_from(lasting)?, 0));
    for (name, pid) in cluster.pids.all() {
        let count = |of: &str| std::fs::read_dir(format!("/proc/{pid}/{of}")).map(Iterator::count);
        if let (Ok(files), Ok(threads)) = (count("fd"), count("task")) {
            found.insert(format!("fds:{name}:{pid}"), (i64::try_from(files)?, FILES));
            found.insert(format!("threads:{name}:{pid}"), (i64::try_from(threads)?, THREADS));
        }
    }
    Ok(found)
}

/// Writes an inventory down. In the end, what was not there in the beginning has nothing to be compared with.
pub fn write_inventory(
    pen: &Pen,
    phase: Phase,
    inventory: &BTreeMap<String, (i64, i64)>,
    known: &BTreeMap<String, (i64, i64)>,
) {
    for (what, (value, slack)) in inventory.iter().filter(|(what, _)| known.contains_key(*what)) {
        pen.write(None, What::Probe { what: what.clone(), phase, value: *value, slack: *slack });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_did_is_understood() {
        let line = br#"+1700000000.000123 [0 lua] "XADD" "{s:7}:log:v1.k1.007.x:3" "2-5" "m" "{\"a\":\"\\n\xc3\xa4\"}""#;
        let told = told(0, line).unwrap();
        assert_eq!(told.at, 1_700_000_000_000_123_000);
        let (session, what) = meaning(&told).unwrap();
        assert_eq!(session.as_deref(), Some("v1.k1.007.x"));
        let at = Place { stream: "3".into(), epoch: 2, seq: 5 };
        assert_eq!(what, What::Log { at, data: "{\"a\":\"\\n\u{e4}\"}".into() });
    }

    #[test]
    fn commits_and_fences_are_told_apart() {
        let commit = br#"+1.000001 [0 lua] "HSET" "{s:7}:sess:id" "ver" "4" "by" "3.ab.9""#;
        let (session, what) = meaning(&told(0, commit).unwrap()).unwrap();
        assert_eq!((session.as_deref(), what), (Some("id"), What::Commit { slot: 7, epoch: 3 }));
        let fence = br#"+1.000001 [0 lua] "SET" "{s:7}:fence" "4""#;
        assert_eq!(meaning(&told(0, fence).unwrap()).unwrap().1, What::Fence { slot: 7, epoch: 4 });
        let replicated = br#"+1.000001 [0 127.0.0.1:1] "SET" "{s:7}:fence" "4""#;
        assert!(meaning(&told(0, replicated).unwrap()).is_none());
    }

    #[test]
    fn counters_are_summed_over_labels() {
        let text = "# HELP x\ntrunkline_stale_writes_total{a=\"b\"} 2\ntrunkline_stale_writes_total 3\ntrunkline_stale_writes_x 9\n";
        assert_eq!(sum(text, REFUSED), 5);
    }
}
