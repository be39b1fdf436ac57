//! A registry written with the kit, with something for every rule.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt as _;
use mcp::log::Level;
use registry::{
    Ask, Call, Completion, Content, Error, Handle, Host, Input, Json, Message, Output, Prompt, Registry,
    Resource, ResourceContents, ResourceTemplate, Runtime, Tool,
};
use tests::registry_check::{Options, check};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

fn who() -> Ask {
    Ask::new().elicit("who", "Who?", [Input::string("name").required().description("A name")])
}

async fn plain(_: Json, call: Call) -> Result<String, Error> {
    call.progress(1, 2, "half");
    call.progress(2, 2, "whole");
    call.log(Level::Info, "called");
    Ok(format!("run {}", call.invocation()))
}

async fn hold(_: Json, call: Call) -> Result<String, Error> {
    call.progress(1, 1, "holding");
    call.cancelled().await;
    Err(Error::Cancelled)
}

async fn ask(_: Json, call: Call) -> Result<String, Error> {
    call.ask(who()).await?;
    Ok("asked".to_owned())
}

async fn ask_again(_: Json, call: Call) -> Result<Output, Error> {
    match call.round_answers() {
        None => Ok(Output::input_required(who(), "state")),
        Some(_) => Ok(Output::text("asked")),
    }
}

fn add(handle: Handle) -> Tool {
    Tool::new("add").raw_handler(move |_, _| {
        let added = handle.add_resource(Resource::text("kit://added", "added", "new"));
        std::future::ready(added.map(|()| "added").map_err(Error::invalid_params))
    })
}

fn host() -> Host {
    let registry = Registry::new("kit").version("1").page_size(2).subscriptions();
    let handle = registry.handle();
    let template = ResourceTemplate::new("kit://{n}/item", "item", |_, call: Call| async move {
        Ok(Output::contents([ResourceContents::text(call.target(), "text/plain", "x")]))
    });
    let hello = |name: &str| {
        Prompt::new(name)
            .argument("who", "Whom to greet", false)
            .complete("who", |request| Completion::matching(["Ada", "Alan"], &request.value))
            .handler(|_, _| async { Ok(Output::messages([Message::user(Content::text("hello"))])) })
    };
    let resource = |n: u8| Resource::text(&format!("kit://{n}"), &format!("number {n}"), "text");
    registry
        .tool(Tool::new("plain").raw_handler(plain))
        .tool(Tool::new("hold").raw_handler(hold))
        .tool(Tool::new("ask").raw_handler(ask))
        .tool(Tool::new("ask-again").raw_handler(ask_again))
        .tool(add(handle))
        .resource(resource(1))
        .resource(resource(2))
        .resource(resource(3))
        .resource_template(template.complete(|_| Completion::values(["1", "2"])))
        .prompt(hello("hello"))
        .prompt(hello("good-day"))
        .prompt(hello("good-night"))
        .build(Runtime::tokio())
        .unwrap()
}

async fn serve(host: &Host) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = api::registry::services(host.port());
    let connections = TcpListenerStream::new(listener).boxed();
    let mut server = JoinSet::new();
    server.spawn(async move {
        Server::builder().add_routes(routes).serve_with_incoming(connections).await.unwrap();
    });
    (address, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_written_with_the_kit_keeps_every_rule() {
    let host = host();
    let (address, _server) = serve(&host).await;
    let mut options = Options::new(address.to_string());
    options.patience = Duration::from_millis(2_500);
    options.silence = Duration::from_millis(250);
    options.changing = Some("add".to_owned());
    options.drain = Some(Box::new(move || {
        host.begin_drain();
        Ok(())
    }));
    let report = check(options).await;
    assert_eq!((report.failed(), report.skipped()), (vec![], vec![]), "{report}");
}
