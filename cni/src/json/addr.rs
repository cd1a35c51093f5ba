//! Addresses as configurations and results write them.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

/// A bare address; `""` and `null` are no address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OptIp(pub Option<IpAddr>);

/// An address with its prefix length, host bits kept (`10.1.2.5/24`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr(pub IpNetwork);

/// An address whose prefix length may be left out (`10.1.2.5` or `10.1.2.5/24`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpMaybeCidr {
    /// The address.
    pub ip: IpAddr,
    /// Its prefix length in bits, when written.
    pub prefix: Option<u8>,
}

/// Parses a bare address. Octets with leading zeros and zones are refused; an IPv4-mapped address is IPv4.
///
/// # Errors
/// A phrase that follows the offending text: `is not an IP address`.
pub fn parse_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| "is not an IP address".to_owned())?;
    Ok(ip.to_canonical())
}

/// Parses `address/prefix`, keeping host bits.
///
/// # Errors
/// A phrase that follows the offending text.
pub fn parse_cidr(text: &str) -> Result<IpNetwork, String> {
    let wrong = || "is not an IP address with a prefix length, like 10.1.2.5/24".to_owned();
    let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    let (ip, prefix) = unmapped(ip, prefix);
    IpNetwork::new(ip, prefix).map_err(|_| format!("has a prefix longer than {}", bits(ip)))
}

/// `::ffff:10.0.0.1/120` is `10.0.0.1/24`.
fn unmapped(ip: IpAddr, prefix: u8) -> (IpAddr, u8) {
    match ip.to_canonical() {
        v4 @ IpAddr::V4(_) if ip.is_ipv6() && (96..=128).contains(&prefix) => (v4, prefix - 96),
        _ => (ip, prefix),
    }
}

fn bits(ip: IpAddr) -> u32 {
    if ip.is_ipv4() { Ipv4Addr::BITS } else { 128 }
}

impl IpMaybeCidr {
    /// Parses either form.
    ///
    /// # Errors
    /// A phrase that follows the offending text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            let net = parse_cidr(text)?;
            return Ok(IpMaybeCidr { ip: net.ip(), prefix: Some(net.prefix()) });
        }
        Ok(IpMaybeCidr { ip: parse_ip(text)?, prefix: None })
    }
}

struct Text<T>(&'static str, fn(&str) -> Result<T, String>);

impl<T> Visitor<'_> for Text<T> {
    type Value = T;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(text).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for OptIp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Option::<std::borrow::Cow<'_, str>>::deserialize(d)?.unwrap_or_default();
        if text.is_empty() {
            return Ok(OptIp(None));
        }
        parse_ip(&text).map(|ip| OptIp(Some(ip))).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Text("a string", parse_cidr)).map(Cidr)
    }
}

impl<'de> Deserialize<'de> for IpMaybeCidr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_str(Text("a string", IpMaybeCidr::parse))
    }
}
