//! Names of processes that are the name of the machine, for replicas that share one configuration.
//!
//! In a container the machine's name is the container's, in Kubernetes the pod's. Must not know: what names are for.

use crate::config::Config;

/// Stands for the name of the machine in `session.node`, `tool-registry.node` and `telemetry.node`.
const MACHINE: &str = "$HOSTNAME";

/// Puts the name of the machine, which `name` finds out, where the configuration asks for it.
pub(crate) fn by_machine(config: &mut Config, name: impl FnOnce() -> String) {
    let asking = [&mut config.session.node, &mut config.tool_registry.node, &mut config.telemetry.node];
    let asking: Vec<&mut String> = asking.into_iter().filter(|node| *node == MACHINE).collect();
    if asking.is_empty() {
        return;
    }
    let name = name();
    for node in asking {
        node.clone_from(&name);
    }
}

/// The name of this machine: what the kernel says, else what the environment says.
pub(crate) fn machine() -> String {
    let said = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let said = said.ok().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    said.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| "unnamed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_asks_is_named_by_the_machine() {
        let mut config = Config::default();
        by_machine(&mut config, || unreachable!("nobody asks"));
        config.session.node = "$HOSTNAME".into();
        config.telemetry.node = "$HOSTNAME".into();
        by_machine(&mut config, || "pod-7".into());
        assert_eq!((&*config.session.node, &*config.telemetry.node), ("pod-7", "pod-7"));
        assert_eq!(config.tool_registry.node, "tool-registry-1");
    }
}
