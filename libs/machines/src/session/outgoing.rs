//! Requests to the client: a registry's questions, asked on the stream of the call that needs the answers.

use std::sync::Arc;

use mcp::edit::{self, ObjectEditor};
use mcp::rpc::{self, Response, RpcError};
use mcp::{Json, Revision, code, content};

use super::turn::Turn;
use crate::asks::{self, Wanted};
use crate::effect::Effect;
use crate::input::{CallId, Continuation, StreamId};
use crate::journal::{Ask, Pickup, Round, ask_id};
use crate::snapshot::CallChange;
use crate::wire;

impl Turn<'_> {
    /// A registry needs answers of the client to go on.
    pub(super) fn input_required(
        &mut self,
        call: CallId,
        requests: &Json,
        number: u32,
        continuation: Continuation,
    ) {
        let Some(under_way) = self.live.calls.get_mut(&call).map(Arc::make_mut) else { return };
        let open = self.saved.journal.get(&call).and_then(|entry| entry.round.as_ref());
        let asking = open.is_some();
        if open.is_some_and(|round| round.number == number) {
            return; // The same frame again, after the call was attached to.
        }
        under_way.rounds = under_way.rounds.saturating_add(1);
        let too_often = under_way.rounds > self.settings.max_rounds;
        let sealed = matches!(continuation, Continuation::Sealed(_));
        let legal = under_way.method.may_ask() && !sealed;
        let Some(wanted) = asks::read(requests).filter(|_| legal) else {
            return self.give_up(call, "bad_input_request");
        };
        if too_often {
            return self.give_up(call, "too_many_rounds");
        }
        self.withdraw(call, "superseded");
        let deadline = self.now.saturating_add(self.settings.ask_timeout_ms);
        let (asks, messages) = self.prepare(call, wanted);
        let round = Round { number, continuation, asks, deadline };
        if messages.is_empty() {
            if asking {
                self.close_round(call);
            }
            return self.resume(call, &round);
        }
        self.journal(call);
        self.change_call(call, CallChange::Asked(Box::new(round)));
        for message in messages {
            self.say(call, Some(message));
        }
    }

    /// The questions with those refused that this client cannot answer, and the requests for the others.
    fn prepare(&self, call: CallId, wanted: Vec<Wanted>) -> (Vec<Ask>, Vec<Json>) {
        let mut room = self.settings.max_outgoing.saturating_sub(self.unanswered_of_others(call));
        let (mut asks, mut messages) = (Vec::new(), Vec::new());
        for question in wanted {
            let number = self.saved.next_ask.saturating_add(messages.len() as u64);
            let refusal = self.refusal(&question, room);
            if refusal.is_none() {
                room -= 1;
                messages.push(self.wording(&question, number));
            }
            let number = refusal.is_none().then_some(number);
            asks.push(Ask { key: question.key, number, answer: refusal.map(Err) });
        }
        (asks, messages)
    }

    /// Questions of other calls that wait for an answer.
    fn unanswered_of_others(&self, call: CallId) -> usize {
        let others = self.saved.journal.iter().filter(|(other, _)| **other != call);
        others.filter_map(|(_, entry)| entry.round.as_ref()).map(|round| round.open().count()).sum()
    }

    fn refusal(&self, question: &Wanted, room: usize) -> Option<RpcError> {
        let capabilities = self.saved.handshake.as_ref().map_or("{}", |h| h.capabilities.as_str());
        if !question.need().is_some_and(|need| need.is_met(capabilities, self.revision())) {
            let message = format!("client does not support {}", question.method);
            return Some(RpcError::new(code::METHOD_NOT_FOUND, message));
        }
        (room == 0).then(|| wire::rate_limited("too many requests to the client are unanswered"))
    }

    /// The request as the client's revision has it.
    fn wording(&self, question: &Wanted, number: u64) -> Json {
        let revision = self.revision();
        let mut params = question.params.clone();
        if question.is_url() && revision == Revision::V2025_11_25 {
            let given = params.unwrap_or_else(Json::empty_object);
            let mut editor = ObjectEditor::new(given.as_str());
            editor.set_default("elicitationId", edit::quote(&format!("elicitation-{number}")));
            params = Some(editor.finish_json());
        }
        let params = params.map(|params| content::for_client_request(&question.method, params, revision));
        rpc::request(&ask_id(number), &question.method, params.as_ref())
    }

    /// A response of the client. One that answers nothing is accepted and ignored.
    pub(super) fn response(&mut self, stream: StreamId, response: Response) {
        let asked = self.saved.journal.iter().filter(|(call, _)| self.live.calls.contains_key(call));
        let found = asked.into_iter().find_map(|(call, entry)| {
            let mut open = entry.round.as_ref()?.open();
            let ask = open.find(|ask| ask.number.is_some_and(|n| ask_id(n) == response.id))?;
            Some((*call, ask.key.clone()))
        });
        if let Some((call, key)) = found {
            self.change_call(call, CallChange::Answered { key, answer: response.outcome });
            self.answer(stream, 202, None);
            self.resume_if_answered(call);
        } else {
            self.answer(stream, 202, None);
        }
    }

    fn resume_if_answered(&mut self, call: CallId) {
        let round = self.saved.journal.get(&call).and_then(|entry| entry.round.as_ref());
        if let Some(round) = round.filter(|round| round.open().next().is_none()).cloned() {
            self.close_round(call);
            self.resume(call, &round);
        }
    }

    /// Nobody is asked any more; the call's time runs again.
    fn close_round(&mut self, call: CallId) {
        let deadline = self.now.saturating_add(self.settings.call_timeout_ms);
        self.change_call(call, CallChange::RoundClosed { deadline });
        if let Some(under_way) = self.live.calls.get_mut(&call).map(Arc::make_mut) {
            under_way.deadline = deadline;
        }
    }

    /// Hands the answers to the registry.
    fn resume(&mut self, call: CallId, round: &Round) {
        if let Pickup::Resume { round, responses, state } = round.pickup() {
            self.want(Effect::Resume { call, round, responses, state });
        }
    }

    /// The client took too long: it is told so, and the registry gets errors for what is missing.
    pub(super) fn round_timed_out(&mut self, call: CallId) {
        self.withdraw(call, "no answer in time");
        let round = self.saved.journal.get(&call).and_then(|entry| entry.round.as_ref());
        let late: Vec<String> = round.into_iter().flat_map(Round::open).map(|ask| ask.key.clone()).collect();
        for key in late {
            let error = RpcError::reason("the client did not answer in time", "timeout");
            self.change_call(call, CallChange::Answered { key, answer: Err(error) });
        }
        self.resume_if_answered(call);
    }

    /// Tells the client that its answers to a call's questions are no longer wanted.
    pub(super) fn withdraw(&mut self, call: CallId, reason: &str) {
        let Some(stream) = self.live.calls.get(&call).map(|c| c.stream) else { return };
        let round = self.saved.journal.get(&call).and_then(|entry| entry.round.as_ref());
        let numbers: Vec<u64> =
            round.into_iter().flat_map(Round::open).filter_map(|ask| ask.number).collect();
        for number in numbers {
            self.emit(stream, wire::cancelled(&ask_id(number), reason));
        }
    }
}
