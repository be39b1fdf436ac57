use std::io::Write as _;

use serde::Deserialize;

use super::*;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    gateway: Gateway,
    #[serde(rename = "tool-registry")]
    tool_registry: Tools,
    keys: Keys,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Gateway {
    listen: String,
    request_timeout_s: u64,
    allowed_hosts: Vec<String>,
    sessions: Vec<Peer>,
    strict: bool,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".into(),
            request_timeout_s: 60,
            allowed_hosts: vec![],
            sessions: vec![],
            strict: true,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    address: String,
    #[serde(default)]
    slots: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tools {
    format: Format,
    label: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    current: String,
    ring: BTreeMap<String, Secret>,
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn attempt(toml: &str, env: &[(&str, &str)], set: &[&str]) -> Result<Loaded<Config>, ConfigError> {
    let file = file(toml);
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let set = set.iter().map(|text| Override::parse(text)).collect::<Result<_, _>>()?;
    load(Some(file.path()), &env, set)
}

fn refusal(toml: &str, env: &[(&str, &str)], set: &[&str]) -> String {
    attempt(toml, env, set).unwrap_err().to_string()
}

#[test]
fn each_source_overrides_the_one_before() {
    let toml = "[gateway]\nlisten = \"file:1\"\nrequest_timeout_s = 5\nstrict = false";
    let env = [
        ("TRUNKLINE_GATEWAY__LISTEN", "env:2"),
        ("TRUNKLINE_GATEWAY__REQUEST_TIMEOUT_S", "6"),
        ("HOME", "/root"),
    ];
    let loaded = attempt(toml, &env, &["gateway.listen=set:3"]).unwrap();
    assert_eq!(loaded.config.gateway.listen, "set:3");
    assert_eq!(loaded.config.gateway.request_timeout_s, 6);
    assert!(!loaded.config.gateway.strict);
    assert_eq!(loaded.source("gateway.listen"), Source::CommandLine("--set gateway.listen".into()));
    assert_eq!(
        loaded.source("gateway.request_timeout_s"),
        Source::Environment("TRUNKLINE_GATEWAY__REQUEST_TIMEOUT_S".into())
    );
    assert!(matches!(loaded.source("gateway.strict"), Source::File(_)));
    assert_eq!(loaded.source("gateway.allowed_hosts"), Source::Default);
}

#[test]
fn no_source_at_all_gives_the_defaults() {
    let loaded: Loaded<Config> = load(None, &BTreeMap::new(), vec![]).unwrap();
    assert_eq!(loaded.config.gateway.listen, "127.0.0.1:8080");
}

#[test]
fn overrides_are_toml_and_plain_text_where_text_is_wanted() {
    let set = [
        "gateway.allowed_hosts=[\"a\", \"b\"]",
        "gateway.sessions=[{address=\"127.0.0.1:7101\", slots=\"0-2047\"}]",
        "tool-registry.label=1e5",
        "keys.current=7",
        "keys.ring.k1=0123",
        "gateway.listen=[::1]",
    ];
    let env = [("TRUNKLINE_TOOL_REGISTRY__FORMAT", "json")];
    let config = attempt("", &env, &set).unwrap().config;
    assert_eq!(config.gateway.allowed_hosts, ["a", "b"]);
    assert_eq!(config.gateway.sessions[0].slots, "0-2047");
    assert!(matches!(config.tool_registry.format, Format::Json));
    assert_eq!(config.tool_registry.label.as_deref(), Some("1e5"));
    assert_eq!(config.keys.current, "7");
    assert_eq!(config.keys.ring["k1"].expose(), "0123");
    assert_eq!(config.gateway.listen, "[::1]");
}

/// File, environment, `--set`, and the beginning of what is said about them.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str], &'static str);

const REFUSED: &[Case] = &[
    (
        "[gateway]\nlisen = \"x\"",
        &[],
        &[],
        "unknown key gateway.lisen in FILE: did you mean gateway.listen? \
         (accepted keys: listen, request_timeout_s, allowed_hosts, sessions, strict)",
    ),
    (
        "[gatway]",
        &[],
        &[],
        "unknown key gatway in FILE: did you mean gateway? (accepted sections: gateway, tool-registry, keys)",
    ),
    (
        "[tool-registry]\nlisten = \"x\"",
        &[],
        &[],
        "unknown key tool-registry.listen in FILE: did you mean gateway.listen? (accepted keys: format, label)",
    ),
    (
        "[gateway]\nsessions = [{ address = \"a\", slot = \"0-1\" }]",
        &[],
        &[],
        "unknown key gateway.sessions.0.slot in FILE: did you mean gateway.sessions.0.slots? (accepted keys: address, slots)",
    ),
    (
        "",
        &[("TRUNKLINE_GATEWAY__STRIKT", "true")],
        &[],
        "unknown key gateway.strikt in environment variable TRUNKLINE_GATEWAY__STRIKT: did you mean gateway.strict?",
    ),
    (
        "",
        &[],
        &["gateway.nonsense=1"],
        "unknown key gateway.nonsense in --set gateway.nonsense on the command line (accepted keys: listen,",
    ),
    (
        "",
        &[("TRUNKLINE_GATEWAY__REQUEST_TIMEOUT_S", "soon")],
        &[],
        "gateway.request_timeout_s in environment variable TRUNKLINE_GATEWAY__REQUEST_TIMEOUT_S: this is text; \
         accepted: a whole number from 0, such as 60",
    ),
    (
        "[gateway]\nrequest_timeout_s = -1",
        &[],
        &[],
        "gateway.request_timeout_s in FILE: this is a whole number; accepted: a whole number from 0, such as 60",
    ),
    (
        "[gateway]\nlisten = 8080",
        &[],
        &[],
        "gateway.listen in FILE: this is a whole number; accepted: text in quotes, such as \"127.0.0.1:8080\"",
    ),
    (
        "[gateway]\nallowed_hosts = \"a\"",
        &[],
        &[],
        "gateway.allowed_hosts in FILE: this is text; accepted: a list [..]",
    ),
    (
        "[gateway]\nsessions = [{ slots = \"0-1\" }]",
        &[],
        &[],
        "gateway.sessions.0 in FILE: address is missing; accepted: a table with address",
    ),
    (
        "[tool-registry]\nformat = \"xml\"",
        &[],
        &[],
        "tool-registry.format in FILE: no such choice; accepted: one of text, json, such as \"text\"",
    ),
    (
        "",
        &[("TRUNKLINE_GATEWAY_LISTEN", "x:1")],
        &[],
        "environment variable TRUNKLINE_GATEWAY_LISTEN is not read: did you mean TRUNKLINE_GATEWAY__LISTEN?",
    ),
    (
        "",
        &[],
        &["listen=1"],
        "--set listen: use --set SECTION.KEY=VALUE, for example --set gateway.listen=127.0.0.1:9000",
    ),
    ("[gateway]\nlisten = [", &[], &[], "FILE, line 2: not TOML: "),
];

#[test]
fn errors_name_the_key_its_source_and_the_accepted_form() {
    for (toml, env, set, expected) in REFUSED {
        let got = refusal(toml, env, set);
        let words = got.split_whitespace().map(|word| match word.find("/.tmp") {
            Some(_) => format!("FILE{}", word.rsplit_once(".toml").unwrap().1),
            None => word.to_owned(),
        });
        let got = words.collect::<Vec<_>>().join(" ");
        assert!(got.starts_with(expected.trim_end()), "expected {expected}\n     got {got}");
    }
}

#[test]
fn variables_that_a_platform_sets_are_left_alone() {
    let env =
        [("TRUNKLINE_GATEWAY_SERVICE_HOST", "10.0.0.1"), ("TRUNKLINE_GATEWAY_PORT", "tcp://10.0.0.1:8080")];
    attempt("", &env, &[]).unwrap();
}

#[test]
fn secrets_are_never_printed() {
    let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ=";
    let toml = format!("[keys]\ncurrent = \"k1\"\nring = {{ k1 = \"{secret}\" }}");
    let loaded = attempt(&toml, &[], &[]).unwrap();
    assert_eq!(loaded.config.keys.ring["k1"].expose(), secret);
    let dumped = dump(&loaded.config).unwrap();
    assert!(dumped.contains("k1 = \"***\""), "{dumped}");
    let printed = format!("{:?} {dumped} {}", loaded.config, loaded.config.keys.ring["k1"]);
    assert!(!printed.contains(secret), "{printed}");

    let wrong = [
        refusal(&format!("[keys]\nring = \"{secret}\""), &[], &[]),
        refusal(&format!("[keys]\nring = {{ k1 = [\"{secret}\"] }}"), &[], &[]),
        refusal(&format!("[keys]\nring = {{ k1 = \"{secret}\" "), &[], &[]),
        refusal("", &[("TRUNKLINE_KEYS__RING", secret)], &[]),
        refusal("", &[], &[&format!("keys.rign.k1={secret}")]),
        refusal("", &[], &[&format!("keys={secret}")]),
    ];
    for message in wrong {
        assert!(!message.contains(secret), "{message}");
    }
}

#[test]
fn a_masked_secret_is_not_taken_for_one() {
    let message = refusal("[keys]\nring = { k1 = \"***\" }", &[], &[]);
    assert!(message.starts_with("keys.ring.k1 in ") && message.contains("mask"), "{message}");
}

#[test]
fn a_dump_is_read_back_as_the_same_configuration() {
    let first = dump(&Config::default()).unwrap();
    let again = dump(&attempt(&first, &[], &[]).unwrap().config).unwrap();
    assert_eq!(first, again);
}

#[test]
fn a_refusal_by_a_role_names_the_source_too() {
    let loaded = attempt("", &[("TRUNKLINE_GATEWAY__LISTEN", "x:1")], &[]).unwrap();
    assert_eq!(
        loaded.refuse("gateway.listen", "no such host", "HOST:PORT").to_string(),
        "gateway.listen in environment variable TRUNKLINE_GATEWAY__LISTEN: no such host; accepted: HOST:PORT"
    );
}
