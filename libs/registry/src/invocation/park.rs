//! Waiting for the client: the handler stands still, the round's frames end with the question, an answer lets both go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::registry::{Context, Continuation, FrameBody, InputRequired, InputResponse};
use api::{Code, Error as PortError};
use mcp::rpc::RpcError;
use mcp::{Json, scan};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{Invocation, Phase};
use crate::ask::{Answers, Ask};
use crate::error::Error;

/// A question that has not been answered completely.
pub(super) struct Parked {
    round: u32,
    /// Number of its latest `InputRequired` frame.
    pub(super) number: u64,
    ask: Ask,
    answers: BTreeMap<String, Result<Json, RpcError>>,
    expires_unix_ms: u64,
    reply: oneshot::Sender<Answers>,
    _place: OwnedSemaphorePermit,
}

impl Parked {
    fn is_missing(&self, key: &str) -> bool {
        !self.answers.contains_key(key)
    }

    fn frame(&self) -> FrameBody {
        FrameBody::InputRequired(InputRequired {
            requests: self.ask.to_json(|key| self.is_missing(key)),
            round: self.round,
            expires_unix_ms: self.expires_unix_ms,
            continuation: Continuation::Parked,
        })
    }
}

impl Invocation {
    /// Asks the client and waits for its answers.
    pub(crate) async fn ask(self: &Arc<Self>, ask: Ask) -> Result<Answers, Error> {
        ask.check(self.context().client_capabilities.as_ref())?;
        let _turn = self.asking.acquire().await.map_err(|_closed| Error::Cancelled)?;
        let until = self.shared.clock.now() + ask.patience;
        let (round, answered) = self.park(ask)?;
        let _parking = Parking { invocation: self, round };
        tokio::select! {
            biased;
            answers = answered => answers.map_err(|_dropped| Error::Cancelled),
            () = self.cancel.cancelled() => Err(Error::Cancelled),
            () = self.shared.clock.sleep_until(until) => Err(Error::Expired),
        }
    }

    fn park(&self, ask: Ask) -> Result<(u32, oneshot::Receiver<Answers>), Error> {
        let full = |_| Error::Failed("too many calls wait for their clients".to_owned());
        let place = self.shared.parking.clone().try_acquire_owned().map_err(full)?;
        let patience = u64::try_from(ask.patience.as_millis()).unwrap_or(u64::MAX);
        let expires_unix_ms = self.shared.clock.unix_millis().saturating_add(patience);
        let (reply, answered) = oneshot::channel();
        let mut inner = self.lock();
        if matches!(inner.phase, Phase::Ended) {
            return Err(Error::Cancelled);
        }
        let round = u32::try_from(inner.rounds.len() + 1).unwrap_or(u32::MAX);
        let mut parked =
            Parked { round, number: 0, ask, answers: BTreeMap::new(), expires_unix_ms, reply, _place: place };
        parked.number = inner.push(parked.frame());
        inner.rounds.push(parked.number);
        inner.phase = Phase::Parked(parked);
        // While the client is asked, no deadline of a request runs: the question has its own.
        inner.deadline = None;
        drop(inner);
        self.moved.notify_one();
        self.changed.notify_waiters();
        Ok((round, answered))
    }

    /// Takes answers of the client. Returns the number behind which the caller reads on: behind the question, where the
    /// handler goes on, or where the question stands again with what is still missing. A round that is over is not
    /// answered again; its caller hears what came of it.
    pub(crate) fn resume(
        &self,
        context: Context,
        round: u32,
        responses: Vec<InputResponse>,
    ) -> Result<u64, PortError> {
        let mut inner = self.lock();
        let asked = round.checked_sub(1).and_then(|at| inner.rounds.get(at as usize)).copied();
        let Some(asked) = asked else {
            return Err(PortError::new(Code::InvalidRequest, format!("round {round} has not been asked")));
        };
        let Phase::Parked(parked) = &mut inner.phase else { return Ok(asked) };
        if parked.round != round {
            return Ok(asked);
        }
        for response in responses {
            // Every kind of answer is an object or a refusal; anything else is none, and asked for again.
            let is_answer = response.answer.as_ref().map_or(true, |result| scan::is_object(result.as_str()));
            if is_answer && parked.ask.keys().any(|key| key == response.key) {
                parked.answers.insert(response.key, response.answer);
            }
        }
        let deadline = context.deadline;
        let complete = parked.ask.keys().all(|key| !parked.is_missing(key));
        if complete {
            if let Phase::Parked(parked) = std::mem::replace(&mut inner.phase, Phase::Running) {
                // A handler that has just given up does not listen any more; it says itself how it goes on.
                drop(parked.reply.send(Answers(parked.answers)));
            }
            inner.deadline = deadline;
            self.moved.notify_one();
        } else {
            let again = parked.frame();
            let number = inner.push(again);
            if let Phase::Parked(parked) = &mut inner.phase {
                parked.number = number;
            }
            if let Some(latest) = inner.rounds.last_mut() {
                *latest = number;
            }
        }
        inner.context = Arc::new(context);
        drop(inner);
        self.changed.notify_waiters();
        Ok(asked)
    }
}

/// Ends the waiting when the handler stops waiting, for whatever reason.
struct Parking<'a> {
    invocation: &'a Arc<Invocation>,
    round: u32,
}

impl Drop for Parking<'_> {
    fn drop(&mut self) {
        let invocation = self.invocation;
        let mut inner = invocation.lock();
        if !matches!(&inner.phase, Phase::Parked(parked) if parked.round == self.round) {
            return;
        }
        inner.phase = Phase::Running;
        inner.deadline = Some(invocation.shared.clock.now() + invocation.shared.limits.after_giving_up);
        drop(inner);
        invocation.moved.notify_one();
        invocation.changed.notify_waiters();
    }
}
