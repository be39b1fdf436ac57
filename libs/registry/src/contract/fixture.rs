//! The suite's registry, written with the kit, and a clock that stands still until it is told otherwise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use mcp::Json;
use mcp::log::Level;
use tokio::sync::watch;

use super::{Control, HOSTILE, Subject};
use crate::{
    Answers, Ask, Call, Clock, Completion, Content, Handle, Host, Input, Kind, Limits, Message, Output,
    Prompt, Registry, Resource, ResourceContents, ResourceTemplate, Runtime, Structured, Tasks, Tool,
};

/// A clock that is told the time.
#[derive(Debug)]
pub struct ManualClock {
    now: watch::Sender<Instant>,
}

impl Default for ManualClock {
    fn default() -> Self {
        Self { now: watch::Sender::new(Instant::now()) }
    }
}

impl ManualClock {
    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.now.send_modify(|now| *now += time);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        *self.now.borrow()
    }

    fn unix_millis(&self) -> u64 {
        1_000_000
    }

    fn sleep_until(&self, until: Instant) -> BoxFuture<'static, ()> {
        let mut now = self.now.subscribe();
        async move {
            if now.wait_for(|now| *now >= until).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        .boxed()
    }
}

/// The suite's registry in this process.
pub struct Fixture {
    host: Host,
    handle: Handle,
    clock: Arc<ManualClock>,
    book: Arc<Book>,
    limits: Limits,
}

/// What has happened, by invocation.
struct Book {
    runs: Mutex<BTreeMap<String, usize>>,
    stopped: Mutex<BTreeMap<String, bool>>,
    gate: watch::Sender<bool>,
}

impl Book {
    fn ran(&self, call: &Call) {
        *self.runs.lock().unwrap().entry(call.invocation().to_owned()).or_default() += 1;
    }

    async fn gate(&self) {
        let mut gate = self.gate.subscribe();
        gate.wait_for(|open| *open).await.expect("the gate outlives its tools");
    }
}

/// Notes that a handler was dropped before its end.
struct Watchdog(Arc<Book>, String);

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.stopped.lock().unwrap().insert(self.1.clone(), true);
    }
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Doubled {
    a: f64,
}

#[derive(serde::Serialize, schemars::JsonSchema)]
struct Twice {
    twice: f64,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Size {
    bytes: usize,
}

impl Fixture {
    /// The fixture, ready to answer.
    #[must_use]
    pub fn make() -> Arc<Self> {
        let clock = Arc::new(ManualClock::default());
        let book = Arc::new(Book {
            runs: Mutex::default(),
            stopped: Mutex::default(),
            gate: watch::Sender::new(false),
        });
        let registry = asking(talking(pages(Registry::new("suite")), &book), &book);
        let handle = registry.handle();
        let runtime = Runtime {
            spawner: Arc::new(Tasks::default()),
            clock: clock.clone(),
            instance: "instance-1".to_owned(),
        };
        let limits = Limits { keep_bytes: 64 << 10, result_bytes: 256 << 10, ..Limits::default() };
        let host = Host::of([registry], runtime, limits).expect("the fixture is in order");
        Arc::new(Self { host, handle, clock, book, limits })
    }

    /// As a subject in this process.
    #[must_use]
    pub fn subject(self: Arc<Self>) -> Subject {
        Subject { port: self.host.port(), control: self }
    }

    /// What is under test.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }
}

fn pages(registry: Registry) -> Registry {
    let registry = registry.version("1").namespace("ns").page_size(2).subscriptions().serves(Kind::Tools);
    let registry = (1..=5).fold(registry, |registry, n| registry.tool(idle_tool(&format!("page-{n}"))));
    registry
        .resource(Resource::text("suite://text", "text", "hello"))
        .resource_template(ResourceTemplate::new("suite://item/{id}", "item", |variables, call| async move {
            let contents = ResourceContents::text(call.target(), "text/plain", variables.get("id")?);
            Ok(Output::contents([contents]))
        }))
        .prompt(
            Prompt::new("greet")
                .argument("name", "Whom", true)
                .complete("name", |request| Completion::matching(["Ada", "Alan"], &request.value))
                .handler(|arguments, _| async move {
                    Ok(Output::messages([Message::user(Content::text(format!(
                        "Hello {}",
                        arguments["name"]
                    )))]))
                }),
        )
}

fn idle_tool(name: &str) -> Tool {
    Tool::new(name).raw_handler(|_, _| async { Ok("idle") })
}

fn talking(registry: Registry, book: &Arc<Book>) -> Registry {
    let (count, gate) = (book.clone(), book.clone());
    registry
        .tool(Tool::new("count").raw_handler(move |_, call| {
            count.ran(&call);
            async { Ok("done") }
        }))
        .tool(Tool::new("gate").raw_handler(move |_, call| {
            gate.ran(&call);
            let book = gate.clone();
            async move {
                let watchdog = Watchdog(book.clone(), call.invocation().to_owned());
                call.progress(1, 2, "");
                book.gate().await;
                std::mem::forget(watchdog);
                Ok("opened")
            }
        }))
        .tool(Tool::new("talk").raw_handler(|_, call| async move {
            call.progress(1, 2, "one");
            call.progress_so_far(0.5, "backwards");
            call.progress_so_far(2, "");
            call.log(Level::Debug, "quiet");
            call.log(Level::Error, "loud");
            call.notice("notifications/x", Json::trusted(r#"{"a":1.0}"#));
            call.detach(Duration::from_millis(250));
            Ok("said")
        }))
        .tool(
            Tool::new("typed")
                .handler(|input: Doubled, _| async move { Ok(Structured(Twice { twice: input.a * 2.0 })) }),
        )
        .tool(
            Tool::new("broken")
                .output::<Twice>()
                .raw_handler(|_, _| async { Ok(Output::structured(&serde_json::json!({"twice": "no"}))) }),
        )
        .tool(Tool::new("panic").raw_handler(|_, _| async move {
            assert_eq!(1, 2, "on purpose");
            Ok("unreachable")
        }))
        .tool(Tool::new("big").handler(|size: Size, _| async move { Ok("x".repeat(size.bytes)) }))
        .tool(Tool::new("hostile").raw_handler(|_, _| async { Ok(Output::raw(Json::trusted(HOSTILE))) }))
}

fn questions() -> Ask {
    Ask::new().elicit("name", "Your name?", [Input::string("value").required()]).elicit(
        "age",
        "Your age?",
        [Input::number("value").required()],
    )
}

fn both(answers: &Answers) -> String {
    assert_eq!(answers.iter().count(), 2, "nothing that was not asked");
    let one = |key: &str| match (answers.refusal(key), answers.result(key)) {
        (Some(refusal), _) => format!("refused: {}", refusal.message),
        (None, Ok(result)) => result.to_string(),
        (None, Err(error)) => error.to_string(),
    };
    format!("{} and {}", one("name"), one("age"))
}

fn asking(registry: Registry, book: &Arc<Book>) -> Registry {
    let (ask, give_up) = (book.clone(), book.clone());
    registry
        .tool(Tool::new("ask").raw_handler(move |_, call| {
            ask.ran(&call);
            let watchdog = Watchdog(ask.clone(), call.invocation().to_owned());
            async move {
                let answers = call.ask(questions()).await?;
                std::mem::forget(watchdog);
                call.progress(1, 1, "thanks");
                Ok(both(&answers))
            }
        }))
        .tool(Tool::new("give-up").raw_handler(move |_, call| {
            let book = give_up.clone();
            async move {
                let asked = call.ask(Ask::new().elicit("name", "Your name?", []));
                tokio::select! {
                    answers = asked => answers.map(|_| "answered"),
                    () = book.gate() => Ok("gave up"),
                }
            }
        }))
        .tool(Tool::new("again").raw_handler(|_, call| async move {
            match (call.round(), call.round_answers()) {
                (Some(round), Some(answers)) if round.state == "kept" => Ok(Output::text(both(&answers))),
                _ => Ok(Output::input_required(questions(), "kept")),
            }
        }))
}

impl Control for Fixture {
    fn runs(&self, invocation: &str) -> usize {
        self.book.runs.lock().unwrap().get(invocation).copied().unwrap_or_default()
    }

    fn stopped(&self, invocation: &str) -> bool {
        self.book.stopped.lock().unwrap().get(invocation).copied().unwrap_or_default()
    }

    fn open_gate(&self) {
        self.book.gate.send_replace(true);
    }

    fn advance(&self, time: Duration) {
        self.clock.advance(time);
    }

    fn add_tool(&self, name: &str) {
        self.handle.add_tool(idle_tool(name)).expect("a new tool");
    }

    fn remove_tool(&self, name: &str) {
        assert!(self.handle.remove_tool(name), "a known tool");
    }

    fn touch(&self, uri: &str) {
        self.handle.updated(uri);
    }

    fn begin_drain(&self) {
        self.host.begin_drain();
    }

    fn keep_bytes(&self) -> usize {
        self.limits.keep_bytes
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }
}
