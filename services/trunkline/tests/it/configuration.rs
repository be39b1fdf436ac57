//! What is refused, and in which words.

use std::fs;

use crate::process::{KEY, command, finished};

fn refused(args: &[&str], environment: &[(&str, &str)]) -> String {
    let (code, stdout, stderr) = finished(command(args).envs(environment.iter().copied()));
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    stderr
}

#[test]
fn an_unknown_key_is_refused_with_the_accepted_form() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.toml");
    fs::write(&file, "[gateway]\nlisen = \"127.0.0.1:1\"\n").unwrap();
    let file = file.to_str().unwrap();
    for role in ["up", "gateway", "session", "tool-registry", "resource-registry", "prompt-registry"] {
        let said = refused(&[role, "--config", file, "--check"], &[]);
        assert!(
            said.starts_with(&format!(
                "trunkline: unknown key gateway.lisen in {file}: did you mean gateway.listen?"
            )),
            "{said}"
        );
    }
}

#[test]
fn each_source_is_named() {
    let said = refused(&["up", "--check"], &[("TRUNKLINE_GATEWAY__KEEP_ALIVE_S", "often")]);
    assert!(
        said.contains("gateway.keep_alive_s in environment variable TRUNKLINE_GATEWAY__KEEP_ALIVE_S"),
        "{said}"
    );
    let said = refused(&["up", "--check", "--set", "session.nod=x"], &[]);
    assert!(
        said.contains("session.nod in --set session.nod on the command line: did you mean session.node?"),
        "{said}"
    );
    let said = refused(&["up", "--check", "--config", "/nowhere/mesh.toml"], &[]);
    assert!(said.contains("/nowhere/mesh.toml"), "{said}");
}

#[test]
fn separate_processes_that_sign_refuse_to_start_without_keys() {
    for role in ["gateway", "session"] {
        let said = refused(&[role, "--listen", "127.0.0.1:0"], &[]);
        assert!(said.contains("keys in the defaults") && said.contains("openssl rand -base64 32"), "{said}");
    }
}

#[test]
fn what_only_the_roles_know_is_checked_too() {
    let keys = format!("keys.ring={{k1=\"{KEY}\"}}");
    let keyed = ["--check", "--set", "keys.current=k1", "--set", &keys];
    let with = |role: &'static str, set: &'static str| [&[role, "--set", set], &keyed[..]].concat();
    let said = refused(&with("gateway", "gateway.listen=0.0.0.0:80"), &[]);
    assert!(said.contains("gateway.allowed_hosts"), "{said}");
    let said = refused(&with("gateway", "gateway.sessions=[{address=\"127.0.0.1:1\", slots=\"0-7\"}]"), &[]);
    assert!(said.contains("gateway.sessions"), "{said}");
    let said = refused(&with("session", "session.registries=[{address=\"nonsense\"}]"), &[]);
    assert!(said.contains("session.registries"), "{said}");
    let said = refused(&with("tool-registry", "tool-registry.tools=[\"hammer\"]"), &[]);
    assert!(said.contains("tool-registry.tools"), "{said}");
    let said = refused(
        &with("resource-registry", "resource-registry.directories=[{path=\"/nowhere\", uri=\"file:///x/\"}]"),
        &[],
    );
    assert!(said.contains("resource-registry.directories"), "{said}");
    let said = refused(&with("prompt-registry", "prompt-registry.directory=/nowhere"), &[]);
    assert!(said.contains("prompt-registry.directory"), "{said}");
    let said = refused(&with("up", "telemetry.log=loud"), &[]);
    assert!(said.contains("telemetry.log"), "{said}");
}

#[test]
fn a_good_configuration_is_accepted_and_nothing_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (code, stdout, stderr) = finished(&mut command(&["up", "--check", "--data", data.to_str().unwrap()]));
    assert_eq!((code, stdout.as_str()), (Some(0), "the configuration is accepted\n"), "{stderr}");
    assert!(!data.exists());
}

#[test]
fn the_configuration_in_effect_is_printed_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.toml");
    fs::write(
        &file,
        format!("[keys]\ncurrent = \"k1\"\nring = {{ k1 = \"{KEY}\" }}\n[gateway]\nkeep_alive_s = 7\n"),
    )
    .unwrap();
    let args = ["gateway", "--dump-config", "--config", file.to_str().unwrap(), "--listen", "127.0.0.1:9"];
    let (code, stdout, stderr) = finished(&mut command(&args));
    assert_eq!(code, Some(0), "{stderr}");
    for line in
        ["[gateway]", "listen = \"127.0.0.1:9\"", "keep_alive_s = 7", "k1 = \"***\"", "[prompt-registry]"]
    {
        assert!(stdout.contains(line), "{line} is not in {stdout}");
    }
    assert!(!stdout.contains(KEY));
}

#[test]
fn a_dumped_configuration_can_be_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.toml");
    let (_, dumped, _) = finished(&mut command(&["up", "--dump-config"]));
    fs::write(&file, &dumped).unwrap();
    let (code, again, stderr) =
        finished(&mut command(&["up", "--dump-config", "--config", file.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(again, dumped);
}

#[test]
fn help_shows_an_example_of_each_subcommand() {
    for role in ["up", "gateway", "session", "tool-registry", "resource-registry", "prompt-registry"] {
        let (code, stdout, _) = finished(&mut command(&[role, "--help"]));
        assert_eq!(code, Some(0));
        assert!(stdout.contains(&format!("trunkline {role} ")), "{stdout}");
    }
}

#[test]
fn a_made_key_has_a_line_that_the_gateway_accepts() {
    let make = ["key", "new", "--name", "team \"a\"", "--expires", "2099-01-31T00:00:00Z"];
    let (code, made, _hint) = finished(&mut command(&make));
    let (key, line) = made.trim_end().split_once('\n').unwrap();
    assert!(key.starts_with("tlk_") && key.len() == 47 && !line.contains(key), "{made}");
    let check = format!("auth.keys=[{line}]");
    let (checked, _, said) = finished(&mut command(&["up", "--check", "--set", &check]));
    assert_eq!((code, checked), (Some(0), Some(0)), "{said}");
    let said = refused(&["up", "--check", "--set", "auth.keys=[{name=\"a\",hash=\"sha256:1\"}]"], &[]);
    assert!(said.contains("auth.keys[0].hash"), "{said}");
    let said = refused(&["key", "new", "--name", "a", "--expires", "tomorrow"], &[]);
    assert!(said.contains("expires"), "{said}");
}

#[test]
fn other_machines_are_let_in_only_when_somebody_may_call() {
    let public =
        ["up", "--check", "--listen", "0.0.0.0:0", "--set", "gateway.allowed_hosts=[\"mesh.example\"]"];
    assert!(refused(&public, &[]).contains("auth.keys"));
    for set in ["gateway.insecure_no_auth=true", "auth.anonymous=true"] {
        let (code, _, said) = finished(&mut command(&[&public[..], &["--set", set]].concat()));
        assert_eq!(code, Some(0), "{said}");
    }
}
