//! Other session nodes, for what a gateway that cannot reach them has given to this one.
//!
//! Owns: how they are dialled, and that one which does not answer is reported: this node is then the second to miss it. Must
//! not know: what is passed on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use api::session::{Frames, Request, SessionClient, SessionHost as _};
use api::{Code, Detail, Error};
use chassis::grpc::channel::dial_closely;
use chassis::tls::Dialler;
use futures::{StreamExt as _, stream};
use placement::{Locator, Peer};
use tokio_util::sync::CancellationToken;

/// A node that leaves a request unanswered for so long is reported.
const SILENCE: Duration = Duration::from_secs(1);
/// More than that is no mesh but a mistake.
const MAX_NODES: usize = 1024;

/// See the module.
pub(crate) struct Neighbours {
    dialler: Dialler,
    known: Mutex<BTreeMap<String, SessionClient>>,
}

impl Neighbours {
    pub(crate) const fn new(dialler: Dialler) -> Self {
        Self { dialler, known: Mutex::new(BTreeMap::new()) }
    }

    /// The node; `None` for an address that cannot be one.
    fn get(&self, address: &str) -> Option<SessionClient> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = known.get(address) {
            return Some(node.clone());
        }
        if known.len() >= MAX_NODES {
            // Those that are asked for still are dialled anew.
            known.clear();
        }
        let node = SessionClient::new(api::wire::wire(dial_closely(&self.dialler, address).ok()?));
        known.insert(address.to_owned(), node.clone());
        Some(node)
    }

    /// Asks a node whether it is there.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if it does not say so.
    pub(crate) async fn probe(&self, to: &str) -> Result<(), Error> {
        let silent = |_late| Error::new(Code::Unavailable, format!("{to} says nothing"));
        let none = || Error::new(Code::Unavailable, format!("{to} is not an address"));
        let node = self.get(to).ok_or_else(none)?;
        tokio::time::timeout(SILENCE, node.probe(None)).await.map_err(silent)?
    }

    /// Passes a request on. Its frames end with [`Error::draining`] when this node drains: others can pass it on then.
    ///
    /// # Errors
    /// Those of the other node, and [`Code::Unavailable`] if it cannot be reached from here either.
    pub(crate) async fn pass_on(
        &self,
        to: &str,
        request: Request,
        locator: Option<&dyn Locator>,
        draining: CancellationToken,
    ) -> Result<Frames, Error> {
        let none = || Error::new(Code::Unavailable, format!("{to} is not an address"));
        let node = self.get(to).ok_or_else(none)?;
        let suspect = |why: &str| {
            if let Some(locator) = locator {
                locator.suspect(&Peer { address: to.into() }, why);
            }
        };
        let asking = async {
            match request {
                Request::Deliver(delivery) => node.deliver(*delivery).await,
                Request::Attach(attach) => node.attach(attach).await,
                Request::Close(close) => node.close(close).await,
            }
        };
        tokio::pin!(asking);
        let asked = if let Ok(asked) = tokio::time::timeout(SILENCE, &mut asking).await {
            asked
        } else {
            suspect("it does not answer what is passed on to it");
            asking.await
        };
        match asked {
            Ok(frames) => Ok(until(frames, draining)),
            Err(error) => {
                if error.detail == Some(Detail::NotReached) {
                    suspect(&error.message);
                }
                Err(error)
            }
        }
    }
}

fn until(frames: Frames, draining: CancellationToken) -> Frames {
    let draining = Box::pin(draining.cancelled_owned());
    stream::unfold((frames, draining), |(mut frames, mut draining)| async move {
        tokio::select! {
            biased;
            item = frames.next() => item.map(|item| (item, (frames, draining))),
            () = &mut draining => Some((Err(Error::draining()), (stream::empty().boxed(), draining))),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::session::{Close, Frame, Transport};
    use api::{Slot, SlotCount};
    use tokio::net::TcpListener;

    use super::*;

    #[derive(Default)]
    struct Reports(Mutex<Vec<String>>);

    impl Locator for Reports {
        fn slots(&self) -> SlotCount {
            SlotCount::Usual
        }

        fn owner(&self, _slot: Slot) -> Option<Peer> {
            None
        }

        fn ready(&self) -> Vec<Peer> {
            Vec::new()
        }

        fn suspect(&self, peer: &Peer, _why: &str) {
            self.0.lock().unwrap().push(peer.address.to_string());
        }
    }

    fn close() -> Request {
        let principal = api::Principal::default();
        Request::Close(Close {
            session: "s".into(),
            revision: None,
            principal,
            when_idle: false,
            transport: Transport::Streamable,
        })
    }

    #[tokio::test]
    async fn who_is_not_there_or_says_nothing_is_reported() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent_at = silent.local_addr().unwrap().to_string();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone_at = gone.local_addr().unwrap().to_string();
        drop(gone);
        for (address, is_there) in [(silent_at, true), (gone_at, false)] {
            let reports = Arc::new(Reports::default());
            let neighbours = Neighbours::new(Dialler::default());
            let end = CancellationToken::new();
            let asked = neighbours.pass_on(&address, close(), Some(reports.as_ref()), end).await;
            let error = asked.err().unwrap();
            assert_eq!(error.code, Code::Unavailable);
            assert_eq!(error.detail == Some(Detail::NotReached), !is_there, "{error:?}");
            assert_eq!(*reports.0.lock().unwrap(), [address]);
        }
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_there() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent_at = silent.local_addr().unwrap().to_string();
        let asked = Neighbours::new(Dialler::default()).probe(&silent_at).await;
        assert_eq!(asked.err().map(|error| error.code), Some(Code::Unavailable));
    }

    #[tokio::test]
    async fn frames_end_by_themselves_or_with_the_node_that_passes_them_on() {
        let draining = CancellationToken::new();
        let whole = until(stream::iter([Ok(Frame::Open)]).boxed(), draining.clone());
        assert_eq!(whole.collect::<Vec<_>>().await, [Ok(Frame::Open)]);
        let open = stream::iter([Ok(Frame::Open)]).chain(stream::pending()).boxed();
        let mut open = until(open, draining.clone());
        assert_eq!(open.next().await, Some(Ok(Frame::Open)));
        draining.cancel();
        assert_eq!(open.collect::<Vec<_>>().await, [Err(Error::draining())]);
    }
}
