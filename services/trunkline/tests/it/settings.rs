//! Settings as people find them: printed by the program, and under the founding documents' names.

use std::fs;

use crate::process::{KEY, Running, command, finished};

const ROLES: [&str; 6] =
    ["up", "gateway", "session", "tool-registry", "resource-registry", "prompt-registry"];

#[test]
fn every_role_checks_and_prints_its_configuration() {
    let keys = format!("keys.ring={{k1=\"{KEY}\"}}");
    for role in ROLES {
        let set = ["--set", "keys.current=k1", "--set", &keys];
        let (code, out, said) = finished(&mut command(&[&[role, "--check"], &set[..]].concat()));
        assert_eq!((code, out.as_str()), (Some(0), "the configuration is accepted\n"), "{role}: {said}");
        let (code, out, said) = finished(&mut command(&[&[role, "--dump-config"], &set[..]].concat()));
        assert!(
            code == Some(0) && out.contains("k1 = \"***\"") && out.contains("[telemetry]"),
            "{role}: {said}"
        );
    }
}

#[test]
fn the_example_is_accepted_by_every_role() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.toml");
    let (code, example, _) = finished(&mut command(&["config", "--example"]));
    assert_eq!(code, Some(0));
    fs::write(&file, &example).unwrap();
    let keys = format!("keys.ring={{k1=\"{KEY}\"}}");
    for role in ROLES {
        let args =
            [role, "--check", "--config", file.to_str().unwrap(), "--set", "keys.current=k1", "--set", &keys];
        let (code, _, said) = finished(&mut command(&args));
        assert_eq!(code, Some(0), "{role}: {said}");
    }
    let (_, defaults, _) = finished(&mut command(&["gateway", "--dump-config"]));
    let (_, dumped, _) =
        finished(&mut command(&["gateway", "--dump-config", "--config", file.to_str().unwrap()]));
    assert_eq!(dumped, defaults);
}

#[test]
fn a_port_of_the_platform_is_used_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut asked = command(&["up", "--data", folder.path().join("data").to_str().unwrap()]);
    // Any free port, as the default 8080 may be taken.
    asked.env("PORT", "0").env("NODE_ID", "node-7").env("MCP_SERVERS", "hidden");
    let mut running = Running::start(&mut asked);
    assert!(!running.listening("gateway").contains(":8080"));
    running.signal("TERM");
    assert!(running.ended().success());
    let log = running.stderr();
    assert!(log.contains("PORT sets gateway.listen to 127.0.0.1:0; NODE_ID names this node node-7"), "{log}");
    assert!(
        log.contains("MCP_SERVERS has no effect yet: existing MCP servers come with the bridge"),
        "{log}"
    );
    assert!(!log.contains("hidden"), "{log}");
}

#[test]
fn their_settings_are_translated() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mcp_settings.json");
    fs::write(
        &file,
        "{ // a node\n \"systemConfig\": {\"cluster\": {\"node\": {\"id\": \"n1\"}, \"mode\": \"node\"}}}",
    )
    .unwrap();
    let (code, toml, said) = finished(&mut command(&["config", "--from-seeds", file.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{said}");
    assert!(
        toml.contains("[session]\nnode = \"n1\"") && toml.contains("#   systemConfig.cluster.mode: refused"),
        "{toml}"
    );
    fs::write(&file, "{\n oops }").unwrap();
    let (code, out, said) = finished(&mut command(&["config", "--from-seeds", file.to_str().unwrap()]));
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(said.contains("mcp_settings.json") && said.contains("line 2"), "{said}");
    let (code, table, _) = finished(&mut command(&["config", "--from-seeds"]));
    assert!(code == Some(0) && table.contains("MCP_HTTP_PORT"), "{table}");
    assert_eq!(finished(&mut command(&["config"])).0, Some(2), "one of the two has to be asked for");
}
