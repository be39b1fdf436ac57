//! What only a link has: one stream for all calls, which may break, drain, and carry a trace.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::session::{Frame, Surroundings};
use api::{Code, Detail, Error, SessionHost as _};
use futures::{FutureExt as _, StreamExt as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::node::accepted;
use crate::suite::{method, soon};
use crate::ways::{link_with, linked, served};

static TRACED: AtomicUsize = AtomicUsize::new(0);

#[tokio::test]
async fn a_panic_ends_its_own_call_only() {
    let way = linked();
    let mut other = way.host.deliver(method("hold")).await.unwrap();
    assert_eq!(soon(other.next()).await, Some(Ok(accepted())));
    let error = soon(way.host.deliver(method("panic"))).await.err().unwrap();
    assert_eq!(error.code, Code::Internal);
    assert_eq!(soon(way.host.deliver(method("echo"))).await.unwrap().collect::<Vec<_>>().await.len(), 2);
    assert!(other.next().now_or_never().is_none(), "the other call is still open");
}

#[tokio::test]
async fn a_link_that_breaks_tells_every_open_call_and_is_made_again() {
    let mut way = linked();
    let mut open = way.host.deliver(method("hold")).await.unwrap();
    assert_eq!(soon(open.next()).await, Some(Ok(accepted())));
    way.tasks.abort_all();
    let Some(Err(error)) = soon(open.next()).await else { panic!("an error") };
    assert!(matches!(error.code, Code::Unavailable | Code::Cancelled), "{error:?}");
    assert_eq!(soon(open.next()).await, None);
}

#[tokio::test]
async fn a_link_that_nobody_keeps_ends_its_calls_and_takes_no_more() {
    let (_node, wire, _tasks) = served(Surroundings::none());
    let (client, driver) = api::session::link(wire, Default::default);
    let mut keeper = JoinSet::new();
    keeper.spawn(driver.run());
    let mut open = client.deliver(method("hold")).await.unwrap();
    assert_eq!(soon(open.next()).await, Some(Ok(accepted())));
    keeper.shutdown().await;
    let Some(Err(error)) = soon(open.next()).await else { panic!("an error") };
    assert_eq!(error.code, Code::Unavailable);
    assert!(matches!(error.detail, Some(Detail::OutcomeUnknown { .. })), "{error:?}");
    let error = soon(client.deliver(method("echo"))).await.err().unwrap();
    assert_eq!((error.code, error.detail), (Code::Unavailable, Some(Detail::NotReached)));
}

#[tokio::test]
async fn what_was_never_sent_was_provably_not_executed() {
    let refused = tower::service_fn(|_: http::Uri| async {
        Err::<hyper_util::rt::TokioIo<tokio::io::DuplexStream>, _>(std::io::Error::from(
            std::io::ErrorKind::ConnectionRefused,
        ))
    });
    let channel = tonic::transport::Endpoint::from_static("http://node").connect_with_connector_lazy(refused);
    let (client, driver) = api::session::link(api::wire::wire(channel), Default::default);
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.run());
    for _ in 0..3 {
        let error = soon(client.deliver(method("echo"))).await.err().unwrap();
        assert_eq!((error.code, error.detail), (Code::Unavailable, Some(Detail::NotReached)));
    }
}

#[tokio::test]
async fn a_link_that_drains_takes_nothing_new_and_ends_with_its_last_call() {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let draining = Arc::new(move || stopped.clone().cancelled_owned().boxed());
    let surroundings = Surroundings { draining, ..Surroundings::none() };
    let (node, client, _tasks) = link_with(surroundings);
    let mut open = client.deliver(method("hold")).await.unwrap();
    assert_eq!(soon(open.next()).await, Some(Ok(accepted())));
    stop.cancel();
    // What is asked before the gateway has heard of it is still answered.
    let refused = loop {
        match soon(client.deliver(method("echo"))).await {
            Ok(frames) => drop(frames),
            Err(error) => break error,
        }
    };
    assert_eq!(refused, Error::draining());
    assert!(open.next().now_or_never().is_none(), "what is open goes on");
    drop(open);
    node.open_is(0).await;
    // The next call makes another link, which the node drains at once.
    soon(async {
        while client.deliver(method("echo")).await.err() == Some(Error::draining()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_call_begins_inside_its_callers_trace() {
    let surroundings = Surroundings {
        within: Arc::new(|trace, opening| {
            assert_eq!(trace.parent, "00-trace");
            TRACED.fetch_add(1, Ordering::Relaxed);
            opening
        }),
        ..Surroundings::none()
    };
    let (_node, client, _tasks) = link_with(surroundings);
    let frames: Vec<_> = soon(client.deliver(method("echo"))).await.unwrap().collect().await;
    assert!(matches!(frames[1], Ok(Frame::Answer(_))));
    assert_eq!(TRACED.load(Ordering::Relaxed), 1);
}
