use std::sync::{Arc, Mutex};

use http::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as Exporter};
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};
use tracing::Instrument as _;

use super::*;
use crate::grpc::server;

/// Keeps what is exported as (service, span).
#[derive(Debug, Clone, Default)]
struct Kept {
    service: String,
    spans: Arc<Mutex<Vec<(String, SpanData)>>>,
}

impl Exporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.spans.lock().unwrap().extend(batch.into_iter().map(|span| (self.service.clone(), span)));
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.service = resource.get(&"service.name".into()).unwrap().to_string();
    }
}

fn recorded(roles: &[&'static str], act: impl FnOnce()) -> Vec<(String, SpanData)> {
    let kept = Kept::default();
    let exporters = roles.iter().map(|role| (*role, kept.clone())).collect();
    let provider =
        SdkTracerProvider::builder().with_simple_exporter(ByRole::new(exporters, roles[0], "test")).build();
    let subscriber = tracing_subscriber::registry().with(span_layer(&provider));
    tracing::subscriber::with_default(subscriber, act);
    provider.shutdown().unwrap();
    let mut spans = kept.spans.lock().unwrap().clone();
    spans.sort_by_key(|(_, span)| span.start_time);
    spans
}

#[test]
fn roles_of_one_process_are_services_of_their_own_in_one_trace() {
    let spans = recorded(&["gateway", "session"], || {
        hop("gateway", Side::Server, "tools/call echo").in_scope(|| {
            tracing::info_span!("nameless")
                .in_scope(|| hop("session", Side::Internal, "deliver").in_scope(|| ()));
        });
    });
    let seen: Vec<_> = spans.iter().map(|(service, span)| (service.as_str(), span.name.as_ref())).collect();
    assert_eq!(
        seen,
        [
            ("trunkline-gateway", "tools/call echo"),
            ("trunkline-gateway", "nameless"),
            ("trunkline-session", "deliver")
        ]
    );
    for pair in spans.windows(2) {
        assert_eq!(pair[1].1.parent_span_id, pair[0].1.span_context.span_id());
        assert_eq!(pair[1].1.span_context.trace_id(), pair[0].1.span_context.trace_id());
    }
}

#[test]
fn a_trace_goes_on_across_processes() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let spans = recorded(&["gateway", "session"], || {
        let handler = service_fn(|request: http::Request<()>| async move {
            async {}.instrument(hop("session", Side::Internal, "deliver")).await;
            Ok::<_, std::convert::Infallible>(request.headers().clone())
        });
        let mut wire = propagate::Inject::new(propagate::Extract.layer(handler));
        let headers: HeaderMap = runtime.block_on(
            async {
                // A new task has no current span, as a new process has none.
                wire.ready().await.unwrap().call(http::Request::new(())).await.unwrap()
            }
            .instrument(hop("gateway", Side::Server, "tools/call echo")),
        );
        assert!(headers.contains_key("traceparent"));
        assert!(!headers.contains_key("tracestate"));
    });
    assert_eq!(spans.len(), 2);
    assert_eq!(spans[1].1.parent_span_id, spans[0].1.span_context.span_id());
    assert!(spans[1].1.parent_span_is_remote, "the parent came by the header");
}

#[test]
fn a_hop_can_be_named_once_it_is_known_what_it_is() {
    let spans = recorded(&["gateway"], || {
        hop("gateway", Side::Server, "POST").in_scope(|| rename(&Span::current(), "tools/call"));
    });
    assert_eq!(spans[0].1.name, "tools/call");
}

#[test]
fn a_failed_hop_says_what_kind_of_failure_it_was() {
    let spans = recorded(&["session"], || {
        failed(&hop("session", Side::Internal, "deliver"), "timeout", "no answer in 1 s")
    });
    let (_, span) = &spans[0];
    assert_eq!(span.status, opentelemetry::trace::Status::error("no answer in 1 s"));
    assert!(span.attributes.contains(&opentelemetry::KeyValue::new("error.type", "timeout")));
}

/// An OTLP collector that passes on the names of (service, span).
struct Collector(tokio::sync::mpsc::Sender<(String, String)>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        for of_service in request.into_inner().resource_spans {
            let attributes = of_service.resource.unwrap().attributes;
            let service = attributes.into_iter().find(|attribute| attribute.key == "service.name").unwrap();
            let Some(Value::StringValue(service)) = service.value.unwrap().value else { panic!("no name") };
            for span in of_service.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.0.send((service.clone(), span.name)).await.unwrap();
            }
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
    let (provider, exporter) = provider(&["gateway", "session"], &config).unwrap();
    let subscriber = tracing_subscriber::registry().with(span_layer(&provider));
    tracing::subscriber::with_default(subscriber, || {
        hop("gateway", Side::Server, "tools/call")
            .in_scope(|| drop(hop("session", Side::Internal, "deliver")));
    });
    drop(Guard { provider, runtime: exporter });

    let mut seen = [receive.try_recv().unwrap(), receive.try_recv().unwrap()];
    seen.sort();
    let pair = |service: &str, span: &str| (service.to_owned(), span.to_owned());
    assert_eq!(seen, [pair("trunkline-gateway", "tools/call"), pair("trunkline-session", "deliver")]);
    trigger.expire();
    runtime.block_on(collector).unwrap().unwrap();
}

#[test]
fn spans_have_a_trace_id_even_when_nothing_is_recorded() {
    let (provider, runtime) = provider(&["gateway"], &Config::default()).unwrap();
    assert!(runtime.is_none());
    let subscriber = tracing_subscriber::registry().with(span_layer(&provider));
    tracing::subscriber::with_default(subscriber, || {
        assert_eq!(trace_id(&hop("gateway", Side::Server, "ping")).map(|id| id.len()), Some(32));
    });
}

#[test]
fn wrong_settings_are_named() {
    let wrong = |config: Config| check(&config).unwrap_err().to_string();
    assert!(wrong(Config { log: "loud".into(), ..Config::default() }).starts_with("telemetry.log: "));
    assert!(wrong(Config { sample: 2.0, ..Config::default() }).starts_with("telemetry.sample: 2"));
}
