//! The real binary in separate processes that show certificates to each other.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use chassis::grpc::allowed::{TABLE, allows};
use chassis::grpc::channel::dial_with;
use chassis::tls::{Dialler, Role};
use http::Request;
use mcp::scan::path;
use prost::Message as _;
use tests::mesh::mutual::Mutual;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service as _;

const CALL: &str = r#"{"name":"calculator","arguments":{"operation":"add","a":2,"b":40}}"#;

const OWN_CALL: &str = r#"{"name":"team__calculator","arguments":{"operation":"add","a":2,"b":40}}"#;

/// What comes of calling `method` (an empty message) at `address`.
async fn call(dialler: &Dialler, address: &str, method: &str) -> Result<Code> {
    let mut channel = dial_with(dialler, address)?;
    let request = Request::post(method).header("content-type", "application/grpc").header("te", "trailers");
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
    let answered = channel.call(request.body(Body::empty())?).await?;
    Ok(Status::from_header_map(answered.headers()).map_or(Code::Ok, |status| status.code()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_both_eras_are_served_and_processes_keep_to_their_role() -> Result<()> {
    let mutual = Mutual::start().await?;
    let answered = Some("42.0");
    let result = ["result", "structuredContent", "result"];
    let modern = mutual.mesh.client().modern("1", "tools/call", CALL, "{}").await?.response().await?;
    assert_eq!(path(&modern, &result), answered, "{modern}");
    let mut older = mutual.mesh.client();
    older.initialize("2025-06-18", "{}").await?;
    // A registry that somebody else wrote, on the same certificates.
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{OWN_CALL}}}"#);
    let older = older.post(body).await?.response().await?;
    assert_eq!(path(&older, &result), answered, "{older}");

    let (to_session, to_registry) =
        ("/trunkline.session.v1.Session/Close", "/trunkline.registry.v1.ToolRegistry/List");
    for role in Role::ALL {
        let member = mutual.member(role)?;
        let at_session = call(&member.dialler(&[Role::Session])?, &mutual.session, to_session).await?;
        // Session nodes pass on to each other what a gateway cannot bring them.
        let may = matches!(role, Role::Gateway | Role::Session);
        assert_eq!(at_session == Code::PermissionDenied, !may, "{role}: {at_session:?}");
        let at_registry = call(&member.dialler(&[Role::Registry])?, &mutual.registry, to_registry).await?;
        assert_eq!(at_registry == Code::PermissionDenied, role != Role::Session, "{role}: {at_registry:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_without_a_certificate_gets_through() -> Result<()> {
    let mutual = Mutual::start().await?;
    let (others, plain) = (Mutual::start().await?, Dialler::default());
    for (dialler, address) in [
        (plain.clone(), &mutual.session),
        (plain, &mutual.registry),
        (others.member(Role::Gateway)?.dialler(&[Role::Session])?, &mutual.session),
        (others.member(Role::Session)?.dialler(&[Role::Registry])?, &mutual.registry),
    ] {
        assert!(call(&dialler, address, "/grpc.health.v1.Health/Check").await.is_err());
    }
    Ok(())
}

/// A method that is added to the contract has to be given to somebody, or to nobody on purpose.
#[test]
fn the_table_has_every_method_of_the_contract_and_no_other() -> Result<()> {
    let contract = include_bytes!("../../proto/descriptors.binpb");
    let contract = prost_types::FileDescriptorSet::decode(contract.as_slice()).context("descriptors")?;
    let mut expected = BTreeSet::new();
    for file in &contract.file {
        for service in &file.service {
            for method in &service.method {
                expected.insert(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    let listed =
        TABLE.iter().flat_map(|(service, methods, _)| methods.iter().map(move |m| format!("/{service}/{m}")));
    let ours: BTreeSet<String> = listed.filter(|method| !method.starts_with("/grpc.")).collect();
    assert_eq!(ours, expected);
    for method in &ours {
        let callers: Vec<Role> = Role::ALL.into_iter().filter(|role| allows(*role, method)).collect();
        // What a gateway cannot bring to the owner, another session node passes on, and asks for it whether the owner is there.
        let passed_on = ["Deliver", "Attach", "Close", "Probe"]
            .map(|name| format!("/trunkline.session.v1.Session/{name}"));
        let wanted = if passed_on.contains(method) { 2 } else { 1 };
        assert_eq!(callers.len(), wanted, "{method}: {callers:?}");
    }
    Ok(())
}
