//! Whatever a real session commits comes back from the store as it was.

use std::cell::Cell;
use std::sync::Arc;

use api::Epoch;
use machines::{Change, Effect};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use session::store::{Commit, Config, SessionStore};
use tokio::runtime::Runtime;

use crate::alphabet::{self, Move, OLDER};
use crate::server::{Server, config, connect};
use crate::world::World;
use crate::writer::Writer;

/// The commits of a random walk.
fn commits(revision: usize, steps: &[u16]) -> Vec<Vec<Change>> {
    let mut world = World::new(alphabet::tight());
    let mut effects = world.initialize(OLDER[revision % OLDER.len()], alphabet::CLIENT);
    effects.extend(world.notify("notifications/initialized", None));
    for choice in steps {
        let moves = alphabet::moves(&world);
        let step = moves[usize::from(*choice) % moves.len()].clone();
        if world.stopped.is_some() || (matches!(step, Move::Close | Move::Drain) && *choice < 60_000) {
            continue;
        }
        effects.extend(alphabet::apply(&mut world, &(step, None)));
    }
    let changes = |effect| match effect {
        Effect::Commit(changes) => Some(changes),
        _ => None,
    };
    effects.into_iter().filter_map(changes).collect()
}

/// The owner changes at every tenth commit; the session is loaded after each.
async fn play(writer: &mut Writer, commits: &[Vec<Change>]) {
    for (number, changes) in commits.iter().enumerate() {
        if number % 10 == 9 {
            writer.epoch = Epoch(writer.epoch.0 + 1);
            writer.fence().await;
        }
        changes.iter().for_each(|change| writer.state.apply(change));
        let commit = Commit::new(changes, &writer.state);
        let committed = writer.store.commit(&writer.id, writer.epoch, writer.version, commit).await;
        assert_eq!(committed, Ok(()), "{changes:?}");
        writer.version += 1;
        writer.is_whole().await;
    }
    let repaired = writer.store.repair(&writer.id, writer.epoch, &writer.stored()).await;
    assert_eq!(repaired, Ok(()));
    writer.is_whole().await;
    assert_eq!(writer.store.remove(&writer.id, writer.epoch).await, Ok(()));
}

/// Plays random walks against a store.
fn play_walks(runtime: &Runtime, store: &Arc<dyn SessionStore>, cases: u32) {
    let slot = Cell::new(0);
    let walks = (0_usize..4, proptest::collection::vec(any::<u16>(), 1..120));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let most = Cell::new(0);
    let played = TestRunner::new(config).run(&walks, |(revision, steps)| {
        let commits = commits(revision, &steps);
        slot.set((slot.get() + 1) % 4096);
        runtime.block_on(async {
            // What is shrunk comes in other slots.
            let mut writer = Writer::begin_in(store, slot.get(), 1).await;
            play(&mut writer, &commits).await;
        });
        most.set(most.get().max(commits.len()));
        Ok(())
    });
    played.unwrap();
    assert!(most.get() > 20, "walks that commit little prove little: {}", most.get());
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn what_a_session_commits_is_what_is_loaded() {
    let server = Server::start(&[]);
    let runtime = runtime();
    let store = runtime.block_on(connect(&config(&[&server])));
    play_walks(&runtime, &store, 400);
    let left: Vec<String> = runtime.block_on(server.ask(&["KEYS", "*:[sl]*:v1*"]));
    assert_eq!(left, [""; 0], "removed sessions leave nothing but that they are over");
}

#[test]
fn what_a_session_commits_is_what_is_loaded_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sessions.redb").to_str().unwrap().to_owned();
    let runtime = runtime();
    let store = runtime.block_on(connect(&Config { file, ..Config::default() }));
    play_walks(&runtime, &store, 100);
}
