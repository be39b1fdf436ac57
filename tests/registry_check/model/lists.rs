//! What the model lists.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use api::pb::registry::v1 as pb;
use serde_json::{Value, json};
use tonic::Status;

use super::{Fault, Model};

const PAGE: usize = 2;
pub(super) const KINDS: [pb::Kind; 4] =
    [pb::Kind::Tools, pb::Kind::Resources, pb::Kind::ResourceTemplates, pb::Kind::Prompts];

fn tool(name: &str, required: &[&str]) -> Value {
    json!({"name": name, "inputSchema": {"type": "object", "required": required}})
}

impl Model {
    /// The items of a list.
    pub(super) fn items(&self, kind: pb::Kind) -> Vec<String> {
        let fault = self.fault;
        let mut items = match kind {
            pb::Kind::Unspecified => Vec::new(),
            pb::Kind::Tools => {
                let illegal = fault == Some(Fault::NameIllegal);
                let needy = tool(if illegal { "need s" } else { "needs" }, &["text"]);
                let names = ["plain", "hold", "ask", "ask_again", "add"];
                [needy].into_iter().chain(names.iter().map(|name| tool(name, &[]))).collect()
            }
            pb::Kind::Resources => {
                let added = *self.added.lock().unwrap();
                (0..3 + added).map(|n| json!({"uri": format!("model://{n}"), "name": "n"})).collect()
            }
            pb::Kind::ResourceTemplates => vec![json!({"uriTemplate": "model://{n}", "name": "n"})],
            pb::Kind::Prompts => vec![
                json!({"name": "hello"}),
                json!({"name": "greet", "arguments": [{"name": "who", "required": true}]}),
                json!({"name": "third"}),
            ],
        };
        match (fault, items.last().cloned()) {
            (Some(Fault::ItemTwice), Some(last)) => items.push(last),
            (Some(Fault::ItemIncomplete), Some(mut last)) => {
                last.as_object_mut().unwrap().remove("name");
                items.push(last);
            }
            (_, _) => {}
        }
        items.iter().map(Value::to_string).collect()
    }

    /// The digest of a list.
    pub(super) fn digest(&self, kind: pb::Kind) -> String {
        let mut hasher = DefaultHasher::new();
        self.items(kind).hash(&mut hasher);
        format!("{:x}", hasher.finish())
    }

    pub(super) fn page(&self, kind: pb::Kind, cursor: &str) -> Result<pb::ListResponse, Status> {
        let items = self.items(kind);
        let mut digest = self.digest(kind);
        let (made_for, place) = cursor.split_once('.').unwrap_or(("", cursor));
        let known = cursor.is_empty() || made_for == digest || self.is(Fault::CursorUnbound);
        let place = if cursor.is_empty() { Some(0) } else { place.parse().ok() };
        let place: usize = match place {
            Some(place) if known => place,
            Some(_) | None if self.is(Fault::CursorIgnored) => 0,
            Some(_) | None => return Err(Status::invalid_argument("unknown or outdated cursor")),
        };
        let mut raw: Vec<bytes::Bytes> =
            items.iter().skip(place).take(PAGE).map(|item| item.clone().into()).collect();
        let more = items.len() > place + PAGE;
        let mut next_cursor = if more { format!("{digest}.{}", place + PAGE) } else { String::new() };
        match self.fault {
            Some(Fault::DigestDiffers) => digest.push('x'),
            Some(Fault::PagesDiffer) => digest.push_str(&place.to_string()),
            Some(Fault::PagesEndless) => next_cursor = format!("{digest}.0"),
            Some(Fault::ItemsUnstable) => {
                raw.push(tool(&format!("t{}", self.next()), &["a"]).to_string().into())
            }
            Some(Fault::ItemNotJson) => raw.push("{\"name\": x}".into()),
            Some(_) | None => {}
        }
        let cache_scope = pb::CacheScope::Public.into();
        Ok(pb::ListResponse {
            raw_items: raw,
            next_cursor,
            ttl_ms: 1,
            cache_scope,
            digest,
            ..Default::default()
        })
    }

    pub(super) fn changed(&self, kind: pb::Kind) -> pb::WatchResponse {
        use pb::watch_response::Event;
        let changed = pb::Changed { registry: self.name(), kind: kind.into(), digest: self.digest(kind) };
        pb::WatchResponse { event: Some(Event::Changed(changed)) }
    }
}
