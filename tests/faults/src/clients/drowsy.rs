//! A client that calls now and then and listens to nothing in between: its session becomes passive each time.

use std::time::Duration;

use history::line::Doing;

use super::World;
use super::call::Ended;
use super::session::Session;

/// After so many seconds without traffic a session of the mesh that is hurt becomes passive. What Redis may lose is younger.
pub const PASSIVATE_AFTER_S: u64 = 2;
/// The least between two calls: what is passive after that time is seen to within a second.
const REST: Duration = Duration::from_millis(1_000 * PASSIVATE_AFTER_S + 1_100);
/// At most so much more.
const MORE_MS: u64 = 1_500;
/// Before anything is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// Calls, rests and calls again until it is asked to stop.
pub(super) async fn work(world: World, name: String) {
    let mut draw = world.draw(&name);
    let mut number = 0;
    while world.goes_on() {
        number += 1;
        let Some(session) = Session::begin(&world, &name, &format!("{name}.{number}"), "alice").await else {
            world.pause(AGAIN).await;
            continue;
        };
        while world.goes_on() && !session.has_gone() {
            let f = match draw.below(4) {
                0 | 1 => Doing::Append,
                2 => Doing::Read,
                _ => Doing::Count,
            };
            // Nobody rests who has got nothing: how long the session is out would be how long its client sleeps.
            let may_rest = matches!(session.call(f).await, Ended::Done(_));
            let rest = REST + Duration::from_millis(draw.below(MORE_MS));
            world.pause(if may_rest { rest } else { AGAIN }).await;
        }
        session.end().await;
    }
}
