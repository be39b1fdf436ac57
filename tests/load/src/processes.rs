//! What whole processes cost, children included, read from `/proc`.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Clock ticks per second, as Linux shows them to programs on every architecture.
const TICKS: f64 = 100.0;

/// Memory of processes, in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, with what is shared divided among those who share it.
    pub pss: u64,
}

/// These processes and all their descendants.
#[must_use]
pub fn with_children(roots: &[u32]) -> BTreeSet<u32> {
    let mut all: BTreeSet<u32> = roots.iter().copied().collect();
    let mut new: Vec<u32> = roots.to_vec();
    while let Some(process) = new.pop() {
        let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|child| child.parse().ok());
            new.extend(children.filter(|child| all.insert(*child)));
        }
    }
    all
}

/// Seconds of CPU that processes have used, in user and kernel mode. Zero for none.
///
/// # Errors
/// When one of them is gone.
pub fn cpu(processes: &BTreeSet<u32>) -> Result<f64> {
    let mut ticks = 0.0;
    for process in processes {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))
            .with_context(|| format!("process {process} is gone"))?;
        // The name stands in brackets and may contain anything; what follows is numbers.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let times = fields.split_whitespace().skip(11).take(2);
        ticks += times.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(ticks / TICKS)
}

/// Memory of processes.
///
/// # Errors
/// When one of them is gone.
pub fn memory(processes: &BTreeSet<u32>) -> Result<Memory> {
    let mut sum = Memory::default();
    for process in processes {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))
            .with_context(|| format!("process {process} is gone"))?;
        let field = |name: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        sum.rss += field("Rss:");
        sum.pss += field("Pss:");
    }
    Ok(sum)
}

/// Seconds of CPU that the whole machine has used.
///
/// # Errors
/// When the kernel does not say.
pub fn machine() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("an empty /proc/stat")?;
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal
    let busy = [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum::<f64>();
    Ok(busy / TICKS)
}

/// This process.
#[must_use]
pub fn own() -> BTreeSet<u32> {
    BTreeSet::from([std::process::id()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_uses_time_and_memory() {
        let mut sum = 0_u64;
        while cpu(&own()).unwrap() < 0.02 {
            sum = (0..1_000_000_u64).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
        }
        assert_ne!(sum, 1);
        let memory = memory(&own()).unwrap();
        assert!(memory.pss > 100_000 && memory.pss <= memory.rss, "{memory:?}");
        assert!(machine().unwrap() >= 0.02);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(cpu(&BTreeSet::from([u32::MAX])).is_err());
    }
}
