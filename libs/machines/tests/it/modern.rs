//! The machines of one modern request: whatever comes in whatever order, there is one ending and then silence.

use machines::effect::{Effect, StopReason};
use machines::{
    CallId, Effects, Exchange, ExchangeSettings, Filter, Input, ListKind, Listen, ListenSettings, StreamId,
};
use mcp::rpc::Id;
use mcp::{Json, Method, meta, scan};
use proptest::prelude::*;

use crate::{alphabet, dialogue, world};

fn inputs() -> Vec<Input> {
    let mut all: Vec<Input> = alphabet::frames()
        .into_iter()
        .map(|frame| Input::Frame { call: Exchange::CALL, number: 0, frame })
        .collect();
    let uri = "file:///a".to_owned();
    all.extend([
        Input::Frame { call: CallId(2), number: 0, frame: machines::CallFrame::Result(Json::empty_object()) },
        Input::Client { stream: StreamId(9), message: dialogue::request("1", "ping", ""), key: None },
        Input::Client {
            stream: StreamId(8),
            message: dialogue::notification("notifications/x", "{}"),
            key: None,
        },
        Input::ReaderAttached(Exchange::STREAM),
        Input::ReaderGone(Exchange::STREAM),
        Input::CatalogChanged(ListKind::Tools),
        Input::CatalogChanged(ListKind::Prompts),
        Input::ResourceUpdated { uri, params: Json::empty_object() },
        Input::CommitRefused(machines::CommitRefusal::Down),
        Input::DeadlineReached,
        Input::Close { stream: StreamId(7) },
        Input::Drain,
    ]);
    all
}

/// Performs effects on the one stream and counts what must not happen twice.
#[derive(Default)]
struct Reader {
    open: bool,
    endings: u32,
    made: u32,
    released: u32,
    stopped: bool,
    messages: Vec<Json>,
}

impl Reader {
    fn perform(&mut self, effects: Effects) {
        assert!(!self.stopped || effects.is_empty(), "something behind the stop: {effects:?}");
        for effect in effects {
            match effect {
                Effect::Answer { stream, body, .. } if stream == Exchange::STREAM => {
                    assert!(!self.open && body.is_some());
                    self.endings += 1;
                }
                Effect::Answer { status, .. } => assert_eq!(status, 400),
                Effect::Open { .. } => {
                    assert!(!self.open && self.endings == 0);
                    self.open = true;
                }
                Effect::Send { event, .. } => {
                    assert!(self.open && self.endings == 0);
                    let message = event.message.unwrap();
                    self.endings += u32::from(scan::member(message.as_str(), "method").is_none());
                    self.messages.push(message);
                }
                Effect::Finish { .. } => assert_eq!(self.endings, 1),
                Effect::Call { .. } => self.made += 1,
                Effect::CancelCall { .. } => assert_eq!(self.released, 0),
                Effect::Release { .. } => self.released += 1,
                Effect::Subscribe { .. } => self.made += 1,
                Effect::Unsubscribe { .. } => self.released += 1,
                Effect::Stop(reason) => {
                    assert_eq!(reason, StopReason::Done);
                    self.stopped = true;
                }
                Effect::WakeAt(_) => {}
                Effect::Commit(_) | Effect::Resume { .. } | Effect::Pause { .. } => panic!("not in this era"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_exchange_has_one_ending(
        method in 0_usize..Method::ALL.len(),
        steps in proptest::collection::vec((any::<u16>(), 0_u64..400), 1..40),
    ) {
        let settings = ExchangeSettings {
            server_info: Json::empty_object(),
            method: Method::ALL[method],
            id: Id::text("x"),
            progress_token: Some(Json::of("t")),
            log_level: Some(mcp::log::Level::Info),
            client_capabilities: Some(Json::trusted(alphabet::CLIENT)),
            open_after_ms: 500,
            call_timeout_ms: 3000,
        };
        let (mut exchange, mut reader, mut now) = (Exchange::new(settings, 0), Reader::default(), 0);
        reader.perform(exchange.start(&Json::empty_object()));
        let inputs = inputs();
        for (choice, later) in steps {
            now += later;
            let input = inputs[usize::from(choice) % inputs.len()].clone();
            let gone = matches!(input, Input::ReaderGone(_));
            reader.perform(exchange.step(now, input));
            prop_assert_eq!(reader.stopped, exchange.is_over());
            prop_assert!(reader.endings <= 1 && reader.released <= 1);
            if reader.stopped {
                prop_assert!(reader.endings == 1 || gone);
                break;
            }
        }
        reader.perform(exchange.step(now + 3000, Input::DeadlineReached));
        prop_assert!(exchange.is_over());
    }

    #[test]
    fn a_listen_acknowledges_first_and_tags_everything(
        steps in proptest::collection::vec((any::<u16>(), 0_u64..400), 1..40),
    ) {
        let filter = Json::trusted(r#"{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["file:///a","b"]}}"#);
        let settings = ListenSettings {
            server_info: Json::empty_object(),
            capabilities: Json::trusted(world::CAPABILITIES),
            id: Id::number(7),
            filter: Filter::read(Some(&filter)).unwrap(),
            max_subscriptions: 9,
            accept_within_ms: 1000,
        };
        let (mut listen, mut reader, mut now) = (Listen::new(settings, 0), Reader::default(), 0);
        reader.perform(listen.start());
        let inputs = inputs();
        for (choice, later) in steps {
            now += later;
            let input = inputs[usize::from(choice) % inputs.len()].clone();
            let accepted = listen.accepted().uris.clone();
            let updated = matches!(input, Input::ResourceUpdated { .. });
            let before = reader.messages.len();
            reader.perform(listen.step(now, input));
            if updated && !accepted.contains("file:///a") {
                prop_assert_eq!(reader.messages.len(), before);
            }
            prop_assert_eq!(reader.stopped, listen.is_over());
        }
        for (at, message) in reader.messages.iter().enumerate() {
            let method = scan::member(message.as_str(), "method").and_then(scan::string);
            let acknowledged = method.as_deref() == Some("notifications/subscriptions/acknowledged");
            prop_assert_eq!(acknowledged, at == 0, "{}", message);
            prop_assert!(method.as_deref() != Some("notifications/prompts/list_changed"));
            let place = if method.is_some() { "params" } else { "result" };
            let tag = scan::path(message.as_str(), &[place, meta::META, meta::SUBSCRIPTION_ID]);
            prop_assert_eq!(tag, Some("7"));
        }
        if reader.stopped {
            prop_assert!(reader.released <= reader.made);
        }
    }
}

#[test]
fn a_filter_of_another_shape_is_refused() {
    let read = |text: &'static str| Filter::read(Some(&Json::trusted(text)));
    for bad in [
        "{}",
        r#"{"notifications":[]}"#,
        r#"{"notifications":{"toolsListChanged":1}}"#,
        r#"{"notifications":{"resourceSubscriptions":"a"}}"#,
        r#"{"notifications":{"resourceSubscriptions":[1]}}"#,
    ] {
        assert_eq!(read(bad).unwrap_err().code, -32602, "{bad}");
    }
    assert_eq!(Filter::read(None).unwrap_err().code, -32602);
    assert_eq!(read(r#"{"notifications":{"other":7}}"#).unwrap(), Filter::default());
}
