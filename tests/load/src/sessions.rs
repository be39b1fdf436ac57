//! Many sessions at once: made, kept without a word, or each with its stream held open.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Serialize;

use crate::connection::{Connection, Target, is_of};
use crate::dialogue::{self, SESSION};
use crate::measure::u64_to_f64;
use crate::processes::{self, Memory};

/// How long the first comment of a stream may take.
const FIRST_WORD: Duration = Duration::from_secs(20);

/// How long it may take until all sessions are passive, and how often that is looked at.
const PASSIVE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(200);
/// The gauges that are compared.
const GAUGES: [&str; 2] = ["trunkline_sessions", "trunkline_sessions_passive"];

/// What many sessions cost.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Sessions made.
    pub sessions: usize,
    /// Sessions made per second.
    pub rate: f64,
    /// Memory before any of them.
    pub before: Memory,
    /// Memory with all of them idle.
    pub idle: Memory,
    /// Bytes per idle session, by proportional set size.
    pub bytes_per_session: f64,
    /// Streams held open, one for each session.
    pub streams: usize,
    /// Memory with all streams open.
    pub streaming: Memory,
    /// Bytes per open stream, on top of its session.
    pub bytes_per_stream: f64,
}

/// Sessions, and what they cost.
pub struct Made {
    /// Their ids.
    pub sessions: Vec<HeaderValue>,
    /// What they cost.
    pub report: Report,
}

/// Makes `count` sessions through `clients` connections, and with `streams` opens the stream of each. With the metrics of their
/// owner they are idle when all of them are passive there.
///
/// # Errors
/// When one of them is refused, or a stream does not last.
pub async fn make(
    target: &Target,
    processes: &BTreeSet<u32>,
    count: usize,
    clients: usize,
    streams: bool,
    passive_at: Option<&Target>,
) -> Result<Made> {
    // A hundredth more come first and are not counted: what is made once is none of theirs.
    create(target, count / 100 + 1, clients).await?;
    all_passive(passive_at).await?;
    let before = processes::memory(processes)?;
    let begin = Instant::now();
    let sessions = create(target, count, clients).await?;
    let rate = size(count) / begin.elapsed().as_secs_f64();
    all_passive(passive_at).await?;
    let idle = processes::memory(processes)?;
    let held = if streams { hold(target, &sessions, clients).await? } else { Vec::new() };
    let streaming = processes::memory(processes)?;
    let open = held.len();
    for stream in held {
        stream.still_open().await?;
    }
    let report = Report {
        sessions: sessions.len(),
        rate,
        before,
        idle,
        bytes_per_session: more(before, idle) / size(count.max(1)),
        streams: open,
        streaming,
        bytes_per_stream: more(idle, streaming) / size(open.max(1)),
    };
    Ok(Made { sessions, report })
}

/// Makes sessions, each client one after the other.
async fn create(target: &Target, count: usize, clients: usize) -> Result<Vec<HeaderValue>> {
    let left = Arc::new(AtomicUsize::new(count));
    let headers = dialogue::headers();
    let made = try_join_all((0..clients).map(|_| async {
        let mut connection = Connection::open(target).await?;
        let mut made = Vec::new();
        let next = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        while next().is_ok() {
            made.push(dialogue::create(&mut connection, target, &headers).await?);
        }
        Ok::<_, anyhow::Error>(made)
    }))
    .await?;
    Ok(made.into_iter().flatten().collect())
}

/// Waits until every session is passive at the owner whose metrics these are.
async fn all_passive(metrics: Option<&Target>) -> Result<()> {
    let Some(metrics) = metrics else { return Ok(()) };
    let until = Instant::now() + PASSIVE;
    let mut connection = Connection::open(metrics).await?;
    loop {
        let answer = connection.send(metrics.request(Method::GET, &HeaderMap::new(), Bytes::new())).await?;
        let text = std::str::from_utf8(answer.body())?;
        let [all, passive] = GAUGES.map(|name| gauge(text, name));
        if all.is_some() && all == passive {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{passive:?} of {all:?} sessions are passive");
        tokio::time::sleep(LOOK).await;
    }
}

/// What a gauge says in the text of all metrics.
fn gauge(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.find(|rest| rest.starts_with(['{', ' ']))?.rsplit_once(' ')?.1.parse().ok()
}

/// A stream held open.
struct Held {
    body: Incoming,
    _connection: Connection,
}

impl Held {
    /// Opens the stream of a session and waits for its first comment.
    async fn open(target: &Target, session: &HeaderValue) -> Result<Self> {
        let mut headers = dialogue::headers();
        headers.remove(CONTENT_TYPE);
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.insert(SESSION, session.clone());
        headers.insert("mcp-protocol-version", HeaderValue::from_static(dialogue::OLDER));
        let mut connection = Connection::open(target).await?;
        let answer = connection.begin(target.request(Method::GET, &headers, Bytes::new())).await?;
        ensure!(answer.status() == StatusCode::OK, "a stream: {}", answer.status());
        ensure!(is_of(&answer, "text/event-stream"), "no stream of events");
        let mut body = answer.into_body();
        let first = tokio::time::timeout(FIRST_WORD, body.frame()).await.context("a silent stream")?;
        let first = first.context("a stream that ended at once")??;
        let first = first.into_data().unwrap_or_default();
        ensure!(first.starts_with(b":"), "begins with {first:?}");
        Ok(Self { body, _connection: connection })
    }

    /// Reads what has come until now; the end must not be among it.
    async fn still_open(mut self) -> Result<()> {
        while let Ok(frame) = tokio::time::timeout(Duration::ZERO, self.body.frame()).await {
            frame.context("a stream has ended")??;
        }
        Ok(())
    }
}

async fn hold(target: &Target, sessions: &[HeaderValue], clients: usize) -> Result<Vec<Held>> {
    let share = sessions.len().div_ceil(clients.max(1)).max(1);
    let held = try_join_all(sessions.chunks(share).map(|share| async move {
        let mut held = Vec::new();
        for session in share {
            held.push(Held::open(target, session).await?);
        }
        Ok::<_, anyhow::Error>(held)
    }))
    .await?;
    Ok(held.into_iter().flatten().collect())
}

fn more(before: Memory, after: Memory) -> f64 {
    u64_to_f64(after.pss.saturating_sub(before.pss))
}

fn size(count: usize) -> f64 {
    u64_to_f64(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_is_read_by_its_whole_name() {
        let text = "# TYPE a gauge\na_b{role=\"x\"} 7\na{role=\"x\"} 3\nc 4\n";
        assert_eq!(["a", "a_b", "c", "d"].map(|name| gauge(text, name)), [Some(3), Some(7), Some(4), None]);
    }
}
