//! By which names clients may call, and which web pages may call: the guard against DNS rebinding.
//!
//! Names are compared as a whole, after strict parsing. What cannot be parsed is not allowed.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, HeaderName, Uri, Version, header};

/// What this machine calls itself. Nobody else's name resolves to them, and a page from them is a page from this machine.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// An entry of a list that cannot match anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// In `allowed_hosts`.
    #[error(
        "allowed_hosts: {0:?} is not a name: write what stands in the URL, for example \"mesh.example.com\" or \
         \"mesh.example.com:8443\""
    )]
    Host(String),
    /// In `allowed_origins`.
    #[error("allowed_origins: {0:?} is not an origin: write for example \"https://app.example.com\"")]
    Origin(String),
}

/// Host or origin are not allowed. Which of the two is not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAllowed;

/// The configured lists. Clones share them: what replaces them in one of them replaces them in all.
#[derive(Debug, Clone)]
pub(crate) struct Rules(Arc<Current>);

#[derive(Debug)]
struct Current {
    lists: RwLock<Arc<Lists>>,
    /// Whether there are origins in them: asked for each request, which should not lock for that.
    lists_origins: AtomicBool,
}

#[derive(Debug)]
struct Lists {
    hosts: Vec<Authority<'static>>,
    origins: Vec<Origin>,
}

/// The lists as they apply to one listener.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    rules: Rules,
    loopback: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority<'a> {
    name: Cow<'a, str>,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    name: String,
    port: Option<u16>,
}

impl Rules {
    pub(crate) fn new(hosts: &[String], origins: &[String]) -> Result<Self, EntryError> {
        let hosts = hosts.iter().map(|text| {
            Authority::parse(text).map(Authority::own).ok_or_else(|| EntryError::Host(text.clone()))
        });
        let origins =
            origins.iter().map(|text| Origin::parse(text).ok_or_else(|| EntryError::Origin(text.clone())));
        let lists =
            Lists { hosts: hosts.collect::<Result<_, _>>()?, origins: origins.collect::<Result<_, _>>()? };
        let lists_origins = AtomicBool::new(!lists.origins.is_empty());
        Ok(Self(Arc::new(Current { lists: RwLock::new(Arc::new(lists)), lists_origins })))
    }

    pub(crate) fn no_hosts(&self) -> bool {
        self.now().hosts.is_empty()
    }

    /// Takes over the lists of others, in every clone and in every listener's guard.
    pub(crate) fn replace(&self, others: &Self) {
        let lists = others.now();
        self.0.lists_origins.store(!lists.origins.is_empty(), Ordering::Relaxed);
        *self.0.lists.write().unwrap_or_else(PoisonError::into_inner) = lists;
    }

    fn now(&self) -> Arc<Lists> {
        self.0.lists.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `loopback`: only this machine can reach the listener.
    pub(crate) fn guard(&self, loopback: bool) -> Guard {
        Guard { rules: self.clone(), loopback }
    }
}

impl Guard {
    /// Checks a request by its head alone.
    pub(crate) fn check(
        &self,
        version: Version,
        uri: &Uri,
        headers: &HeaderMap,
        is_secure: bool,
    ) -> Result<(), NotAllowed> {
        scheme(uri, is_secure)?;
        self.host(version, uri, headers)?;
        match single(headers, &header::ORIGIN)? {
            None => Ok(()),
            Some(text) => self.origin(&Origin::parse(text).ok_or(NotAllowed)?),
        }
    }

    /// Whether pages of other origins may call at all.
    pub(crate) fn lists_origins(&self) -> bool {
        self.rules.0.lists_origins.load(Ordering::Relaxed)
    }

    /// Whether the page that calls is in the list. On a request that passed [`Guard::check`].
    pub(crate) fn is_listed(&self, headers: &HeaderMap) -> bool {
        let origin = single(headers, &header::ORIGIN).ok().flatten().and_then(Origin::parse);
        origin.is_some_and(|origin| self.rules.now().origins.contains(&origin))
    }

    fn host(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), NotAllowed> {
        fn parse(text: &str) -> Result<Authority<'_>, NotAllowed> {
            Authority::parse(text).ok_or(NotAllowed)
        }
        let target = uri.authority().map(|authority| parse(authority.as_str())).transpose()?;
        let header = single(headers, &header::HOST)?.map(parse).transpose()?;
        let host = match (target, header) {
            (Some(target), Some(header)) if target == header => header,
            (None, Some(header)) => header,
            // HTTP/2 has the authority in the target; HTTP/1 must repeat it.
            (Some(target), None) if version == Version::HTTP_2 => target,
            _ => return Err(NotAllowed),
        };
        let listed = |rule: &Authority<'_>| {
            rule.name == host.name && rule.port.is_none_or(|port| Some(port) == host.port)
        };
        let own = self.loopback && LOOPBACK.contains(&host.name.as_ref());
        if own || self.rules.now().hosts.iter().any(listed) { Ok(()) } else { Err(NotAllowed) }
    }

    fn origin(&self, origin: &Origin) -> Result<(), NotAllowed> {
        let web = matches!(origin.scheme.as_str(), "http" | "https");
        let own = self.loopback && web && LOOPBACK.contains(&origin.name.as_str());
        if own || self.rules.now().origins.contains(origin) { Ok(()) } else { Err(NotAllowed) }
    }
}

/// A target that names a scheme names the one that is spoken. Behind a proxy that speaks HTTPS for us, that is either.
fn scheme(uri: &Uri, is_secure: bool) -> Result<(), NotAllowed> {
    match uri.scheme_str() {
        None | Some("https") => Ok(()),
        Some("http") if !is_secure => Ok(()),
        Some(_) => Err(NotAllowed),
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, NotAllowed> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(NotAllowed);
    }
    first.map(|value| value.to_str().map_err(|_not_ascii| NotAllowed)).transpose()
}

impl<'a> Authority<'a> {
    /// `name`, `name:port`, `[v6]` or `[v6]:port`; nothing else, so no user, no zone, no trailing dot, no empty port.
    fn parse(text: &'a str) -> Option<Self> {
        let (name, rest) = if let Some(inside) = text.strip_prefix('[') {
            let (address, rest) = inside.split_once(']')?;
            (Cow::Owned(format!("[{}]", address.parse::<Ipv6Addr>().ok()?)), rest)
        } else {
            let (name, _) = text.split_once(':').unwrap_or((text, ""));
            let rest = &text[name.len()..];
            // Most are in lower case already.
            let has_capitals = name.bytes().any(|c| c.is_ascii_uppercase());
            (if has_capitals { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) }, rest)
        };
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
        };
        if !name.starts_with('[') && !name.split('.').all(label) {
            return None;
        }
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            Some(digits) if digits.bytes().all(|c| c.is_ascii_digit()) => Some(digits.parse().ok()?),
            _ => return None,
        };
        Some(Self { name, port })
    }

    fn own(self) -> Authority<'static> {
        Authority { name: Cow::Owned(self.name.into_owned()), port: self.port }
    }
}

impl Origin {
    /// `scheme://authority`; the port that the scheme implies is filled in.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let letters = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(letters) {
            return None;
        }
        let Authority { name, port } = Authority::parse(rest)?;
        let implied = match scheme.as_str() {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        Some(Self { scheme, name: name.into_owned(), port: port.or(implied) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(guard: &Guard, version: Version, target: &str, headers: &[(&'static str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        guard.check(version, &target.parse().unwrap(), &map, false).is_ok()
    }

    fn guard(loopback: bool, hosts: &[&str], origins: &[&str]) -> Guard {
        let own = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Rules::new(&own(hosts), &own(origins)).unwrap().guard(loopback)
    }

    #[test]
    fn hosts_are_compared_as_a_whole() {
        let table = [
            ("localhost", true, false),
            ("LocalHost:8080", true, false),
            ("127.0.0.1:65535", true, false),
            ("[::1]:8080", true, false),
            ("[0:0:0:0:0:0:0:1]", true, false),
            ("mesh.example.com", false, true),
            ("MESH.example.com:9", false, true),
            ("mesh.example.com:8443", false, true),
            ("strict.example.com:8443", false, true),
            ("strict.example.com:8444", false, false),
            ("strict.example.com", false, false),
            ("localhost.", false, false),
            ("localhost:", false, false),
            ("localhost:80a", false, false),
            ("localhost:99999", false, false),
            ("localhost:+80", false, false),
            ("localhost:80:80", false, false),
            ("localhost.evil.example", false, false),
            ("evil.example", false, false),
            ("evil-localhost", false, false),
            ("mesh.example.com.evil.example", false, false),
            ("evilmesh.example.com", false, false),
            ("user@localhost", false, false),
            ("evil.example@localhost", false, false),
            ("localhost/evil", false, false),
            ("127.1", false, false),
            ("127.0.0.2", false, false),
            ("2130706433", false, false),
            ("0x7f.0.0.1", false, false),
            ("0.0.0.0", false, false),
            ("[::ffff:127.0.0.1]", false, false),
            ("[::1%25eth0]", false, false),
            ("[::1", false, false),
            ("::1", false, false),
            ("localhost,evil.example", false, false),
            ("localhost evil", false, false),
            ("xn--lcalhost-84a", false, false),
            ("", false, false),
            (".", false, false),
        ];
        let (near, far) =
            (guard(true, &[], &[]), guard(false, &["mesh.example.com", "strict.example.com:8443"], &[]));
        for (host, on_loopback, public) in table {
            assert_eq!(allowed(&near, Version::HTTP_11, "/mcp", &[("host", host)]), on_loopback, "{host}");
            assert_eq!(allowed(&far, Version::HTTP_11, "/mcp", &[("host", host)]), public, "{host}");
        }
    }

    #[test]
    fn target_and_host_header_agree_and_occur_once() {
        let near = guard(true, &[], &[]);
        let check =
            |version, target, headers: &[(&'static str, &str)]| allowed(&near, version, target, headers);
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        assert!(!check(one, "/mcp", &[]));
        assert!(!check(Version::HTTP_10, "/mcp", &[]));
        assert!(!check(one, "/mcp", &[("host", "localhost"), ("host", "localhost")]));
        assert!(!check(one, "/mcp", &[("host", "localhost"), ("host", "evil.example")]));
        assert!(check(one, "http://localhost:80/mcp", &[("host", "localhost:80")]));
        assert!(!check(one, "http://localhost:80/mcp", &[("host", "localhost:81")]));
        assert!(!check(one, "http://evil.example/mcp", &[("host", "localhost")]));
        assert!(!check(one, "http://localhost/mcp", &[("host", "evil.example")]));
        assert!(!check(one, "http://localhost/mcp", &[]));
        assert!(!check(one, "http://me@localhost/mcp", &[("host", "localhost")]));
        assert!(check(two, "http://localhost:80/mcp", &[]));
        assert!(!check(two, "http://evil.example/mcp", &[]));
        assert!(!check(two, "http://localhost/mcp", &[("host", "evil.example")]));
        assert!(!check(two, "/mcp", &[]));
    }

    #[test]
    fn origins_are_compared_by_scheme_name_and_port() {
        let table = [
            ("http://localhost", true, false),
            ("https://localhost:6274", true, false),
            ("http://127.0.0.1:80", true, false),
            ("http://[::1]:3000", true, false),
            ("HTTP://LOCALHOST", true, false),
            ("https://app.example.com", false, true),
            ("https://app.example.com:443", false, true),
            ("https://app.example.com:8443", false, false),
            ("http://app.example.com", false, false),
            ("http://app.example.com:443", false, false),
            ("https://app.example.com.", false, false),
            ("https://app.example.com/", false, false),
            ("https://app.example.com?x", false, false),
            ("https://app.example.com.evil.example", false, false),
            ("https://evilapp.example.com", false, false),
            ("https://evil.example@app.example.com", false, false),
            ("https://app.example.com https://evil.example", false, false),
            ("https://app.example.com,https://evil.example", false, false),
            ("chrome-extension://abcdefgh", false, true),
            ("chrome-extension://abcdefgi", false, false),
            ("ftp://localhost", false, false),
            ("file://", false, false),
            ("null", false, false),
            ("", false, false),
            ("localhost", false, false),
            ("//localhost", false, false),
            ("http:/localhost", false, false),
            ("http://localhost.evil.example", false, false),
            ("http://localhost:80:80", false, false),
            ("http://[::1%25lo]", false, false),
            ("http://user:pass@localhost", false, false),
        ];
        let near = guard(true, &[], &[]);
        let far = guard(false, &["mesh"], &["https://app.example.com", "chrome-extension://abcdefgh"]);
        for (origin, on_loopback, public) in table {
            let headers = |host| [("host", host), ("origin", origin)];
            assert_eq!(allowed(&near, Version::HTTP_11, "/", &headers("localhost")), on_loopback, "{origin}");
            assert_eq!(allowed(&far, Version::HTTP_11, "/", &headers("mesh")), public, "{origin}");
        }
        let twice = [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://localhost")];
        assert!(!allowed(&near, Version::HTTP_11, "/", &twice));
    }

    #[test]
    fn lists_hold_only_what_can_match() {
        let one = |text: &str| [text.to_owned()];
        for bad in ["*", "", "https://mesh.example.com", "mesh.example.com/", "a..b"] {
            assert_eq!(Rules::new(&one(bad), &[]).err(), Some(EntryError::Host(bad.into())));
        }
        for bad in ["*", "", "null", "app.example.com", "https://app.example.com/", "https://*.example.com"] {
            assert_eq!(Rules::new(&[], &one(bad)).err(), Some(EntryError::Origin(bad.into())));
        }
    }
}
