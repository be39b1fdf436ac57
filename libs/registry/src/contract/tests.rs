//! The kit under its own suite: in process, and behind gRPC over an in-memory connection.

use api::registry::{RegistryClient, Surroundings, Trace, link, services, services_with_links};
use api::wire::Wire;
use hyper_util::rt::TokioIo;
use tonic::service::Routes;
use tonic::transport::{Endpoint, Server, Uri};

use super::*;

mod in_process {
    use super::*;

    async fn subject() -> Subject {
        Fixture::make().subject()
    }

    crate::registry_contract!(subject);
}

/// A fixture behind a gRPC server, and a connection to it.
async fn served(routes: impl FnOnce(Arc<dyn Registry>) -> Routes) -> (Arc<Fixture>, Wire) {
    let fixture = Fixture::make();
    let (client, server) = tokio::io::duplex(1 << 20);
    let routes = routes(fixture.host().port());
    let incoming = futures::stream::iter([Ok::<_, std::io::Error>(server)]).chain(futures::stream::pending());
    let server = Server::builder().add_routes(routes).serve_with_incoming(incoming);
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    drop(tokio::spawn(server));
    let mut client = Some(client);
    let connector = tower::service_fn(move |_: Uri| {
        let io = client.take().map(TokioIo::new);
        async move { io.ok_or_else(|| std::io::Error::other("one connection only")) }
    });
    let channel = Endpoint::from_static("http://suite").connect_with_connector(connector).await.unwrap();
    (fixture, api::wire::wire(channel))
}

mod over_grpc {
    use super::*;

    async fn subject() -> Subject {
        let (fixture, wire) = served(services).await;
        Subject { port: Arc::new(RegistryClient::new(wire)), control: fixture }
    }

    crate::registry_contract!(subject);
}

mod over_a_link {
    use super::*;

    async fn subject() -> Subject {
        let (fixture, wire) = served(|port| services_with_links(port, Surroundings::none())).await;
        let (link, driver) = link(wire.clone(), Trace::default);
        #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        drop(tokio::spawn(driver.run()));
        while !link.is_up() {
            tokio::task::yield_now().await;
        }
        Subject { port: Arc::new(RegistryClient::new(wire).over(move || link.clone())), control: fixture }
    }

    crate::registry_contract!(subject);
}

/// As with a process that was built before there were links.
#[tokio::test]
async fn where_no_link_is_offered_each_call_is_one_of_its_own() {
    let (fixture, wire) = served(services).await;
    let (link, driver) = link(wire.clone(), Trace::default);
    #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    drop(tokio::spawn(driver.run()));
    let port = RegistryClient::new(wire).over(move || link.clone());
    let subject = Subject { port: Arc::new(port), control: fixture };
    for _ in 0..3 {
        let ending = subject.ending("count", "{}").await;
        assert!(matches!(ending, FrameBody::Result(_)), "{ending:?}");
    }
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let limits = crate::Limits::default();
    assert_eq!((limits.keep_for, limits.keep_bytes), (Duration::from_secs(300), 64 << 20));
}
