//! An `mcp_settings.json` as our configuration.

use std::fmt::Write as _;

use mcp::Json;
use mcp::scan::{self, Limits};

use super::{Fate, MEMBERS, jsonc};

/// A line of ours, made of a value of theirs.
struct Taken {
    section: &'static str,
    line: String,
    path: String,
}

/// Our TOML for such a file; what is not taken over stands in it as comments, with the reason.
///
/// # Errors
/// In words, when it is not JSON, or a value is not what it should be.
pub(crate) fn translate(text: &str) -> Result<String, String> {
    let plain = jsonc::plain(text);
    let json = Json::parse(plain.clone().into(), &Limits::MESSAGE).map_err(|error| {
        let place = serde_json::from_str::<serde_json::Value>(&plain).err();
        place.map_or_else(|| error.to_string(), |place| place.to_string())
    })?;
    if !scan::is_object(json.as_str()) {
        return Err("this is not an object".to_owned());
    }
    let mut found = Vec::new();
    leaves(json.as_str(), "", &mut found);
    let has_id = found.iter().any(|(path, _)| path.ends_with("cluster.node.id"));
    let mut taken = Vec::new();
    let mut left = Vec::new();
    for (path, raw) in found {
        let fate = MEMBERS.into_iter().find(|(name, _)| *name == path).map(|(_, fate)| fate);
        match fate {
            Some(Fate::Sets(_)) if has_id && path.ends_with("cluster.node.name") => {
                left.push(format!("{path}: without effect, as node.id is given"));
            }
            Some(Fate::Sets(_)) => taken.extend(set(path, &raw)?),
            Some(fate) => left.push(format!("{path}: {}", fate.shown())),
            None => left.push(format!("{path}: not a setting of the founding documents")),
        }
    }
    Ok(written(&taken, &left))
}

fn written(taken: &[Taken], left: &[String]) -> String {
    let mut out =
        String::from("# Made by `trunkline config --from-seeds`. All keys: `trunkline config --example`.\n");
    let mut sections: Vec<&str> = taken.iter().map(|taken| taken.section).collect();
    sections.sort_unstable();
    sections.dedup();
    for section in sections {
        // Writing to a String cannot fail.
        let _written = write!(out, "\n[{section}]\n").is_ok();
        for taken in taken.iter().filter(|taken| taken.section == section) {
            let _written = writeln!(out, "{}    # {}", taken.line, taken.path).is_ok();
        }
    }
    if !left.is_empty() {
        out.push_str("\n# Not taken over:\n");
        for line in left {
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            let _written = writeln!(out, "#   {line}").is_ok();
        }
    }
    out
}

/// Every value that is no object, and everything below a name that is known as a whole.
fn leaves(object: &str, prefix: &str, found: &mut Vec<(String, String)>) {
    for member in scan::members(object) {
        let path =
            if prefix.is_empty() { member.key.to_string() } else { format!("{prefix}.{}", member.key) };
        let goes_on = MEMBERS.iter().any(|(name, _)| name.starts_with(&format!("{path}.")));
        if goes_on && scan::is_object(member.value) {
            leaves(member.value, &path, found);
        } else {
            found.push((path, member.value.to_owned()));
        }
    }
}

/// Our section and line for a value of theirs.
fn set(path: String, raw: &str) -> Result<Option<Taken>, String> {
    let millis = || raw.parse::<u64>().map_err(|_| format!("{path}: this is to be a number of milliseconds"));
    let line = match path.rsplit('.').next().unwrap_or_default() {
        "nodeTimeout" => format!("registry_grace_ms = {}", millis()?),
        "stickySessionTimeout" => format!("idle_timeout_s = {}", millis()?.div_ceil(1000).max(1)),
        "id" | "name" => {
            let text = scan::string(raw).ok_or_else(|| format!("{path}: this is to be text"))?;
            format!("node = {}", mcp::edit::quote(&text))
        }
        _ => return Ok(None),
    };
    Ok(Some(Taken { section: "session", line, path }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chassis::config;

    use super::*;
    use crate::config::Config;

    const COORDINATOR: &str = r#"{
      "mcpServers": {
        // Optional: coordinator can also run MCP servers
        "example": { "command": "npx", "args": ["-y", "example-mcp-server"] }
      },
      "systemConfig": {
        "cluster": {
          "enabled": true,
          "mode": "coordinator", /* one */
          "coordinator": { "nodeTimeout": 15000, "cleanupInterval": 30000, "stickySessionTimeout": 3600000 },
          "stickySession": { "enabled": true, "strategy": "consistent-hash", "cookieName": "MCPHUB_NODE" },
          "node": { "id": "node-1", "name": "Worker \"1\"", "coordinatorUrl": "http://coordinator:3000" },
        }
      },
      "users": []
    }"#;

    #[test]
    fn a_settings_file_becomes_ours_with_reasons_for_the_rest() {
        let toml = translate(COORDINATOR).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.toml");
        std::fs::write(&path, &toml).unwrap();
        let config = config::load::<Config>(Some(&path), &BTreeMap::new(), Vec::new()).unwrap().config;
        assert_eq!(config.session.registry_grace_ms, 15_000);
        assert_eq!(config.session.idle_timeout_s, 3_600);
        assert_eq!(config.session.node, "node-1");
        for words in [
            "mcpServers: not yet: existing MCP servers come with the bridge",
            "cluster.mode: refused, use instead: standalone is `trunkline up`",
            "cluster.coordinator.cleanupInterval: refused, not needed:",
            "cluster.stickySession.cookieName: refused",
            "cluster.node.name: without effect",
            "users: not a setting of the founding documents",
        ] {
            assert!(toml.contains(words), "{words}: {toml}");
        }
        assert!(!toml.contains("npx"), "what may hold secrets is not repeated");
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(translate("{\n \"a\": \n}").unwrap_err().contains("line 3"));
        assert!(translate("[]").unwrap_err().contains("object"));
        let soon = r#"{"systemConfig":{"cluster":{"coordinator":{"nodeTimeout":"soon"}}}}"#;
        assert!(translate(soon).unwrap_err().contains("nodeTimeout: this is to be a number of milliseconds"));
    }
}
