//! A call whose session changes its owner is one trace, with the spans of both owners. With a real etcd, a real Redis and real
//! session nodes; the registry is this test's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chassis::serve::{self, Incoming};
use chassis::task::{self, Handle, Kind};
use chassis::{drain, grpc};
use registry::{Call, Error, Json, Output, Registry, Runtime as Kit, Tool};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::collector::{Collector, Seen};
use crate::kept::begin;
use crate::lifecycle::{host, post};
use crate::moved::Etcd;
use crate::process::Running;
use crate::slots::soon;

const PATIENCE: Duration = Duration::from_secs(60);
const HOP: &str = "trunkline.session tools/call";
const CLIENT: i32 = 3;
/// Tools, and `error.type` of what they answer.
const TOOLS: [(&str, &str); 2] = [("good", ""), ("bad", "tool_error")];
/// The owner that is killed, and the next one.
const OWNERS: [&str; 2] = ["session-1", "session-2"];
const HELLO: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;

/// One server; killed when dropped.
struct Redis {
    child: Child,
    setting: String,
    _data: TempDir,
}

impl Redis {
    fn start() -> Self {
        let data = TempDir::new().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(data.path())
            .args(["--maxmemory-policy", "noeviction"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("redis-server does not start ({error}): scripts/stores installs it")
            });
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "redis-server does not listen");
        }
        Self { child, setting: format!("store.redis=[\"redis://127.0.0.1:{port}\"]"), _data: data }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Usually it runs still.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// A registry whose tools say that they have begun, and end when they are told to.
struct Waiting {
    setting: String,
    end: watch::Sender<bool>,
    _server: Handle<Result<(), grpc::server::ServeError>>,
    _runtime: Runtime,
}

impl Waiting {
    fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(serve::bind("test", "127.0.0.1:0")).unwrap();
        let setting = format!("session.registries=[{{address=\"{}\"}}]", listener.local_addr().unwrap());
        let end = watch::Sender::new(false);
        let tool = |name: &str| {
            let end = end.clone();
            Tool::new(name).raw_handler(move |_: Json, call: Call| wait(end.subscribe(), call))
        };
        let entered = runtime.enter();
        let kit = Registry::new("waiting").version("1.0.0").tool(tool("good")).tool(tool("bad"));
        let kit = kit.build(Kit::tokio()).unwrap();
        let routes = api::registry::services(kit.port());
        let server = task::spawn(
            Kind::Role,
            "waiting",
            grpc::server::serve(routes, Incoming::Tcp(listener), drain::Shutdown::never()),
        );
        drop(entered);
        Self { setting, end, _server: server, _runtime: runtime }
    }
}

async fn wait(mut end: watch::Receiver<bool>, call: Call) -> Result<Output, Error> {
    call.progress_so_far(1, "begun");
    // Its sender lives as long as the test.
    let _told = end.wait_for(|end| *end).await.is_ok();
    Ok(if call.target() == "bad" { Output::error("no") } else { Output::text("yes") })
}

fn trace_of(number: usize) -> String {
    format!("{:032x}", 0xc055_0000 + number)
}

/// Calls a tool; returns the lines of the answer once it has begun.
fn begun(url: &str, session: &str, (number, tool): (usize, &str)) -> BufReader<TcpStream> {
    let host = host(url);
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let parent = format!("00-{}-00000000000000aa-01", trace_of(number));
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":"c{number}","method":"tools/call","params":{{"name":"{tool}","arguments":{{}},"_meta":{{"progressToken":"p","traceparent":"{parent}"}}}}}}"#
    );
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-session-id: {session}\r\nmcp-protocol-version: 2025-11-25\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let mut answer = BufReader::new(stream);
    until(&mut answer, "begun");
    answer
}

/// Reads on to a line with this word.
fn until(answer: &mut BufReader<TcpStream>, word: &str) {
    let mut text = String::new();
    while !text.contains(word) {
        let length = text.len();
        assert!(answer.read_line(&mut text).unwrap() > 0, "no {word} in {text}");
        assert!(text.len() > length);
    }
}

/// A session in a slot that the first node owns, and keeps.
fn session_of_the_first(etcd: &Etcd, url: &str) -> String {
    soon("a session", || post(host(url), "", HELLO).starts_with("HTTP/1.1 200 ").then_some(()));
    let session = begin(url);
    soon("a move", || (etcd.moving(&[&session, "--to", OWNERS[0]]).0 == Some(0)).then_some(()));
    let done = format!("and is owned by {}", OWNERS[0]);
    soon("the end of the move", || {
        etcd.moving(&[]).1.lines().all(|line| line.ends_with(&done)).then_some(())
    });
    session
}

fn spans_of<'a>(trace: &'a [Seen], name: &str, kind: Option<i32>) -> Vec<&'a Seen> {
    let is_it = |span: &&Seen| {
        span.service == "trunkline-session" && span.name == name && kind.is_none_or(|kind| span.kind == kind)
    };
    trace.iter().filter(is_it).collect()
}

#[test]
fn a_call_that_outlives_its_owner_has_the_spans_of_both_in_one_trace() {
    let (collector, etcd, redis, waiting) =
        (Collector::start(), Etcd::start(), Redis::start(), Waiting::start());
    let shared = [collector.setting.as_str(), &redis.setting, &waiting.setting];
    let role = |role: &str, own: &[&str]| {
        let mut process = Running::start(&mut etcd.role(role, &[own, &shared].concat()));
        let place = process.until_listening(role);
        (process, place)
    };
    let [killed, mut next] = OWNERS.map(|name| role("session", &[&format!("session.node={name}")]).0);
    let (mut gateway, url) = role("gateway", &[]);
    // One for each, since who asks again wakes a session, and its other calls do not wait for whoever asks for them.
    let sessions = TOOLS.map(|_| session_of_the_first(&etcd, &url));
    let mut answers: Vec<_> = (TOOLS.iter().enumerate())
        .map(|(number, (tool, _))| begun(&url, &sessions[number], (number, tool)))
        .collect();
    // The owner has sent by then what it will have sent.
    let first: Vec<Seen> = (0..TOOLS.len())
        .map(|number| collector.until(|span| span.trace == trace_of(number) && span.name == HOP))
        .collect();
    drop(killed);
    waiting.end.send_replace(true);
    for answer in &mut answers {
        until(answer, "result");
    }
    for process in [&mut gateway, &mut next] {
        process.signal("TERM");
        assert_eq!(process.ended().code(), Some(0));
    }
    for (number, (tool, error)) in TOOLS.iter().enumerate() {
        let trace = collector.trace(&trace_of(number));
        let hops = spans_of(&trace, HOP, None);
        let again = hops.iter().find(|hop| hop.id != first[number].id).unwrap();
        assert_eq!((hops.len(), &again.links), (2, &vec![first[number].id.clone()]), "{trace:#?}");
        let owners = [&first[number], again].map(|hop| hop.attribute("trunkline.owner"));
        assert_eq!(owners, OWNERS, "{trace:#?}");
        let name = format!("tools/call {tool}");
        let [reattached] = spans_of(&trace, &name, Some(CLIENT))[..] else {
            panic!("not one span towards the registry: {trace:#?}")
        };
        assert_eq!(reattached.parent, again.id, "below the hop of the owner that goes on with it");
        assert_eq!(reattached.links, [first[number].id.clone()], "and linked to the one that took it on");
        for (attribute, value) in [
            ("mcp.method.name", "tools/call"),
            ("gen_ai.tool.name", tool),
            ("gen_ai.operation.name", "execute_tool"),
            ("trunkline.registry", "waiting"),
            ("error.type", error),
        ] {
            assert_eq!(reattached.attribute(attribute), value, "{attribute} of {reattached:#?}");
        }
        assert_eq!(reattached.failed, !error.is_empty(), "{reattached:#?}");
    }
}
