//! `trunkline move`: gives a slot, and with it the sessions that live there, to a node of the operator's choice.
//!
//! Owns: what is written for it, and waiting until it is so. Must not know: how slots change hands; see `placement`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::{SessionId, Slot, SlotCount};
use chassis::entry::{self, Flags};
use clap::Args;
use placement::made::{CheckError, check};
use placement::port::{Compare, Op};
use placement::record::{Key, PinRecord, SlotRecord, decode, encode};
use placement::{Cluster, StoreError};

use crate::cluster;
use crate::process::{self, Failure};

pub(crate) const EXAMPLES: &str = "\
Examples:
  trunkline move 1597 --to session-2 --config mesh.toml
      Gives slot 1597 to session-2 for a day; calls that are under way in it go on there
  trunkline move v1.k1.63d.pVv1r3... --to session-2 --config mesh.toml
      The same for the slot that a session lives in; its neighbours in the slot go along
  trunkline move 1597 --back --config mesh.toml
      Leaves it to the nodes again; it stays where it is until they share the slots anew
  trunkline move --config mesh.toml
      Lists what was moved
Logs, traces and /metrics name slots; session ids stay with their clients. The node must be there and ready: a slot that is moved
to one that leaves goes where it would have gone, and comes back with the node.";

/// How long the node is given to take it.
const PATIENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(100);
/// Most slots that may be moved at a time: most of them should be where the plan puts them.
const MOST: usize = 1024;

/// Arguments of `move`.
#[derive(Debug, Args)]
pub(crate) struct Move {
    /// Configuration file (TOML), with the section [cluster] of the mesh.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets one key, over the file and the environment. May be repeated.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// The slot, 0 to 4095 (16383 where cluster.slots = 16384), or the id of a session in it. Without one, what was moved is listed.
    #[arg(value_name = "SLOT|SESSION", requires = "where")]
    what: Option<String>,
    /// The session node that is to own it.
    #[arg(long, value_name = "NODE", group = "where", requires = "what")]
    to: Option<String>,
    /// Leaves it to the nodes again.
    #[arg(long, group = "where", requires = "what")]
    back: bool,
    /// Hours after which it is left to them by itself.
    #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=8760))]
    hours: u16,
}

/// Runs `move`.
pub(crate) fn run(asked: &Move) -> Result<(), Failure> {
    let (config, set) = (asked.config.clone(), asked.set.clone());
    let flags = Flags { config, set, listen: None, check: false, dump_config: false };
    let loaded = process::load(&flags, "cluster").map_err(Failure::refused)?;
    let cluster = cluster::operators(&loaded.config.cluster)?;
    let what = asked.what.as_deref().map(|what| slot(what, cluster.slots)).transpose()?;
    process::runtime()?.block_on(async {
        check(&cluster).await.map_err(|why| match why {
            CheckError::Count(why) => Failure::refused(why),
            CheckError::Store(why) => unanswered(why),
        })?;
        match (what, &asked.to) {
            (None, _) => list(&cluster).await,
            (Some(slot), Some(node)) => give(&cluster, slot, node, asked.hours).await,
            (Some(slot), None) => release(&cluster, slot).await,
        }
    })
}

fn slot(what: &str, slots: SlotCount) -> Result<Slot, Failure> {
    let number = what.parse().ok().and_then(Slot::new);
    let found = number.or_else(|| SessionId::slot_named(what)).filter(|slot| slots.has(*slot));
    let refused =
        || format!("{what}: neither a slot (0 to {}) nor the id of a session (v1...) in one", slots.last());
    found.ok_or_else(|| Failure::refused(refused()))
}

fn unanswered(error: StoreError) -> Failure {
    Failure::failed(format!("cluster.etcd: {error}"))
}

fn say(text: &str) -> Result<(), Failure> {
    entry::print(text).map_err(Failure::failed)
}

/// What the keys of a kind begin with.
fn all(cluster: &Cluster, kind: &str) -> String {
    format!("{}{kind}/", cluster.keys.root())
}

async fn list(cluster: &Cluster) -> Result<(), Failure> {
    let listing = cluster.store.list(&all(cluster, "pins")).await.map_err(unanswered)?;
    for entry in &listing.entries {
        let (Some(Key::Pin(slot)), Some(pin)) =
            (cluster.keys.read(&entry.key), decode::<PinRecord>(&entry.value))
        else {
            continue;
        };
        let owner = owner(cluster, slot).await?;
        let owner = owner.as_deref().unwrap_or("nobody");
        say(&format!("slot {slot} is to be owned by {}, and is owned by {owner}", pin.node))?;
    }
    if listing.entries.is_empty() { say("no slot was moved") } else { Ok(()) }
}

async fn give(cluster: &Cluster, slot: Slot, node: &str, hours: u16) -> Result<(), Failure> {
    let key = cluster.keys.write(&Key::Node(node.to_owned()));
    let shown = cluster.store.list(&key).await.map_err(unanswered)?;
    if !shown.entries.iter().any(|entry| entry.key == key) {
        return Err(Failure::refused(format!(
            "--to {node}: there is no such session node{}",
            known(cluster).await?
        )));
    }
    let pins = cluster.store.list(&all(cluster, "pins")).await.map_err(unanswered)?;
    if pins.entries.len() >= MOST {
        return Err(Failure::refused(format!(
            "{MOST} slots were moved already: leave some to the nodes again, --back"
        )));
    }
    let before = owner(cluster, slot).await?;
    let life = Duration::from_secs(u64::from(hours) * 3600);
    let lease = cluster.store.grant(life).await.map_err(unanswered)?.lease;
    let put = Op::Put(cluster.keys.write(&Key::Pin(slot)), encode(&PinRecord::new(node)), Some(lease));
    cluster.store.txn(Vec::<Compare>::new(), vec![put]).await.map_err(unanswered)?;
    let begun = Instant::now();
    while owner(cluster, slot).await?.as_deref() != Some(node) {
        if begun.elapsed() > PATIENCE {
            let why = format!(
                "slot {slot}: {node} has not taken it within {} s; it does so once it can",
                PATIENCE.as_secs()
            );
            return Err(Failure::failed(why));
        }
        tokio::time::sleep(LOOK).await;
    }
    let from = before.as_deref().unwrap_or("nobody");
    say(&format!("slot {slot}: {from} -> {node}, for {hours} h"))
}

async fn release(cluster: &Cluster, slot: Slot) -> Result<(), Failure> {
    let delete = Op::Delete(cluster.keys.write(&Key::Pin(slot)));
    cluster.store.txn(Vec::<Compare>::new(), vec![delete]).await.map_err(unanswered)?;
    say(&format!("slot {slot} is left to the nodes"))
}

async fn owner(cluster: &Cluster, slot: Slot) -> Result<Option<String>, Failure> {
    let key = cluster.keys.write(&Key::Slot(slot));
    let found = cluster.store.list(&key).await.map_err(unanswered)?;
    let entry = found.entries.into_iter().find(|entry| entry.key == key);
    Ok(entry.and_then(|entry| decode::<SlotRecord>(&entry.value)).map(|record| record.node.to_string()))
}

/// The nodes that there are, for who named another.
async fn known(cluster: &Cluster) -> Result<String, Failure> {
    let listing = cluster.store.list(&all(cluster, "nodes")).await.map_err(unanswered)?;
    let root = all(cluster, "nodes");
    let names: Vec<&str> =
        listing.entries.iter().filter_map(|entry| entry.key.strip_prefix(root.as_str())).collect();
    Ok(if names.is_empty() { String::new() } else { format!("; there are {}", names.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_sessions_name_a_slot() {
        for slots in SlotCount::ALL {
            assert_eq!(slot("1597", slots).unwrap().number(), 1597);
            assert_eq!(slot("v1.k1.63d.pVv1r3abc.def", slots).unwrap().number(), 1597);
            for wrong in ["16384", "-1", "session-2", "v1.k1", ""] {
                let refused = slot(wrong, slots).unwrap_err().to_string();
                assert!(
                    refused.starts_with(&format!("{wrong}: neither a slot (0 to {})", slots.last())),
                    "{refused}"
                );
            }
        }
        for beyond in ["4096", "v1.k1.3fff.pVv1r3abc.def"] {
            assert!(slot(beyond, SlotCount::Large).is_ok() && slot(beyond, SlotCount::Usual).is_err());
        }
    }
}
