//! Bounded breadth-first exploration: every state that a few moves can reach, with the invariants checked in each.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use machines::input::CommitRefusal;
use machines::{CallFrame, ListKind, StreamId};
use mcp::{Json, Revision};

use crate::alphabet::{self, Move, Refusable};
use crate::world::World;

/// The small alphabet: two ids, one call at a time that may ask, the own stream and the call's.
fn moves(world: &World) -> Vec<Refusable> {
    let mut all = vec![
        Move::Request("1", "tools/call", r#"{"name":"a","_meta":{"progressToken":1}}"#),
        Move::Request("2", "resources/read", r#"{"uri":"a"}"#),
        Move::Notify("notifications/cancelled", r#"{"requestId":1}"#),
        Move::Respond(1, true),
        Move::Changed(ListKind::Tools),
        Move::Tick,
        Move::Close,
        Move::TakeOver,
    ];
    let own = world.streams.get(&StreamId::OWN).is_some_and(|reader| reader.connected);
    all.push(if own { Move::Gone(StreamId::OWN) } else { Move::Attach(StreamId::OWN) });
    for call in world.running.iter().take(2) {
        let chosen = alphabet::frames().into_iter().filter(|frame| match frame {
            CallFrame::Progress(params) => params.as_str().contains('1'),
            CallFrame::Detach { .. } | CallFrame::Result(_) => true,
            CallFrame::InputRequired { round, .. } => *round == 2,
            CallFrame::Accepted { .. }
            | CallFrame::Log(_)
            | CallFrame::Notice { .. }
            | CallFrame::Error(_)
            | CallFrame::Task(_)
            | CallFrame::Lost { .. } => false,
        });
        all.extend(chosen.map(|frame| Move::Frame(*call, frame)));
    }
    let kept = world.saved.streams.keys().filter(|stream| **stream != StreamId::OWN);
    all.extend(kept.map(|stream| Move::Attach(*stream)));
    let refused = all.clone().into_iter().map(|step| (step, Some(CommitRefusal::Down)));
    let stale = (Move::Request("1", "tools/call", r#"{"name":"a"}"#), Some(CommitRefusal::Stale));
    let refused: Vec<Refusable> = refused.chain([stale]).collect();
    all.into_iter().map(|step| (step, None)).chain(refused).collect()
}

fn fingerprint(world: &World) -> u64 {
    let mut session = world.session.clone();
    session.settle();
    let mut hasher = DefaultHasher::new();
    format!("{session:?} {:?} {:?} {:?}", world.streams, world.running, world.stopped).hash(&mut hasher);
    hasher.finish()
}

fn explore(revision: Revision, depth: usize) -> (usize, usize) {
    let mut settings = alphabet::tight();
    settings.server_info = Json::empty_object();
    let start = World::greeted(settings, revision, alphabet::CLIENT);
    let mut seen = BTreeSet::from([fingerprint(&start)]);
    let mut edge = vec![start];
    let mut steps = 0;
    for level in 1..=depth {
        let mut next = Vec::new();
        for world in edge {
            for step in moves(&world) {
                let mut after = world.clone();
                let refusals = after.refusals;
                alphabet::apply(&mut after, &step);
                steps += 1;
                if step.1.is_some() && after.refusals == refusals {
                    continue; // Nothing was committed: the same as without a refusal.
                }
                if !seen.insert(fingerprint(&after)) {
                    continue;
                }
                if level == depth {
                    after.settle_everything();
                } else if after.stopped.is_none() {
                    next.push(after);
                }
            }
        }
        edge = next;
    }
    (seen.len(), steps)
}

#[test]
fn every_reachable_state_keeps_the_invariants() {
    for revision in [Revision::V2025_11_25, Revision::V2025_03_26, Revision::V2024_11_05] {
        let depth = if revision == Revision::V2025_11_25 { 5 } else { 4 };
        let (states, steps) = explore(revision, depth);
        println!("{revision}: {states} states, {steps} steps");
        assert!(states > 500, "{revision}: only {states} states");
    }
}
