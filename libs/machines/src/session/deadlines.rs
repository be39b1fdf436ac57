//! Everything that happens because time has passed.

use std::sync::Arc;

use super::Live;
use super::phase::{Phase, Trigger};
use super::turn::Turn;
use crate::effect::{Effect, StopReason};
use crate::input::{CallId, Millis, StreamId};
use crate::settings::Settings;
use crate::snapshot::Snapshot;

/// When the session has to be woken, as things stand.
pub(super) fn next_wake(settings: &Settings, saved: &Snapshot, live: &Live) -> Option<Millis> {
    let after = |from: Millis, ms: Millis| from.saturating_add(ms);
    let mut soonest: Option<Millis> = None;
    let mut at = |moment: Millis| soonest = Some(soonest.map_or(moment, |s| s.min(moment)));
    match live.phase {
        Phase::Failed | Phase::Terminated => return None,
        Phase::Uninitialised | Phase::Initialising => at(after(live.began, settings.init_timeout_ms)),
        Phase::Initialised if live.readers.is_empty() => at(after(live.active, settings.idle_timeout_ms)),
        Phase::Initialised | Phase::Processing => {}
    }
    if let Some(handshake) = &saved.handshake {
        at(after(handshake.at, settings.max_life_ms));
    }
    if live.carried && !live.readers.contains(&StreamId::OWN) {
        at(after(live.alone, settings.alone_ms));
    }
    if live.carried
        && live.readers.contains(&StreamId::OWN)
        && saved.streams.get(&StreamId::OWN).is_some_and(|log| !log.events.is_empty())
    {
        at(after(live.told.0, settings.told_ms));
    }
    for (call, under_way) in &live.calls {
        let round = saved.journal.get(call).and_then(|entry| entry.round.as_ref());
        at(round.map_or(under_way.deadline, |round| round.deadline));
        if let Some(open_at) = under_way.open_at {
            at(open_at);
        }
    }
    for finished in saved.streams.values().filter_map(|log| log.finished_at) {
        at(after(finished, settings.kept_ms));
    }
    if !live.owed.is_empty() {
        at(0);
    }
    // While the store is down, nothing is tried more often than it is said to be.
    soonest.map(|moment| live.blocked_until.map_or(moment, |blocked| moment.max(blocked)))
}

/// The moments of a session that was written down were dates of another process. A date that cannot be, as clocks stand here, is
/// one of a clock that stands elsewhere: what it limits begins anew.
pub(super) fn as_of(settings: &Settings, saved: &mut Snapshot, now: Millis) {
    let ends = |at: Millis, span: Millis| {
        let can_be = at <= now.saturating_add(span) && at.saturating_add(span) >= now;
        if can_be { at } else { now.saturating_add(span) }
    };
    for entry in saved.journal.values_mut().map(Arc::make_mut) {
        match &mut entry.round {
            // While the client is asked, the call itself has time.
            Some(round) => round.deadline = ends(round.deadline, settings.ask_timeout_ms),
            None => entry.deadline = ends(entry.deadline, settings.call_timeout_ms),
        }
    }
    for finished in saved.streams.values_mut().filter_map(|log| log.finished_at.as_mut()) {
        let is_over = finished.saturating_add(settings.kept_ms.saturating_mul(2)) < now;
        *finished = if is_over { now } else { now.min(*finished) };
    }
    if let Some(handshake) = &mut saved.handshake {
        handshake.at = now.min(handshake.at);
    }
}

impl Turn<'_> {
    /// Asks to be woken, unless the last wish is still the right one. One that comes too early does no harm.
    pub(super) fn arm(&mut self) {
        let Some(wanted) = next_wake(self.settings, self.saved, self.live) else { return };
        if self.live.armed != Some(wanted) {
            self.live.armed = Some(wanted);
            self.want(Effect::WakeAt(wanted));
        }
    }

    pub(super) fn deadline_reached(&mut self) {
        self.live.armed = None;
        self.live.blocked_until = self.live.blocked_until.filter(|until| *until > self.now);
        if self.is_left_alone() {
            return self.end_session(StopReason::Closed);
        }
        match self.live.phase {
            Phase::Failed => self.advance(Trigger::CleanedUp),
            Phase::Terminated => {}
            Phase::Uninitialised | Phase::Initialising => {
                if self.live.began.saturating_add(self.settings.init_timeout_ms) <= self.now {
                    self.end_session(StopReason::InitTimeout);
                }
            }
            Phase::Initialised | Phase::Processing => {
                if self.is_expired() {
                    return self.end_session(StopReason::Expired);
                }
                if self.is_idle() {
                    return self.end_session(StopReason::Idle);
                }
                self.calls_due();
                self.drop_expired_streams();
                self.drop_what_was_told();
                if self.live.blocked_until.is_none() {
                    self.pay_owed();
                }
            }
        }
    }

    /// No call, no connection, and nothing heard for long enough.
    pub(super) fn is_idle(&self) -> bool {
        let quiet = self.live.phase == Phase::Initialised && self.live.readers.is_empty();
        quiet && self.live.active.saturating_add(self.settings.idle_timeout_ms) <= self.now
    }

    /// A carried session whose reader has not come back.
    pub(super) fn is_left_alone(&self) -> bool {
        let alone = self.live.carried && !self.live.readers.contains(&StreamId::OWN);
        let due = self.live.alone.saturating_add(self.settings.alone_ms) <= self.now;
        alone && due && self.live.phase.is_alive()
    }

    /// Lasted as long as any session may.
    pub(super) fn is_expired(&self) -> bool {
        let life = self.settings.max_life_ms;
        self.saved.handshake.as_ref().is_some_and(|handshake| handshake.at.saturating_add(life) <= self.now)
    }

    fn calls_due(&mut self) {
        let calls: Vec<CallId> = self.live.calls.keys().copied().collect();
        for call in calls {
            let Some(under_way) = self.live.calls.get(&call) else { continue };
            let round = self.saved.journal.get(&call).and_then(|entry| entry.round.as_ref());
            match round {
                Some(round) if round.deadline <= self.now => self.round_timed_out(call),
                None if under_way.deadline <= self.now => self.give_up(call, "timeout"),
                Some(_) | None => {
                    if under_way.open_at.is_some_and(|at| at <= self.now) {
                        self.open(call);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mcp::rpc::Id;
    use mcp::{Json, Method};

    use super::*;
    use crate::StreamId;
    use crate::input::Continuation;
    use crate::journal::{Entry, JournalState, Round};

    const HOUR: Millis = 3_600_000;

    fn call(deadline: Millis, round: Option<Millis>) -> Entry {
        let round = round.map(|at| Round {
            number: 1,
            continuation: Continuation::Parked,
            asks: Vec::new(),
            deadline: at,
        });
        Entry {
            id: Id::text("a"),
            method: Method::ToolsCall,
            stream: StreamId(1),
            key: None,
            epoch: 1,
            generation: 0,
            heard: 0,
            params: Json::trusted("{}"),
            token: None,
            deadline,
            state: JournalState::Dispatched,
            instance: None,
            round,
            answered: None,
        }
    }

    /// The deadlines, of the call and of the question, as another process reads them at `now`.
    fn read_at(now: Millis, deadline: Millis, round: Option<Millis>) -> (Millis, Option<Millis>) {
        let mut saved = Snapshot::default();
        saved.journal.insert(CallId(1), call(deadline, round).into());
        as_of(&Settings::default(), &mut saved, now);
        let entry = &saved.journal[&CallId(1)];
        (entry.deadline, entry.round.as_ref().map(|round| round.deadline))
    }

    #[test]
    fn clocks_that_differ_end_nothing_early_and_keep_nothing_for_ever() {
        let (now, settings) = (100 * HOUR, Settings::default());
        let (calls, asks) = (settings.call_timeout_ms, settings.ask_timeout_ms);
        for deadline in [now + calls, now + 1, now, now - calls] {
            assert_eq!(read_at(now, deadline, None).0, deadline, "a date that can be is kept");
        }
        for skew in [now + calls + 1, now + HOUR + calls, now - calls - 1, now - HOUR] {
            assert_eq!(read_at(now, skew, None).0, now + calls);
        }
        let late = now - 50 * HOUR;
        assert_eq!(read_at(now, late, Some(now + 1)), (late, Some(now + 1)), "an answer is waited for");
        assert_eq!(read_at(now, late, Some(now + asks + HOUR)), (late, Some(now + asks)));
        assert_eq!(read_at(now, late, Some(now - asks - 1)), (late, Some(now + asks)));
    }
}
