//! Which session nodes say nothing to this gateway alone.
//!
//! Owns: how that is found out, and that nobody waits for them any longer. What no session owns has no second chance, and waits for a node
//! that merely pauses (`Peers::patient`); behind a line that is cut it would wait as long for nothing. Both are silent here: others know
//! which of the two it is. Must not know: what waits.

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

use super::*;

/// How often each node is asked whether it is there.
const EVERY: Duration = Duration::from_millis(500);
/// A node that has not said so by then is silent.
const SILENT: Duration = Duration::from_millis(1_000);
/// And what it has said to others meanwhile it may just be saying here, too.
const LAST: Duration = Duration::from_millis(250);

impl Forward {
    /// Finds lines that are cut, and gives up what waits behind them. Runs as long as it is polled.
    pub(crate) async fn watch_lines(&self) {
        let mut looks = FuturesUnordered::new();
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looked_at: BTreeSet<Arc<str>> = BTreeSet::new();
        loop {
            tokio::select! {
                Some(node) = looks.next(), if !looks.is_empty() => {
                    looked_at.remove(&node);
                }
                _ = ticks.tick() => {
                    let nodes = self.locator.ready();
                    // Alone, a node has nobody who hears it instead.
                    let others = nodes.len() > 1;
                    for node in nodes.into_iter().filter(|_| others) {
                        if looked_at.insert(node.address.clone()) {
                            looks.push(async move {
                                self.look_at(&node).await;
                                node.address
                            });
                        }
                    }
                }
            }
        }
    }

    async fn look_at(&self, node: &Peer) {
        let Some(host) = self.peers.patient(&node.address) else { return };
        let mut asked = pin!(host.probe(None));
        match tokio::time::timeout(SILENT, &mut asked).await {
            Ok(Ok(())) => return self.reach.answered(node),
            // One that refuses is there, and one that cannot be reached keeps nobody waiting.
            Ok(Err(_refused)) => return,
            Err(_silent) if !self.is_heard_by_others(node).await => return,
            Err(_silent) => {}
        }
        if tokio::time::timeout(LAST, asked).await.is_err() {
            if !self.reach.is_recent(node) {
                tracing::warn!(node = %node.address, "it answers others and not this gateway: nothing waits for it any longer");
            }
            self.reach.lost(node);
            self.peers.give_up(&node.address);
        }
    }

    async fn is_heard_by_others(&self, node: &Peer) -> bool {
        let Some(via) = self.neighbour_of(node) else { return false };
        let Some(host) = self.peers.patient(&via.address) else { return false };
        let asked = host.probe(Some(&node.address));
        matches!(tokio::time::timeout(SILENT, asked).await, Ok(Ok(())))
    }
}
