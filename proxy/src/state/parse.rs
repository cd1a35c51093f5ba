//! Addresses as old objects spell them.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

/// An address. Zeroes in front of a decimal byte mean nothing (`172.30.0.041` is `.41`): objects from before Kubernetes
/// refused them are still stored.
pub fn ip(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| lenient_ipv4(text).map(IpAddr::V4))
}

/// A network in the form address/prefix, its host bits cleared, the address as lenient as [`ip`].
pub fn network(text: &str) -> Option<IpNetwork> {
    let (address, prefix) = text.trim().split_once('/')?;
    let prefix: u8 = prefix.parse().ok()?;
    let whole = IpNetwork::new(ip(address)?, prefix).ok()?;
    IpNetwork::new(whole.network(), prefix).ok()
}

fn lenient_ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut bytes = [0; 4];
    let mut parts = text.split('.');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
        let digits = part.trim_start_matches('0');
        *byte = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeroes_are_decimal() {
        let rows = [
            ("172.30.0.041", Some("172.30.0.41")),
            ("010.0.0.08", Some("10.0.0.8")),
            (" 10.0.0.1 ", Some("10.0.0.1")),
            ("fd00::1", Some("fd00::1")),
            ("0000.0.0.0", Some("0.0.0.0")),
            ("10.0.0", None),
            ("10.0.0.256", None),
            ("10.0.0.1.2", None),
            ("10.0.0.+1", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(ip(text).map(|ip| ip.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn networks_lose_their_host_bits() {
        let rows = [
            ("010.1.2.3/16", Some("10.1.0.0/16")),
            ("fd00::1/64", Some("fd00::/64")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("10.0.0.0/33", None),
            ("10.0.0.0", None),
        ];
        for (text, expected) in rows {
            assert_eq!(network(text).map(|n| n.to_string()).as_deref(), expected, "{text}");
        }
    }
}
