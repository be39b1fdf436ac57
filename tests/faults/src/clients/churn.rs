//! A client whose sessions come and go, and who looks whether they are really gone.

use history::line::Doing;

use super::session::Session;
use super::{Load, World};

/// Begins, uses, ends and tries sessions until it is asked to stop.
pub(super) async fn work(world: World, name: String, load: Load) {
    let mut number = 0;
    while world.goes_on() {
        number += 1;
        let session = Session::begin(&world, &name, &format!("{name}.{number}"), "alice").await;
        if let Some(session) = session {
            for f in [Doing::Count, Doing::Ping, Doing::Append, Doing::Read] {
                session.call(f).await;
                world.pause(load.pause).await;
            }
            session.end().await;
            // It must not be there any more, at either gateway.
            session.call(Doing::Late).await;
            session.call(Doing::Late).await;
        }
        world.pause(load.pause * 3).await;
    }
}
