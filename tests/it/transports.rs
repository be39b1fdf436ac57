//! A session is found by its own principal, in the way it was begun, and by nobody else: the port of a session node, asked
//! directly, because every client of the edge is the same principal so far.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use api::session::{Again, Answer, Attach, Close, Delivery, Frame, Frames, Transport};
use api::{Code, KeyRing, Principal, SessionHost};
use chassis::drain;
use chassis::serve::Incoming;
use chassis::task::{self, Kind};
use futures::StreamExt as _;
use mcp::{Era, Json};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const BATCH: &str = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#;
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;

fn who(subject: &str) -> Principal {
    Principal { subject: subject.into(), issuer: "i".into(), tenant: "t".into(), client: String::new() }
}

fn delivery(
    session: Option<&str>,
    principal: &Principal,
    transport: Transport,
    body: &'static str,
) -> Delivery {
    Delivery {
        message: Json::trusted(body),
        read: None,
        era: Era::Older,
        session: session.map(str::to_owned),
        revision: None,
        principal: principal.clone(),
        group: String::new(),
        param_headers: Vec::new(),
        request_key: String::new(),
        transport,
        again: None,
        in_batch: false,
    }
}

fn attach(session: &str, principal: &Principal, begin: bool) -> Attach {
    let (session, principal) = (session.to_owned(), principal.clone());
    Attach { session, revision: None, principal, last_event_id: None, begin, carried: false }
}

async fn accepted(frames: &mut Frames) -> Result<Option<String>> {
    let Frame::Accepted { session } = frames.next().await.context("no frame")?? else {
        anyhow::bail!("not accepted")
    };
    Ok(session)
}

async fn refusal(mut frames: Frames) -> Result<Answer> {
    let Frame::Refused(answer) = frames.next().await.context("no frame")?? else {
        anyhow::bail!("not refused")
    };
    Ok(answer)
}

/// A session of each transport, both of 2025-03-26, and the stream of the second.
async fn sessions(host: &dyn SessionHost, owner: &Principal) -> Result<(String, String, Frames)> {
    let mut greeting = host.deliver(delivery(None, owner, Transport::Streamable, INITIALIZE)).await?;
    let streamable = accepted(&mut greeting).await?.context("a session")?;
    let mut stream = host.attach(attach("", owner, true)).await?;
    let http_sse = accepted(&mut stream).await?.context("a session")?;
    assert_eq!(stream.next().await.context("open")??, Frame::Open);
    let mut posted = host.deliver(delivery(Some(&http_sse), owner, Transport::HttpSse, INITIALIZE)).await?;
    assert_eq!(accepted(&mut posted).await?, None);
    assert_eq!(posted.next().await.context("an answer")??, Frame::Answer(Answer::new(202, None)));
    let greeted = stream.next().await.context("a greeting")??;
    assert!(matches!(&greeted, Frame::Event(event) if event.id.is_none() && event.message.is_some()));
    Ok((streamable, http_sse, stream))
}

/// A session node that is asked directly.
fn node() -> Result<session::App> {
    node_on(Arc::new(session::store::Memory::default()))
}

fn node_on(store: Arc<dyn session::store::SessionStore>) -> Result<session::App> {
    let deps = session::Deps {
        keys: KeyRing::single("k1", *b"0123456789abcdefghijklmnopqrstuv"),
        store,
        seat: session::Seat::Fixed { slots: Default::default(), epoch: session::Deps::epoch_of_this_start() },
        registries: Vec::new(),
        process: Default::default(),
    };
    Ok(session::App::build(session::Config::default(), deps)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_and_nowhere_else() -> Result<()> {
    let app = node()?;
    let host = app.handle();
    let (_trigger, shutdown) = drain::pair();
    let _serving = task::spawn(Kind::Role, "session", app.serve(Incoming::None, shutdown));
    let (owner, stranger) = (who("owner"), who("stranger"));
    let (streamable, http_sse, mut stream) = sessions(host.as_ref(), &owner).await?;
    let mut refused = Vec::new();
    for (session, own) in [(&streamable, Transport::Streamable), (&http_sse, Transport::HttpSse)] {
        for principal in [&owner, &stranger, &Principal::default()] {
            for transport in [Transport::Streamable, Transport::HttpSse] {
                if *principal == owner && transport == own {
                    continue;
                }
                for body in [PING, BATCH, INITIALIZE] {
                    let asked = delivery(Some(session), principal, transport, body);
                    refused.push(refusal(host.deliver(asked).await?).await?);
                }
            }
            if *principal != owner || own == Transport::HttpSse {
                refused.push(refusal(host.attach(attach(session, principal, false)).await?).await?);
                let close = Close {
                    session: session.clone(),
                    revision: None,
                    principal: principal.clone(),
                    when_idle: false,
                    transport: Transport::Streamable,
                };
                refused.push(refusal(host.close(close).await?).await?);
            }
        }
    }
    assert_eq!(refused.len(), 40);
    assert!(refused.iter().all(|answer| answer.status == 404 && *answer == refused[0]), "{refused:?}");
    // Both are as they were.
    let mut answer = host.deliver(delivery(Some(&streamable), &owner, Transport::Streamable, PING)).await?;
    accepted(&mut answer).await?;
    assert!(matches!(answer.next().await.context("an answer")??, Frame::Answer(a) if a.status == 200));
    let mut posted = host.deliver(delivery(Some(&http_sse), &owner, Transport::HttpSse, PING)).await?;
    accepted(&mut posted).await?;
    let Frame::Event(pong) = stream.next().await.context("an event")?? else { anyhow::bail!("no event") };
    let expected = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
    assert_eq!(pong.message.as_ref().map(Json::as_str), Some(expected));
    Ok(())
}

/// The next event of a stream that goes on at the next owner.
async fn event(stream: &mut Frames) -> Result<(String, Option<Json>)> {
    let Frame::Event(event) = stream.next().await.context("no frame")?? else { anyhow::bail!("no event") };
    Ok((event.id.context("an id")?, event.message))
}

/// What a gateway tells the owner again, because a link broke, is done once; its stream goes on where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_of_http_sse_may_come_back() -> Result<()> {
    let app = node()?;
    let host = app.handle();
    let (_trigger, shutdown) = drain::pair();
    let _serving = task::spawn(Kind::Role, "session", app.serve(Incoming::None, shutdown));
    let owner = who("owner");
    let begin = Attach { carried: true, ..attach("", &owner, true) };
    let mut stream = host.attach(begin).await?;
    let id = accepted(&mut stream).await?.context("a session")?;
    assert_eq!(stream.next().await.context("open")??, Frame::Open);
    let (place, nothing) = event(&mut stream).await?;
    assert_eq!(nothing, None, "a place to go on from");
    let post = |body, key: &str, again: Option<Again>| {
        let first = delivery(Some(&id), &owner, Transport::HttpSse, body);
        host.deliver(Delivery { request_key: key.to_owned(), again, ..first })
    };
    let taken = async |frames: Frames| {
        let all: Vec<_> = frames.collect().await;
        let expected = [Frame::Accepted { session: None }, Frame::Answer(Answer::new(202, None))];
        assert_eq!(all, expected.map(Ok));
    };
    taken(post(INITIALIZE, "a", None).await?).await;
    let (greeted, _) = event(&mut stream).await?;
    taken(post(PING, "b", None).await?).await;
    taken(post(PING, "b", Some(Again::default())).await?).await;
    taken(post(INITIALIZE, "a", Some(Again { accepted: true, last_event_id: None })).await?).await;
    let (pong, message) = event(&mut stream).await?;
    assert!(message.is_some_and(|message| message.as_str().contains(r#""id":1,"result":{}"#)));
    taken(post(PING, "c", None).await?).await;
    assert_ne!(event(&mut stream).await?.0, pong, "each was answered once");
    // Of two copies of the same request, the gateway may have gone on with the first: it hears that it has to come once more.
    let copy = Attach { carried: true, last_event_id: Some(pong.clone()), ..attach(&id, &owner, false) };
    let _second = host.attach(copy).await?;
    let lost = stream.next().await.context("an ending")?;
    assert_eq!(lost.err().map(|error| error.code), Some(Code::Unavailable));
    for (last, left) in [(&place, 3), (&greeted, 2), (&pong, 1)] {
        let last_event_id = Some(last.clone());
        let again = Attach { carried: true, last_event_id, ..attach(&id, &owner, false) };
        let mut stream = host.attach(again.clone()).await?;
        assert_eq!(accepted(&mut stream).await?, None);
        assert_eq!(stream.next().await.context("open")??, Frame::Open);
        for _ in 0..left {
            assert!(event(&mut stream).await?.1.is_some());
        }
        let stranger = Attach { principal: who("stranger"), ..again };
        assert_eq!(refusal(host.attach(stranger).await?).await?.status, 404);
    }
    Ok(())
}

/// That nobody knows what became of a request is said once, and to the next owner's reader as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_outcome_of_http_sse_is_kept_like_any_answer() -> Result<()> {
    let store: Arc<dyn session::store::SessionStore> = Arc::new(session::store::Memory::default());
    let (_trigger, shutdown) = drain::pair();
    let serve = |app: session::App, shutdown| {
        task::spawn(Kind::Role, "session", async move { app.serve(Incoming::None, shutdown).await })
    };
    let first = node_on(store.clone())?;
    let host = first.handle();
    let _first = serve(first, shutdown.clone());
    let owner = who("owner");
    let mut stream = host.attach(Attach { carried: true, ..attach("", &owner, true) }).await?;
    let id = accepted(&mut stream).await?.context("a session")?;
    assert_eq!(stream.next().await.context("open")??, Frame::Open);
    let (place, _) = event(&mut stream).await?;
    let post = async |host: &dyn SessionHost, body, key: &str, again| {
        let first = delivery(Some(&id), &owner, Transport::HttpSse, body);
        let frames = host.deliver(Delivery { request_key: key.to_owned(), again, ..first }).await?;
        let all: Vec<_> = frames.collect().await;
        let expected = [Frame::Accepted { session: None }, Frame::Answer(Answer::new(202, None))];
        assert_eq!(all, expected.map(Ok));
        anyhow::Ok(())
    };
    let again = Some(Again { accepted: true, last_event_id: None });
    post(host.as_ref(), INITIALIZE, "a", None).await?;
    event(&mut stream).await?;
    post(host.as_ref(), PING, "b", again.clone()).await?;
    let (_, said) = event(&mut stream).await?;
    let said = said.context("a message")?;
    assert!(
        said.as_str().contains(r#""id":1"#) && said.as_str().contains(r#""outcome":"unknown""#),
        "{said:?}"
    );

    let second = node_on(store)?;
    let host = second.handle();
    let _second = serve(second, shutdown);
    let back = Attach { carried: true, last_event_id: Some(place), ..attach(&id, &owner, false) };
    let mut stream = host.attach(back).await?;
    accepted(&mut stream).await?;
    assert_eq!(stream.next().await.context("open")??, Frame::Open);
    event(&mut stream).await?;
    assert_eq!(event(&mut stream).await?.1, Some(said));
    post(host.as_ref(), PING, "b", again).await?;
    post(host.as_ref(), PING, "c", None).await?;
    let (_, pong) = event(&mut stream).await?;
    assert!(pong.is_some_and(|pong| pong.as_str().contains(r#""result":{}"#)), "it was not said twice");
    Ok(())
}

/// A gateway of a build before sends batches whole: while versions change, they are answered as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_comes_whole_is_taken_apart() -> Result<()> {
    let app = node()?;
    let host = app.handle();
    let (_trigger, shutdown) = drain::pair();
    let _serving = task::spawn(Kind::Role, "session", app.serve(Incoming::None, shutdown));
    let owner = who("owner");
    let (session, _, _stream) = sessions(host.as_ref(), &owner).await?;
    let body = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},7,{"jsonrpc":"2.0","method":"n"}]"#;
    let mut frames = host.deliver(delivery(Some(&session), &owner, Transport::Streamable, body)).await?;
    accepted(&mut frames).await?;
    assert_eq!(frames.next().await.context("open")??, Frame::Open);
    let mut said = Vec::new();
    while let Some(frame) = frames.next().await {
        let Frame::Event(event) = frame? else { anyhow::bail!("no event") };
        said.push(event.message.context("a message")?.as_str().to_owned());
    }
    said.sort();
    assert!(said.len() == 2 && said[0].contains("-32600"), "{said:?}");
    assert_eq!(said[1], r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    let nothing = delivery(Some(&session), &owner, Transport::Streamable, "[7]");
    assert_eq!(refusal(host.deliver(nothing).await?).await?.status, 400);
    Ok(())
}
