//! Servers that stop, go and come back, and answers that do not arrive.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use machines::{CommitRefusal, StreamId};
use mcp::log::Level;
use session::store::{Config, Fenced};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Server, config, connect, until};
use crate::writer::{Writer, appended, level, opened};

/// No call takes longer, whatever the server does.
const BOUND: Duration = Duration::from_secs(3);
const STREAM: StreamId = StreamId(4);

#[tokio::test]
async fn a_server_that_stands_still_is_down_in_time_and_what_it_did_late_is_replaced() {
    let server = Server::start(&[]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM), appended(STREAM, 1)]).await;
    server.freeze();
    let began = Instant::now();
    // These lie in the server's queue; it will do one of them when it goes on.
    assert_eq!(writer.attempt(&[appended(STREAM, 2)], None).await, Err(CommitRefusal::Down));
    assert_eq!(writer.attempt(&level(Level::Alert), None).await, Err(CommitRefusal::Down));
    assert_eq!(store.load(&writer.id).await, Err(CommitRefusal::Down));
    assert_eq!(store.fence(&[(writer.id.slot(), writer.epoch)]).await, [Fenced::Down]);
    assert!(!store.is_up().await);
    assert!(began.elapsed() < 5 * BOUND, "{:?}", began.elapsed());
    server.thaw();
    until("the store is back", async || store.is_up().await).await;
    until("the late commit is there", async || writer.loaded().await.version == 2).await;
    writer.write(&level(Level::Info)).await;
    writer.is_whole().await;
    writer.write(&[appended(STREAM, 2)]).await;
    writer.is_whole().await;
}

#[tokio::test]
async fn a_server_that_is_killed_is_down_and_comes_back_with_what_it_wrote_down() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = connect(&config(&[&server])).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM), appended(STREAM, 1)]).await;
    server.kill();
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(writer.attempt(&level(Level::Info), None).await, Err(CommitRefusal::Down));
    }
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
    assert!(!store.is_up().await);
    server.restart();
    until("the store is back", async || store.is_up().await).await;
    writer.is_whole().await;
    writer.write(&level(Level::Info)).await;
    writer.is_whole().await;
}

/// Passes everything on, and cuts the connection instead of the answers when told to.
struct Proxy {
    port: u16,
    cuts: Arc<AtomicBool>,
    cut: Arc<AtomicUsize>,
    _run: tokio::task::JoinSet<()>,
}

impl Proxy {
    async fn start(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), server.port);
        let (cuts, cut) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut run = tokio::task::JoinSet::new();
        let told = (cuts.clone(), cut.clone());
        run.spawn(async move {
            let mut links = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                links.spawn(link(client, to, told.clone()));
            }
        });
        Self { port, cuts, cut, _run: run }
    }

    fn config(&self) -> Config {
        Config { redis: vec![format!("redis://127.0.0.1:{}", self.port)], ..Config::default() }
    }
}

async fn link(client: TcpStream, to: u16, (cuts, cut): (Arc<AtomicBool>, Arc<AtomicUsize>)) {
    let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asks = async { tokio::io::copy(&mut from_client, &mut to_server).await.map(|_| ()) };
    let answers = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = from_server.read(&mut buffer).await?;
            if count == 0 || cuts.swap(false, Ordering::SeqCst) {
                cut.fetch_add(usize::from(count > 0), Ordering::SeqCst);
                return Ok(());
            }
            to_client.write_all(&buffer[..count]).await?;
        }
    };
    let _ended: Result<(), std::io::Error> =
        tokio::select! { ended = asks => ended, ended = answers => ended };
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_and_done_once() {
    let server = Server::start(&[]);
    let proxy = Proxy::start(&server).await;
    let store = connect(&proxy.config()).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&[opened(STREAM)]).await;
    for seq in 1..=10 {
        proxy.cuts.store(true, Ordering::SeqCst);
        writer.write(&[appended(STREAM, seq)]).await;
        assert_eq!(proxy.cut.load(Ordering::SeqCst), usize::try_from(seq).unwrap(), "an answer was lost");
        writer.is_whole().await;
    }
    // The same for a session that is begun, written back, removed.
    proxy.cuts.store(true, Ordering::SeqCst);
    let second = Writer::begin(&store, 2).await;
    proxy.cuts.store(true, Ordering::SeqCst);
    assert_eq!(store.repair(&second.id, second.epoch, &second.stored()).await, Ok(()));
    proxy.cuts.store(true, Ordering::SeqCst);
    assert_eq!(store.remove(&second.id, second.epoch).await, Ok(()));
    assert_eq!(store.load(&second.id).await, Ok(None));
    assert!(proxy.cut.load(Ordering::SeqCst) >= 13);
}

#[tokio::test]
async fn many_sessions_at_once_share_what_breaks() {
    let server = Server::start(&[]);
    let proxy = Proxy::start(&server).await;
    let store = connect(&proxy.config()).await;
    let mut writers = Vec::new();
    for n in 0..32 {
        writers.push(Writer::begin_in(&store, u16::from(n), n).await);
    }
    for round in 0..10 {
        proxy.cuts.store(true, Ordering::SeqCst);
        let change = &level(if round % 2 == 0 { Level::Info } else { Level::Debug });
        let write = |mut writer: Writer| async move {
            let mut tries = 0;
            while writer.offer(change).await == Err(CommitRefusal::Down) {
                tries += 1;
                assert!(tries < 50, "down for ever");
            }
            writer
        };
        writers = futures::future::join_all(writers.into_iter().map(write)).await;
    }
    assert!(proxy.cut.load(Ordering::SeqCst) >= 10);
    for writer in &writers {
        assert_eq!(writer.version, 10);
        writer.is_whole().await;
    }
}
