//! Bounds, ends and live changes that cannot be seen through the port alone.

use std::sync::Mutex;
use std::time::Duration;

use api::registry::{Frame, FrameBody};
use api::{Epoch, Principal, Slot};
use futures::StreamExt as _;
use mcp::Revision;
use tokio::sync::watch;

use super::*;
use crate::contract::ManualClock;
use crate::runtime::Clock as _;
use crate::{Ask, Output, Prompt, PromptSource, Resource, ResourceContents, ResourceSource, Tasks, Tool};

struct Bench {
    host: Host,
    clock: Arc<ManualClock>,
}

fn bench(registry: Registry, limits: Limits) -> Bench {
    let clock = Arc::new(ManualClock::default());
    let runtime =
        Runtime { spawner: Arc::new(Tasks::default()), clock: clock.clone(), instance: "i".to_owned() };
    Bench { host: Host::of([registry], runtime, limits).unwrap(), clock }
}

fn context(invocation: &str) -> Context {
    Context {
        mesh: "m".into(),
        registry: "r".into(),
        invocation: invocation.into(),
        owner: Some((Slot::new(1).unwrap(), Epoch(1))),
        principal: Principal::default(),
        affinity: String::new(),
        revision: Revision::LATEST,
        client_capabilities: Some(Json::trusted(r#"{"elicitation":{}}"#)),
        log_level: None,
        progress: true,
        catalogue_digest: String::new(),
        deadline: None,
    }
}

impl Bench {
    async fn start(&self, invocation: &str, tool: &str) -> Result<Frames, Error> {
        let params = Json::empty_object();
        let start = Start { operation: Operation::Call, target: tool.into(), params, continuation: None };
        self.host.inner.start(context(invocation), start).await
    }

    async fn call(&self, invocation: &str, tool: &str) -> Vec<Frame> {
        self.start(invocation, tool).await.unwrap().map(|frame| frame.unwrap()).collect().await
    }

    async fn read(&self, uri: &str) -> String {
        let params = Json::empty_object();
        let start = Start { operation: Operation::Read, target: uri.into(), params, continuation: None };
        let mut frames = self.host.inner.start(context(uri), start).await.unwrap();
        let mut last = String::new();
        while let Some(frame) = frames.next().await {
            last = format!("{:?}", frame.unwrap().body);
        }
        last
    }

    async fn list(&self, kind: Kind) -> Vec<String> {
        let page = self.host.inner.list(context("list"), kind, None).await.unwrap();
        page.items.iter().map(Json::to_string).collect()
    }
}

fn endless() -> Tool {
    Tool::new("endless").raw_handler(|_, _| async {
        std::future::pending::<()>().await;
        Ok("never")
    })
}

fn text(frames: &[Frame]) -> String {
    format!("{:?}", frames.last().unwrap().body)
}

#[tokio::test]
async fn running_calls_are_bounded() {
    let bench = bench(Registry::new("r").tool(endless()), Limits { running: 2, ..Limits::default() });
    let _one = bench.start("1", "endless").await.unwrap();
    let _two = bench.start("2", "endless").await.unwrap();
    assert_eq!(bench.start("3", "endless").await.err().unwrap().code, Code::Overloaded);
    assert!(bench.start("2", "endless").await.is_ok(), "a known one is not a new one");
    bench.host.inner.cancel(context("1"), String::new()).await.unwrap();
    while bench.host.inner.table.kept().1 == 0 {
        tokio::task::yield_now().await;
    }
    assert!(bench.start("4", "endless").await.is_ok());
}

#[tokio::test]
async fn waiting_calls_are_bounded() {
    let ask = Tool::new("ask").raw_handler(|_, call| async move {
        call.ask(Ask::new().elicit("a", "?", [])).await?;
        Ok("answered")
    });
    let bench = bench(Registry::new("r").tool(ask), Limits { parked: 1, ..Limits::default() });
    assert!(text(&bench.call("1", "ask").await).starts_with("InputRequired"));
    assert!(text(&bench.call("2", "ask").await).contains("too many"));
    drop(bench.host.inner.resume(context("1"), 1, vec![]).await.unwrap());
    bench.host.inner.cancel(context("1"), String::new()).await.unwrap();
    bench.host.inner.attach(context("1"), 3).await.unwrap().collect::<Vec<_>>().await;
    assert!(text(&bench.call("3", "ask").await).starts_with("InputRequired"), "the place is free again");
}

#[tokio::test]
async fn chatter_is_bounded_but_the_ending_is_said() {
    let chatty = Tool::new("chatty").raw_handler(|_, call| async move {
        for n in 0..1_000 {
            call.progress_so_far(n, &"x".repeat(100));
        }
        Ok("done")
    });
    let limits = Limits { notes_bytes: 10_000, ..Limits::default() };
    let frames = bench(Registry::new("r").tool(chatty), limits).call("1", "chatty").await;
    assert!((20..60).contains(&frames.len()), "{}", frames.len());
    assert!(text(&frames).contains("done"));
    assert!(frames.iter().zip(1..).all(|(frame, number)| frame.number == number), "no gaps");
}

#[tokio::test]
async fn a_handler_that_listens_may_end_by_itself() {
    let polite = Tool::new("polite").raw_handler(|_, call| async move {
        call.progress_so_far(1, "");
        call.cancelled().await;
        tokio::task::yield_now().await;
        assert!(call.is_cancelled());
        Ok("half done")
    });
    let stubborn = Tool::new("stubborn").raw_handler(|_, call| async move {
        call.cancelled().await;
        std::future::pending::<()>().await;
        Ok("never")
    });
    let bench = bench(Registry::new("r").tool(polite).tool(stubborn), Limits::default());
    for (tool, expected) in [("polite", "half done"), ("stubborn", "cancelled")] {
        let frames = bench.start(tool, tool).await.unwrap();
        bench.host.inner.cancel(context(tool), String::new()).await.unwrap();
        tokio::task::yield_now().await;
        if tool == "stubborn" {
            bench.clock.advance(Duration::from_secs(2));
        }
        let frames: Vec<Frame> = frames.map(|frame| frame.unwrap()).collect().await;
        assert!(text(&frames).contains(expected), "{frames:?}");
    }
}

fn impatient(gate: watch::Receiver<bool>) -> Tool {
    Tool::new("impatient").raw_handler(move |_, call| {
        let mut gate = gate.clone();
        async move {
            tokio::select! {
                answered = call.ask(Ask::new().elicit("a", "?", [])) => drop(answered?),
                opened = gate.wait_for(|open| *open) => drop(opened.map_err(crate::Error::failed)?),
            }
            call.progress_so_far(1, "going on");
            std::future::pending::<()>().await;
            Ok("never")
        }
    })
}

#[tokio::test]
async fn the_deadline_of_the_answer_counts_after_it() {
    let (_closed, gate) = watch::channel(false);
    let bench = bench(Registry::new("r").tool(impatient(gate)), Limits::default());
    bench.call("1", "impatient").await;
    let deadline = Some(bench.clock.as_ref().now() + Duration::from_secs(30));
    let answer = InputResponse { key: "a".into(), answer: Ok(Json::empty_object()) };
    let context = Context { deadline, ..context("1") };
    let mut frames = bench.host.inner.resume(context, 1, vec![answer]).await.unwrap();
    assert!(matches!(frames.next().await, Some(Ok(Frame { body: FrameBody::Progress(_), number: 3 }))));
    bench.clock.advance(Duration::from_secs(31));
    assert!(format!("{:?}", frames.next().await).contains("deadline"));
}

#[tokio::test]
async fn a_handler_that_gave_up_runs_for_a_while() {
    let (open, gate) = watch::channel(false);
    let bench = bench(Registry::new("r").tool(impatient(gate)), Limits::default());
    bench.call("1", "impatient").await;
    open.send(true).unwrap();
    bench.host.inner.attach(context("1"), 2).await.unwrap().next().await.unwrap().unwrap();
    let mut frames = bench.host.inner.attach(context("1"), 0).await.unwrap();
    let bodies: Vec<FrameBody> = frames.by_ref().take(3).map(|frame| frame.unwrap().body).collect().await;
    assert!(matches!(bodies[1..], [FrameBody::InputRequired(_), FrameBody::Progress(_)]), "{bodies:?}");
    bench.clock.advance(Limits::default().after_giving_up);
    assert!(format!("{:?}", frames.next().await).contains("deadline"));
}

#[tokio::test]
async fn memory_is_given_back_though_nobody_asks() {
    let done = Tool::new("done").raw_handler(|_, _| async { Ok("done") });
    let bench = bench(Registry::new("r").tool(done), Limits::default());
    for n in 0..10 {
        bench.call(&n.to_string(), "done").await;
        bench.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(bench.host.inner.table.kept().0, 10);
    bench.clock.advance(Duration::from_secs(300));
    while bench.host.inner.table.kept() != (0, 0) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_dropped_with_its_runtime_has_an_ending_too() {
    let bench = bench(Registry::new("r").tool(endless()), Limits::default());
    let frames = bench.start("1", "endless").await.unwrap();
    drop(bench);
    let frames: Vec<Frame> = frames.map(|frame| frame.unwrap()).collect().await;
    assert!(text(&frames).contains("stopped"), "{frames:?}");
}

#[tokio::test]
async fn draining_waits_for_the_last_call_and_ends_the_watches() {
    let (open, gate) = watch::channel(false);
    let slow = Tool::new("slow").raw_handler(move |_, _| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.map_err(Error::failed)?;
            Ok("done")
        }
    });
    use crate::Error;
    let bench = bench(Registry::new("r").tool(slow), Limits::default());
    let mut frames = bench.start("1", "slow").await.unwrap();
    let watched = bench.host.inner.watch().await.unwrap();
    let wishes = futures::stream::pending().boxed();
    let subscribed = bench.host.inner.subscribe(context("s"), wishes).await.unwrap();
    let mut drain = Box::pin(bench.host.drain());
    assert!((&mut drain).now_or_never().is_none(), "a call is running");
    open.send(true).unwrap();
    assert!((&mut drain).now_or_never().is_none(), "callers need a moment to hear of it");
    bench.clock.advance(Duration::from_millis(100));
    drain.await;
    assert_eq!(frames.by_ref().count().await, 2);
    assert_eq!(watched.count().await, 2, "one list, then the end of service, then the end");
    assert_eq!(subscribed.count().await, 0);
}

#[tokio::test]
async fn what_runs_or_waits_at_the_end_of_a_drain_is_told_so_once() {
    let ask = Tool::new("ask").raw_handler(|_, call| async move {
        call.ask(Ask::new().elicit("a", "?", [])).await?;
        Ok("answered")
    });
    let listens = Tool::new("listens").raw_handler(|_, call| async move {
        call.cancelled().await;
        Ok("late")
    });
    let done = Tool::new("done").raw_handler(|_, _| async { Ok("done") });
    let registry = Registry::new("r").tool(ask).tool(endless()).tool(listens).tool(done);
    let bench = bench(registry, Limits::default());
    assert!(text(&bench.call("0", "done").await).contains("done"), "kept, and none of them");
    let asked = bench.call("1", "ask").await;
    let waiting = bench.host.inner.attach(context("1"), asked.len() as u64).await.unwrap();
    let running = [bench.start("2", "endless").await.unwrap(), bench.start("3", "listens").await.unwrap()];
    let (over, patience) = tokio::sync::oneshot::channel::<()>();
    let mut drain = Box::pin(bench.host.drain_until(async { patience.await.unwrap() }));
    bench.clock.advance(Duration::from_secs(60));
    assert!((&mut drain).now_or_never().is_none(), "it is waited for");
    over.send(()).unwrap();
    assert_eq!(drain.await, CutShort { running: 2, parked: 1 }, "those that waited are counted apart");
    for frames in [waiting].into_iter().chain(running) {
        let frames: Vec<Frame> = frames.map(|frame| frame.unwrap()).collect().await;
        assert!(text(&frames).contains(r#"{"reason":"stopped","outcome":"unknown"}"#), "{frames:?}");
        assert_eq!(frames.iter().filter(|frame| frame.body.is_ending()).count(), 1);
    }
}

#[tokio::test]
async fn a_defined_tool_is_listed_when_it_has_a_handler() {
    let bare = || Tool::new("t").string("a").default("b").add();
    assert_eq!(
        Registry::new("r").define(bare()).build(Runtime::tokio()).unwrap_err(),
        BuildError::NoHandler("tool", "t".into())
    );
    let work = |arguments: Json, _| async move { Ok(Output::text(arguments.as_str())) };
    assert!(Registry::new("r").define(bare()).set_handler("t", work).build(Runtime::tokio()).is_ok());
    let registry = Registry::new("r").serves(Kind::Tools).define(bare());
    let handle = registry.handle();
    let bench = bench(registry, Limits::default());
    assert_eq!(bench.list(Kind::Tools).await.len(), 0);
    assert!(text(&bench.call("1", "t").await).contains("unknown tool"));
    handle.set_handler("t", work).unwrap();
    assert_eq!(bench.list(Kind::Tools).await.len(), 1);
    let frames = bench.call("2", "t").await;
    assert!(text(&frames).contains(r#"{\"a\":\"b\"}"#), "the default is filled in: {frames:?}");
    let unknown = handle.set_handler("no", work).unwrap_err();
    assert_eq!(unknown, BuildError::UnknownTool("no".into()));
}

#[test]
fn mistakes_are_told_by_name() {
    let runtime = || Runtime { spawner: Arc::new(Tasks::default()), ..Runtime::tokio() };
    let problem = |registry: Registry| registry.build(runtime()).unwrap_err().to_string();
    let tool = || Tool::new("t").raw_handler(|_, _| async { Ok("") });
    for (registry, word) in [
        (Registry::new("a_b"), "a_b"),
        (Registry::new("r").namespace("a__b"), "a__b"),
        (Registry::new("r").tool(Tool::new("t")), "no handler"),
        (Registry::new("r").tool(tool()).tool(tool()), "already"),
        (Registry::new("r").prompt(Prompt::new("p")), "no handler"),
        (Registry::new("r").resource(Resource::text("", "n", "t")), "URI"),
    ] {
        let text = problem(registry);
        assert!(text.contains(word), "{text}");
    }
    let twice = Host::of([Registry::new("r"), Registry::new("r")], runtime(), Limits::default());
    assert!(twice.is_err());
}

/// Resources `x://<n>`, as many as it is told.
#[derive(Default)]
struct Numbers {
    count: Mutex<usize>,
    changes: Mutex<Option<crate::Changes>>,
}

impl Numbers {
    fn grow(&self) {
        *self.count.lock().unwrap() += 1;
        let changes = self.changes.lock().unwrap().clone();
        changes.unwrap().listed();
    }
}

#[async_trait]
impl ResourceSource for Numbers {
    fn attach(&self, changes: crate::Changes) {
        *self.changes.lock().unwrap() = Some(changes);
    }

    fn resources(&self) -> Vec<Json> {
        let count = *self.count.lock().unwrap();
        (0..count).rev().map(|n| Json::trusted(format!(r#"{{"uri":"x://{n}","name":"{n}"}}"#))).collect()
    }

    async fn read(&self, uri: &str, _: &Call) -> Result<Output, crate::Error> {
        let known = self.resources().iter().any(|item| item.text("uri").as_deref() == Some(uri));
        if !known {
            return Err(crate::Error::NotFound(uri.to_owned()));
        }
        Ok(Output::contents([ResourceContents::text(uri, "text/plain", "from the source")]))
    }
}

#[tokio::test]
async fn sources_are_listed_and_read_and_report_changes() {
    let numbers = Arc::new(Numbers::default());
    let registry = Registry::new("r")
        .resource(Resource::text("x://1", "single", "single"))
        .resource_source(numbers.clone());
    let bench = bench(registry, Limits::default());
    let mut events = bench.host.inner.watch().await.unwrap();
    for _ in [Kind::Resources, Kind::Templates] {
        events.next().await.unwrap().unwrap();
    }
    assert_eq!(bench.list(Kind::Resources).await.len(), 1);
    numbers.grow();
    numbers.grow();
    let names = bench.list(Kind::Resources).await;
    assert_eq!(names[0], r#"{"uri":"x://0","name":"0"}"#);
    assert!(names[1].contains("single"), "single entries go first: {names:?}");
    assert!(matches!(events.next().await, Some(Ok(CatalogEvent::Changed { kind: Kind::Resources, .. }))));
    assert!(bench.read("x://0").await.contains("from the source"));
    assert!(bench.read("x://1").await.contains("single"));
    assert!(bench.read("x://7").await.contains("resource not found"));
}

struct Greetings;

#[async_trait]
impl PromptSource for Greetings {
    fn prompts(&self) -> Vec<Json> {
        vec![Json::trusted(r#"{"name":"hi"}"#)]
    }

    async fn get(&self, name: &str, _: &Call) -> Result<Output, crate::Error> {
        Err(crate::Error::NotFound(name.to_owned()))
    }
}

#[tokio::test]
async fn a_registry_has_the_kinds_it_was_given() {
    let bench = bench(Registry::new("r").prompt_source(Arc::new(Greetings)), Limits::default());
    let described = bench.host.inner.describe().await.unwrap().registries.remove(0);
    assert_eq!(described.kinds.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Kind::Prompts]);
    let error = bench.host.inner.list(context("x"), Kind::Tools, None).await.unwrap_err();
    assert_eq!(error.code, Code::Unimplemented);
    let frames = bench.host.inner.start(
        context("1"),
        Start {
            operation: Operation::Get,
            target: "no".into(),
            params: Json::empty_object(),
            continuation: None,
        },
    );
    let frames: Vec<Frame> = frames.await.unwrap().map(|frame| frame.unwrap()).collect().await;
    assert!(matches!(&frames[1].body, FrameBody::Error(e) if e.message == "unknown prompt: no"));
}
