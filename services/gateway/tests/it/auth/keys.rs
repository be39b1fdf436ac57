//! API keys, anonymity, and what a configuration must not be.

use std::sync::Arc;

use gateway::auth::{ApiKey, Config, Gate, Issuer, NewKey, REMOTE, new_key};
use gateway::{App, BuildError, Deps, Local};
use placement::Static;

use super::{asking, bearing, list};
use crate::kit::{Gateway, Node, keys};

fn made(name: &str, seed: u8) -> (String, ApiKey) {
    let NewKey { key, line, .. } = new_key(name, "", "", [seed; 32]);
    let hash = line.split('"').nth(3).unwrap().to_owned();
    (key, ApiKey { name: name.into(), hash, ..ApiKey::default() })
}

#[tokio::test]
async fn a_key_opens_and_nothing_like_it_does() {
    let (key, line) = made("team-a", 1);
    let (_, expired) = made("team-b", 2);
    let expired = ApiKey { expires: "2020-01-01T00:00:00Z".into(), ..expired };
    let hash = line.hash.clone();
    let gate = Gate::new(&Config { keys: vec![line, expired], ..Config::default() }).unwrap();
    let node = Node::new([]);
    let gateway = asking(Arc::new(gate), &node).await;
    assert_eq!(gateway.ask(&bearing(&key)).await.status, 200);
    let principal = node.delivered().unwrap().principal;
    assert_eq!((principal.subject.as_str(), principal.issuer.as_str()), ("team-a", "api-key"));
    let bad = [
        made("team-b", 2).0,
        made("team-c", 3).0,
        key[..key.len() - 1].to_owned(),
        format!("{key}A"),
        key.to_lowercase(),
        hash.replace("sha256:", ""),
        "team-a".to_owned(),
        "tlk_".to_owned(),
        "a.b.c".to_owned(),
    ];
    for bad in bad {
        let response = gateway.ask(&bearing(&bad)).await;
        let challenge = response.header("www-authenticate");
        assert_eq!((response.status, challenge), (401, Some("Bearer error=\"invalid_token\"")), "{bad}");
    }
    let nothing = gateway.ask(&list()).await;
    assert_eq!((nothing.status, nothing.header("www-authenticate")), (401, Some("Bearer")));
    assert_eq!(node.seen(), []);
}

#[tokio::test]
async fn strangers_pass_where_nothing_is_configured_or_where_they_are_let_in() {
    let (key, line) = made("team-a", 1);
    for (anonymous, lines, expected) in
        [(false, vec![], 200), (false, vec![line.clone()], 401), (true, vec![line], 200)]
    {
        let gate = Gate::new(&Config { anonymous, keys: lines, ..Config::default() }).unwrap();
        let node = Node::new([]);
        let gateway = asking(Arc::new(gate), &node).await;
        assert_eq!(gateway.ask(&list()).await.status, expected);
        if expected == 200 {
            assert_eq!(node.delivered().unwrap().principal, api::Principal::default());
        }
        if anonymous {
            assert_eq!(gateway.ask(&bearing("bad")).await.status, 401, "what is shown has to be good");
            assert_eq!(gateway.ask(&bearing(&key)).await.status, 200);
        }
        let query = gateway.ask(&list().at("/mcp?access_token=x")).await;
        assert_eq!(query.status, 401);
    }
}

#[tokio::test]
async fn whoever_comes_from_elsewhere_has_to_be_known() {
    let (_, line) = made("team-a", 1);
    let public = |auth: Config, insecure_no_auth| {
        let config = gateway::Config {
            listen: "0.0.0.0:0".into(),
            allowed_hosts: vec!["mesh.example".into()],
            insecure_no_auth,
            ..gateway::Config::default()
        };
        let deps = Deps {
            keys: keys(),
            locator: Arc::new(Static::embedded(Default::default(), "a")),
            peers: Arc::new(Local(Node::new([]))),
            auth: Arc::new(Gate::new(&auth).unwrap()),
            process: Default::default(),
        };
        App::build(&config, deps)
    };
    let refused = public(Config::default(), false).err().unwrap();
    assert!(matches!(refused, BuildError::NoAuth(_)), "{refused}");
    assert!(refused.to_string().contains("auth.keys") && refused.to_string().contains("insecure_no_auth"));
    assert!(public(Config { keys: vec![line], ..Config::default() }, false).is_ok());
    assert!(public(Config { anonymous: true, ..Config::default() }, false).is_ok());
    assert!(public(Config::default(), true).is_ok());
}

#[tokio::test]
async fn strangers_from_elsewhere_are_a_principal_of_their_own() {
    let listen = gateway::Config {
        listen: "0.0.0.0:0".into(),
        allowed_hosts: vec!["localhost".into()],
        insecure_no_auth: true,
        ..gateway::Config::default()
    };
    let node = Node::new([]);
    let gate = Gate::new(&Config::default()).unwrap();
    let gateway = Gateway::listening("0.0.0.0:0", Arc::new(gate), listen, &[("a", &node)], 1).await;
    assert_eq!(gateway.ask(&list()).await.status, 200);
    let principal = node.delivered().unwrap().principal;
    assert_eq!((principal.subject.as_str(), principal.issuer.as_str()), ("", REMOTE));
}

#[test]
fn what_cannot_be_meant_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let set = file("good.json", "{\"keys\":[]}");
    let resource = "https://mesh.example/mcp".to_owned();
    let good = Issuer {
        issuer: "https://idp.example".into(),
        jwks: set,
        algorithms: gateway::auth::Algorithm::ALL.to_vec(),
        ..Issuer::default()
    };
    let with =
        |issuer: Issuer| Config { resource: resource.clone(), issuers: vec![issuer], ..Config::default() };
    assert!(Gate::new(&with(good.clone())).is_ok());
    let url = Issuer { jwks: "https://idp.example/keys".into(), ..good.clone() };
    assert!(Gate::new(&with(url.clone())).is_ok(), "it need not be there yet");
    let resources = [
        "",
        "mesh.example/mcp",
        "https://mesh.example/mcp/",
        "https://Mesh.example/mcp",
        "https://mesh.example/",
        "https://mesh.example/mcp?a",
        "https://mesh.example:443/mcp",
        "https://u@mesh.example/mcp",
    ];
    let mut table: Vec<(String, Config)> = resources
        .iter()
        .map(|text| ("auth.resource".into(), Config { resource: (*text).into(), ..with(good.clone()) }))
        .collect();
    let issuer = |key: &str, issuer: Issuer| (format!("auth.issuers[0].{key}"), with(issuer));
    table.extend([
        issuer("issuer", Issuer { issuer: "idp".into(), ..good.clone() }),
        issuer("algorithms", Issuer { algorithms: Vec::new(), ..good.clone() }),
        issuer("scopes", Issuer { scopes: vec!["a b".into()], ..good.clone() }),
        issuer("scopes", Issuer { scopes: vec!["a\"".into()], ..good.clone() }),
        issuer("jwks", Issuer { jwks: "/no/such/file".into(), ..good.clone() }),
        issuer("jwks", Issuer { jwks: file("bad.json", "<html>"), ..good.clone() }),
        issuer("jwks", Issuer { jwks: "https://user:secret@idp.example/".into(), ..good.clone() }),
        ("auth.issuers[1].issuer".into(), Config { issuers: vec![good.clone(), good], ..with(url.clone()) }),
        (
            "auth.private_targets[0]".into(),
            Config { private_targets: vec!["idp".into()], ..with(url.clone()) },
        ),
        ("auth.authorities".into(), Config { authorities: "/no/such".into(), ..with(url.clone()) }),
        ("auth.authorities".into(), Config { authorities: file("empty.pem", "").into(), ..with(url) }),
    ]);
    for (expected, config) in table {
        let text = Gate::new(&config).err().expect(&expected).to_string();
        assert!(text.starts_with(&expected) && !text.contains("secret"), "{expected}: {text}");
    }
}

#[tokio::test]
async fn a_path_of_ours_cannot_be_taken() {
    let config = gateway::Config {
        mcp_path: "/.well-known/oauth-protected-resource".into(),
        ..gateway::Config::default()
    };
    let deps = Deps {
        keys: keys(),
        locator: Arc::new(Static::embedded(Default::default(), "a")),
        peers: Arc::new(Local(Node::new([]))),
        auth: Arc::new(gateway::auth::Anonymous),
        process: Default::default(),
    };
    assert!(matches!(App::build(&config, deps), Err(BuildError::Path { key: "mcp_path", .. })));
}
