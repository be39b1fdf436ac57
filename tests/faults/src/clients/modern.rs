//! A client of the newest revision: every call stands alone, and needs no session and no store.

use history::line::{Doing, What};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::call::{Ended, ending, response, traceparent};
use super::{Load, PATIENCE, World};
use crate::http::{Http, Lost, Next};
use crate::recorder::{Pen, digest};

const REVISION: &str = "2026-07-28";

/// Calls until it is asked to stop.
pub(super) async fn work(world: World, name: String, load: Load) {
    let (http, pen) = (world.http("alice"), world.pen(&name));
    let mut draw = world.draw(&name);
    while world.goes_on() {
        let f = if draw.below(4) == 0 { Doing::Count } else { Doing::Echo };
        let op = world.op(&name);
        pen.write(
            None,
            What::Invoke {
                op: op.clone(),
                principal: "alice".into(),
                f,
                id: json!(op),
                value: None,
                modern: true,
                deadline_ms: 25_000,
            },
        );
        let trace = format!("{:016x}{:016x}", draw.next() | 1, draw.next() | 1);
        let ended = timeout(PATIENCE, call(&http, &pen, &op, f, &trace)).await.unwrap_or(Ended::Silence);
        write(&pen, op, trace, &ended);
        world.pause(load.pause).await;
    }
}

async fn call(http: &Http, pen: &Pen, op: &str, f: Doing, trace: &str) -> Ended {
    let tool = if f == Doing::Count { "count" } else { "echo" };
    let meta = json!({"io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientCapabilities": {}});
    let params = json!({"_meta": meta, "name": tool, "arguments": {"op": op}});
    let body = json!({"jsonrpc": "2.0", "id": op, "method": "tools/call", "params": params});
    let parent = traceparent(trace);
    let headers = [
        ("mcp-protocol-version", REVISION),
        ("mcp-method", "tools/call"),
        ("mcp-name", tool),
        ("traceparent", parent.as_str()),
    ];
    let answer = match http.post(&headers, body.to_string()).await {
        Ok(answer) => answer,
        Err(Lost::NotSent) => return Ended::NotDone { status: 0, body: String::new() },
        Err(Lost::Broken) => return Ended::broken(),
    };
    let status = answer.status.as_u16();
    let text = if answer.is_stream() {
        let mut events = answer.events();
        loop {
            match events.next().await {
                Next::Event(event) if event.data.contains("\"id\"") => break event.data,
                Next::Event(_) => {}
                Next::End | Next::Broken => return Ended::broken(),
            }
        }
    } else {
        match answer.text().await {
            Ok(text) => text,
            Err(_broken) => return Ended::broken(),
        }
    };
    let message: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    if status == 200 {
        pen.write(None, response(&message, Some(op)));
    }
    ending(status, &message, &text)
}

fn write(pen: &Pen, op: String, trace: String, ended: &Ended) {
    let what = match ended {
        Ended::Done(result) => {
            let nonce = result.pointer("/structuredContent/nonce").and_then(Value::as_str);
            What::Ok { op, nonce: nonce.map(str::to_owned), list: None }
        }
        Ended::NotDone { status, body } => {
            let trace = Some(trace).filter(|_| *status != 0);
            What::Fail { op, status: *status, body: digest(body), trace }
        }
        Ended::Unknown { explicit, body } => What::Info {
            op,
            explicit: *explicit,
            body: digest(body),
            trace: Some(trace).filter(|_| *explicit),
        },
        Ended::Silence => return,
    };
    pen.write(None, what);
}
