use tokio::net::TcpListener;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Status;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::drain::{self, Trigger};
use crate::grpc::channel;
use crate::serve::bind;
use crate::task::{self, Handle, Kind};

type Running = (String, Trigger, Handle<Result<(), ServeError>>);

async fn start() -> Running {
    start_on(bind("test", "127.0.0.1:0").await.unwrap())
}

fn start_on(listener: TcpListener) -> Running {
    let address = listener.local_addr().unwrap().to_string();
    let (trigger, shutdown) = drain::pair();
    let server =
        task::spawn(Kind::Role, "server", serve(Routes::default(), Incoming::Tcp(listener), shutdown));
    (address, trigger, server)
}

fn request() -> HealthCheckRequest {
    HealthCheckRequest { service: String::new() }
}

async fn next(watch: &mut tonic::Streaming<tonic_health::pb::HealthCheckResponse>) -> Option<Status> {
    let message = tokio::time::timeout(Duration::from_secs(10), watch.message()).await.unwrap();
    message.ok().flatten().map(|response| response.status())
}

#[tokio::test]
async fn draining_is_announced_before_anything_else_and_open_calls_may_finish() {
    let (address, trigger, server) = start().await;
    let mut client = HealthClient::new(channel::dial(&address).unwrap());
    let mut watch = client.watch(request()).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await, Some(Status::Serving));

    trigger.drain();
    assert_eq!(next(&mut watch).await, Some(Status::NotServing));
    assert!(!server.is_finished(), "the watch is still open");

    drop(watch);
    drop(client);
    assert!(tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn the_end_of_the_grace_period_cuts_open_calls() {
    let (address, trigger, server) = start().await;
    let mut client = HealthClient::new(channel::dial(&address).unwrap());
    let mut watch = client.watch(request()).await.unwrap().into_inner();
    assert_eq!(next(&mut watch).await, Some(Status::Serving));
    trigger.expire();
    assert!(tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().is_ok());
}

#[tokio::test]
async fn without_a_network_a_role_waits_for_its_end() {
    let (trigger, shutdown) = drain::pair();
    let server = task::spawn(Kind::Role, "server", serve(Routes::default(), Incoming::None, shutdown));
    trigger.drain();
    assert!(server.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_channel_is_refused_while_the_peer_is_away_and_comes_back_by_itself() {
    let listener = bind("test", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut client = HealthClient::new(channel::dial(&address.to_string()).unwrap());
    assert_eq!(client.check(request()).await.unwrap_err().code(), Code::Unavailable);

    let (_, _trigger, _server) = start_on(TcpListener::bind(address).await.unwrap());
    let answered = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            match client.check(request()).await {
                Ok(response) => return response.into_inner().status(),
                Err(status) => assert_eq!(status.code(), Code::Unavailable),
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(answered.await.unwrap(), Status::Serving);
}
