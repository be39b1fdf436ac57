//! Every reachable state survives being saved and loaded, and the next owner brings everything to its ending.

use machines::snapshot::LoadError;
use machines::{Effect, Session, Snapshot};
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
        effects.extend(world.give(machines::Input::Frame { call: machines::CallId(1), number: 0, frame }));
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
    world.give(machines::Input::Frame { call: machines::CallId(1), number: 0, frame });
    world.session.settle();
    let text = format!("{:?}", world.session);
    assert!(text.len() < 3000, "{} bytes are left of a finished call", text.len());
    assert!(size_of::<Session>() <= 512, "{} bytes", size_of::<Session>());
}
