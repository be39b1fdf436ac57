//! Who a process may listen to and dial, as `[mtls]` says.

use std::path::Path;

use crate::process::{KEY, Running, command, finished};

fn refused(args: &[&str]) -> String {
    let (code, stdout, stderr) = finished(&mut command(args));
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    stderr
}

fn keyed<'a>(role: &'a str, more: &[&'a str]) -> Vec<String> {
    let mut args: Vec<String> = [&[role], more].concat().into_iter().map(str::to_owned).collect();
    args.extend(
        ["--set", "keys.current=k1", "--set", &format!("keys.ring={{k1=\"{KEY}\"}}")].map(str::to_owned),
    );
    args
}

fn borrowed(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// The settings of a process with the certificate of `role`.
fn pair(dir: &Path, role: &str) -> Vec<String> {
    let file = |key: &str, name: String| format!("mtls.{key}={}", dir.join(name).display());
    let files = [
        file("certificate", format!("{role}.pem")),
        file("key", format!("{role}.key")),
        file("ca", "ca.pem".into()),
    ];
    files.into_iter().flat_map(|file| ["--set".to_owned(), file]).collect()
}

fn certificates() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) =
        finished(&mut command(&["certificates", "--dir", dir.path().to_str().unwrap()]));
    assert_eq!((code, stdout.lines().count()), (Some(0), 12), "{stdout}{stderr}");
    dir
}

#[test]
fn without_certificates_no_role_listens_on_the_network() {
    for role in ["session", "tool-registry", "resource-registry", "prompt-registry"] {
        for more in [&["--listen", "0.0.0.0:0"][..], &["--listen", "0.0.0.0:0", "--check"]] {
            let said = refused(&borrowed(&keyed(role, more)));
            assert!(said.starts_with(&format!("trunkline: {role}.listen: 0.0.0.0:")), "{said}");
            assert!(
                said.contains("mtls.certificate") && said.contains("trunkline certificates --dir DIR"),
                "{said}"
            );
        }
    }
}

#[test]
fn without_certificates_no_other_machine_is_dialled() {
    let far = "gateway.sessions=[{address=\"10.0.0.1:7101\",slots=\"0-4095\"}]";
    let said = refused(&borrowed(&keyed("gateway", &["--check", "--set", far])));
    assert!(said.starts_with("trunkline: gateway.sessions: 10.0.0.1 is on the network"), "{said}");
    let far = "session.registries=[{address=\"registry.mesh.svc:7201\"}]";
    let said = refused(&borrowed(&keyed("session", &["--check", "--set", far])));
    assert!(said.starts_with("trunkline: session.registries: registry.mesh.svc is on the network"), "{said}");
    let said = refused(&["up", "--check", "--registry", "registry.mesh.svc:7201"]);
    assert!(
        said.starts_with("trunkline: --registry registry.mesh.svc:7201: registry.mesh.svc is on"),
        "{said}"
    );
}

#[test]
fn plain_text_beyond_this_machine_is_said_explicitly() {
    let args = keyed("session", &["--listen", "0.0.0.0:0", "--set", "mtls.plain_text=true"]);
    let mut session = Running::start(&mut command(&borrowed(&args)));
    assert!(session.listening("session").starts_with("0.0.0.0:"));
}

#[test]
fn with_certificates_a_role_listens_on_the_network() {
    let dir = certificates();
    let args = [keyed("session", &["--listen", "0.0.0.0:0"]), pair(dir.path(), "session")].concat();
    let mut session = Running::start(&mut command(&borrowed(&args)));
    assert!(session.listening("session").starts_with("0.0.0.0:"));
}

#[test]
fn a_certificate_that_does_not_fit_is_refused_by_name() {
    let dir = certificates();
    let said = refused(&borrowed(&[keyed("session", &["--check"]), pair(dir.path(), "gateway")].concat()));
    assert!(
        said.starts_with("trunkline: mtls.certificate (")
            && said.contains("for a gateway, and this is a session"),
        "{said}"
    );
    let mut half = pair(dir.path(), "session");
    half.truncate(4);
    let said = refused(&borrowed(&[keyed("session", &["--check"]), half].concat()));
    assert!(
        said.starts_with("trunkline: mtls.ca is not set: certificate, key and ca belong together"),
        "{said}"
    );
    let domain = keyed("session", &["--check", "--set", "mtls.trust_domain=Not A Domain"]);
    let said = refused(&borrowed(&domain));
    assert!(said.contains("mtls.trust_domain") && said.contains("no trust domain"), "{said}");
    std::fs::write(dir.path().join("session.key"), "").unwrap();
    let said = refused(&borrowed(&[keyed("session", &["--check"]), pair(dir.path(), "session")].concat()));
    assert!(said.starts_with("trunkline: mtls.key (") && said.contains("no key in it"), "{said}");
}
