//! Plays a dialogue: `> what happens`, followed by `< what is done about it`.
//!
//! A dialogue begins with `session REVISION CAPABILITIES` (after its handshake), `carried` with the same (its reader is there), `fresh` (before it), `exchange METHOD ..` or
//! `listen FILTER`. POSTs are numbered as they come, from 1 (a greeted session has used 1 and 2).

use machines::input::CommitRefusal;
use machines::{
    CallFrame, CallId, Continuation, Cursor, Effects, Exchange, ExchangeSettings, Filter, Input, ListKind,
    Listen, ListenSettings, Settings, StreamId,
};
use mcp::log::Level;
use mcp::rpc::{Id, Message, Notification, Request, Response, RpcError};
use mcp::{Json, Method, Revision};

use crate::lines;
use crate::world::{self, World};

enum Stage {
    Nothing,
    Session(Box<World>),
    Exchange(Box<Exchange>),
    Listen(Box<Listen>),
}

/// Plays a whole file and returns it with what was done.
pub(crate) fn play(text: &str) -> String {
    let mut player = Player {
        stage: Stage::Nothing,
        settings: world::settings(),
        now: 1000,
        wake: None,
        wakes: false,
        frames: 0,
    };
    let mut out = String::new();
    for line in text.lines().filter(|line| !line.starts_with('<')) {
        out.push_str(line);
        out.push('\n');
        let done = match line.strip_prefix("> ") {
            Some(command) => player.act(command),
            None if line.is_empty() || line.starts_with('#') => Vec::new(),
            None => player.set_up(line),
        };
        for line in done {
            out.push_str("< ");
            out.push_str(&line);
            out.push('\n');
        }
    }
    out
}

struct Player {
    stage: Stage,
    settings: Settings,
    now: u64,
    wake: Option<u64>,
    wakes: bool,
    /// Frames of registries so far, in the session at hand.
    frames: u64,
}

fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn json(text: &str) -> Json {
    mcp::scan::check(text.as_bytes(), &mcp::scan::Limits::MESSAGE).unwrap_or_else(|e| panic!("{text}: {e}"));
    Json::trusted(text.to_owned())
}

fn optional(text: &str) -> Option<Json> {
    (!text.is_empty()).then(|| json(text))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn error(text: &str) -> RpcError {
    let (code, rest) = word(text);
    let (message, data) =
        rest.split_once(" {").map_or((rest, None), |(m, d)| (m, Some(json(&format!("{{{d}")))));
    RpcError { code: code.parse().unwrap(), message: message.to_owned(), data }
}

impl Player {
    fn set_up(&mut self, line: &str) -> Vec<String> {
        let (what, rest) = word(line);
        let (first, more) = word(rest);
        self.frames = 0;
        match what {
            "set" => self.set(first, more),
            "show" => self.wakes = true,
            "fresh" => self.stage = Stage::Session(Box::new(World::new(self.settings.clone()))),
            "carried" => {
                let revision = Revision::parse(first).unwrap();
                self.stage = Stage::Session(Box::new(World::carried(self.settings.clone(), revision, more)));
            }
            "session" => {
                let revision = Revision::parse(first).unwrap();
                self.stage = Stage::Session(Box::new(World::greeted(self.settings.clone(), revision, more)));
            }
            "exchange" => self.stage = Stage::Exchange(Box::new(exchange(first, more, self.now))),
            "listen" => {
                let filter = Filter::read(Some(&json(&format!("{{\"notifications\":{rest}}}")))).unwrap();
                let settings = ListenSettings {
                    server_info: self.settings.server_info.clone(),
                    capabilities: self.settings.capabilities.clone(),
                    id: Id::number(7),
                    filter,
                    max_subscriptions: self.settings.max_subscriptions,
                    accept_within_ms: 2000,
                };
                let mut listen = Listen::new(settings, self.now);
                let effects = listen.start();
                self.stage = Stage::Listen(Box::new(listen));
                return self.done(&effects);
            }
            other => panic!("unknown directive {other}"),
        }
        Vec::new()
    }

    fn set(&mut self, key: &str, value: &str) {
        let settings = &mut self.settings;
        let ms = || number(value);
        let count = || usize::try_from(number(value)).unwrap();
        match key {
            "open_after_ms" => settings.open_after_ms = ms(),
            "idle_timeout_ms" => settings.idle_timeout_ms = ms(),
            "max_life_ms" => settings.max_life_ms = ms(),
            "call_timeout_ms" => settings.call_timeout_ms = ms(),
            "ask_timeout_ms" => settings.ask_timeout_ms = ms(),
            "kept_ms" => settings.kept_ms = ms(),
            "max_inflight" => settings.max_inflight = count(),
            "max_outgoing" => settings.max_outgoing = count(),
            "max_subscriptions" => settings.max_subscriptions = count(),
            "max_rounds" => settings.max_rounds = u32::try_from(number(value)).unwrap(),
            "log_events" => settings.log_events = count(),
            "log_bytes" => settings.log_bytes = count(),
            "kept_streams" => settings.kept_streams = count(),
            "capabilities" => settings.capabilities = json(value),
            "instructions" => settings.instructions = Some(value.to_owned()),
            other => panic!("unknown setting {other}"),
        }
    }

    fn act(&mut self, command: &str) -> Vec<String> {
        let mut stage = std::mem::replace(&mut self.stage, Stage::Nothing);
        let lines = match &mut stage {
            Stage::Nothing => panic!("a dialogue begins with who talks"),
            Stage::Session(world) => self.act_in_session(world, command),
            Stage::Exchange(exchange) => {
                let effects = self.act_in_exchange(exchange, command);
                self.done(&effects)
            }
            Stage::Listen(listen) => {
                let mut all = Effects::new();
                let (what, rest) = word(command);
                if what == "wait" {
                    let until = self.now + number(rest);
                    while let Some(at) = self.due(until - self.now) {
                        self.now = at;
                        let effects = listen.step(at, Input::DeadlineReached);
                        self.note_wake(&effects);
                        all.extend(effects);
                    }
                    self.now = until;
                } else {
                    all = listen.step(self.now, happening(what, rest));
                }
                self.done(&all)
            }
        };
        self.stage = stage;
        lines
    }

    fn act_in_session(&mut self, world: &mut World, command: &str) -> Vec<String> {
        let (what, rest) = word(command);
        let (first, more) = word(rest);
        let effects = match what {
            "request" => {
                let (method, params) = word(more);
                world.request(first, method, (!params.is_empty()).then_some(params))
            }
            "notify" => world.notify(first, (!more.is_empty()).then_some(more)),
            "respond" => {
                let id = Id::read(&json(first)).unwrap();
                let outcome =
                    more.strip_prefix("error ").map_or_else(|| Ok(json(more)), |text| Err(error(text)));
                world.post(Message::Response(Response { id, outcome }))
            }
            "forgotten" => world.forgotten(first),
            "close" => world.close(),
            "attach" => world.attach(StreamId(number(rest))),
            "gone" => world.detach(StreamId(number(rest))),
            "wait" => world.wait(number(rest)),
            "refuse" => {
                world.refuse = Some(match rest {
                    "stale" => CommitRefusal::Stale,
                    "regress" => CommitRefusal::Regress,
                    "conflict" => CommitRefusal::Conflict,
                    "down" => CommitRefusal::Down,
                    other => panic!("unknown refusal {other}"),
                });
                Effects::new()
            }
            "takeover" => {
                world.take_over();
                Effects::new()
            }
            "replay" => {
                let after = more.strip_prefix("after ").map(|seq| Cursor { epoch: 0, seq: number(seq) });
                return lines::replay(world.session.replay(StreamId(number(first)), after).as_ref());
            }
            "pickup" => return lines::pickups(&world.saved),
            "delivered" => {
                let before = world.session.delivered_before(rest);
                return vec![before.map_or("not known".to_owned(), |stream| format!("stream {}", stream.0))];
            }
            "phase" => return vec![format!("{:?}", world.session.phase())],
            _ => {
                let mut input = happening(what, rest);
                if let Input::Frame { number, .. } = &mut input {
                    // A registry numbers what it says; one invocation a dialogue is enough to show what comes of it.
                    self.frames += 1;
                    *number = self.frames;
                }
                world.give(input)
            }
        };
        lines::effects(&effects, self.wakes)
    }

    fn act_in_exchange(&mut self, exchange: &mut Exchange, command: &str) -> Effects {
        let (what, rest) = word(command);
        match what {
            "start" => exchange.start(&json(rest)),
            "resume" => {
                let (round, answers) = word(rest);
                let answers = json(answers);
                let answers = mcp::scan::members(answers.as_str());
                let answers = answers.map(|m| (m.key.into_owned(), Ok(json(m.value)))).collect();
                exchange.resume(u32::try_from(number(round)).unwrap(), answers, None)
            }
            "wait" => {
                let mut all = Effects::new();
                let until = self.now + number(rest);
                while let Some(at) = self.due(until - self.now) {
                    self.now = at;
                    let effects = exchange.step(at, Input::DeadlineReached);
                    self.note_wake(&effects);
                    all.extend(effects);
                }
                self.now = until;
                all
            }
            _ => exchange.step(self.now, happening(what, rest)),
        }
    }

    fn due(&mut self, within: u64) -> Option<u64> {
        let at = self.wake.filter(|at| *at <= self.now + within)?;
        self.wake = None;
        Some(at)
    }

    fn note_wake(&mut self, effects: &Effects) {
        for effect in effects {
            if let machines::Effect::WakeAt(at) = effect {
                self.wake = Some(*at);
            }
        }
    }

    fn done(&mut self, effects: &Effects) -> Vec<String> {
        self.note_wake(effects);
        lines::effects(effects, self.wakes)
    }
}

fn exchange(method: &str, options: &str, now: u64) -> Exchange {
    let mut settings = ExchangeSettings {
        server_info: json(r#"{"name":"t","version":"1"}"#),
        method: Method::parse(method).unwrap(),
        id: Id::number(7),
        progress_token: None,
        log_level: None,
        client_capabilities: None,
        open_after_ms: 500,
        call_timeout_ms: 300_000,
    };
    for option in options.split_whitespace() {
        let (key, value) = option.split_once('=').unwrap();
        match key {
            "token" => settings.progress_token = Some(json(value)),
            "log" => settings.log_level = Some(Level::parse(value).unwrap()),
            "client" => settings.client_capabilities = Some(json(value)),
            other => panic!("unknown option {other}"),
        }
    }
    Exchange::new(settings, now)
}

/// What happens to any machine.
fn happening(what: &str, rest: &str) -> Input {
    let (first, more) = word(rest);
    match what {
        "frame" => Input::Frame { call: CallId(number(first)), number: 0, frame: frame(more) },
        "changed" => Input::CatalogChanged(match rest {
            "tools" => ListKind::Tools,
            "resources" => ListKind::Resources,
            "prompts" => ListKind::Prompts,
            other => panic!("unknown list {other}"),
        }),
        "updated" => Input::ResourceUpdated { uri: first.to_owned(), params: json(more) },
        "gone" => Input::ReaderGone(StreamId(number(rest))),
        "drain" => Input::Drain,
        other => panic!("unknown happening {other}"),
    }
}

fn frame(text: &str) -> CallFrame {
    let (what, rest) = word(text);
    let (first, more) = word(rest);
    match what {
        "accepted" => CallFrame::Accepted { instance: rest.to_owned() },
        "progress" => CallFrame::Progress(json(rest)),
        "log" => CallFrame::Log(json(rest)),
        "notice" => CallFrame::Notice { method: first.to_owned(), params: json(more) },
        "detach" => CallFrame::Detach { retry_ms: u32::try_from(number(rest)).unwrap() },
        "result" => CallFrame::Result(json(rest)),
        "error" => CallFrame::Error(error(rest)),
        "task" => CallFrame::Task(json(rest)),
        "asks" => {
            let (how, requests) = word(more);
            let continuation = match how.split_once(':') {
                None if how == "parked" => Continuation::Parked,
                None if how == "sealed" => Continuation::Sealed(None),
                Some(("state", state)) => Continuation::State(state.to_owned().into()),
                Some(("sealed", state)) => Continuation::Sealed(Some(state.to_owned())),
                _ => panic!("unknown continuation {how}"),
            };
            let round = u32::try_from(number(first)).unwrap();
            CallFrame::InputRequired {
                requests: optional(requests).unwrap_or(json("{}")),
                round,
                continuation,
            }
        }
        "lost" => CallFrame::Lost {
            reason: match first {
                "unavailable" => "unavailable",
                "overloaded" => "overloaded",
                other => panic!("unknown reason {other}"),
            },
            not_executed: more == "not_executed",
        },
        other => panic!("unknown frame {other}"),
    }
}

/// A request as a message.
pub(crate) fn request(id: &str, method: &str, params: &str) -> Message {
    let id = Id::read(&json(id)).unwrap();
    Message::Request(Request { id, method: method.to_owned(), params: optional(params) })
}

/// A notification as a message.
pub(crate) fn notification(method: &str, params: &str) -> Message {
    Message::Notification(Notification { method: method.to_owned(), params: optional(params) })
}
