//! Long random walks, refused commits and changes of owner included; at the end everything is brought to its one ending.

use machines::input::CommitRefusal;
use proptest::prelude::*;

use crate::alphabet::{self, Move, OLDER};
use crate::world::World;

/// Plays a walk; each step is a choice among what may happen, and whether its commit is refused.
pub(crate) fn walk(revision: usize, steps: &[(u16, u8)], visit: impl FnMut(&World)) {
    let revision = OLDER[revision % OLDER.len()];
    go(World::greeted(alphabet::tight(), revision, alphabet::CLIENT), steps, visit);
}

/// The same in a session that one reader carries.
fn walk_carried(revision: usize, steps: &[(u16, u8)]) {
    let revision = OLDER[revision % OLDER.len()];
    go(World::carried(alphabet::tight(), revision, alphabet::CLIENT), steps, |_| {});
}

fn go(mut world: World, steps: &[(u16, u8)], mut visit: impl FnMut(&World)) {
    for (choice, fate) in steps {
        let moves = alphabet::moves(&world);
        let step = moves[usize::from(*choice) % moves.len()].clone();
        let refusal = match fate {
            0..=30 => Some(CommitRefusal::Down),
            31 if *choice < 500 => Some(CommitRefusal::Stale),
            32 if *choice < 500 => Some(CommitRefusal::Conflict),
            33 if *choice < 500 => Some(CommitRefusal::Regress),
            _ => None,
        };
        // Ends are rare, so that walks are long.
        let idle = world.session.calls() == 0;
        let ends = matches!(step, Move::Close | Move::Drain) || (idle && matches!(step, Move::Tick));
        if ends && *fate < 250 {
            continue;
        }
        alphabet::apply(&mut world, &(step, refusal));
        visit(&world);
        if world.stopped.is_some() {
            return;
        }
    }
    world.settle_everything();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_walk_breaks_an_invariant(
        revision in 0_usize..4,
        steps in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..250),
    ) {
        walk(revision, &steps, |_| {});
    }

    #[test]
    fn no_walk_breaks_an_invariant_of_a_carried_session(
        revision in 0_usize..4,
        steps in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..250),
    ) {
        walk_carried(revision, &steps);
    }
}
