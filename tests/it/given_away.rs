//! Sessions in slots that their owner gives to another node, because it does not reach the store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use api::session::Transport::{self, HttpSse, Streamable};
use api::session::{Attach, Delivery, Frame, Frames};
use api::{Code, Detail, KeyRing, Principal, SessionHost, SlotCount};
use chassis::drain::{self, Trigger};
use chassis::serve::{Incoming, RoleResult};
use chassis::task::{self, Handle, Kind as Work};
use chassis::tls::Dialler;
use futures::StreamExt as _;
use mcp::{Era, Json};
use placement::{
    Claimer, Claims, Cluster, Directory, Embedded, Identity, Incarnation, Keys, LeaseStore, Now, keep,
};
use session::store::faulty::{Fault, Faulty, Op};
use session::store::{Memory, SessionStore};
use session::{App, Claimed, Config, Deps, RegistryPeer, Seat};
use tests::scripted::Scripted;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// A node with a way of its own to what all of them use.
struct Node {
    host: Arc<dyn SessionHost>,
    claims: Claims,
    store: Arc<Faulty>,
    _trigger: Trigger,
    _serving: Handle<RoleResult>,
    _lease: Handle<()>,
}

/// What all nodes use.
struct World {
    now: Now,
    leases: Arc<dyn LeaseStore>,
    sessions: Arc<dyn SessionStore>,
    registry: Arc<Scripted>,
}

impl World {
    fn new(registry: Arc<Scripted>) -> Self {
        let begun = Instant::now();
        let now: Now = Arc::new(move || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
        let leases = Arc::new(Embedded::new(now.clone()));
        Self { now, leases, sessions: Arc::new(Memory::default()), registry }
    }

    fn start(&self, name: &str, number: u64) -> Result<Node> {
        let (keys, slots, store) = (Keys::new("/tests"), SlotCount::default(), self.leases.clone());
        let cluster = Cluster { store, keys, slots, now: self.now.clone(), seed: number };
        let me = Identity {
            node: name.into(),
            address: format!("{name}:1").into(),
            zone: "".into(),
            capacity: 100,
            incarnation: Incarnation(number),
        };
        let (keeper, kept) = keep(cluster.store.clone(), Duration::from_secs(5), self.now.clone());
        let tick = kept.tick.clone();
        let (claimer, claims) = Claimer::new(cluster.clone(), me, kept);
        let (directory, following) = Directory::new(cluster, name);
        let dialler = Dialler::default();
        let store = Faulty::new(self.sessions.clone());
        let mut deps = Deps::connect(&Config::default(), slots, KeyRing::single("k1", [7; 32]), &dialler)?
            .keeping_in(store.clone());
        deps.registries =
            vec![RegistryPeer { address: "r".into(), namespace: None, port: self.registry.clone() }];
        let (seen, now) = (claims.clone(), self.now.clone());
        deps.seat =
            Seat::Claimed(Box::new(Claimed { claimer, claims, tick, now, directory, following, dialler }));
        deps.process.health.started();
        let app = App::build(Config::default(), deps)?;
        let (trigger, shutdown) = drain::pair();
        let host = app.handle();
        let lease = task::spawn(Work::Upkeep, "lease", keeper.run());
        let serving = task::spawn(Work::Role, "node", app.serve(Incoming::None, shutdown));
        Ok(Node { host, claims: seen, store, _trigger: trigger, _serving: serving, _lease: lease })
    }
}

impl Node {
    async fn has_all(&self) -> Result<()> {
        self.claims.standing().wait_for(|standing| standing.held == 4_096).await?;
        Ok(())
    }

    async fn deliver(&self, session: Option<&str>, by: Transport, message: &'static str) -> Result<Frames> {
        let delivery = Delivery {
            message: Json::trusted(message),
            read: None,
            era: Era::Older,
            session: session.map(str::to_owned),
            revision: None,
            principal: Principal::default(),
            group: String::new(),
            param_headers: Vec::new(),
            request_key: message.to_owned(),
            transport: by,
            again: None,
            in_batch: false,
        };
        Ok(self.host.deliver(delivery).await?)
    }
}

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
const INITIALIZE_EARLIER: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
const BATCH: &str = r#"[{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"held"}}]"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"held"}}"#;

/// A call ends while its owner cannot write that down, and is told where it goes on as soon as the slot is another node's.
async fn whoever_waits_for_the_store_is_sent_to_the_next_owner() -> Result<()> {
    let (end, ended) = watch::channel(false);
    let world = World::new(Scripted::held(&ended));
    let first = world.start("a", 1)?;
    first.has_all().await?;
    let began = first.deliver(None, Streamable, INITIALIZE).await?.next().await;
    let Some(Ok(Frame::Accepted { session: Some(session) })) = began else { anyhow::bail!("{began:?}") };
    first.deliver(Some(&session), Streamable, INITIALIZED).await?.collect::<Vec<_>>().await;
    let mut call = first.deliver(Some(&session), Streamable, CALL).await?;
    while world.registry.seen().is_empty() {
        tokio::task::yield_now().await;
    }

    // No other node is there yet.
    first.store.set_down(true);
    end.send_replace(true);
    let second = world.start("b", 2)?;
    let begun = Instant::now();
    let told = async {
        while let Some(frame) = call.next().await {
            if let Err(error) = frame {
                return Some(error);
            }
        }
        None
    };
    let error = timeout(Duration::from_secs(10), told).await?;
    let took = begun.elapsed();
    let Some(error) = error else { anyhow::bail!("the call ended here, after {took:?}") };
    assert!(matches!(error.detail, Some(Detail::NotOwner { .. })), "{error:?}");
    assert_eq!(error.code, Code::Precondition, "{error:?}");
    assert!(
        took < Duration::from_millis(2_500),
        "as long as the end of a call waits for the store: {took:?}"
    );
    second.has_all().await
}

/// A batch of HTTP+SSE is under way when its session moves.
async fn a_batch_is_not_acknowledged_whose_session_moved() -> Result<()> {
    let (_end, ended) = watch::channel(false);
    let world = World::new(Scripted::held(&ended));
    let first = world.start("a", 1)?;
    first.has_all().await?;
    let (principal, begin, carried) = (Principal::default(), true, true);
    let (session, revision, last_event_id) = (String::new(), None, None);
    let attach = Attach { session, revision, principal, last_event_id, begin, carried };
    let mut stream = first.host.attach(attach).await?;
    let began = stream.next().await;
    let Some(Ok(Frame::Accepted { session: Some(session) })) = began else { anyhow::bail!("{began:?}") };
    for message in [INITIALIZE_EARLIER, INITIALIZED] {
        first.deliver(Some(&session), HttpSse, message).await?.collect::<Vec<_>>().await;
    }

    first.store.next(Op::Commit, Fault::Hold);
    let mut batch = first.deliver(Some(&session), HttpSse, BATCH).await?;
    first.store.until_held(1).await;
    first.store.set_down(true);
    let second = world.start("b", 2)?;
    second.has_all().await?;
    first.store.release();
    let told = timeout(Duration::from_secs(10), batch.next()).await?;
    let Some(Err(error)) = told else { anyhow::bail!("{told:?}") };
    assert!(matches!(error.detail, Some(Detail::OutcomeUnknown { .. })), "{error:?}");
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_batch_whose_session_moved_is_not_acknowledged() {
    a_batch_is_not_acknowledged_whose_session_moved().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_store_goes_on_at_the_next_owner() {
    whoever_waits_for_the_store_is_sent_to_the_next_owner().await.unwrap();
}
