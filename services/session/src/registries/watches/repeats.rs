//! The same update, reported by several replicas.

use std::collections::BTreeMap;
use std::time::Duration;

use mcp::Json;
use tokio::time::Instant;

use super::LinkId;

/// How far behind each other replicas may notice the same change.
const WITHIN: Duration = Duration::from_secs(1);

/// What other replicas are expected to repeat. Each repetition is expected once, so two changes are never taken for one for
/// longer than [`WITHIN`].
#[derive(Debug, Default)]
pub(super) struct Repeats {
    expected: BTreeMap<LinkId, (Instant, Json)>,
}

impl Repeats {
    /// Whether another replica has just reported the same. If not, these `others` are expected to.
    pub(super) fn is_repeat(
        &mut self,
        link: LinkId,
        params: &Json,
        others: impl Iterator<Item = LinkId>,
        now: Instant,
    ) -> bool {
        if let Some((until, expected)) = self.expected.remove(&link)
            && now < until
            && expected.as_str() == params.as_str()
        {
            return true;
        }
        for other in others {
            self.expected.insert(other, (now + WITHIN, params.clone()));
        }
        false
    }

    /// A replica is lost.
    pub(super) fn forget(&mut self, link: LinkId) {
        self.expected.remove(&link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(repeats: &mut Repeats, link: LinkId, at: Instant) -> bool {
        let all = [1, 2, 3].into_iter().filter(|other| *other != link);
        !repeats.is_repeat(link, &Json::trusted(r#"{"uri":"a:1"}"#), all, at)
    }

    #[test]
    fn a_change_that_all_replicas_report_is_told_once() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert_eq!([1, 3, 2].map(|link| told(&mut repeats, link, now)), [true, false, false]);
        assert_eq!([2, 1, 3].map(|link| told(&mut repeats, link, now)), [true, false, false], "the next one");
    }

    #[test]
    fn a_change_that_one_replica_reports_twice_is_two() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert_eq!([1, 1, 2, 2].map(|link| told(&mut repeats, link, now)), [true, true, false, true]);
    }

    #[test]
    fn what_comes_much_later_is_another_change() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert!(told(&mut repeats, 1, now));
        assert!(told(&mut repeats, 2, now + WITHIN));
    }

    #[test]
    fn another_update_is_no_repetition() {
        let (mut repeats, now) = (Repeats::default(), Instant::now());
        assert!(told(&mut repeats, 1, now));
        assert!(!repeats.is_repeat(2, &Json::trusted(r#"{"uri":"a:1","_meta":{}}"#), [].into_iter(), now));
    }
}
