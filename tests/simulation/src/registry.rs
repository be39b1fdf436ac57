//! A replica of a registry, with the tools of the workloads.
//!
//! Mirrors `libs/registry`: the highest epoch seen of each slot (`fence.rs`), invocations that run once and are kept for those
//! who come back (`invocation/table.rs`), numbered frames, parked questions. What tools do goes to the ledger at once, outside
//! all faults.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use api::Error;
use history::line::{Doing, Source, What};
use machines::journal::Answer;
use mcp::Json;
use mcp::rpc::RpcError;
use serde_json::Value;

use crate::ask::{Call, Door};
use crate::sabotage::Sabotage;
use crate::scene::Scene;
use crate::world::{Ctx, Queue};

/// Who asks, and about what.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) slot: u16,
    pub(crate) epoch: u64,
    pub(crate) invocation: String,
    /// Params of `tools/call`.
    pub(crate) params: Json,
}

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Start,
    Attach { after: u64 },
    Resume { responses: Vec<(String, Answer)> },
    Cancel,
    Release,
}

/// What a registry says about an invocation.
#[derive(Debug, Clone)]
pub(crate) enum Body {
    Accepted { instance: String },
    Progress(Json),
    Result(Json),
    Error(RpcError),
    InputRequired { requests: Json, round: u32 },
}

impl Body {
    pub(crate) const fn is_ending(&self) -> bool {
        matches!(self, Self::Result(_) | Self::Error(_) | Self::InputRequired { .. })
    }
}

/// Its number in the invocation, and what.
pub(crate) type Frame = (u64, Body);
/// The door of a replica.
pub(crate) type RegistryDoor = Door<(Context, Wish), Frame>;

#[derive(Default)]
struct Invocation {
    frames: RefCell<Vec<Frame>>,
    wakers: RefCell<Vec<Waker>>,
    is_over: Cell<bool>,
    is_cancelled: Cell<bool>,
    /// How many frames there were before the answers to its questions.
    resumed: Cell<Option<u64>>,
    answers: Queue<Vec<(String, Answer)>>,
}

impl Invocation {
    fn say(&self, body: Body) {
        let number = self.frames.borrow().len() as u64 + 1;
        self.is_over.set(matches!(body, Body::Result(_) | Body::Error(_)));
        self.frames.borrow_mut().push((number, body));
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        wakers.into_iter().for_each(Waker::wake);
    }

    /// The next frame behind this number.
    async fn next(&self, after: u64) -> Frame {
        poll_fn(|cx| {
            let next = self.frames.borrow().iter().find(|(number, _)| *number > after).cloned();
            match next {
                Some(frame) => Poll::Ready(frame),
                None => {
                    self.wakers.borrow_mut().push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// A replica.
pub(crate) struct Registry {
    scene: Rc<Scene>,
    ctx: Ctx,
    instance: String,
    fences: RefCell<BTreeMap<u16, u64>>,
    known: RefCell<BTreeMap<String, Rc<Invocation>>>,
}

impl Registry {
    /// Starts one at an address.
    pub(crate) fn start(scene: &Rc<Scene>, replica: usize) -> RegistryDoor {
        let ctx = Ctx::new(&scene.sim);
        let door = Door::of(&ctx);
        let instance = format!("registry-{replica}.{}", ctx.me.0);
        let (scene, fences, known) = (Rc::clone(scene), RefCell::default(), RefCell::default());
        let this = Rc::new(Self { scene, ctx: ctx.clone(), instance, fences, known });
        let inbox = door.inbox.clone();
        ctx.spawn(async move {
            loop {
                this.open(inbox.next().await);
            }
        });
        door
    }

    fn is_sabotaged(&self) -> bool {
        self.scene.is(Sabotage::RegistryIgnoresIds)
    }

    fn check(&self, context: &Context) -> Result<(), Error> {
        let mut fences = self.fences.borrow_mut();
        let seen = fences.entry(context.slot).or_default();
        if context.epoch < *seen && !self.is_sabotaged() {
            self.scene.pen.count(|counts| counts.refused_calls += 1);
            return Err(Error::stale_epoch(*seen));
        }
        *seen = context.epoch.max(*seen);
        Ok(())
    }

    fn open(self: &Rc<Self>, call: Call<(Context, Wish), Frame>) {
        let Call { ask: (context, wish), reply } = call;
        let found = self.check(&context).and_then(|()| self.find(&context, wish));
        match found {
            Ok(Some((invocation, mut after))) => self.ctx.spawn(async move {
                loop {
                    let frame = invocation.next(after).await;
                    after = frame.0;
                    let ends = frame.1.is_ending();
                    if !reply.send(Ok(frame)) || ends {
                        return;
                    }
                }
            }),
            Ok(None) => {}
            Err(error) => _ = reply.send(Err(error)),
        }
    }

    /// The invocation whose frames are wanted, and from where on.
    fn find(self: &Rc<Self>, context: &Context, wish: Wish) -> Result<Option<(Rc<Invocation>, u64)>, Error> {
        let known = self.known.borrow().get(&context.invocation).cloned();
        let unknown = || Error::not_found("the invocation is not known, or not any more");
        match wish {
            Wish::Start => Ok(Some((known.unwrap_or_else(|| self.begin(context)), 0))),
            Wish::Attach { .. } if self.is_sabotaged() => Ok(Some((self.begin(context), 0))),
            Wish::Attach { after } => Ok(Some((known.ok_or_else(unknown)?, after))),
            Wish::Resume { responses } => {
                let invocation = known.ok_or_else(unknown)?;
                let before = invocation.frames.borrow().len() as u64;
                let after = invocation.resumed.get().unwrap_or(before);
                if invocation.resumed.replace(Some(after)).is_none() {
                    invocation.answers.push(responses);
                }
                Ok(Some((invocation, after)))
            }
            Wish::Cancel => {
                known.inspect(|invocation| invocation.is_cancelled.set(true));
                Ok(None)
            }
            Wish::Release => {
                if known.is_some_and(|invocation| invocation.is_over.get()) {
                    self.known.borrow_mut().remove(&context.invocation);
                }
                Ok(None)
            }
        }
    }

    fn begin(self: &Rc<Self>, context: &Context) -> Rc<Invocation> {
        let invocation = Rc::new(Invocation::default());
        self.known.borrow_mut().insert(context.invocation.clone(), Rc::clone(&invocation));
        invocation.say(Body::Accepted { instance: self.instance.clone() });
        let (this, running, params) = (Rc::clone(self), Rc::clone(&invocation), context.params.clone());
        self.ctx.spawn(async move {
            let ending = this.run(&running, &params).await;
            running.say(ending);
        });
        invocation
    }

    async fn run(&self, invocation: &Invocation, params: &Json) -> Body {
        let params: Value = serde_json::from_str(params.as_str()).unwrap_or_default();
        let text = |path: &str| params.pointer(path).and_then(Value::as_str).unwrap_or("").to_owned();
        let number = |path: &str| params.pointer(path).and_then(Value::as_u64).unwrap_or(0);
        let (tool, op, list) = (text("/name"), text("/arguments/op"), text("/arguments/list"));
        let wait = self.scene.sim.range(0, number("/arguments/wait").max(1));
        self.ctx.sleep_ms(wait).await;
        if invocation.is_cancelled.get() {
            return Body::Error(RpcError::reason("cancelled", "cancelled"));
        }
        let nonce = format!("n{:x}", self.scene.sim.draw(crate::world::rng::Rng::next));
        let f = match tool.as_str() {
            "append" => Doing::Append,
            "count" => Doing::Count,
            "slow" => Doing::Slow,
            "ask" => Doing::Ask,
            "read" => Doing::Read,
            _ => Doing::Echo,
        };
        let mut said = Vec::new();
        match f {
            Doing::Append => {
                self.execute(&op, &nonce, f);
                let mut lists = self.scene.lists.borrow_mut();
                lists.entry(list).or_default().push(number("/arguments/value"));
            }
            Doing::Read => said = self.scene.lists.borrow().get(&list).cloned().unwrap_or_default(),
            Doing::Slow => {
                self.execute(&op, &nonce, f);
                for step in 1..=number("/arguments/steps") {
                    self.ctx.sleep_ms(self.scene.sim.range(20, 260)).await;
                    let progress = format!("{{\"progress\":{step},\"message\":\"{op} {step}\"}}");
                    invocation.say(Body::Progress(Json::trusted(progress)));
                }
            }
            Doing::Ask => {
                self.execute(&op, &nonce, f);
                if let Some(failed) = self.question(invocation, &op).await {
                    return failed;
                }
            }
            _ => self.execute(&op, &nonce, f),
        }
        let list = serde_json::to_string(&said).unwrap_or_default();
        let content = format!("{{\\\"nonce\\\":\\\"{nonce}\\\",\\\"list\\\":{list}}}");
        Body::Result(Json::trusted(format!("{{\"content\":[{{\"type\":\"text\",\"text\":\"{content}\"}}]}}")))
    }

    fn execute(&self, op: &str, nonce: &str, f: Doing) {
        let what = What::Execute { op: op.to_owned(), nonce: nonce.to_owned(), f };
        self.scene.pen.write(Source::Ledger, "ledger", None, what);
    }

    /// Asks the client, and takes note of the answer. What is returned is a failure.
    async fn question(&self, invocation: &Invocation, op: &str) -> Option<Body> {
        let params = "{\"messages\":[],\"maxTokens\":1}";
        let requests = format!("{{\"{op}\":{{\"method\":\"sampling/createMessage\",\"params\":{params}}}}}");
        invocation.say(Body::InputRequired { requests: Json::trusted(requests), round: 1 });
        let responses = invocation.answers.next().await;
        for (_, response) in responses {
            let Ok(answer) = response else {
                // A client that declines is no reason to fail; one that was never heard is.
                if self.scene.is(Sabotage::DropInbox) {
                    continue;
                }
                return Some(Body::Error(
                    RpcError::reason("the client did not answer", "no_answer")
                        .with_data(Json::trusted("{\"reason\":\"no_answer\",\"outcome\":\"unknown\"}")),
                ));
            };
            let said: Value = serde_json::from_str(answer.as_str()).unwrap_or_default();
            if let Some(message) = said.get("model").and_then(Value::as_str) {
                let what = What::Consume { message: message.to_owned() };
                self.scene.pen.write(Source::Ledger, "ledger", None, what);
            }
        }
        None
    }
}
