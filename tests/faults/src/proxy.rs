//! A link that can be made bad: everything one process says to another goes through a [`Proxy`], which delays it, holds it
//! back in one direction or both, lets it trickle, cuts it, changes a byte of it, or breaks it.
//!
//! There is one proxy for each listener; who dials it is told by its own socket, so that a link of two processes can be made
//! bad and those to their neighbours left alone. Everything random follows from a seed.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::draw::Draw;
use crate::process::Pids;

/// How bad one direction of a link is. The default is perfect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Way {
    /// Everything comes later by this.
    pub latency: Duration,
    /// And by up to this more.
    pub jitter: Duration,
    /// Nothing comes, and nobody is told.
    pub stalled: bool,
    /// At most so many bytes a second; 0 = any number.
    pub bytes_per_s: u32,
    /// The connection breaks once so many more bytes have come; 0 = never.
    pub cut_after: u64,
    /// One byte in so many is changed; 0 = none.
    pub flip_one_in: u32,
}

/// How bad a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// From the one who dialled.
    pub there: Way,
    /// Back to it.
    pub back: Way,
    /// Connections are broken as soon as they are there.
    pub refused: bool,
}

impl Rules {
    /// Nothing comes through, in either direction, and nobody is told.
    #[must_use]
    pub fn silent() -> Self {
        let way = Way { stalled: true, ..Way::default() };
        Self { there: way, back: way, refused: false }
    }

    /// What is said is heard, and no answer comes.
    #[must_use]
    pub fn half_open() -> Self {
        Self { back: Way { stalled: true, ..Way::default() }, ..Self::default() }
    }

    /// Everything takes so much longer, half of it each way.
    #[must_use]
    pub fn slow(by: Duration) -> Self {
        let way = Way { latency: by / 2, ..Way::default() };
        Self { there: way, back: way, refused: false }
    }
}

/// One end of links: whoever dials [`Proxy::address`] reaches the real listener, as well as the rules allow.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: tokio::task::JoinHandle<()>,
}

struct Shared {
    /// Where the real listener is; it may move.
    target: Mutex<SocketAddr>,
    links: Mutex<Links>,
    pids: Pids,
    draw: Mutex<Draw>,
    /// Whether there is a listener at all.
    open: watch::Sender<bool>,
}

#[derive(Default)]
struct Links {
    /// For those that nothing is said about.
    others: Rules,
    of: BTreeMap<String, Rules>,
    live: HashMap<String, watch::Sender<State>>,
}

#[derive(Clone, Copy, Default, PartialEq)]
struct State {
    rules: Rules,
    /// Counts how often all connections were broken.
    breaks: u64,
}

impl Proxy {
    /// Stands in front of `target`. Those that dial are known by name from `pids`.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(target: SocketAddr, pids: Pids, draw: Draw) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port for a fault proxy")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            links: Mutex::default(),
            pids,
            draw: Mutex::new(draw),
            open: watch::Sender::new(true),
        });
        let listener = listener.into_std()?;
        let serving = Arc::clone(&shared);
        let serving = threads()?.spawn(async move {
            // It was one a moment ago.
            if let Ok(listener) = TcpListener::from_std(listener) {
                serve(listener, address, serving).await;
            }
        });
        Ok(Self { address, shared, serving })
    }

    /// Where to dial.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The real listener is there now.
    pub fn retarget(&self, target: SocketAddr) {
        *locked(&self.shared.target) = target;
    }

    /// Whether anybody listens here. What is dead does not: who dials it is refused, and open connections break.
    pub fn listen(&self, open: bool) {
        self.shared.open.send_replace(open);
        if !open {
            self.reset_all();
        }
    }

    /// Takes no more connections; those that are open stay. What drains does so.
    pub fn close_door(&self) {
        self.shared.open.send_replace(false);
    }

    /// Makes all links as bad as this.
    pub fn set_all(&self, rules: Rules) {
        let mut links = locked(&self.shared.links);
        links.others = rules;
        links.of.clear();
        for link in links.live.values() {
            link.send_modify(|state| state.rules = rules);
        }
    }

    /// Makes the link from one process as bad as this.
    pub fn set(&self, from: &str, rules: Rules) {
        let mut links = locked(&self.shared.links);
        links.of.insert(from.to_owned(), rules);
        if let Some(link) = links.live.get(from) {
            link.send_modify(|state| state.rules = rules);
        }
    }

    /// Breaks all connections that are open (RST).
    pub fn reset_all(&self) {
        for link in locked(&self.shared.links).live.values() {
            link.send_modify(|state| state.breaks += 1);
        }
    }

    /// Names of those that have dialled.
    #[must_use]
    pub fn dialled(&self) -> Vec<String> {
        locked(&self.shared.links).live.keys().cloned().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// All proxies have threads of their own: however busy clients are, links are only as bad as they are told to be.
fn threads() -> Result<&'static Runtime> {
    static THREADS: LazyLock<Option<Runtime>> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().ok()
    });
    THREADS.as_ref().context("there are no threads for fault proxies")
}

impl Shared {
    fn link(&self, from: &str) -> watch::Receiver<State> {
        let mut links = locked(&self.links);
        let rules = links.of.get(from).copied().unwrap_or(links.others);
        let fresh = || watch::Sender::new(State { rules, breaks: 0 });
        links.live.entry(from.to_owned()).or_insert_with(fresh).subscribe()
    }
}

async fn serve(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut wanted = shared.open.subscribe();
    let mut listener = Some(listener);
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(listener.as_ref()) => {
                if let Ok((stream, peer)) = accepted {
                    open.spawn(connection(stream, peer, Arc::clone(&shared)));
                }
            }
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                let is_wanted = *wanted.borrow_and_update();
                listener = match listener.take() {
                    Some(listener) if is_wanted => Some(listener),
                    None if is_wanted => bound(address).await,
                    Some(_) | None => None,
                };
            }
            Some(_) = open.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// The port was ours before; what lingers of its connections goes away.
async fn bound(address: SocketAddr) -> Option<TcpListener> {
    for _ in 0..100 {
        match TcpListener::bind(address).await {
            Ok(listener) => return Some(listener),
            Err(_taken) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    None
}

async fn connection(near: TcpStream, peer: SocketAddr, shared: Arc<Shared>) {
    let local = near.local_addr().map_or(0, |address| address.port());
    let from = shared.pids.of_connection(peer.port(), local).await;
    let mut state = shared.link(&from);
    let first = *state.borrow_and_update();
    if first.rules.refused {
        return reset(near);
    }
    let target = *locked(&shared.target);
    let Ok(far) = TcpStream::connect(target).await else { return reset(near) };
    let (near_read, near_write) = nodelay(near).into_split();
    let (far_read, far_write) = nodelay(far).into_split();
    let draw = |name: &str| locked(&shared.draw).of(name);
    let (one, two) = (draw("there"), draw("back"));
    locked(&shared.draw).next();
    let there = pump(near_read, far_write, state.clone(), first.breaks, |rules| rules.there, one);
    let back = pump(far_read, near_write, state, first.breaks, |rules| rules.back, two);
    // One that has said everything may still be listening.
    tokio::join!(there, back);
}

fn nodelay(stream: TcpStream) -> TcpStream {
    // Without it everything is only slower.
    let _set = stream.set_nodelay(true).is_ok();
    stream
}

fn reset(stream: TcpStream) {
    let _set = stream.set_zero_linger().is_ok();
    drop(stream);
}

/// Carries one direction until it ends, breaks or is cut.
async fn pump(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    breaks: u64,
    way: fn(Rules) -> Way,
    mut draw: Draw,
) {
    let (queue, waiting) = mpsc::channel::<(Instant, Bytes)>(64);
    let mut writing = JoinSet::new();
    writing.spawn(deliver(waiting, to, state.clone(), breaks, way));
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0_u64;
    let mut cutting = 0_u64;
    loop {
        tokio::select! {
            changed = state.changed() => {
                if changed.is_err() || state.borrow_and_update().breaks != breaks {
                    let _set = from.as_ref().set_zero_linger().is_ok();
                    break;
                }
            }
            read = from.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { break };
                let rules = way(state.borrow().rules);
                let mut chunk = buffer.get(..length).unwrap_or_default().to_vec();
                flip(&mut chunk, rules.flip_one_in, &mut draw);
                if rules.cut_after != cutting {
                    (cutting, passed) = (rules.cut_after, 0);
                }
                passed += length as u64;
                if rules.cut_after != 0 && passed > rules.cut_after {
                    let _set = from.as_ref().set_zero_linger().is_ok();
                    break;
                }
                let jitter = Duration::from_nanos(draw.below(u64::try_from(rules.jitter.as_nanos()).unwrap_or(0)));
                if queue.send((Instant::now() + rules.latency + jitter, chunk.into())).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(queue);
    // What was read is still delivered, however slowly.
    while writing.join_next().await.is_some() {}
}

async fn deliver(
    mut waiting: mpsc::Receiver<(Instant, Bytes)>,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    breaks: u64,
    way: fn(Rules) -> Way,
) {
    while let Some((due, chunk)) = waiting.recv().await {
        tokio::time::sleep_until(due).await;
        let free = state.wait_for(|state| state.breaks != breaks || !way(state.rules).stalled).await;
        let Ok(rules) = free.map(|state| (state.breaks == breaks).then(|| way(state.rules))) else { return };
        let Some(rules) = rules else {
            let _set = to.as_ref().set_zero_linger().is_ok();
            return;
        };
        if rules.bytes_per_s > 0 {
            let share = chunk.len() as f64 / f64::from(rules.bytes_per_s);
            tokio::time::sleep(Duration::from_secs_f64(share)).await;
        }
        if to.write_all(&chunk).await.is_err() {
            return;
        }
    }
    let _told = to.shutdown().await.is_ok();
}

fn flip(chunk: &mut [u8], one_in: u32, draw: &mut Draw) {
    if one_in == 0 {
        return;
    }
    for byte in chunk {
        if draw.below(u64::from(one_in)) == 0 {
            *byte ^= 1 << draw.below(8);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[allow(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (mut read, mut write) = stream.into_split();
                #[allow(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
                tokio::spawn(async move { tokio::io::copy(&mut read, &mut write).await });
            }
        });
        address
    }

    async fn proxy() -> Proxy {
        Proxy::start(echo().await, Pids::default(), Draw::new(1)).await.unwrap()
    }

    async fn says(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut heard = vec![0; text.len()];
        stream.read_exact(&mut heard).await?;
        Ok(heard)
    }

    #[tokio::test]
    async fn a_perfect_link_is_not_noticed() {
        let proxy = proxy().await;
        proxy.listen(true);
        for _ in 0..3 {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(says(&mut stream, b"hello").await.unwrap(), b"hello");
        }
    }

    #[tokio::test]
    async fn silence_holds_back_and_then_delivers() {
        let proxy = proxy().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut stream, b"one").await.unwrap(), b"one");
        proxy.set_all(Rules::half_open());
        let heard = tokio::time::timeout(Duration::from_millis(100), says(&mut stream, b"two")).await;
        assert!(heard.is_err());
        proxy.set_all(Rules::default());
        let mut late = [0; 3];
        stream.read_exact(&mut late).await.unwrap();
        assert_eq!(&late, b"two");
    }

    #[tokio::test]
    async fn connections_break_and_listeners_go_and_come_back() {
        let proxy = proxy().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut stream, b"one").await.unwrap(), b"one");
        proxy.listen(false);
        assert!(says(&mut stream, b"two").await.is_err());
        while TcpStream::connect(proxy.address()).await.is_ok() {
            tokio::task::yield_now().await;
        }
        proxy.listen(true);
        let mut again = loop {
            if let Ok(stream) = TcpStream::connect(proxy.address()).await {
                break stream;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(says(&mut again, b"three").await.unwrap(), b"three");
    }

    #[tokio::test]
    async fn a_link_is_cut_after_so_many_bytes_and_bytes_are_changed() {
        let proxy = proxy().await;
        let way = Way { cut_after: 10, ..Way::default() };
        proxy.set_all(Rules { there: way, ..Rules::default() });
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(says(&mut stream, b"12345").await.unwrap(), b"12345");
        assert!(says(&mut stream, b"1234567890").await.is_err());
        let way = Way { flip_one_in: 1, ..Way::default() };
        proxy.set_all(Rules { there: way, ..Rules::default() });
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_ne!(says(&mut stream, b"12345").await.unwrap(), b"12345");
    }
}
