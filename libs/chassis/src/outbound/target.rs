//! A URL that may be asked for, read once and strictly: there is one way to write a host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const MAX: usize = 2048;

/// An absolute http or https URL without user, password and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    is_https: bool,
    host: Host,
    port: u16,
    path: String,
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name, lower case.
    Name(String),
    /// An address in its usual form.
    Address(IpAddr),
}

/// What is wrong with a URL. Does not repeat it: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not http, or not absolute.
    #[error("not a URL: write for example \"https://idp.example.com/keys\"")]
    Scheme,
    /// A character that a URL does not have, or too many of them.
    #[error("a URL has at most 2048 characters, all of them printable ASCII")]
    Characters,
    /// User or password.
    #[error("a URL with a user or a password is not accepted")]
    UserInfo,
    /// A fragment.
    #[error("a URL with a fragment (#) is not accepted")]
    Fragment,
    /// No host, or one in an unusual form.
    #[error(
        "not a host: write a name, an IPv4 address as four decimal numbers, or an IPv6 address in brackets"
    )]
    Host,
    /// No port.
    #[error("not a port: write a number from 1 to 65535")]
    Port,
}

impl Target {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`TargetError`] saying what is accepted.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let unusual = |c: u8| !c.is_ascii_graphic() || b"\\\"<>^`{|}".contains(&c);
        if text.len() > MAX || text.bytes().any(unusual) {
            return Err(TargetError::Characters);
        }
        let (scheme, rest) = text.split_once("://").ok_or(TargetError::Scheme)?;
        let is_https = match scheme {
            "https" => true,
            "http" => false,
            _ => return Err(TargetError::Scheme),
        };
        if rest.contains('#') {
            return Err(TargetError::Fragment);
        }
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err(TargetError::UserInfo);
        }
        let (host, port) = split(authority)?;
        let port = match port {
            None if is_https => 443,
            None => 80,
            Some(text) => number(text)?,
        };
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { is_https, host, port, path })
    }

    /// Whether it is https.
    #[must_use]
    pub const fn is_https(&self) -> bool {
        self.is_https
    }

    /// Who is asked.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// At which port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `host:port`, the port always.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Scheme, host, and the port where it is not the scheme's own: what stands before the path.
    #[must_use]
    pub fn origin(&self) -> String {
        let (scheme, usual) = if self.is_https { ("https", 443) } else { ("http", 80) };
        match self.port == usual {
            true => format!("{scheme}://{}", self.host),
            false => format!("{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// Without the query, where secrets may be.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin(), self.path.split('?').next().unwrap_or_default())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

fn split(authority: &str) -> Result<(Host, Option<&str>), TargetError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(TargetError::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_invalid| TargetError::Host)?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':').ok_or(TargetError::Host)?),
        };
        return Ok((Host::Address(address.into()), port));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    Ok((name_or_v4(host)?, port))
}

/// Resolvers take many forms of numbers for IPv4 addresses (`127.1`, `0x7f000001`, `0177.0.0.1`). Only one is taken here.
fn name_or_v4(host: &str) -> Result<Host, TargetError> {
    if let Ok(address) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    let host = host.to_ascii_lowercase();
    let label = |label: &str| {
        let inner = label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-');
        inner && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|c| c.is_ascii_digit()) || last.starts_with("0x");
    if host.len() > 253 || numeric || !host.split('.').all(label) {
        return Err(TargetError::Host);
    }
    Ok(Host::Name(host))
}

fn number(text: &str) -> Result<u16, TargetError> {
    let plain = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten().ok_or(TargetError::Port)
}
