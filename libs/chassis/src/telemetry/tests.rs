use std::collections::BTreeSet;
use std::time::Instant;

use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

use super::*;
use crate::grpc::server;
use crate::metrics::Metrics;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const ROLES: [&str; 3] = ["gateway", "session", "tool-registry"];
/// That it is known whether the parent is remote, and that it is.
const REMOTE: u32 = 0x300;

/// What a collector reads, as (service, span).
fn read(request: ExportTraceServiceRequest) -> Vec<(String, Span)> {
    let of_service = |of_service: opentelemetry_proto::tonic::trace::v1::ResourceSpans| {
        let resource = of_service.resource.unwrap();
        let service = text(&resource.attributes, "service.name").unwrap();
        let spans = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.map(move |span| (service.clone(), span)).collect::<Vec<_>>()
    };
    request.resource_spans.into_iter().flat_map(of_service).collect()
}

fn text(attributes: &[opentelemetry_proto::tonic::common::v1::KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    let Value::StringValue(text) = found.value.clone()?.value? else { panic!("{key} is no text") };
    Some(text)
}

fn recorded_with(config: &Config, act: impl FnOnce()) -> Vec<(String, Span)> {
    let sink = Sink::new(&ROLES, "test", Fates::new(&Metrics::default()));
    let subscriber = with_spans(tracing_subscriber::registry(), sink.clone(), config);
    tracing::subscriber::with_default(subscriber, act);
    let requests = sink.requests().into_iter();
    let mut spans: Vec<_> = requests
        .flat_map(|request| read(ExportTraceServiceRequest::decode(request.as_slice()).unwrap()))
        .collect();
    spans.sort_by_key(|(_, span)| span.start_time_unix_nano);
    spans
}

fn recorded(act: impl FnOnce()) -> Vec<(String, Span)> {
    recorded_with(&Config::default(), act)
}

fn edge(origin: Origin) -> Scope {
    Scope::of_origin("gateway", Side::Server, || origin, || "tools/call echo".into())
}

fn from(parent: &str) -> Origin {
    Origin { parent: Trace::read(parent, ""), link: None }
}

#[test]
fn roles_of_one_process_are_services_of_their_own_in_one_trace() {
    let spans = recorded(|| {
        let edge = edge(Origin::default());
        let hop = edge.child("session", Side::Internal, || "trunkline.session tools/call".into());
        let call = hop.child("session", Side::Client, || "tools/call echo".into());
        let _calling = call.enter();
        // As the registry kit opens it, which only knows `tracing`.
        tracing::info_span!("hop", trunkline.role = "tool-registry", otel.kind = "server", otel.name = "run")
            .in_scope(|| ());
    });
    let seen: Vec<_> =
        spans.iter().map(|(service, span)| (service.as_str(), span.name.as_str(), span.kind())).collect();
    assert_eq!(
        seen,
        [
            ("trunkline-gateway", "tools/call echo", SpanKind::Server),
            ("trunkline-session", "trunkline.session tools/call", SpanKind::Internal),
            ("trunkline-session", "tools/call echo", SpanKind::Client),
            ("trunkline-tool-registry", "run", SpanKind::Server),
        ]
    );
    for pair in spans.windows(2) {
        assert_eq!(pair[1].1.parent_span_id, pair[0].1.span_id);
        assert_eq!(pair[1].1.trace_id, pair[0].1.trace_id);
        assert!(pair[1].1.end_time_unix_nano >= pair[1].1.start_time_unix_nano);
        assert_eq!(pair[1].1.flags & REMOTE, 0x100, "all in one process");
    }
    assert!(spans[0].1.parent_span_id.is_empty());
    let role = text(&spans[3].1.attributes, ROLE);
    assert_eq!(role.as_deref(), Some("tool-registry"));
}

#[test]
fn a_hop_that_happens_again_is_linked_to_the_first() {
    let spans = recorded(|| {
        let edge = edge(Origin::default());
        let hop = |name: &'static str, key: &str, is_first| {
            drop(edge.child_of_key("session", Side::Internal, (key, is_first), || name.into()));
        };
        hop("first", "a-1", true);
        hop("other", "a-2", true);
        hop("again", "a-1", false);
        hop("more", "a-1", false);
    });
    let of = |name: &str| &spans.iter().find(|(_, span)| span.name == name).unwrap().1;
    let (first, again, more) = (of("first"), of("again"), of("more"));
    let ids: BTreeSet<_> = spans.iter().map(|(_, span)| &span.span_id).collect();
    assert_eq!(ids.len(), 5);
    assert!(first.links.is_empty() && of("other").links.is_empty());
    for later in [again, more] {
        let [link] = later.links.as_slice() else { panic!("{later:?}") };
        assert_eq!((&link.trace_id, &link.span_id), (&first.trace_id, &first.span_id));
        assert_eq!((&later.trace_id, &later.parent_span_id), (&first.trace_id, &first.parent_span_id));
    }
}

#[test]
fn a_trace_goes_on_across_processes() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let spans = recorded(|| {
        let handler = service_fn(|request: http::Request<()>| async move {
            drop(Scope::current().child("session", Side::Internal, || "deliver".into()));
            Ok::<_, std::convert::Infallible>(request.headers().clone())
        });
        let mut wire = propagate::Inject::new(propagate::Extract::here().layer(handler));
        let call = async {
            // What is current here is not current in another process.
            wire.ready().await.unwrap().call(http::Request::new(())).await.unwrap()
        };
        let headers: HeaderMap = runtime.block_on(edge(Origin::default()).within(call));
        assert!(headers.contains_key("traceparent"));
        assert!(!headers.contains_key("tracestate"));
        assert!(Scope::current().trace().is_none(), "nothing is left behind");
    });
    assert_eq!(spans.len(), 2);
    assert_eq!(spans[1].1.parent_span_id, spans[0].1.span_id);
    assert_eq!(spans[1].1.flags & REMOTE, REMOTE, "the parent came by the header");
}

#[test]
fn the_parent_is_the_callers_and_the_other_context_a_link() {
    let link = Trace::read("00-11111111111111111111111111111111-2222222222222222-01", "b=2");
    let spans = recorded(|| drop(edge(Origin { parent: Trace::read(PARENT, "a=1"), link })));
    let span = &spans[0].1;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
    assert_eq!((span.flags, span.trace_state.as_str()), (REMOTE | 1, "a=1"));
    let links: Vec<_> =
        span.links.iter().map(|link| (hex(&link.span_id), link.trace_state.as_str(), link.flags)).collect();
    assert_eq!(links, [("2222222222222222".to_owned(), "b=2", REMOTE | 1)]);
    assert_eq!(hex(&span.links[0].trace_id), "1".repeat(32));
}

#[test]
fn a_flag_from_outside_lowers_the_rate_and_never_raises_it() {
    let unsampled = PARENT.replace("-01", "-00");
    let count = |sample, parent: &str| {
        let config = Config { sample, ..Config::default() };
        recorded_with(&config, || (0..2000).for_each(|_| drop(edge(from(parent))))).len()
    };
    assert_eq!(count(0.0, PARENT), 0);
    assert_eq!(count(1.0, PARENT), 2000);
    assert_eq!(count(1.0, &unsampled), 0);
    // The same trace id each time: the draw is ours. Six standard deviations around 200.
    let some = count(0.1, PARENT);
    assert!((120..=280).contains(&some), "{some}");
}

#[test]
fn what_is_not_recorded_still_has_a_trace() {
    let parent = PARENT.replace("-01", "-00");
    let spans = recorded(|| {
        let scope = edge(from(&parent));
        assert!(!scope.is_recorded());
        scope.describe(|_| panic!("attributes are not made for nothing"));
        let hop = scope.child("session", Side::Internal, || panic!("nor names"));
        let mut headers = HeaderMap::new();
        propagate::inject(&hop, &mut headers);
        assert_eq!(headers["traceparent"], parent.as_str());
    });
    assert!(spans.is_empty());
    assert_eq!(edge(Origin::default()).trace().unwrap().id().len(), 32, "also where nothing is set up");
}

#[test]
fn a_failed_hop_says_what_kind_of_failure_it_was() {
    let spans = recorded(|| {
        let scope = edge(Origin::default());
        scope.rename(|| "tools/call other".into());
        scope.fail("timeout", "no answer in 1 s");
    });
    let span = &spans[0].1;
    assert_eq!(span.name, "tools/call other");
    let status = span.status.as_ref().unwrap();
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "no answer in 1 s"));
    assert_eq!(text(&span.attributes, "error.type").as_deref(), Some("timeout"));
}

#[test]
fn what_comes_after_the_end_is_not_told() {
    let spans = recorded(|| {
        let scope = edge(Origin::default());
        scope.describe(|to| _ = to.set("before", "yes").set("count", 3).set("share", 0.5).set("is", true));
        scope.end();
        scope.describe(|to| _ = to.set("after", "no"));
        scope.fail("late", "too late");
    });
    let [(_, span)] = spans.as_slice() else { panic!("{spans:?}") };
    let keys: Vec<_> = span.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    assert_eq!(keys, [ROLE, "before", "count", "share", "is"]);
    assert!(span.status.is_none());
}

#[test]
fn spans_of_libraries_are_told_with_all_their_fields() {
    use tracing::field::Empty;
    let spans = recorded(|| {
        let _inside = edge(Origin::default()).enter();
        let outer = tracing::info_span!(
            "outer",
            otel.name = tracing::field::display(format_args!("run {}", 1)),
            otel.status_code = Empty,
            otel.status_description = Empty,
            number = 7,
            large = u64::MAX,
            half = 0.5,
            is_so = true,
            late = Empty,
        );
        outer.record("late", tracing::field::debug(Some(1)));
        outer.in_scope(|| tracing::info_span!("inner").in_scope(|| ()));
        outer.record("otel.status_code", "ERROR").record("otel.status_description", "it broke");
        tracing::info_span!("next").follows_from(&outer);
        tracing::debug_span!("too deep").in_scope(|| ());
    });
    let [edge, outer, inner, next] = ["tools/call echo", "run 1", "inner", "next"]
        .map(|name| &spans.iter().find(|(_, span)| span.name == name).unwrap().1);
    assert_eq!(spans.len(), 4);
    assert_eq!([&outer.parent_span_id, &inner.parent_span_id], [&edge.span_id, &outer.span_id]);
    let fields: Vec<_> = outer
        .attributes
        .iter()
        .map(|attribute| (attribute.key.as_str(), attribute.value.clone().unwrap().value.unwrap()))
        .collect();
    assert_eq!(
        fields,
        [
            ("number", Value::IntValue(7)),
            ("large", Value::StringValue(u64::MAX.to_string())),
            ("half", Value::DoubleValue(0.5)),
            ("is_so", Value::BoolValue(true)),
            ("late", Value::StringValue("Some(1)".into())),
        ]
    );
    let status = outer.status.as_ref().unwrap();
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "it broke"));
    assert_eq!(next.links[0].span_id, outer.span_id);
}

#[test]
fn a_scope_is_current_while_it_is_polled_and_no_longer() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let role = || Scope::current().role();
        let inner = async {
            assert_eq!(role(), "session");
            tokio::task::yield_now().await;
            adopt(Scope::of_role("other"));
            tokio::task::yield_now().await;
            role()
        };
        let mut inner = Box::pin(Scope::of_role("session").within(inner));
        while futures::poll!(&mut inner).is_pending() {
            assert_eq!(role(), "");
        }
        let panics = Scope::of_role("session").within(async { panic!("on purpose") });
        let caught = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(panics)).await;
        assert!(caught.is_err() && role().is_empty(), "also after a panic");
    });
}

/// An OTLP collector that passes on the names of (service, span).
struct Collector(tokio::sync::mpsc::Sender<(String, String)>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        for (service, span) in read(request.into_inner()) {
            self.0.send((service, span.name)).await.unwrap();
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn spans_reach_a_collector_before_the_process_ends() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (send, mut receive) = tokio::sync::mpsc::channel(8);
    let (trigger, shutdown) = crate::drain::pair();
    let listener = runtime.block_on(crate::serve::bind("test", "127.0.0.1:0")).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let routes = tonic::service::Routes::new(TraceServiceServer::new(Collector(send)));
    let incoming = crate::serve::Incoming::Tcp(listener);
    let entered = runtime.enter();
    let collector =
        crate::task::spawn(crate::task::Kind::Role, "collector", server::serve(routes, incoming, shutdown));
    drop(entered);

    let config = Config { endpoint, ..Config::default() };
    let process = Process::new("n1");
    let fates = Fates::new(&process.metrics);
    let (exporter, sink) = exporter(&["gateway", "session"], &config, fates).unwrap().unwrap();
    let subscriber = with_spans(tracing_subscriber::registry(), sink, &config);
    tracing::subscriber::with_default(subscriber, || {
        drop(edge(Origin::default()).child("session", Side::Internal, || "deliver".into()));
    });
    drop(Guard { exporter: Some(exporter), levels: None });

    let mut seen = [receive.try_recv().unwrap(), receive.try_recv().unwrap()];
    seen.sort();
    let pair = |service: &str, span: &str| (service.to_owned(), span.to_owned());
    assert_eq!(seen, [pair("trunkline-gateway", "tools/call echo"), pair("trunkline-session", "deliver")]);
    let metrics = process.metrics.text();
    assert!(metrics.contains("trunkline_telemetry_spans_total{fate=\"sent\"} 2\n"), "{metrics}");
    trigger.expire();
    runtime.block_on(collector).unwrap().unwrap();
}

#[test]
fn a_collector_that_does_not_answer_costs_spans_and_nothing_else() {
    // It takes connections and says nothing.
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config { endpoint: format!("http://{}", hole.local_addr().unwrap()), ..Config::default() };
    let process = Process::new("n1");
    let fates = Fates::new(&process.metrics);
    let (exporter, sink) = exporter(&["gateway"], &config, fates).unwrap().unwrap();
    let subscriber = with_spans(tracing_subscriber::registry(), sink, &config);
    let begun = Instant::now();
    tracing::subscriber::with_default(subscriber, || {
        (0..3 * export::QUEUE).for_each(|_| drop(edge(Origin::default())));
    });
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for a collector");
    let text = process.metrics.text();
    let count = |fate: &str| -> usize {
        let prefix = format!("trunkline_telemetry_spans_total{{fate=\"{fate}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().parse().unwrap()
    };
    assert_eq!(count("sent"), 0);
    assert_eq!(count("dropped") + count("failed"), 2 * export::QUEUE, "{text}");
    drop(Guard { exporter: Some(exporter), levels: None });
    assert!(begun.elapsed() < Duration::from_secs(20), "the end does not wait for it either");
}

#[test]
fn spans_of_libraries_are_made_where_something_is_recorded() {
    for sample in [0.0, 1.0] {
        let seen = recorded_with(&Config { sample, ..Config::default() }, || {
            assert!(tracing::info_span!("nobody asked").is_disabled());
            let _inside = edge(Origin::default()).enter();
            assert_eq!(tracing::info_span!("of a library").is_disabled(), sample == 0.0);
            assert!(tracing::debug_span!("of no interest").is_disabled());
            assert!(tracing::info_span!(target: "h2::proto", "too deep").is_disabled());
        });
        assert_eq!(seen.len(), if sample == 0.0 { 0 } else { 2 });
    }
}

/// Else each line of the deepest library is looked at, for every request.
#[test]
fn recording_spans_asks_for_their_level_and_no_deeper_one() {
    let hints = ["error", "info", "info,session=debug"].map(|log| {
        let logging = || {
            let (filter, _levels) = reload::Layer::new(filter(log).unwrap());
            logging(tracing_subscriber::fmt::layer(), filter, Metrics::default())
        };
        let sink = Sink::new(&ROLES, "test", Fates::new(&Metrics::default()));
        let recording = with_spans(logging(), sink, &Config::default());
        (logging().max_level_hint(), recording.max_level_hint())
    });
    let level = |level: LevelFilter| Some(level);
    let expected = [
        (level(LevelFilter::ERROR), level(LevelFilter::INFO)),
        (level(LevelFilter::INFO), level(LevelFilter::INFO)),
        (level(LevelFilter::DEBUG), level(LevelFilter::DEBUG)),
    ];
    assert_eq!(hints, expected);
}

#[test]
fn wrong_settings_are_named() {
    let wrong = |config: Config| check(&config).unwrap_err().to_string();
    assert!(wrong(Config { log: "loud".into(), ..Config::default() }).starts_with("telemetry.log: "));
    for endpoint in ["127.0.0.1:4317", "https://127.0.0.1:4317", "http://a b"] {
        let config = Config { endpoint: endpoint.into(), ..Config::default() };
        let error = init(&["gateway"], &config, &Process::new("n1")).unwrap_err().to_string();
        assert!(error.starts_with("telemetry.endpoint: "), "{error}");
    }
    assert!(wrong(Config { sample: 2.0, ..Config::default() }).starts_with("telemetry.sample: 2"));
}
