//! One connection, used by everything on its runtime at the same time; opened when it is wanted and again when it breaks.
//!
//! Everything that is sent may be sent again: what was done already says so. So a command whose answer is lost, or late, is
//! repeated on the next connection, and within [`BUDGET`] there is an answer or none.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::time::{Instant, timeout, timeout_at};

use super::dial::{DialError, Dialler, Wire, short};
use super::script;
use super::wait::Waits;

/// How long one answer is waited for.
const ANSWER: Duration = Duration::from_millis(800);
/// How long an answer is waited for with all its repetitions.
pub(super) const BUDGET: Duration = Duration::from_millis(1_500);
/// A timer that is later than this has waited for the whole process; and so long is then waited for an answer that has come meanwhile.
const STILL: Duration = Duration::from_millis(250);
/// How long nobody dials after a failure.
const REST: Duration = Duration::from_millis(50);

/// A connection, told from those before.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) wire: Wire,
    pub(super) waits: Arc<Waits>,
    generation: u64,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nobody is there, or is late. It may have been done.
    Down,
    /// The server says that this cannot be.
    Refused(String),
}

/// See the module.
pub(super) struct Line {
    dialler: Arc<Dialler>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    generation: u64,
    dialling: Option<Shared<BoxFuture<'static, Result<Wire, DialError>>>>,
    rests_until: Option<Instant>,
}

/// What to do after an error.
enum Next {
    /// Send it in full.
    InFull,
    /// Open another connection and send it again.
    Again,
    /// Nothing helps.
    Fail(String),
}

impl Line {
    pub(super) fn new(dialler: Arc<Dialler>) -> Self {
        Self { dialler, state: Mutex::default() }
    }

    /// Sends one command. Gives the connection that it was answered on, too.
    pub(super) async fn send(&self, cmd: &Cmd) -> Result<(Value, Link), Failure> {
        let deadline = Instant::now() + BUDGET;
        let mut in_full: Option<Cmd> = None;
        loop {
            let mut link = self.link(deadline).await?;
            let patience = deadline.min(Instant::now() + ANSWER);
            let sent = link.wire.send(in_full.as_ref().unwrap_or(cmd));
            let answer = match answered(patience, sent).await {
                Some(answer) => answer.and_then(Value::extract_error),
                None => Err(late()),
            };
            let error = match answer {
                Ok(value) => return Ok((value, link)),
                Err(error) => error,
            };
            match next(&error) {
                Next::InFull if in_full.is_none() => in_full = script::in_full(cmd),
                Next::InFull | Next::Again => self.replace(&link),
                Next::Fail(code) => return Err(Failure::Refused(code)),
            }
        }
    }

    /// Sends several commands that only read, about one slot.
    pub(super) async fn read(&self, cmds: &redis::Pipeline) -> Result<Vec<Value>, Failure> {
        let deadline = Instant::now() + BUDGET;
        loop {
            let mut link = self.link(deadline).await?;
            let patience = deadline.min(Instant::now() + ANSWER);
            let answer = match answered(patience, link.wire.send_all(cmds)).await {
                Some(answers) => answers.and_then(|all| all.into_iter().map(Value::extract_error).collect()),
                None => Err(late()),
            };
            match answer {
                Ok(values) => return Ok(values),
                Err(error) => match next(&error) {
                    Next::InFull | Next::Again => self.replace(&link),
                    Next::Fail(code) => return Err(Failure::Refused(code)),
                },
            }
        }
    }

    /// The connection, or the next one. Whoever comes while it is opened waits for the same one.
    async fn link(&self, deadline: Instant) -> Result<Link, Failure> {
        loop {
            let dialling = {
                let mut state = self.state();
                if let Some(link) = &state.link {
                    return Ok(link.clone());
                }
                let rest = state.rests_until.filter(|until| *until > Instant::now());
                match rest {
                    Some(until) => Err(until),
                    None => Ok(state.dial(&self.dialler)),
                }
            };
            let dialled = match dialling {
                Ok(dialling) => timeout_at(deadline, dialling).await,
                Err(until) if until < deadline => {
                    tokio::time::sleep_until(until).await;
                    continue;
                }
                Err(_) => return Err(Failure::Down),
            };
            match dialled {
                Ok(Ok(wire)) => return Ok(self.state().opened(wire)),
                Ok(Err(_)) => {
                    self.state().failed();
                    return Err(Failure::Down);
                }
                Err(_) => return Err(Failure::Down),
            }
        }
    }

    /// Lets go of a connection that does not work, unless that was done already.
    pub(super) fn replace(&self, broken: &Link) {
        let mut state = self.state();
        if state.link.as_ref().is_some_and(|link| link.generation == broken.generation) {
            state.link = None;
            state.rests_until = Some(Instant::now() + REST);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn dial(&mut self, dialler: &Arc<Dialler>) -> Shared<BoxFuture<'static, Result<Wire, DialError>>> {
        let dialler = dialler.clone();
        let dial = || async move { dialler.dial().await }.boxed().shared();
        self.dialling.get_or_insert_with(dial).clone()
    }

    /// The first of those who waited for it takes it in.
    fn opened(&mut self, wire: Wire) -> Link {
        if self.dialling.take().is_some() || self.link.is_none() {
            self.generation += 1;
            self.link = Some(Link { wire: wire.clone(), waits: Arc::default(), generation: self.generation });
        }
        let there = || Link { wire, waits: Arc::default(), generation: 0 };
        self.link.clone().unwrap_or_else(there)
    }

    fn failed(&mut self) {
        if self.dialling.take().is_some() {
            self.rests_until = Some(Instant::now() + REST);
        }
    }
}

/// An answer by `patience`. Where this process stood still for longer, the answer may lie there unread: the server is not late.
async fn answered<T>(patience: Instant, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    if let Ok(answer) = timeout_at(patience, answer.as_mut()).await {
        return Some(answer);
    }
    if Instant::now() < patience + STILL {
        return None;
    }
    timeout(STILL, answer).await.ok()
}

fn late() -> RedisError {
    RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))
}

/// Nothing of a command that a server refuses as these was done.
fn next(error: &RedisError) -> Next {
    let kind = error.kind();
    if kind == ErrorKind::Extension {
        // An error that this client has no name for.
        return Next::Fail(short(error));
    }
    let ErrorKind::Server(kind) = kind else {
        // A connection that broke, or says what cannot be understood.
        return Next::Again;
    };
    let elsewhere = [
        ServerErrorKind::ReadOnly,
        ServerErrorKind::MasterDown,
        ServerErrorKind::BusyLoading,
        ServerErrorKind::Moved,
        ServerErrorKind::Ask,
        ServerErrorKind::TryAgain,
        ServerErrorKind::ClusterDown,
    ];
    if kind == ServerErrorKind::NoScript {
        Next::InFull
    } else if elsewhere.contains(&kind) {
        Next::Again
    } else {
        Next::Fail(short(error))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tokio::task::{JoinSet, yield_now};
    use tokio::time::{advance, sleep_until};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_came_while_the_process_stood_still_is_read() {
        for (stood, is_read) in [(Duration::from_secs(3), true), (ANSWER + STILL / 2, false)] {
            let patience = Instant::now() + ANSWER;
            let (tell, told) = oneshot::channel();
            // Whoever reads takes a moment, too.
            let reading = async move {
                sleep_until(patience).await;
                for _ in 0..10 {
                    yield_now().await;
                }
                // The other end may have given up.
                let _told = tell.send(()).is_ok();
                false
            };
            let asking = async move { answered(patience, told).await.is_some() };
            let mut both = JoinSet::new();
            both.spawn(reading);
            both.spawn(asking);
            for _ in 0..10 {
                yield_now().await;
            }
            advance(stood).await;
            let ended = both.join_all().await;
            assert_eq!(ended.into_iter().any(|read| read), is_read, "{stood:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up() {
        let begun = Instant::now();
        assert_eq!(answered(begun + ANSWER, std::future::pending::<u8>()).await, None);
        assert_eq!(begun.elapsed(), ANSWER);
    }
}
