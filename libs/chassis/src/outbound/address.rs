//! Which addresses may be reached. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is that may not be reached; `None` for a public one.
pub(super) fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => refusal_v4(address),
        IpAddr::V6(address) => refusal_v6(address),
    }
}

/// The same for a target that the operator has listed: it may also be in the operator's own networks.
pub(super) fn refusal_of_listed(address: IpAddr) -> Option<&'static str> {
    let own = match address {
        IpAddr::V4(address) => is_own_v4(address),
        // The address of a cloud's metadata service is in this range.
        IpAddr::V6(address) => {
            address.is_loopback()
                || (within(address, 0xfc00, 7) && address.segments()[..2] != [0xfd00, 0x0ec2])
        }
    };
    if own { None } else { refusal(address) }
}

fn is_own_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || address.is_loopback() || (a == 100 && b & 0xc0 == 64)
}

fn refusal_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, ..] => Some("unspecified"),
        [127, ..] => Some("loopback"),
        [10, ..] | [192, 168, ..] => Some("private"),
        [172, b, ..] if b & 0xf0 == 16 => Some("private"),
        [100, b, ..] if b & 0xc0 == 64 => Some("shared (carrier-grade NAT)"),
        [169, 254, ..] => Some("link-local"),
        [192, 0, 0, _] => Some("reserved"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some("for documentation"),
        [192, 88, 99, _] => Some("6to4"),
        [198, 18 | 19, ..] => Some("for benchmarks"),
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

/// Only global unicast is public, and of that not what carries an IPv4 address or is reserved.
fn refusal_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    if address.is_unspecified() {
        return Some("unspecified");
    }
    if address.is_loopback() {
        return Some("loopback");
    }
    match segments {
        [0, 0, 0, 0, 0, 0xffff, ..] => Some("IPv4-mapped"),
        [0, 0, 0, 0, 0, 0, ..] => Some("IPv4-compatible"),
        [0x64, 0xff9b, ..] => Some("NAT64"),
        [0x2002, ..] => Some("6to4"),
        [0x2001, 0, ..] => Some("Teredo"),
        [0x2001, 0xdb8, ..] => Some("for documentation"),
        [0x2001, second, ..] if second < 0x200 => Some("reserved"),
        [0x3fff, second, ..] if second < 0x1000 => Some("for documentation"),
        _ if within(address, 0xfe80, 10) => Some("link-local"),
        _ if within(address, 0xfec0, 10) => Some("site-local"),
        _ if within(address, 0xfc00, 7) => Some("private"),
        _ if within(address, 0xff00, 8) => Some("multicast"),
        _ if within(address, 0x2000, 3) => None,
        _ => Some("reserved"),
    }
}

/// Whether the first `bits` (up to 16) are those of `prefix`.
const fn within(address: Ipv6Addr, prefix: u16, bits: u32) -> bool {
    let mask = u16::MAX << (16 - bits);
    address.segments()[0] & mask == prefix & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Option<&'static str> {
        refusal(address.parse().unwrap())
    }

    #[test]
    fn public_addresses_are_public() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860::8888",
            "2a00::1",
            "3ffe::1",
        ] {
            assert_eq!(of(address), None, "{address}");
        }
    }

    #[test]
    fn all_others_are_not() {
        for (address, kind) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.255.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.0.1", "private"),
            ("100.64.0.1", "shared (carrier-grade NAT)"),
            ("100.127.255.255", "shared (carrier-grade NAT)"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("169.254.169.254", "link-local"),
            ("192.0.0.192", "reserved"),
            ("192.88.99.1", "6to4"),
            ("198.18.0.1", "for benchmarks"),
            ("224.0.0.1", "multicast"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::7f00:1", "IPv4-compatible"),
            ("::ffff:127.0.0.1", "IPv4-mapped"),
            ("::ffff:8.8.8.8", "IPv4-mapped"),
            ("64:ff9b::7f00:1", "NAT64"),
            ("64:ff9b:1::a9fe:a9fe", "NAT64"),
            ("100::1", "reserved"),
            ("2001::1", "Teredo"),
            ("2001:2::1", "reserved"),
            ("2001:db8::1", "for documentation"),
            ("2002:7f00:1::", "6to4"),
            ("3fff::1", "for documentation"),
            ("4000::1", "reserved"),
            ("5f00::1", "reserved"),
            ("fc00::1", "private"),
            ("fd00:ec2::254", "private"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
        ] {
            assert_eq!(of(address), Some(kind), "{address}");
        }
    }

    #[test]
    fn a_listed_target_may_be_in_the_operators_own_networks_and_nowhere_else() {
        for address in ["127.0.0.1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1", "8.8.8.8"] {
            assert_eq!(refusal_of_listed(address.parse().unwrap()), None, "{address}");
        }
        for address in [
            "169.254.169.254",
            "fd00:ec2::254",
            "fe80::1",
            "64:ff9b::a9fe:a9fe",
            "::ffff:169.254.169.254",
            "0.0.0.0",
        ] {
            assert!(refusal_of_listed(address.parse().unwrap()).is_some(), "{address}");
        }
    }
}
