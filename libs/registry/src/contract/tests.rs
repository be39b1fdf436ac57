//! The kit under its own suite: in process, and behind gRPC over an in-memory connection.

use super::*;

mod in_process {
    use super::*;

    async fn subject() -> Subject {
        Fixture::make().subject()
    }

    crate::registry_contract!(subject);
}

mod over_grpc {
    use api::registry::{RegistryClient, services};
    use hyper_util::rt::TokioIo;
    use tonic::transport::{Endpoint, Server, Uri};

    use super::*;

    async fn subject() -> Subject {
        let fixture = Fixture::make();
        let (client, server) = tokio::io::duplex(1 << 20);
        let routes = services(fixture.host().port());
        let incoming =
            futures::stream::iter([Ok::<_, std::io::Error>(server)]).chain(futures::stream::pending());
        let server = Server::builder().add_routes(routes).serve_with_incoming(incoming);
        #[allow(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        drop(tokio::spawn(server));
        let mut client = Some(client);
        let connector = tower::service_fn(move |_: Uri| {
            let io = client.take().map(TokioIo::new);
            async move { io.ok_or_else(|| std::io::Error::other("one connection only")) }
        });
        let channel = Endpoint::from_static("http://suite").connect_with_connector(connector).await.unwrap();
        Subject { port: Arc::new(RegistryClient::new(api::wire::wire(channel))), control: fixture }
    }

    crate::registry_contract!(subject);
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let limits = crate::Limits::default();
    assert_eq!((limits.keep_for, limits.keep_bytes), (Duration::from_secs(300), 64 << 20));
}
