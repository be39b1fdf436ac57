//! What operators are told of requests whose owner changed.

use chassis::metrics::{Counter, Gauge, Metrics};

use crate::observe::ROLE;

/// How a request ended whose owner was lost after it had taken it on, and that could not be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// Nobody took it on in time, and it may have been executed.
    Unknown,
    /// Nobody took it on in time; the client may ask again.
    Unavailable,
    /// The new owner would not go on with it.
    Refused,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) reattached: Counter,
    pub(super) redirects: Counter,
    held: Gauge,
    given_up: [Counter; 3],
}

/// A request that waits, as long as it does.
#[derive(Debug)]
pub(super) struct Waiting(Gauge);

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        let metrics = metrics.of_role(ROLE);
        let given_up = |outcome| {
            let help =
                "Requests that were not continued after their owner was lost, by what the client was told";
            metrics.counter("trunkline_gateway_given_up", help, &[("outcome", outcome)])
        };
        Self {
            reattached: metrics.counter(
                "trunkline_gateway_reattached",
                "Requests and streams that another owner, or the same one anew, went on with",
                &[],
            ),
            redirects: metrics.counter(
                "trunkline_gateway_redirects",
                "Redirections to another session node that were followed",
                &[],
            ),
            held: metrics.gauge(
                "trunkline_gateway_held_requests",
                "Requests and streams that wait for an owner of their session",
                &[],
            ),
            given_up: [given_up("unknown"), given_up("unavailable"), given_up("refused")],
        }
    }

    pub(super) fn given_up(&self, how: GivenUp) {
        let [unknown, unavailable, refused] = &self.given_up;
        match how {
            GivenUp::Unknown => unknown.inc(),
            GivenUp::Unavailable => unavailable.inc(),
            GivenUp::Refused => refused.inc(),
        };
    }

    pub(super) fn waiting(&self) -> Waiting {
        self.held.inc();
        Waiting(self.held.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}
