//! Every reachable state survives being saved and loaded, and the next owner brings everything to its ending.

use machines::snapshot::LoadError;
use machines::{Effect, Input, ListKind, Lists, Session, Settings, Snapshot};
use mcp::{Json, Revision};
use proptest::prelude::*;

use crate::walk::walk;
use crate::world::{self, World};

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_state_can_be_taken_over(
        revision in 0_usize..4,
        steps in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..60),
    ) {
        walk(revision, &steps, |world| {
            let mut next = world.clone();
            next.stopped = None;
            next.take_over();
            if next.session.phase().is_alive() {
                next.wait(0);
                next.settle_everything();
            }
        });
    }
}

#[test]
fn changes_survive_being_written_down() {
    let mut world = World::greeted(world::settings(), Revision::V2025_11_25, r#"{"roots":{}}"#);
    let mut folded = world.saved.clone();
    let mut effects = world.request("1", "tools/call", Some(r#"{"name":"a","_meta":{"progressToken":1}}"#));
    effects.extend(world.request("2", "logging/setLevel", Some(r#"{"level":"alert"}"#)));
    for frame in crate::alphabet::frames().into_iter().take(9) {
        effects.extend(world.give(Input::Frame { call: machines::CallId(1), number: 0, frame }));
    }
    effects.extend(world.close());
    let mut count = 0;
    for effect in effects {
        let Effect::Commit(changes) = effect else { continue };
        for change in changes {
            let written = Json::of(&change);
            let read: machines::Change = written.read().unwrap();
            assert_eq!(read, change);
            folded.apply(&read);
            count += 1;
        }
    }
    assert!(count > 8, "only {count} changes");
    assert_eq!(folded, world.saved);
}

#[test]
fn what_changed_in_the_lists_while_nobody_owned_it_is_found_out_once() {
    let listed = |lists| Settings { lists, ..world::settings() };
    let (old, new) =
        (Lists { tools: 1, resources: 2, prompts: 3 }, Lists { tools: 9, resources: 2, prompts: 8 });
    let world = World::greeted(listed(old), Revision::V2025_11_25, "{}");
    let owner = |lists, saved: &Snapshot| Session::restore(listed(lists), saved.clone(), 0);
    let missed = |session: &Session| session.unannounced().collect::<Vec<_>>();
    assert_eq!(missed(&owner(old, &world.saved)), []);
    let mut next = owner(new, &world.saved);
    assert_eq!(missed(&next), [ListKind::Tools, ListKind::Prompts]);
    next.step(1, Input::CatalogChanged(ListKind::Prompts));
    assert_eq!(missed(&owner(new, &next.snapshot())), [ListKind::Tools]);
    next.step(2, Input::CatalogChanged(ListKind::Tools));
    assert_eq!(missed(&owner(new, &next.snapshot())), []);
    // An owner that is told of a change notes it in the same way.
    next.serve(listed(old).into());
    next.step(3, Input::CatalogChanged(ListKind::Prompts));
    assert_eq!(missed(&owner(old, &next.snapshot())), [ListKind::Tools]);
}

#[test]
fn who_was_greeted_by_a_version_that_did_not_note_the_lists_misses_nothing() {
    let world = World::greeted(world::settings(), Revision::V2025_11_25, "{}");
    let mut saved = world.saved;
    saved.handshake.as_mut().unwrap().lists = None;
    let written = saved.save();
    assert!(!written.as_str().contains("lists"), "{written}");
    let lists = Lists { tools: 1, resources: 1, prompts: 1 };
    let settings = Settings { lists, ..world::settings() };
    let mut session = Session::restore(settings, Snapshot::load(&written).unwrap(), 0);
    assert_eq!(session.unannounced().next(), None);
    session.step(1, Input::CatalogChanged(ListKind::Tools));
    assert_eq!(session.saved().handshake.as_ref().unwrap().lists, Some(lists));
}

#[test]
fn another_form_is_not_read() {
    let saved = Snapshot::default().save();
    assert_eq!(Snapshot::load(&saved), Ok(Snapshot::default()));
    let other = Json::trusted(saved.as_str().replace("\"version\":1", "\"version\":2"));
    assert_eq!(Snapshot::load(&other), Err(LoadError::Version(2)));
    assert!(matches!(Snapshot::load(&Json::trusted(r#"{"version":1}"#)), Err(LoadError::Damaged(_))));
}

#[test]
fn an_idle_session_is_small() {
    let mut world = World::greeted(world::settings(), Revision::V2025_06_18, "{}");
    let big = format!(r#"{{"name":"a","arguments":{{"text":"{}"}}}}"#, "x".repeat(100_000));
    world.request("1", "tools/call", Some(&big));
    let frame = machines::CallFrame::Result(Json::empty_object());
    world.give(Input::Frame { call: machines::CallId(1), number: 0, frame });
    world.session.settle();
    let text = format!("{:?}", world.session);
    assert!(text.len() < 3000, "{} bytes are left of a finished call", text.len());
    assert!(size_of::<Session>() <= 512, "{} bytes", size_of::<Session>());
}
