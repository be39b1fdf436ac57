use std::fs;
use std::path::PathBuf;

use rcgen::SanType;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::testing::{Authority, Pair};
use super::*;

/// Both ends of one connection.
async fn meet(listens: &Mesh, dials: &Mesh, wanted: &[Role]) -> (io::Result<Role>, io::Result<()>) {
    let (near, far) = duplex(1 << 14);
    let dialler = dials.dialler(wanted).unwrap();
    let connector = dialler.connector().unwrap();
    let member = listens.member().unwrap();
    // In TLS 1.3 a client learns that it was refused only when it reads.
    let dialling = async {
        let mut stream = connector.connect("127.0.0.1", near).await?;
        stream.read_exact(&mut [0]).await.map(drop)
    };
    let listening = async {
        let (mut stream, identity) = member.accept(far).await?;
        stream.write_all(b"!").await?;
        Ok(identity.role())
    };
    tokio::join!(listening, dialling)
}

/// What a client of the edge sees: the certificate.
async fn shown(acceptor: &Acceptor, connector: &Connector, host: &str) -> io::Result<Vec<u8>> {
    let (near, far) = duplex(1 << 14);
    let (dialled, accepted): (_, io::Result<server::TlsStream<DuplexStream>>) =
        tokio::join!(connector.connect(host, near), acceptor.accept(far));
    let stream = dialled?;
    accepted?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].to_vec())
}

fn error<T>(result: io::Result<T>) -> String {
    result.map(drop).unwrap_err().to_string()
}

#[tokio::test]
async fn the_edge_shows_its_certificate_and_agrees_on_a_protocol() {
    let authority = Authority::new();
    let acceptor = authority.host("mesh.example").acceptor().unwrap();
    for (protocols, agreed) in [(Protocols::Grpc, "h2"), (Protocols::Web, "h2")] {
        let connector = Connector::from_files(File::new("ca", authority.ca()), None, protocols).unwrap();
        let (near, far) = duplex(1 << 14);
        let (dialled, accepted) = tokio::join!(connector.connect("mesh.example", near), acceptor.accept(far));
        assert_eq!(dialled.unwrap().get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
        assert_eq!(accepted.unwrap().get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
    }
    let connector = Connector::from_files(File::new("ca", authority.ca()), None, Protocols::Web).unwrap();
    let other = error(shown(&acceptor, &connector, "other.example").await);
    assert!(other.contains("not valid for name"), "{other}");
}

#[tokio::test]
async fn a_client_without_the_certificate_that_is_asked_for_is_refused() {
    let authority = Authority::new();
    let (certificate, key) = authority.host("mesh.example").files();
    let ca = File::new("ca", authority.ca());
    let acceptor = Acceptor::from_files(certificate, key, Some(ca.clone()), Protocols::Web).unwrap();
    let connector = Connector::from_files(ca.clone(), None, Protocols::Web).unwrap();
    assert!(shown(&acceptor, &connector, "mesh.example").await.is_err());
    let connector =
        Connector::from_files(ca, Some(authority.role(Role::Gateway).files()), Protocols::Web).unwrap();
    assert!(shown(&acceptor, &connector, "mesh.example").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn until_when_a_certificate_is_good_is_told_and_told_anew() {
    let (authority, metrics) = (Authority::new(), Metrics::default());
    let pair = authority.role(Role::Session);
    Mesh::new(&authority.section(&pair), None).unwrap().tell_expiry(&metrics.of_role("session"));
    let told = || {
        let series = "trunkline_certificate_expiry_timestamp_seconds{role=\"session\",purpose=\"mesh\"} ";
        let text = metrics.text();
        text.lines().find_map(|line| line.strip_prefix(series)).map(|end| end.parse::<i64>().unwrap())
    };
    let ends = |ago: Duration| {
        let end = std::time::SystemTime::now() - ago;
        i64::try_from(end.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()).unwrap()
    };
    // What the library that makes them takes for ever.
    assert_eq!(told(), Some(67_090_118_400));
    pair.replace(&authority.expired(Role::Session));
    assert_eq!(told(), Some(67_090_118_400), "not before the files are looked at");
    tokio::time::advance(LOOK).await;
    let (told, expected) = (told().unwrap(), ends(Duration::from_secs(60)));
    assert!((expected - 60..=expected).contains(&told), "{told} {expected}");
    Mesh::default().tell_expiry(&Metrics::default());
    let (certificate, _) = authority.role(Role::Session).files();
    tell_expiry(&fs::read(certificate.path()).unwrap(), &metrics, "etcd");
    tell_expiry(b"nothing", &metrics, "other");
    let text = metrics.text();
    assert!(text.contains("{purpose=\"etcd\"} 67090118400\n") && !text.contains("other"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn replaced_files_are_used_and_broken_ones_are_not() {
    let authority = Authority::new();
    let (first, second) = (authority.host("mesh.example"), authority.of_uri("spare", "spiffe://x/y"));
    let third = authority.issue("third", vec![SanType::DnsName("mesh.example".try_into().unwrap())], None);
    let acceptor = first.acceptor().unwrap();
    let connector = Connector::from_files(File::new("ca", authority.ca()), None, Protocols::Web).unwrap();
    let before = shown(&acceptor, &connector, "mesh.example").await.unwrap();

    // The key is another's, then no certificate is there at all.
    fs::copy(&second.key, &first.key).unwrap();
    tokio::time::advance(LOOK).await;
    assert_eq!(shown(&acceptor, &connector, "mesh.example").await.unwrap(), before);
    fs::write(&first.certificate, "nothing").unwrap();
    tokio::time::advance(LOOK).await;
    assert_eq!(shown(&acceptor, &connector, "mesh.example").await.unwrap(), before);
    fs::remove_file(&first.key).unwrap();
    tokio::time::advance(LOOK).await;
    assert_eq!(shown(&acceptor, &connector, "mesh.example").await.unwrap(), before);

    first.replace(&third);
    assert_eq!(shown(&acceptor, &connector, "mesh.example").await.unwrap(), before, "not looked at yet");
    tokio::time::advance(LOOK).await;
    assert_ne!(shown(&acceptor, &connector, "mesh.example").await.unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_never_ends_is_given_up() {
    let acceptor = Authority::new().host("mesh.example").acceptor().unwrap();
    let (_near, far) = duplex(1 << 10);
    let late = acceptor.accept(far).await.unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
}

#[test]
fn an_error_names_the_setting_and_the_file() {
    let authority = Authority::new();
    let (good, other) = (authority.host("mesh.example"), authority.role(Role::Gateway));
    let said = |pair: &Pair| pair.acceptor().unwrap_err().to_string();
    let (certificate, key) = (good.certificate.display(), good.key.display());

    let swapped = Pair { key: other.key.clone(), ..good.clone() };
    let expected = format!(
        "gateway.tls_key ({}): not the key of the certificate in gateway.tls_certificate ({certificate})",
        other.key.display()
    );
    assert_eq!(said(&swapped), expected);

    let missing = Pair { key: "/nowhere/key.pem".into(), ..good.clone() };
    assert!(
        said(&missing).starts_with("gateway.tls_key (/nowhere/key.pem): No such file"),
        "{}",
        said(&missing)
    );

    let upside_down = Pair { certificate: good.key.clone(), key: good.certificate.clone() };
    assert_eq!(
        said(&upside_down),
        format!(
            "gateway.tls_certificate ({key}): no certificate in it: PEM with BEGIN CERTIFICATE is wanted"
        )
    );
    fs::write(&good.key, fs::read_to_string(&good.certificate).unwrap()).unwrap();
    assert_eq!(
        said(&good),
        format!("gateway.tls_key ({key}): no key in it: PEM with BEGIN PRIVATE KEY is wanted")
    );
}

#[tokio::test]
async fn members_of_a_mesh_know_each_other() {
    let authority = Authority::new();
    let session = authority.mesh(Role::Session);
    for dials in Role::ALL {
        let (listening, dialling) = meet(&session, &authority.mesh(dials), &[Role::Session]).await;
        assert_eq!(listening.unwrap(), dials);
        dialling.unwrap();
    }
}

#[tokio::test]
async fn a_server_must_have_the_role_that_is_dialled() {
    let authority = Authority::new();
    let (gateway, registry) = (authority.mesh(Role::Gateway), authority.mesh(Role::Registry));
    let session = authority.mesh(Role::Session);
    let (_, dialling) = meet(&registry, &session, &[Role::Registry, Role::Bridge]).await;
    dialling.unwrap();
    // Somebody who has got hold of a gateway's certificate is not taken for a session node.
    let (listening, dialling) = meet(&gateway, &gateway, &[Role::Session]).await;
    let said = error(dialling);
    assert!(said.contains("the server is a gateway, and session was dialled"), "{said}");
    assert!(listening.is_err());
}

#[tokio::test]
async fn nobody_else_is_let_in() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let session = ours.mesh(Role::Session);
    let lax = |pair: &Pair, authority: &Authority| {
        // What another implementation would do: it does not look at its own certificate.
        let pair = Some(pair.files());
        Connector::from_files(File::new("ca", authority.ca()), pair, Protocols::Grpc).unwrap()
    };
    let none = Connector::from_files(File::new("ca", ours.ca()), None, Protocols::Grpc).unwrap();
    let expired = ours.expired(Role::Gateway);
    let two = vec![
        SanType::URI("spiffe://trunkline/gateway".try_into().unwrap()),
        SanType::URI("spiffe://trunkline/session".try_into().unwrap()),
    ];
    let cases = [
        ("no certificate", none),
        ("wrong authority", lax(&theirs.role(Role::Gateway), &ours)),
        ("no role", lax(&ours.of_uri("janitor", "spiffe://trunkline/janitor"), &ours)),
        ("role in a path", lax(&ours.of_uri("path", "spiffe://trunkline/gateway/1"), &ours)),
        ("other trust domain", lax(&ours.of_uri("domain", "spiffe://staging/gateway"), &ours)),
        ("no URI", lax(&ours.host("gateway"), &ours)),
        ("two roles", lax(&ours.issue("two", two, None), &ours)),
        ("expired", lax(&expired, &ours)),
    ];
    for (case, connector) in cases {
        let (near, far) = duplex(1 << 14);
        let member = session.member().unwrap();
        // The server has no DNS name, so this client, which wants one, fails as well; what counts is the listening end.
        let (accepted, _dialled) = tokio::join!(
            async {
                let accepted = member.accept(far).await;
                accepted.map(|(_stream, identity)| identity.role())
            },
            connector.connect("127.0.0.1", near)
        );
        assert!(accepted.is_err(), "{case}: {accepted:?}");
    }
}

#[tokio::test]
async fn servers_of_others_are_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let gateway = ours.mesh(Role::Gateway);
    let of = |pair: &Pair, authority: &Authority| {
        let (certificate, key) = pair.files();
        Acceptor::from_files(certificate, key, Some(File::new("ca", authority.ca())), Protocols::Grpc)
            .unwrap()
    };
    let expired = ours.expired(Role::Session);
    let cases = [
        ("wrong authority", of(&theirs.role(Role::Session), &ours), "UnknownIssuer"),
        ("expired", of(&expired, &ours), "expired"),
        (
            "trust domain",
            of(&ours.of_uri("d", "spiffe://staging/session"), &ours),
            "no role of the trust domain",
        ),
        ("no URI", of(&ours.host("session"), &ours), "0 URI names"),
    ];
    for (case, acceptor, expected) in cases {
        let (near, far) = duplex(1 << 14);
        let dialler = gateway.dialler(&[Role::Session]).unwrap();
        let connector = dialler.connector().unwrap();
        let (dialled, accepted) = tokio::join!(connector.connect("127.0.0.1", near), acceptor.accept(far));
        let said = error(dialled);
        assert!(said.contains(expected), "{case}: {said}");
        assert!(accepted.is_err(), "{case}");
    }
}

#[test]
fn a_certificate_of_another_role_is_refused_at_the_start() {
    let authority = Authority::new();
    let section = authority.section(&authority.role(Role::Gateway));
    let said = Mesh::new(&section, Some(Role::Session)).unwrap_err().to_string();
    assert!(
        said.starts_with("mtls.certificate (") && said.ends_with("for a gateway, and this is a session"),
        "{said}"
    );
    let staging = Config { trust_domain: "staging".parse().unwrap(), ..section };
    let said = Mesh::new(&staging, Some(Role::Gateway)).unwrap_err().to_string();
    assert!(said.contains("no role of the trust domain \"staging\""), "{said}");
}

#[test]
fn without_certificates_there_is_only_this_machine() {
    let none = Mesh::new(&Config::default(), None).unwrap();
    let dialler = none.dialler(&[Role::Session]).unwrap();
    for near in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        none.check_listen(near.parse().unwrap()).unwrap();
    }
    for near in ["127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]", "localhost"] {
        dialler.check(near).unwrap();
        Dialler::default().check(near).unwrap();
    }
    for far in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "[fe80::1]:1"] {
        let said = none.check_listen(far.parse().unwrap()).unwrap_err().to_string();
        assert!(
            said.starts_with(far) && said.contains("mtls.certificate") && said.contains("certificates --dir"),
            "{said}"
        );
    }
    for far in ["10.0.0.1", "session-1.mesh.svc", "localhost.example", "0.0.0.0", "127.0.0.1.example"] {
        dialler.check(far).unwrap_err();
    }
    let open = Mesh::new(&Config { plain_text: true, ..Config::default() }, None).unwrap();
    open.check_listen("0.0.0.0:1".parse().unwrap()).unwrap();
    open.dialler(&[]).unwrap().check("10.0.0.1").unwrap();
}

#[test]
fn half_a_section_is_refused() {
    let authority = Authority::new();
    let whole = authority.section(&authority.role(Role::Gateway));
    let said = |section: Config| Mesh::new(&section, None).unwrap_err().to_string();
    assert!(said(Config { key: PathBuf::new(), ..whole.clone() }).starts_with("mtls.key is not set"));
    assert!(said(Config { ca: PathBuf::new(), ..whole.clone() }).starts_with("mtls.ca is not set"));
    assert!(
        said(Config { certificate: PathBuf::new(), ..whole.clone() })
            .starts_with("mtls.certificate is not set")
    );
    assert!(said(Config { plain_text: true, ..whole }).starts_with("mtls.plain_text"));
    for bad in ["", "Trunkline", "a b", "a/b", "spiffe://x"] {
        assert!(bad.parse::<TrustDomain>().is_err(), "{bad}");
    }
}
