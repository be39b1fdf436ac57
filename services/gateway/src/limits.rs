//! How much may be under way, in all and for each caller.
//!
//! Counting costs one atomic operation: who counts is looked up once for a connection, not for each request. Must not know:
//! what is counted, or how a refusal is put.

mod accounts;
mod gauge;

use std::net::IpAddr;

use api::Principal;

pub(crate) use self::accounts::{Account, Lease};
use self::accounts::{Accounts, Bounds};
pub(crate) use self::gauge::{Gauge, Inside, Weight};
use crate::config::Config;

/// All bounds of one gateway.
#[derive(Debug)]
pub(crate) struct Limits {
    connections: Gauge,
    requests: Gauge,
    /// Requests of which it is not known yet whose they are, because somebody else has to be asked.
    unknown: Gauge,
    addresses: Accounts<Network>,
    callers: Accounts<Who>,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Principal(Principal),
    /// Nobody in particular, from there.
    Anonymous(Network),
}

/// What one holder of an address can change at will counts as one: an IPv4 address, or a /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Network(u128);

/// What a connection is counted by, as long as it lives.
#[derive(Debug)]
pub(crate) struct Admission {
    _all: Inside,
    _own: Option<Inside>,
    /// The account of its address; none for loopback.
    address: Option<Lease>,
}

impl Limits {
    pub(crate) fn new(config: &Config) -> Self {
        let address =
            Bounds { rate: config.requests_per_s_per_ip, places: config.max_connections_per_ip, streams: 0 };
        let caller = Bounds {
            rate: config.requests_per_s_per_principal,
            places: config.max_requests_per_principal,
            streams: config.max_streams_per_principal,
        };
        Self {
            connections: Gauge::new(config.max_connections),
            requests: Gauge::new(config.max_requests),
            unknown: Gauge::new(config.max_requests),
            addresses: Accounts::new(address),
            callers: Accounts::new(caller),
        }
    }

    /// A place for a connection, unless there are too many in all or from this address.
    pub(crate) fn connection(&self, ip: IpAddr) -> Option<Admission> {
        let all = self.connections.enter()?;
        if ip.to_canonical().is_loopback() {
            return Some(Admission { _all: all, _own: None, address: None });
        }
        let address = self.addresses.of(&Network::of(ip));
        let own = address.places.enter()?;
        Some(Admission { _all: all, _own: Some(own), address: Some(address) })
    }

    /// A place for a request, unless there are too many under way in all.
    pub(crate) fn request(&self) -> Option<Inside> {
        self.requests.enter()
    }

    /// Whether there are too many under way in all.
    pub(crate) fn is_full(&self) -> bool {
        self.requests.is_full()
    }

    /// A place for a request while somebody is asked whose it is, unless there are too many of these. It is none of those under way.
    pub(crate) fn unknown(&self) -> Option<Inside> {
        self.unknown.enter()
    }

    /// What requests of this principal are counted by; without one, what those of the address are.
    pub(crate) fn caller(&self, principal: Option<&Principal>, ip: IpAddr) -> Lease {
        self.callers.of(&match principal {
            Some(principal) => Who::Principal(principal.clone()),
            None => Who::Anonymous(Network::of(ip)),
        })
    }
}

impl Admission {
    /// The account of the address; none for loopback, which is never kept out.
    pub(crate) fn address(&self) -> Option<&Account> {
        self.address.as_deref()
    }
}

impl Network {
    fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(four) => Self(four.to_ipv6_mapped().to_bits()),
            IpAddr::V6(six) => Self(six.to_bits() >> 64 << 64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_an_address_of_ipv4_and_a_64_of_ipv6() {
        let same = |a: &str, b: &str| Network::of(a.parse().unwrap()) == Network::of(b.parse().unwrap());
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(!same("::1", "192.0.2.1"));
    }

    #[test]
    fn connections_are_counted_in_all_and_for_each_address() {
        let config = Config { max_connections: 3, max_connections_per_ip: 1, ..Config::default() };
        let limits = Limits::new(&config);
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let near: IpAddr = "127.0.0.1".parse().unwrap();
        let first = limits.connection(one).unwrap();
        assert!(limits.connection(one).is_none());
        let _second = limits.connection(other).unwrap();
        let third = limits.connection(near).unwrap();
        assert!(limits.connection(near).is_none(), "the fourth in all");
        assert!(third.address().is_none() && first.address().is_some());
        drop((first, third));
        let _kept = (limits.connection(near).unwrap(), limits.connection(one).unwrap());
    }

    #[test]
    fn callers_are_principals_or_addresses() {
        let limits = Limits::new(&Config { max_requests_per_principal: 1, ..Config::default() });
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let ada = Principal { subject: "ada".into(), ..Principal::default() };
        let held = limits.caller(Some(&ada), one);
        let _inside = held.places.enter().unwrap();
        assert!(limits.caller(Some(&ada), other).places.enter().is_none(), "wherever it comes from");
        assert!(limits.caller(None, one).places.enter().is_some());
        let named = Principal { subject: "bob".into(), ..Principal::default() };
        assert!(limits.caller(Some(&named), one).places.enter().is_some());
    }
}
