//! Following the lease store.
//!
//! Owns: when to list and when to watch, so that the table is right soon after anything. Must not know: who needs the table.
//!
//! A watch is only a hint: stores have lost events around compactions and pauses, so the whole is listed again every minute
//! and compared.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::{Sleep, sleep};

use crate::cluster::Cluster;
use crate::port::{Event, Events, LeaseStore, Listing, Revision, StoreError};
use crate::table::{Listed, Table};

/// Between two lists while nothing is wrong.
const RELIST: Duration = Duration::from_secs(60);
/// Before the next attempt after a failure: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Keeps a [`Table`] like the store.
pub(crate) struct Follower {
    store: Arc<dyn LeaseStore>,
    root: String,
    table: Table,
    listing: Option<BoxFuture<'static, (Revision, Result<Listing, StoreError>)>>,
    opening: Option<BoxFuture<'static, Result<Events, StoreError>>>,
    events: Option<Events>,
    next_list: Pin<Box<Sleep>>,
    pause: Duration,
    reachable: bool,
    /// Lists that were taken over.
    lists: u64,
}

impl Follower {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self {
            store: Arc::clone(&cluster.store),
            root: cluster.keys.root().to_owned(),
            table: Table::new(cluster.keys.clone(), cluster.slots),
            listing: None,
            opening: None,
            events: None,
            next_list: Box::pin(sleep(Duration::ZERO)),
            pause: FIRST_PAUSE,
            reachable: false,
            lists: 0,
        }
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Whether the last thing heard of the store was an answer.
    pub(crate) fn is_reachable(&self) -> bool {
        self.reachable
    }

    /// How often the table was compared with the whole; 0 = it means nothing yet.
    pub(crate) fn lists(&self) -> u64 {
        self.lists
    }

    /// Takes over what this process wrote itself.
    pub(crate) fn wrote(&mut self, events: Vec<Event>) {
        self.table.apply(events);
    }

    /// Lists at the next opportunity: something is not as the table says.
    pub(crate) fn list_soon(&mut self) {
        if self.listing.is_none() {
            self.next_list = Box::pin(sleep(Duration::ZERO));
        }
    }

    /// Waits until the table or the reachability may have changed. May be dropped and called again at any time.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            () = &mut self.next_list, if self.listing.is_none() => self.start_list(),
            (asked_at, listed) = pending(&mut self.listing), if self.listing.is_some() => {
                self.listing = None;
                self.listed(asked_at, listed);
            }
            opened = pending(&mut self.opening), if self.opening.is_some() => {
                self.opening = None;
                match opened {
                    Ok(events) => self.events = Some(events),
                    Err(error) => self.broken(&error),
                }
            }
            seen = next_of(&mut self.events), if self.events.is_some() => match seen {
                Some(Ok(events)) => {
                    self.reachable = true;
                    self.table.apply(events);
                }
                Some(Err(error)) => self.broken(&error),
                None => self.broken(&StoreError::Unavailable("the watch ended".to_owned())),
            },
        }
    }

    fn start_list(&mut self) {
        let (store, root, asked_at) = (Arc::clone(&self.store), self.root.clone(), self.table.newest());
        self.listing = Some(async move { (asked_at, store.list(&root).await) }.boxed());
    }

    fn listed(&mut self, asked_at: Revision, listed: Result<Listing, StoreError>) {
        let listing = match listed {
            Ok(listing) => listing,
            Err(error) => return self.unreachable(&error),
        };
        match self.table.list(listing, asked_at) {
            Listed::Overtaken => {
                self.next_list = Box::pin(sleep(FIRST_PAUSE));
                return;
            }
            Listed::Taken { missed: 0 } => {}
            Listed::Taken { missed } => tracing::warn!(missed, "the watch missed changes, the list has them"),
            Listed::Restored => {
                tracing::warn!(revision = self.table.newest(), "the lease store went back in time");
                self.events = None;
                self.opening = None;
            }
        }
        if !std::mem::replace(&mut self.reachable, true) && self.lists > 0 {
            tracing::info!("the lease store answers again");
        }
        self.lists += 1;
        self.pause = FIRST_PAUSE;
        self.next_list = Box::pin(sleep(RELIST));
        if self.events.is_none() && self.opening.is_none() {
            let (store, root, from) = (Arc::clone(&self.store), self.root.clone(), self.table.newest() + 1);
            self.opening = Some(async move { store.watch(&root, from).await }.boxed());
        }
    }

    /// The watch has ended: what happened since has to be listed.
    fn broken(&mut self, error: &StoreError) {
        self.events = None;
        if *error == StoreError::Compacted {
            self.list_soon();
        } else {
            self.unreachable(error);
        }
    }

    fn unreachable(&mut self, error: &StoreError) {
        if std::mem::replace(&mut self.reachable, false) {
            tracing::warn!(%error, "the lease store does not answer, its last state is used");
        }
        if self.listing.is_none() {
            self.next_list = Box::pin(sleep(self.pause));
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Polls what is there; never ready where nothing is.
async fn pending<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn next_of(events: &mut Option<Events>) -> Option<Result<Vec<Event>, StoreError>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}
