//! A second principal who tries the sessions of others, and one that there never was, and compares.

use history::line::{Doing, What};
use http::Method;
use serde_json::Value;
use tokio::time::timeout;

use super::session::Session;
use super::{Load, PATIENCE, World};
use crate::http::{Http, Lost};
use crate::recorder::{Pen, digest};

const WHO: &str = "mallory";
/// The same for all, so that answers can be compared.
const PING: &str = r#"{"jsonrpc":"2.0","id":"try","method":"ping"}"#;
const SAY: &str =
    r#"{"jsonrpc":"2.0","id":"try","result":{"action":"accept","content":{"message":"mallory"}}}"#;

/// Tries until it is asked to stop.
pub(super) async fn work(world: World, load: Load) {
    let (http, pen) = (world.http(WHO), world.pen(WHO));
    let mut draw = world.draw(WHO);
    // One of its own that has ended is one that there is not.
    let nobody = loop {
        if !world.goes_on() {
            return;
        }
        if let Some(own) = Session::begin(&world, WHO, "mallory.1", WHO).await {
            own.end().await;
            break own.id().to_owned();
        }
        world.pause(load.pause).await;
    };
    let mut ways = Vec::new();
    while world.goes_on() {
        let open = world.open();
        let at = usize::try_from(draw.below(open.len() as u64)).unwrap_or(0);
        let way = draw.below(4);
        if !ways.contains(&way) {
            ways.push(way);
        }
        if let Some((name, id)) = open.iter().nth(at) {
            attempt(&world, &http, &pen, (Doing::Stranger, "mallory.1", &nobody), way).await;
            attempt(&world, &http, &pen, (Doing::Hijack, name, id), way).await;
        }
        world.pause(load.pause * 3).await;
    }
}

async fn attempt(world: &World, http: &Http, pen: &Pen, target: (Doing, &str, &str), way: u64) {
    let (f, name, id) = target;
    let op = world.op(WHO);
    let invoke = What::Invoke {
        op: op.clone(),
        principal: WHO.into(),
        f,
        id: Value::Null,
        value: None,
        modern: false,
        deadline_ms: 25_000,
    };
    pen.write(Some(name), invoke);
    let headers = [("mcp-session-id", id), ("mcp-protocol-version", "2025-06-18")];
    let events = [headers[0], headers[1], ("accept", "text/event-stream")];
    let (what, sent) = match way {
        0 => ("ping", timeout(PATIENCE, http.post(&headers, PING)).await),
        1 => ("answer", timeout(PATIENCE, http.post(&headers, SAY)).await),
        2 => ("stream", timeout(PATIENCE, http.send(Method::GET, &events, "")).await),
        _ => ("end", timeout(PATIENCE, http.send(Method::DELETE, &headers, "")).await),
    };
    let what = match sent {
        Ok(Ok(answer)) if answer.status.is_success() => What::Ok { op, nonce: None, list: None },
        Ok(Ok(answer)) => {
            let status = answer.status.as_u16();
            let body = timeout(PATIENCE, answer.text()).await.ok().and_then(Result::ok).unwrap_or_default();
            What::Fail { op, status, body: digest(&format!("{what}: {body}")), trace: None }
        }
        Ok(Err(Lost::NotSent)) => {
            What::Fail { op, status: 503, body: "nobody was reached".into(), trace: None }
        }
        Ok(Err(Lost::Broken)) => What::Info { op, explicit: false, body: String::new(), trace: None },
        Err(_late) => return,
    };
    pen.write(Some(name), what);
}
