//! Writes that arrive when whoever gave them up has written since, or has ended the session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use machines::CommitRefusal;
use mcp::log::Level;
use session::store::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::server::{Server, connect, until};
use crate::writer::{Writer, level};

/// Passes everything on, but holds requests back while told to, until they are let go: nobody waits for their answers any more.
struct Slow {
    port: u16,
    way: Arc<Way>,
    _run: tokio::task::JoinSet<()>,
}

#[derive(Default)]
struct Way {
    holds: AtomicBool,
    go: Notify,
    held: AtomicUsize,
    late: AtomicUsize,
}

impl Slow {
    async fn start(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), server.port);
        let way = Arc::<Way>::default();
        let mut run = tokio::task::JoinSet::new();
        let told = way.clone();
        run.spawn(async move {
            let mut links = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                links.spawn(link(client, to, told.clone()));
            }
        });
        Self { port, way, _run: run }
    }

    /// What this asks does not get through for now.
    async fn holding<T>(&self, asking: impl Future<Output = T>) -> T {
        self.way.holds.store(true, Ordering::SeqCst);
        let answer = asking.await;
        self.way.holds.store(false, Ordering::SeqCst);
        answer
    }

    /// Lets what is held back go, and waits until the server has answered it.
    async fn arrive(&self) {
        let held = self.way.held.load(Ordering::SeqCst);
        assert!(held > self.way.late.load(Ordering::SeqCst), "something is held back");
        self.way.go.notify_waiters();
        until("it has arrived", async || self.way.late.load(Ordering::SeqCst) == held).await;
    }
}

async fn link(client: TcpStream, to: u16, way: Arc<Way>) {
    let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let answers = tokio::spawn(async move {
        let _ended = tokio::io::copy(&mut from_server, &mut to_client).await;
    });
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from_client.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            break;
        }
        if way.holds.load(Ordering::SeqCst) {
            let go = way.go.notified();
            way.held.fetch_add(1, Ordering::SeqCst);
            go.await;
            let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            server.write_all(&buffer[..count]).await.unwrap();
            assert!(server.read(&mut buffer).await.unwrap() > 0);
            way.late.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if to_server.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    answers.abort();
}

#[tokio::test]
async fn a_write_back_that_comes_late_takes_nobodys_place() {
    let server = Server::start(&[]);
    let slow = Slow::start(&server).await;
    let redis = vec![format!("redis://127.0.0.1:{}", slow.port)];
    let store = connect(&Config { redis, ..Config::default() }).await;
    let mut writer = Writer::begin(&store, 1).await;
    writer.write(&level(Level::Info)).await;
    // From now on the server knows the script.
    assert_eq!(store.repair(&writer.id, writer.epoch, &writer.stored()).await, Ok(()));
    let mut given_up = writer.stored();
    given_up.version += 1;
    given_up.snapshot.level = Some(Level::Emergency);
    for all_may_be_lost in [true, false] {
        let gone = match all_may_be_lost {
            true => slow.holding(store.repair(&writer.id, writer.epoch, &given_up)).await,
            false => slow.holding(store.repair_what_is_there(&writer.id, writer.epoch, &given_up)).await,
        };
        assert_eq!(gone, Err(CommitRefusal::Down), "{all_may_be_lost}");
        writer.write(&level(Level::Debug)).await;
        slow.arrive().await;
        writer.is_whole().await;
        given_up.version = writer.version + 1;
    }
    for (all_may_be_lost, begun) in [(false, 1), (true, 2)] {
        if begun == 2 {
            writer = Writer::begin(&store, begun).await;
            given_up = writer.stored();
        }
        let gone = match all_may_be_lost {
            true => slow.holding(store.repair(&writer.id, writer.epoch, &given_up)).await,
            false => slow.holding(store.repair_what_is_there(&writer.id, writer.epoch, &given_up)).await,
        };
        assert_eq!(gone, Err(CommitRefusal::Down), "{all_may_be_lost}");
        assert_eq!(store.remove(&writer.id, writer.epoch).await, Ok(()));
        slow.arrive().await;
        assert_eq!(store.load(&writer.id).await, Ok(None), "it was ended");
    }
}
