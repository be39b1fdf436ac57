//! Sessions that their owner lets go of and loads again: which ones, and what must not come of it.

use machines::input::CommitRefusal;
use machines::{CallFrame, CallId, Effect, Input, ListKind, Session, Settings, Snapshot, StreamId};
use mcp::{Json, Revision};

use crate::world::{self, World};

fn greeted() -> World {
    World::greeted(world::settings(), Revision::V2025_11_25, "{}")
}

fn answer(world: &mut World, call: u64) {
    let frame = CallFrame::Result(Json::empty_object());
    world.give(Input::Frame { call: CallId(call), number: 1, frame });
}

#[test]
fn only_what_loses_nothing_is_let_go_of() {
    type Case = (&'static str, bool, fn(&mut World));
    let cases: [Case; 12] = [
        ("idle", true, |_| {}),
        ("after a call", true, |world| {
            world.request("1", "tools/call", Some(r#"{"name":"a"}"#));
            answer(world, 1);
        }),
        ("with what waits for a reader", true, |world| {
            _ = world.give(Input::CatalogChanged(ListKind::Tools))
        }),
        ("a call that is not written down", false, |world| {
            world.request("1", "resources/read", Some(r#"{"uri":"a"}"#));
        }),
        ("a call", false, |world| _ = world.request("1", "tools/call", Some(r#"{"name":"a"}"#))),
        ("a reader", false, |world| _ = world.attach(StreamId::OWN)),
        ("a resource that is watched", false, |world| {
            world.request("1", "resources/subscribe", Some(r#"{"uri":"file:///a"}"#));
            answer(world, 1);
        }),
        ("what the store is owed", false, |world| {
            world.refuse = Some(CommitRefusal::Down);
            world.give(Input::CatalogChanged(ListKind::Tools));
            world.now += world.settings.store_retry_ms;
        }),
        ("a store that was down just now", false, |world| {
            world.refuse = Some(CommitRefusal::Down);
            world.request("1", "logging/setLevel", Some(r#"{"level":"info"}"#));
        }),
        ("the same a little later", true, |world| {
            world.refuse = Some(CommitRefusal::Down);
            world.request("1", "logging/setLevel", Some(r#"{"level":"info"}"#));
            world.now += world.settings.store_retry_ms;
        }),
        ("a node that drains", false, |world| _ = world.give(Input::Drain)),
        ("an end", false, |world| _ = world.close()),
    ];
    for (what, expected, prepare) in cases {
        let mut world = greeted();
        prepare(&mut world);
        world.session.settle();
        assert_eq!(world.session.remembered(world.now).is_some(), expected, "{what}");
    }
    let mut shaking_hands = World::new(world::settings());
    shaking_hands.initialize(Revision::V2025_11_25, "{}");
    shaking_hands.session.settle();
    assert_eq!(shaking_hands.session.remembered(shaking_hands.now), None);
    let mut carried = World::carried(world::settings(), Revision::V2025_11_25, "{}");
    carried.detach(StreamId::OWN);
    carried.session.settle();
    assert_eq!(carried.session.remembered(carried.now), None);
    let mut unsettled = greeted();
    unsettled.request("1", "logging/setLevel", Some(r#"{"level":"info"}"#));
    assert_eq!(unsettled.session.remembered(unsettled.now), None, "nobody has said that it is stored");
}

#[test]
fn one_that_would_not_find_out_what_changed_stays() {
    let mut saved = greeted().saved;
    saved.handshake.as_mut().unwrap().lists = None;
    let session = Session::restore(world::settings(), saved, 1000);
    assert_eq!(session.remembered(1000), None);
}

#[test]
fn no_number_of_a_call_or_a_stream_is_given_twice() {
    let mut world = greeted();
    for id in ["1", "2"] {
        // Nothing of this is stored, and registries have heard of it.
        world.request(id, "resources/read", Some(r#"{"uri":"a"}"#));
        answer(&mut world, id.parse().unwrap());
    }
    let stored = (world.saved.next_call, world.session.clone().reserve_stream());
    assert!(world.let_go());
    let effects = world.request("3", "resources/read", Some(r#"{"uri":"a"}"#));
    let made: Vec<&Effect> =
        effects.iter().filter(|effect| matches!(effect, Effect::Call { call: CallId(3), .. })).collect();
    assert_eq!((stored.0, made.len()), (1, 1), "{effects:?}");
    assert!(world.session.reserve_stream() > stored.1);
}

#[test]
fn no_number_of_an_event_is_given_twice_where_the_store_has_lost_some() {
    let mut world = greeted();
    let before = world.saved.clone();
    world.give(Input::CatalogChanged(ListKind::Tools));
    world.session.settle();
    let last = world.saved.streams[&StreamId::OWN].last;
    let remembered = world.session.remembered(world.now).unwrap();
    let load =
        |saved: &Snapshot| Session::restore(world::settings(), saved.clone(), 0).remembering(&remembered);
    for stored in [&before, &world.saved] {
        let mut session = load(stored);
        session.step(0, Input::CatalogChanged(ListKind::Prompts));
        assert_eq!(session.saved().streams[&StreamId::OWN].last, last + 1);
    }
}

#[test]
fn it_has_been_idle_for_as_long_as_it_has() {
    let settings = Settings { idle_timeout_ms: 60_000, ..world::settings() };
    let mut world = World::greeted(settings, Revision::V2025_11_25, "{}");
    let since = world.now;
    world.wait(40_000);
    assert!(world.let_go());
    assert_eq!((world.session.active(), world.session.next_wake()), (since, Some(since + 60_000)));
    world.wait(20_000);
    assert_eq!(world.stopped, Some(machines::StopReason::Idle));
}
