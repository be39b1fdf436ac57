//! What outsiders see: the records of etcd, the ledger, the metrics, what is left. Nothing here asks the mesh for its
//! opinion but the metrics, which are only counted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use history::line::{Phase, Source, What};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::{Cluster, PREFIX, Role, Unit};
use crate::recorder::{Pen, Recorder};

/// The counter of writes that were refused because their writer was no owner any more.
const REFUSED: &str = "trunkline_stale_writes";
/// What each process says of the spans that it has for the collector.
const SPANS: &str = "trunkline_telemetry_spans";
const SPANS_WAITING: &str = "trunkline_telemetry_spans_waiting";
/// What a registry says of calls that its drain had no more time for.
const CUT_SHORT: &str = "calls ended with their registry";
/// What the operations begin with that only try whether the mesh is there.
pub const PROBE: &str = "probe";
/// Silence after which etcd has told everything.
const QUIET: Duration = Duration::from_millis(1_000);
/// More open files than before that are nothing: connections come and go.
const FILES: i64 = 60;
/// More threads than before that are nothing: blocking ones end when they have been idle.
const THREADS: i64 = 40;
/// How much more memory a process may have in the end, in KiB: what is kept of calls for a while stays below that. A slope shows in
/// longer runs than these.
const RESIDENT_KIB: i64 = 128 << 10;

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

/// What processes count, for as long as it lives: those that are killed take their counters along.
pub struct Counters {
    roles: &'static [Role],
    most: Arc<Mutex<BTreeMap<String, Counts>>>,
}

/// The most that one process counted.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    refused: u64,
    spans: Spans,
}

/// What became of the spans of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spans {
    /// The most that waited for the collector at a time.
    pub waiting: u64,
    /// Those that it has.
    pub sent: u64,
    /// Those that it was offered, and has not.
    pub failed: u64,
    /// Those for which there was no room.
    pub dropped: u64,
}

/// Where the metrics of processes are, by name.
pub type Targets = Vec<(String, String)>;

impl Counters {
    /// Nothing counted yet, by the processes of these roles.
    #[must_use]
    pub fn of(roles: &'static [Role]) -> Self {
        Self { roles, most: Arc::default() }
    }

    /// The processes that can be asked now.
    #[must_use]
    pub fn targets(&self, cluster: &Cluster) -> Targets {
        let units = self.roles.iter().flat_map(|role| cluster.of(*role)).filter(|unit| unit.is_up());
        let target = |unit: &Unit| Some((format!("{}/{:?}", unit.name, unit.pid()), unit.admin.clone()?));
        units.filter_map(target).collect()
    }

    /// Looks at all processes that are there.
    pub async fn look(&self, targets: &[(String, String)]) {
        for (name, admin) in targets {
            let Some(text) = metrics(admin).await else { continue };
            let fate = |fate: &str| sum_of(&text, SPANS, &format!("fate=\"{fate}\""));
            let waiting = sum(&text, SPANS_WAITING);
            let now = Spans { waiting, sent: fate("sent"), failed: fate("failed"), dropped: fate("dropped") };
            let mut most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
            let known = most.entry(format!("{name} {admin}")).or_default();
            known.refused = known.refused.max(sum(&text, REFUSED));
            known.spans = known.spans.most(now);
        }
    }

    /// Writes down how many writes were refused to each.
    pub fn write(&self, recorder: &Recorder) {
        let most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, counts) in most.values().enumerate() {
            let pen = recorder.pen(Source::Runner, &format!("metrics-{number}"));
            pen.write(None, What::Refused { count: counts.refused });
        }
    }

    /// What became of the spans of all: the most that waited in one of them, and the rest together.
    #[must_use]
    pub fn spans(&self) -> Spans {
        let most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        most.values().fold(Spans::default(), |all, counts| Spans {
            waiting: all.waiting.max(counts.spans.waiting),
            sent: all.sent + counts.spans.sent,
            failed: all.failed + counts.spans.failed,
            dropped: all.dropped + counts.spans.dropped,
        })
    }
}

impl Spans {
    fn most(self, other: Self) -> Self {
        Self {
            waiting: self.waiting.max(other.waiting),
            sent: self.sent.max(other.sent),
            failed: self.failed.max(other.failed),
            dropped: self.dropped.max(other.dropped),
        }
    }
}

/// How many calls ended with their registry because its drain had no more time for them, as the logs tell: of those at work, and of
/// those that waited for their clients. Metrics end with the process.
///
/// # Errors
/// When the logs cannot be read.
pub fn cut_short(logs: &Path) -> Result<(u64, u64)> {
    let (mut running, mut parked) = (0, 0);
    for entry in std::fs::read_dir(logs)? {
        let bytes = std::fs::read(entry?.path())?;
        let text = String::from_utf8_lossy(&bytes);
        for line in text.lines().filter(|line| line.contains(CUT_SHORT)) {
            let field = |name: &str| {
                let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
                word.and_then(|count| count.parse::<u64>().ok())
            };
            running += field("running=").with_context(|| format!("a log that nobody understands: {line}"))?;
            parked += field("parked=").with_context(|| format!("a log that nobody understands: {line}"))?;
        }
    }
    Ok((running, parked))
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
    sum_of(metrics, name, "")
}

/// The same, of lines with this label alone.
fn sum_of(metrics: &str, name: &str, label: &str) -> u64 {
    let own = metrics.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| {
            let rest = rest.strip_prefix("_total").unwrap_or(rest);
            rest.starts_with([' ', '{']) && rest.contains(label)
        })
    });
    own.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map(|count| count as u64).sum()
}

/// For so long a session that was removed is known to have been, in ms. Answers are kept for much longer.
const MARKED_MS: i64 = 60_000;

/// The time that a key has left which has gone since it was listed.
const GONE: i64 = -2;

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
    let mut keys = Vec::new();
    for key in all
        .lines()
        .filter(|key| !key.trim().is_empty() && !key.ends_with(":fence") && !key.ends_with(":holder"))
    {
        let session = key.split(':').nth(3).unwrap_or_default();
        let (is_known, is_mark) = (names.contains_key(session), key.contains(":done:"));
        let ends = match is_known && !is_mark {
            true => false,
            false => {
                let left = cluster.redis.ask(primary, &["pttl", key]).await?.trim().parse::<i64>()?;
                let most = if is_known { MARKED_MS } else { i64::MAX };
                left == GONE || (1..=most).contains(&left)
            }
        };
        if !ends {
            let session = names.get(session).map_or("", String::as_str);
            keys.push(format!("{key} {session}\n"));
        }
    }
    found.insert("redis-keys".to_owned(), (i64::try_from(keys.len())?, 0));
    // For whoever wonders which.
    std::fs::write(cluster.keys_left(), keys.concat())?;
    let etcd = cluster.etcd.list(PREFIX).await?;
    // Suspicions end by themselves.
    let lasting = etcd.iter().filter(|(key, _)| !key.contains("/suspects/")).count();
    found.insert("etcd-keys".to_owned(), (i64::try_from(lasting)?, 0));
    for (name, pid) in cluster.pids.all() {
        let count = |of: &str| std::fs::read_dir(format!("/proc/{pid}/{of}")).map(Iterator::count);
        if let (Ok(files), Ok(threads)) = (count("fd"), count("task")) {
            found.insert(format!("fds:{name}:{pid}"), (i64::try_from(files)?, FILES));
            found.insert(format!("threads:{name}:{pid}"), (i64::try_from(threads)?, THREADS));
            found.insert(format!("children:{name}:{pid}"), (children(pid), 0));
            found.insert(format!("resident-kib:{name}:{pid}"), (resident_kib(pid), RESIDENT_KIB));
        }
    }
    Ok(found)
}

/// Processes that one has begun and not seen end.
fn children(pid: u32) -> i64 {
    let lists = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = lists.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    children.map(|list| list.split_whitespace().count() as i64).sum()
}

/// Memory of a process that no other one has, and its share of the rest, in KiB.
fn resident_kib(pid: u32) -> i64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    pss.and_then(|pss| pss.split_whitespace().next()?.parse().ok()).unwrap_or_default()
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
    fn counters_are_summed_over_labels() {
        let text = "# HELP x\ntrunkline_stale_writes_total{a=\"b\"} 2\ntrunkline_stale_writes_total 3\ntrunkline_stale_writes_x 9\n";
        assert_eq!(sum(text, REFUSED), 5);
    }

    #[test]
    fn spans_are_counted_by_what_became_of_them() {
        let text = "trunkline_telemetry_spans_total{fate=\"sent\"} 5\ntrunkline_telemetry_spans_total{fate=\"dropped\"} 3\n\
                    trunkline_telemetry_spans_waiting 7\n";
        let fate = |fate: &str| sum_of(text, SPANS, &format!("fate=\"{fate}\""));
        assert_eq!((fate("sent"), fate("dropped"), fate("failed"), sum(text, SPANS_WAITING)), (5, 3, 0, 7));
    }

    #[test]
    fn calls_that_were_cut_short_are_read_from_logs() {
        let dir = std::env::temp_dir().join(format!("cut-short-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let line = |running, parked| {
            format!(
                "2026-01-01T00:00:00.000Z  WARN registry: {CUT_SHORT} running={running} parked={parked}\nelse\n"
            )
        };
        std::fs::write(dir.join("a.log"), line(1, 2) + &line(0, 4)).unwrap();
        std::fs::write(dir.join("b.log"), b"\xff parked=9\n").unwrap();
        let counted = cut_short(&dir).unwrap();
        std::fs::write(dir.join("b.log"), format!("{CUT_SHORT}\n")).unwrap();
        let odd = cut_short(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(counted, (1, 6));
        assert!(odd.is_err(), "a count that is not there is no 0");
    }
}
