//! A registry that keeps the contract, except for the one fault it is told to have.

mod call;
mod fault;
mod lists;
mod services;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::pb::registry::v1 as pb;
use api::registry::Operation;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;

use self::call::{Call, Frames, failure, text};
pub(crate) use self::fault::Fault;

type Key = (String, String);

/// See the module.
pub(crate) struct Model {
    fault: Option<Fault>,
    serial: AtomicU64,
    calls: Mutex<BTreeMap<Key, Arc<Call>>>,
    epochs: Mutex<BTreeMap<(String, u32), u64>>,
    added: Mutex<usize>,
    /// Changes with the lists and with the begin of draining.
    news: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

/// A served model; ends when dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) model: Arc<Model>,
    _server: JoinSet<()>,
}

/// What may be asked with a stale epoch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ask {
    Start,
    Attach,
    Other,
}

impl Model {
    /// Serves a model with this fault on a port of its own.
    pub(crate) async fn serve(fault: Option<Fault>) -> Served {
        let model = Arc::new(Self {
            fault,
            serial: AtomicU64::new(0),
            calls: Mutex::default(),
            epochs: Mutex::default(),
            added: Mutex::default(),
            news: watch::Sender::new(false),
            tasks: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        let serving = services::serve(model.clone(), listener);
        server.spawn(async move { serving.await.unwrap() });
        Served { address, model, _server: server }
    }

    /// No new calls from now on.
    pub(crate) fn drain(&self) {
        self.news.send_replace(true);
        if self.is(Fault::DrainForgets) {
            self.calls.lock().unwrap().clear();
        }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn next(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    fn name(&self) -> String {
        if self.is(Fault::RegistryNameIllegal) { "the model" } else { "model" }.to_owned()
    }

    /// The key of the invocation, unless the registry is another one or the owner a former one.
    fn admit(&self, context: Option<&pb::RequestContext>, ask: Ask) -> Result<Key, Status> {
        let context = context.ok_or_else(|| Status::invalid_argument("no context"))?;
        if context.registry != self.name() && !self.is(Fault::AnyRegistryServed) {
            return Err(Status::not_found("no such registry"));
        }
        let key = (context.mesh.clone(), context.invocation.clone());
        let shared = self.is(Fault::EpochsShared);
        if (context.slot, context.epoch) == (0, 0) && !shared {
            return Ok(key);
        }
        let slot = if shared { 0 } else { context.slot };
        let mut epochs = self.epochs.lock().unwrap();
        let highest = epochs.entry((context.mesh.clone(), slot)).or_default();
        let lenient = match self.fault {
            Some(Fault::StaleStarts) => ask == Ask::Start,
            Some(Fault::StaleAttaches) => ask == Ask::Attach,
            Some(Fault::StaleCancels) => ask == Ask::Other,
            Some(_) | None => false,
        };
        if context.epoch < *highest && !lenient {
            return Err(Status::failed_precondition("stale epoch"));
        }
        *highest = context.epoch.max(*highest);
        Ok(key)
    }

    fn find(&self, context: Option<&pb::RequestContext>, ask: Ask) -> Result<Option<Arc<Call>>, Status> {
        let key = self.admit(context, ask)?;
        Ok(self.calls.lock().unwrap().get(&key).cloned())
    }

    fn start(
        self: &Arc<Self>,
        operation: Operation,
        target: String,
        (context, continuation): (Option<pb::RequestContext>, Option<pb::Continuation>),
        deadline: Option<Duration>,
    ) -> Result<Frames, Status> {
        let key = self.admit(context.as_ref(), Ask::Start)?;
        let mut calls = self.calls.lock().unwrap();
        if let Some(known) = calls.get(&key)
            && !self.is(Fault::RunsTwice)
        {
            return Ok(known.frames(0));
        }
        if *self.news.borrow() && !self.is(Fault::DrainTakesCalls) {
            return Err(Status::unavailable("draining"));
        }
        let call = Call::new(context.unwrap(), &self.instance(), self.fault);
        calls.insert(key.clone(), call.clone());
        let frames = call.frames(0);
        drop(calls);
        let (model, run) = (self.clone(), self.next());
        self.tasks.lock().unwrap().spawn(async move {
            // A parked handler has all the time its question has.
            let deadline = deadline.filter(|_| target == "hold");
            let ending = tokio::select! {
                ending = model.work(&call, operation, &target, run, continuation) => ending,
                () = call.stopped(deadline) => failure(-32603, "cancelled"),
            };
            call.end(ending);
            if call.released() || !call.owned() && !model.is(Fault::OwnerlessKept) {
                model.calls.lock().unwrap().remove(&key);
            }
        });
        Ok(frames)
    }

    async fn work(
        &self,
        call: &Call,
        operation: Operation,
        target: &str,
        run: u64,
        continuation: Option<pb::Continuation>,
    ) -> pb::frame::Kind {
        use pb::frame::Kind::RawResult;
        match (operation, target) {
            (Operation::Call, "add") => {
                *self.added.lock().unwrap() += 1;
                self.news.send_modify(|_| ());
                RawResult(text("added").to_string().into())
            }
            (Operation::Call, name) => call.tool(name, run, continuation).await,
            (Operation::Read, "model://0" | "model://1" | "model://2") => {
                let key = if self.is(Fault::ContentsMissing) { "content" } else { "contents" };
                RawResult(json!({key: [{"uri": target, "text": "x"}]}).to_string().into())
            }
            (Operation::Read, _) if self.is(Fault::UnknownResourceEmpty) => {
                RawResult(json!({"contents": []}).to_string().into())
            }
            (Operation::Read, _) => failure(-32602, "unknown resource"),
            (Operation::Get, "hello" | "third") if self.is(Fault::MessagesMissing) => {
                RawResult(text("hello").to_string().into())
            }
            (Operation::Get, "hello" | "third") => {
                let message = json!({"role": "user", "content": {"type": "text", "text": "hello"}});
                RawResult(json!({"messages": [message]}).to_string().into())
            }
            (Operation::Get, _) => {
                failure(if self.is(Fault::UnknownPromptInternal) { -32603 } else { -32602 }, "unknown prompt")
            }
        }
    }

    fn instance(&self) -> String {
        "instance-of-the-model".to_owned()
    }
}
