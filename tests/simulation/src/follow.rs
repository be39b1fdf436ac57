//! Keeps placement's table like the lease store. Mirrors `libs/placement/src/follow.rs`; the table itself is the real one.
//! Unlike there, events that come while a list is under way wait for its end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use api::SlotCount;
use futures::future::{Either, select};
use placement::Keys;
use placement::port::{Event, StoreError};
use placement::table::{Listed, Table};

use crate::lease::Client;
use crate::world::Queue;

const RELIST_MS: u64 = 60_000;
const FIRST_PAUSE_MS: u64 = 50;
const LONGEST_PAUSE_MS: u64 = 1_000;

/// See the module.
pub(crate) struct Follower {
    client: Client,
    root: String,
    pub(crate) table: RefCell<Table>,
    pub(crate) reachable: Cell<bool>,
    /// Lists that were taken over; 0 = the table means nothing yet.
    pub(crate) lists: Cell<u64>,
    soon: Queue<()>,
    told: Queue<()>,
    /// Counts changes.
    pub(crate) changes: Cell<u64>,
}

impl Follower {
    /// Begins to follow. `told` hears of every change.
    pub(crate) fn start(client: &Client, keys: &Keys, told: Queue<()>) -> Rc<Self> {
        let this = Rc::new(Self {
            client: client.clone(),
            root: keys.root().to_owned(),
            table: RefCell::new(Table::new(keys.clone(), SlotCount::Usual)),
            reachable: Cell::new(false),
            lists: Cell::new(0),
            soon: Queue::default(),
            told,
            changes: Cell::new(0),
        });
        client.ctx.spawn(Rc::clone(&this).run());
        this
    }

    /// Takes over what this process wrote itself.
    pub(crate) fn wrote(&self, events: Vec<Event>) {
        self.table.borrow_mut().apply(events);
        self.changed();
    }

    /// Lists at the next opportunity: something is not as the table says.
    pub(crate) fn list_soon(&self) {
        let _asked_before = self.soon.pop();
        self.soon.push(());
    }

    fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
        let _told_before = self.told.pop();
        self.told.push(());
    }

    async fn run(self: Rc<Self>) {
        let ctx = self.client.ctx.clone();
        let mut pause = FIRST_PAUSE_MS;
        let mut watch = None;
        loop {
            let asked_at = self.table.borrow().newest();
            match self.client.list(&self.root).await {
                Err(_) => {
                    self.unreachable();
                    ctx.sleep_ms(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE_MS);
                    continue;
                }
                Ok(listing) => {
                    let listed = self.table.borrow_mut().list(listing, asked_at);
                    match listed {
                        Listed::Overtaken => {
                            ctx.sleep_ms(FIRST_PAUSE_MS).await;
                            continue;
                        }
                        Listed::Taken { .. } => {}
                        Listed::Restored => watch = None,
                    }
                }
            }
            self.reachable.set(true);
            self.lists.set(self.lists.get() + 1);
            pause = FIRST_PAUSE_MS;
            self.changed();
            if watch.is_none() {
                let from = self.table.borrow().newest() + 1;
                watch = self.client.watch(&self.root, from).await.ok();
            }
            let Some(mut events) = watch.take() else {
                self.unreachable();
                ctx.sleep_ms(pause).await;
                continue;
            };
            let mut again = ctx.sleep_ms(RELIST_MS);
            watch = loop {
                let next = {
                    let asked = select(Box::pin(self.soon.next()), &mut again);
                    match select(Box::pin(events.recv()), asked).await {
                        Either::Left((next, _)) => Some(next),
                        Either::Right(_) => None,
                    }
                };
                let Some(next) = next else { break Some(events) };
                match next {
                    Some(Ok(seen)) => {
                        self.reachable.set(true);
                        if self.table.borrow_mut().apply(seen) {
                            self.changed();
                        }
                    }
                    Some(Err(StoreError::Compacted)) => break None,
                    Some(Err(_)) | None => {
                        self.unreachable();
                        ctx.sleep_ms(pause).await;
                        break None;
                    }
                }
            };
        }
    }

    fn unreachable(&self) {
        if self.reachable.replace(false) {
            self.changed();
        }
    }
}
