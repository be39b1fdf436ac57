//! Clients that cost a server something and want nothing: they dribble, are silent, or stop reading.
//!
//! Each has a connection, from one of many addresses of this machine, and a new one as soon as the server has closed it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::{Either, select};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::connection::Target;

/// Between two bytes.
const DRIBBLE: Duration = Duration::from_secs(1);
/// Before a connection that was refused is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// Bytes that a body is said to have.
const BODY: usize = 4096;

/// What an attacker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Sends the head of a request byte by byte.
    DribblesHead,
    /// Sends a body byte by byte.
    DribblesBody,
    /// Connects and says nothing.
    Silent,
    /// Opens an event stream, or asks for a large result as one, and reads nothing of it.
    StopsReading,
}

/// What the server did about one kind.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Fate {
    /// Connections made.
    pub opened: u64,
    /// Of these, closed by the server.
    pub closed: u64,
    /// Connections that could not be made.
    pub refused: u64,
    /// The longest that one was kept until the server closed it, in seconds.
    pub longest_s: f64,
}

/// One kind of attacker.
pub struct Band {
    /// What they do.
    pub kind: Kind,
    /// How many.
    pub count: usize,
    /// What each sends at once; the rest comes byte by byte.
    pub opening: Vec<Vec<u8>>,
}

type Fates = Arc<Mutex<BTreeMap<Kind, Fate>>>;

/// An attack that lasts until it is stopped. Needs a runtime.
pub struct Attack {
    tasks: JoinSet<()>,
    fates: Fates,
    stop: watch::Sender<bool>,
}

impl Attack {
    /// Begins.
    #[must_use]
    pub fn begin(target: &Target, bands: Vec<Band>) -> Self {
        let (mut tasks, fates, stop) = (JoinSet::new(), Fates::default(), watch::channel(false).0);
        let mut number = 0_u32;
        for band in bands {
            for index in 0..band.count {
                number += 1;
                let opening = band.opening.get(index % band.opening.len().max(1)).cloned();
                let attacker = Attacker {
                    kind: band.kind,
                    source: address(number),
                    opening: opening.unwrap_or_default(),
                    target: target.clone(),
                    fates: Arc::clone(&fates),
                };
                let mut stopped = stop.subscribe();
                // Not all in the same instant, and no two at the same beat.
                let first = Duration::from_micros(u64::from(number) * 300);
                tasks.spawn(async move {
                    let run = pin!(attacker.run(first));
                    let ended = pin!(async { stopped.wait_for(|stop| *stop).await.is_ok() });
                    // Dropped in the middle of whatever it does.
                    let (Either::Left(_) | Either::Right(_)) = select(run, ended).await;
                });
            }
        }
        Self { tasks, fates, stop }
    }

    /// Drops all connections; what became of them until then.
    pub async fn end(mut self) -> BTreeMap<Kind, Fate> {
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        self.fates.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An address of this machine for each 16 attackers.
fn address(number: u32) -> IpAddr {
    let number = number / 16 + 1;
    let low = |shift: u32| u8::try_from((number >> shift) & 0xff).unwrap_or(0);
    IpAddr::V4(Ipv4Addr::new(127, 1, low(8), low(0).max(1)))
}

struct Attacker {
    kind: Kind,
    source: IpAddr,
    opening: Vec<u8>,
    target: Target,
    fates: Fates,
}

impl Attacker {
    async fn run(self, first: Duration) {
        tokio::time::sleep(first).await;
        loop {
            let Ok(stream) = self.target.connect(Some(self.source)).await else {
                self.note(|fate| fate.refused += 1);
                tokio::time::sleep(AGAIN).await;
                continue;
            };
            self.note(|fate| fate.opened += 1);
            let begin = Instant::now();
            // An error is the server's way to close it, too.
            let _closed = self.bother(stream).await.is_err();
            self.note(|fate| {
                fate.closed += 1;
                fate.longest_s = fate.longest_s.max(begin.elapsed().as_secs_f64());
            });
        }
    }

    /// Returns when the server has closed the connection.
    async fn bother(&self, mut stream: TcpStream) -> Result<()> {
        let mut rest: Vec<u8> = Vec::new();
        match self.kind {
            Kind::DribblesHead => rest.extend_from_slice(&self.opening),
            Kind::DribblesBody => {
                stream.write_all(&self.opening).await?;
                rest.resize(BODY, b' ');
            }
            Kind::Silent => {}
            Kind::StopsReading => {
                stream.write_all(&self.opening).await?;
                // Held without a look at it. Whether the server has closed it shows when it is written to.
                loop {
                    tokio::time::sleep(DRIBBLE * 5).await;
                    stream.writable().await?;
                    if stream.take_error()?.is_some() {
                        return Ok(());
                    }
                }
            }
        }
        let (mut reading, mut writing) = stream.split();
        let answered = async {
            let mut answer = [0_u8; 1024];
            while reading.read(&mut answer).await? > 0 {}
            Ok::<_, anyhow::Error>(())
        };
        let dribbling = async {
            for byte in rest {
                tokio::time::sleep(DRIBBLE).await;
                writing.write_all(&[byte]).await?;
            }
            std::future::pending().await
        };
        match select(pin!(answered), pin!(dribbling)).await {
            Either::Left((done, _)) | Either::Right((done, _)) => done,
        }
    }

    fn note(&self, change: impl FnOnce(&mut Fate)) {
        let mut fates = self.fates.lock().unwrap_or_else(PoisonError::into_inner);
        change(fates.entry(self.kind).or_default());
    }
}

/// The head of a POST with a body that is announced to be `BODY` bytes long.
#[must_use]
pub fn head(target: &Target) -> Vec<u8> {
    post(target, BODY, "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/list\r\n").into_bytes()
}

/// A whole request for a large result.
#[must_use]
pub fn large(target: &Target) -> Vec<u8> {
    let body = concat!(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"team-0__blob","arguments":{},"#,
        r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","#,
        r#""io.modelcontextprotocol/clientCapabilities":{}}}}"#
    );
    let headers = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: team-0__blob\r\n";
    format!("{}{body}", post(target, body.len(), headers)).into_bytes()
}

/// A whole request for the stream of a session.
#[must_use]
pub fn stream(target: &Target, session: &str) -> Vec<u8> {
    let (path, address) = (&target.path, target.address);
    format!(
        "GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\nmcp-session-id: {session}\r\n\
         mcp-protocol-version: 2025-11-25\r\n\r\n"
    )
    .into_bytes()
}

fn post(target: &Target, length: usize, headers: &str) -> String {
    let (path, address) = (&target.path, target.address);
    format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\n{headers}content-length: {length}\r\n\r\n"
    )
}
