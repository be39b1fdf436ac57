//! Tokens that are not what they should be, one by one; and those that only look so.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chassis::task::{self, Kind};
use gateway::auth::{Config, Gate};
use jsonwebtoken::{Algorithm, EncodingKey};
use tokio::net::TcpListener;

use super::forge::{Forge, ISSUER, OTHER_ISSUER, RESOURCE, Signer, claims, claims_until, encode, now, with};
use super::{WHERE, asking, bearing, list};
use crate::kit::{Gateway, Node, Request, Response, Seen};

/// A name, and what is sent.
type Forged = (String, String);

fn named(name: impl Into<String>, token: String) -> Forged {
    (name.into(), token)
}

/// What the header says that must not be believed.
fn headers(forge: &Forge, canary: &str) -> Vec<Forged> {
    let (rsa, ec, attacker) = (&forge.rsa, &forge.ec, &forge.attacker);
    let good = claims();
    let mut forged = Vec::new();
    for name in ["none", "None", "NONE", "nOnE", "HS256 ", "", "RS257", "ES512", "rs256"] {
        let header = rsa.header().replace("RS256", name);
        forged.push(named(format!("alg {name}"), rsa.sign(&header, &good)));
        forged
            .push(named(format!("alg {name}, unsigned"), format!("{}.{}.", encode(&header), encode(&good))));
    }
    for raw in ["null", "1", "[\"RS256\"]", "{}"] {
        let header = rsa.header().replace("\"RS256\"", raw);
        forged.push(named(format!("alg {raw}"), rsa.sign(&header, &good)));
    }
    forged.push(named("no alg", rsa.sign(r#"{"typ":"JWT","kid":"rsa"}"#, &good)));
    for (label, by) in
        [("RS256", ec), ("ES256", rsa), ("PS256", rsa), ("EdDSA", ec), ("ES384", ec), ("RS256", &forge.ed)]
    {
        let header = format!(r#"{{"alg":"{label}","kid":"{}"}}"#, by.kid);
        forged.push(named(format!("{label} over {:?}", by.algorithm), by.sign(&header, &good)));
    }
    let label = rsa.header().replace("RS256", "RS512");
    forged.push(named("an algorithm that is not allowed", rsa.sign_as(Algorithm::RS512, &label, &good)));
    for kid in [
        "\"nobody\"",
        "\"\"",
        "\"EC\"",
        "\"ec \"",
        "\"rsa\"",
        "\"other\"",
        "1",
        "null",
        "[\"ec\"]",
        "\"../own.json\"",
        "\"/dev/null\"",
        "\"' or 1=1 --\"",
        "\"ec\\u0000\"",
    ] {
        let header = ec.header().replace("\"ec\"", kid);
        forged.push(named(format!("kid {kid}"), ec.sign(&header, &good)));
    }
    forged.push(named(
        "a kid as an address",
        ec.sign(&ec.header().replace("\"ec\"", &format!("{canary:?}")), &good),
    ));
    forged.push(named(
        "a long kid",
        ec.sign(&ec.header().replace("\"ec\"", &format!("{:?}", "e".repeat(600))), &good),
    ));
    forged.push(named("no kid", attacker.sign(r#"{"alg":"ES256"}"#, &good)));
    for (member, value) in [
        ("jwk", attacker.jwk()),
        ("jku", format!("{canary:?}")),
        ("x5u", format!("{canary:?}")),
        ("x5c", "[\"MIIB\"]".to_owned()),
    ] {
        let header = ec.header().replace('{', &format!("{{\"{member}\":{value},"));
        forged.push(named(format!("an attacker's key in {member}"), attacker.sign(&header, &good)));
    }
    for (member, value) in [
        ("crit", "[\"exp\"]"),
        ("crit", "[]"),
        ("crit", "null"),
        ("b64", "false"),
        ("cty", "\"JWT\""),
        ("zip", "\"DEF\""),
        ("enc", "\"A256GCM\""),
        ("alg", "\"none\""),
        ("\\u0061lg", "\"none\""),
        ("kid", "\"ec\""),
    ] {
        let header = ec.header().replace('{', &format!("{{\"{member}\":{value},"));
        forged.push(named(format!("{member} {value} in the header"), ec.sign(&header, &good)));
    }
    for kind in
        ["\"dpop+jwt\"", "\"logout+jwt\"", "\"JOSE\"", "\"\"", "1", "null", "\"application/\"", "\"JWT \""]
    {
        let header = ec.header().replace("\"JWT\"", kind);
        forged.push(named(format!("typ {kind}"), ec.sign(&header, &good)));
    }
    forged
}

/// Symmetric signatures with what is public for a secret.
fn confused(forge: &Forge) -> Vec<Forged> {
    let jwk = forge.rsa.jwk();
    let modulus = mcp::scan::string(mcp::scan::member(&jwk, "n").unwrap()).unwrap().into_owned();
    let secrets = [
        ("its modulus", modulus.into_bytes()),
        ("its key set entry", jwk.into_bytes()),
        ("nothing", Vec::new()),
        ("its kid", b"rsa".to_vec()),
    ];
    let mut forged = Vec::new();
    for (what, secret) in secrets {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let signer = Signer { kid: "rsa", algorithm, key: EncodingKey::from_secret(&secret) };
            forged.push(named(format!("{algorithm:?} with {what}"), signer.token(&claims())));
        }
    }
    forged
}

/// What is no token, or another one than was signed.
fn forms(forge: &Forge) -> Vec<Forged> {
    let ec = &forge.ec;
    let token = ec.token(&claims());
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, body) = message.split_once('.').unwrap();
    let other = ec.token(&with("sub", Some("\"eve\"")));
    let (other_message, other_signature) = other.rsplit_once('.').unwrap();
    let raw = |bytes: &[u8; 64]| format!("{message}.{}", encode(bytes));
    let flipped = |at: usize| {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let mut forged = vec![
        named("no signature", message.to_owned()),
        named("an empty signature", format!("{message}.")),
        named("no claims", format!("{header}..{signature}")),
        named("no header", format!(".{body}.{signature}")),
        named("four parts", format!("{token}.x")),
        named("five parts", format!("{token}.x.y")),
        named("dots", "..".to_owned()),
        named("a word", "token".to_owned()),
        named("padding", format!("{token}=")),
        named("padding inside", format!("{header}=.{body}.{signature}")),
        named("a blank after the header", format!("{header} .{body}.{signature}")),
        named("half a signature", format!("{message}.{}", &signature[..signature.len() / 2])),
        named("more than a signature", format!("{token}AAAA")),
        named("another token's signature", format!("{message}.{other_signature}")),
        named("other claims", format!("{other_message}.{signature}")),
        named("a changed header", flipped(8)),
        named("changed claims", flipped(header.len() + 20)),
        named("a changed signature", flipped(message.len() + 10)),
        named("a signature of zeros", raw(&[0; 64])),
        named("a signature of ones", raw(&[0xff; 64])),
        named("claims twice", format!("{header}.{body}{body}.{signature}")),
        named("too long", ec.token(&with("pad", Some(&format!("{:?}", "x".repeat(7000)))))),
    ];
    for (what, part) in [
        ("an array", "[]"),
        ("a string", "\"x\""),
        ("null", "null"),
        ("nothing", " "),
        ("half an object", "{\"iss\":"),
        ("two objects", "{}{}"),
        ("a mark", "\u{feff}{}"),
    ] {
        forged.push(named(format!("{what} for claims"), ec.token(part)));
        forged.push(named(format!("{what} for a header"), ec.sign(part, claims())));
    }
    forged.push(named("claims that are not UTF-8", ec.sign(&ec.header(), b"{\"iss\":\"\xff\"}")));
    forged
}

/// What the claims of a token say that was rightly signed.
fn contents(forge: &Forge) -> Vec<Forged> {
    let ec = &forge.ec;
    let past = |seconds: u64| (now() - seconds).to_string();
    let soon = (now() + 3000).to_string();
    let mut table: Vec<(&str, Option<String>)> = vec![
        ("exp", None),
        ("exp", Some(past(31))),
        ("exp", Some(past(1_000_000))),
        ("nbf", Some(soon.clone())),
        ("iat", Some(soon)),
        ("iss", None),
        ("aud", None),
        ("sub", None),
        ("org", None),
    ];
    let far = format!("\"{}\"", now() + 300);
    for raw in [far.as_str(), "null", "true", "[1]", "{}", "-1", "0", "1e400", "-0"] {
        table.push(("exp", Some(raw.to_owned())));
    }
    table.extend(["\"1\"", "null", "true", "1e400"].map(|raw| ("nbf", Some(raw.to_owned()))));
    for issuer in [
        "https://idp.example/realm/",
        "https://IDP.example/realm",
        "https://idp.example",
        "https://idp.example/realm2",
        "http://idp.example/realm",
        " https://idp.example/realm",
        "",
        "api-key",
        "https://evil.example",
    ] {
        table.push(("iss", Some(format!("{issuer:?}"))));
    }
    table.extend([format!("[{ISSUER:?}]"), "null".into(), "1".into()].map(|raw| ("iss", Some(raw))));
    table.extend(audiences().into_iter().map(|raw| ("aud", Some(raw))));
    for claim in ["sub", "org"] {
        for raw in ["\"\"", "1", "null", "[\"ada\"]", "\"a\\u0000\"", "\"a\\nb\""] {
            table.push((claim, Some(raw.to_owned())));
        }
    }
    table.push(("sub", Some(format!("{:?}", "x".repeat(600)))));
    let mut forged: Vec<Forged> = table
        .into_iter()
        .map(|(claim, raw)| named(format!("{claim} {raw:?}"), ec.token(&with(claim, raw.as_deref()))))
        .collect();
    for twice in [
        "\"sub\":\"eve\"",
        "\"iss\":\"https://other.example\"",
        "\"aud\":\"x\"",
        "\"exp\":9999999999",
        "\"s\\u0075b\":\"eve\"",
    ] {
        let body = claims().replace('{', &format!("{{{twice},"));
        forged.push(named(format!("{twice} and another"), ec.token(&body)));
    }
    let elsewhere = claims().replace(ISSUER, OTHER_ISSUER);
    forged.push(named("another issuer's key", forge.other.token(&claims())));
    forged.push(named("one's own key for another issuer", ec.token(&elsewhere)));
    forged.push(named("an attacker's key under a known name", forge.attacker.token(&claims())));
    forged
}

/// Audiences that are not quite ours (page and host in all their forms).
fn audiences() -> Vec<String> {
    let close = [
        "https://mesh.example/mcp/",
        "https://mesh.example/MCP",
        "https://MESH.example/mcp",
        "https://mesh.example",
        "https://mesh.example/",
        "https://mesh.example/mc",
        "https://mesh.example/mcp2",
        "https://mesh.example/mcp/sub",
        "https://mesh.example/mcp?x",
        "https://mesh.example/mcp#x",
        "https://mesh.example:443/mcp",
        "http://mesh.example/mcp",
        "https://billing.mesh.example/mcp",
        "https://mesh.example.evil/mcp",
        "mesh.example",
        "*",
        "",
        " https://mesh.example/mcp",
        "https://sibling.example/mcp",
        "https://sibling.example/mcp,https://mesh.example/mcp",
        "https://sibling.example/mcp https://mesh.example/mcp",
    ];
    let mut all: Vec<String> = close.iter().map(|audience| format!("{audience:?}")).collect();
    let raw = [
        "null",
        "1",
        "{}",
        "[]",
        "[1]",
        "[[\"A\"]]",
        "[\"A\",1]",
        "[\"A\",null]",
        "{\"aud\":\"A\"}",
        "[\"https://sibling.example/mcp\",\"https://mesh.example/mcp/\"]",
    ];
    all.extend(raw.iter().map(|raw| raw.replace('A', RESOURCE)));
    all
}

fn refusal(name: &str, response: &Response, status: u16, challenge: &str) {
    assert_eq!((response.status, response.header("www-authenticate")), (status, Some(challenge)), "{name}");
    assert_eq!((response.body.as_str(), response.header("content-type")), ("", None), "{name}");
    assert_eq!(response.header("mcp-session-id"), None, "{name}");
}

#[tokio::test]
async fn forged_tokens_are_refused_and_reach_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let canary = format!("http://{}/keys", listener.local_addr().unwrap());
    let hits = Arc::new(AtomicUsize::new(0));
    let count = hits.clone();
    let _listening = task::spawn(Kind::Role, "canary", async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let forge = Forge::new();
    let node = Node::new([]);
    let gateway = asking(Arc::new(forge.gate()), &node).await;
    let forged = [headers(&forge, &canary), confused(&forge), forms(&forge), contents(&forge)].concat();
    let challenge = format!("Bearer error=\"invalid_token\", {WHERE}");
    for (name, token) in &forged {
        let response = gateway.ask(&bearing(token)).await;
        refusal(name, &response, 401, &challenge);
        assert_eq!(node.seen(), [], "{name}");
    }
    assert!(forged.len() >= 200, "{}", forged.len());
    assert_eq!(hits.load(Ordering::SeqCst), 0, "nobody asks where a token says that its key is");
    assert_eq!(gateway.ask(&bearing(&forge.ec.token(&claims()))).await.status, 200);
}

#[tokio::test]
async fn good_tokens_pass_whatever_else_they_say() {
    let forge = Forge::new();
    let node = Node::new([]);
    let gateway = asking(Arc::new(forge.gate()), &node).await;
    let (ec, rsa) = (&forge.ec, &forge.rsa);
    let ours = format!("[\"https://sibling.example\",{RESOURCE:?}]");
    let header = |from: &str, to: &str| ec.sign(&ec.header().replace(from, to), claims());
    let pss = rsa.header().replace("RS256", "PS256");
    let tokens = [
        ("ES256", ec.token(&claims())),
        ("RS256", rsa.token(&claims())),
        ("PS256", rsa.sign_as(Algorithm::PS256, &pss, claims())),
        ("EdDSA", forge.ed.token(&claims())),
        ("one of two audiences", ec.token(&with("aud", Some(&ours)))),
        ("a clock that is late", ec.token(&claims_until(now() - 15))),
        ("a clock that is early", ec.token(&with("nbf", Some(&(now() + 25).to_string())))),
        ("half a second", ec.token(&with("exp", Some(&format!("{}.5", now() + 60))))),
        ("a long time", ec.token(&with("exp", Some("1e30")))),
        ("an access token", header("JWT", "at+jwt")),
        ("an access token in full", header("JWT", "application/AT+JWT")),
        ("no type", header("\"typ\":\"JWT\",", "")),
        ("a place for keys that nobody asks", header("{", "{\"jku\":\"http://127.0.0.1:1/\",")),
        ("the only key that fits", header(",\"kid\":\"ec\"", "")),
        (
            "scopes as an array",
            ec.token(&with("scope", None).replace('{', "{\"scp\":[\"mcp:more\",\"mcp:use\"],")),
        ),
    ];
    for (name, token) in &tokens {
        for _remembered in 0..2 {
            assert_eq!(gateway.ask(&bearing(token)).await.status, 200, "{name}");
            let principal = node.delivered().expect(name).principal;
            let who = (principal.subject.as_str(), principal.issuer.as_str());
            assert_eq!(who, ("ada", ISSUER), "{name}");
            assert_eq!((principal.tenant.as_str(), principal.client.as_str()), ("acme", "agent"), "{name}");
        }
    }
    let elsewhere = with("org", None).replace(ISSUER, OTHER_ISSUER);
    assert_eq!(gateway.ask(&bearing(&forge.other.token(&elsewhere))).await.status, 200);
    let principal = node.delivered().unwrap().principal;
    assert_eq!((principal.issuer.as_str(), principal.tenant.as_str()), (OTHER_ISSUER, ""));
}

#[tokio::test]
async fn a_token_that_lacks_scopes_is_told_all_that_are_needed() {
    let forge = Forge::new();
    let node = Node::new([]);
    let gateway = asking(Arc::new(forge.gate()), &node).await;
    for scope in [
        None,
        Some("\"\""),
        Some("\"mcp:use\""),
        Some("\"mcp:more\""),
        Some("\"MCP:USE mcp:more\""),
        Some("1"),
        Some("\"mcp:usemcp:more\""),
        Some("[\"mcp:more\"]"),
    ] {
        let response = gateway.ask(&bearing(&forge.ec.token(&with("scope", scope)))).await;
        let challenge = format!(
            "Bearer error=\"insufficient_scope\", {}, scope=\"mcp:use mcp:more\"",
            WHERE.split(", ").next().unwrap()
        );
        refusal(&format!("{scope:?}"), &response, 403, &challenge);
        assert_eq!(node.seen(), []);
    }
}

#[tokio::test]
async fn only_one_authorization_header_with_a_bearer_token_counts() {
    let forge = Forge::new();
    let node = Node::new([]);
    let gateway = asking(Arc::new(forge.gate()), &node).await;
    let good = forge.ec.token(&claims());
    let bearer = format!("Bearer {good}");
    let with = |value: &str| list().with("Authorization", value);
    for value in ["Basic YTpi", "Bearer", "Bearer ", "Token x", "", "x", &good, &format!("DPoP {good}")] {
        let response = gateway.ask(&with(value)).await;
        refusal(value, &response, 401, &format!("Bearer {WHERE}"));
    }
    let at = |target: &str| format!("/mcp?{target}");
    for (name, request) in [
        ("twice the same", with(&bearer).with("Authorization", &bearer)),
        ("a good one and a bad one", with(&bearer).with("Authorization", "Bearer x")),
        ("two in one", with(&format!("{bearer}, {bearer}"))),
        ("two words", with(&format!("{bearer} x"))),
        ("a quote", with("Bearer \"x\"")),
        ("bytes", list().with("Authorization", b"Bearer \xff\xfe")),
        ("in the query", list().at(&at(&format!("access_token={good}")))),
        ("in the query and the header", with(&bearer).at(&at(&format!("a=1&access_token={good}")))),
        ("in the query, encoded", with(&bearer).at(&at(&format!("%61ccess%5Ftoken={good}")))),
        ("in the query, empty", with(&bearer).at(&at("access_token"))),
    ] {
        let response = gateway.ask(&request).await;
        refusal(name, &response, 401, &format!("Bearer error=\"invalid_token\", {WHERE}"));
    }
    assert_eq!(node.seen(), []);
    for value in [format!("bearer {good}"), format!("BEARER  {good} ")] {
        assert_eq!(gateway.ask(&with(&value)).await.status, 200, "the scheme's case does not matter");
    }
    assert_eq!(gateway.ask(&bearing(&good).at("/mcp?x=access_token")).await.status, 200);
}

#[tokio::test]
async fn nothing_of_a_token_goes_on() {
    let forge = Forge::new();
    let node = Node::new([]);
    let gateway = asking(Arc::new(forge.gate()), &node).await;
    let token = forge.ec.token(&claims());
    let signature = token.rsplit_once('.').unwrap().1;
    let session = crate::kit::session(1);
    let bearer = format!("Bearer {token}");
    let older = Request::older(&session, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    let get = Request::new("GET").with("Accept", "text/event-stream").with("Mcp-Session-Id", &session);
    let delete = Request::new("DELETE").with("Mcp-Session-Id", &session);
    for request in [list().with("Mcp-Param-Authorization", "x"), older, get, delete] {
        gateway.ask(&request.with("Authorization", &bearer)).await;
    }
    let seen = node.seen();
    assert!(matches!(
        &seen[..],
        [Seen::Delivered(_), Seen::Delivered(_), Seen::Attached(_), Seen::Closed(_)]
    ));
    let text = format!("{seen:?}");
    assert!(!text.contains(signature) && !text.contains("Bearer") && text.contains("ada"), "{text}");
}

#[tokio::test]
async fn the_metadata_says_whose_tokens_are_taken() {
    let forge = Forge::new();
    let gateway = asking(Arc::new(forge.gate()), &Node::new([])).await;
    for path in ["/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"] {
        let response = gateway.ask(&Request::new("GET").at(path)).await;
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")));
        assert_eq!(
            response.body,
            format!(
                r#"{{"resource":"{RESOURCE}","authorization_servers":["{ISSUER}","{OTHER_ISSUER}"],"scopes_supported":["mcp:more","mcp:use"],"bearer_methods_supported":["header"],"resource_name":"Trunkline"}}"#
            )
        );
        let posted = gateway.ask(&Request::post("{}").at(path)).await;
        assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
        let rebound = gateway.ask(&Request::new("GET").at(path).set("Host", "evil.example")).await;
        assert_eq!(rebound.status, 403);
    }
    let behind = Config { resource: "https://api.example/team/mcp".into(), ..forge.config() };
    let gateway = asking(Arc::new(Gate::new(&behind).unwrap()), &Node::new([])).await;
    let refused = gateway.ask(&list()).await;
    let challenge = refused.header("www-authenticate").unwrap().to_owned();
    let path = "/.well-known/oauth-protected-resource/team/mcp";
    assert!(challenge.contains(&format!("\"https://api.example{path}\"")), "{challenge}");
    let response = gateway.ask(&Request::new("GET").at(path)).await;
    assert_eq!(response.at(&["resource"]), Some("\"https://api.example/team/mcp\""));
    let without = Gateway::one(&Node::new([])).await;
    let missing = without.ask(&Request::new("GET").at("/.well-known/oauth-protected-resource/mcp")).await;
    assert_eq!((missing.status, missing.body.as_str()), (404, ""));
}

#[tokio::test]
async fn a_new_key_set_is_taken_up_and_an_old_key_is_not_good_any_more() {
    let forge = Forge::new();
    let node = Node::new([]);
    let gateway = asking(Arc::new(forge.gate()), &node).await;
    let old = bearing(&forge.ec.token(&claims()));
    assert_eq!(gateway.ask(&old).await.status, 200);
    let new = Signer { kid: "new", ..forge.attacker.clone() };
    forge.publish("own.json", &[&new]);
    let new = bearing(&new.token(&claims()));
    crate::kit::soon(async {
        while gateway.ask(&new).await.status != 200 || gateway.ask(&old).await.status != 401 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
