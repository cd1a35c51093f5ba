//! Types and values of set keys and map data, in the encoding that both the kernel and `nft list ruleset` expect.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Error, Result};

/// A datatype of the `nft` program; its number is what makes a listing readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Type {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `ether_addr`
    Mac,
    /// `inet_proto`
    Proto,
    /// `inet_service`: a port.
    Port,
    /// `mark`
    Mark,
    /// `classid`: what a packet's priority is.
    ClassId,
    /// `ifname`
    IfName,
}

impl Type {
    /// nft's number for it (its `enum datatypes`, part of its wire format).
    pub(super) fn number(self) -> u32 {
        match self {
            Type::Ipv4 => 7,
            Type::Ipv6 => 8,
            Type::Mac => 9,
            Type::Proto => 12,
            Type::Port => 13,
            Type::Mark => 19,
            Type::ClassId => 23,
            Type::IfName => 41,
        }
    }

    /// Bytes of a value.
    pub fn width(self) -> usize {
        match self {
            Type::Ipv4 | Type::Mark | Type::ClassId => 4,
            Type::Ipv6 | Type::IfName => 16,
            Type::Mac => 6,
            Type::Proto => 1,
            Type::Port => 2,
        }
    }

    /// Bytes it takes in a concatenation or in registers: whole registers of four bytes.
    pub fn padded(self) -> usize {
        self.width().next_multiple_of(4)
    }

    /// nft's byte order number: 1 host, 2 network.
    fn byte_order(self) -> u32 {
        match self {
            Type::Mark | Type::ClassId | Type::IfName => 1,
            Type::Proto | Type::Mac => 0,
            Type::Ipv4 | Type::Ipv6 | Type::Port => 2,
        }
    }

    /// The address type of `ip`'s family.
    pub fn of_ip(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Type::Ipv4 } else { Type::Ipv6 }
    }
}

/// The number, length and byte order of one type or of a concatenation.
pub(super) fn describe(types: &[Type]) -> (u32, usize, u32) {
    match types {
        [one] => (one.number(), one.width(), one.byte_order()),
        many => (
            many.iter().fold(0, |number, t| number << 6 | t.number()),
            many.iter().map(|t| t.padded()).sum(),
            0,
        ),
    }
}

/// One value of a key or of map data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// An address of either family.
    Ip(IpAddr),
    /// A MAC address.
    Mac([u8; 6]),
    /// An IP protocol number.
    Proto(u8),
    /// A port.
    Port(u16),
    /// A packet mark.
    Mark(u32),
    /// A packet priority; `nft` prints its halves in hexadecimal, `1:2a`.
    ClassId(u32),
    /// An interface name of at most 15 bytes; longer ones are cut.
    IfName(&'a str),
}

impl Value<'_> {
    /// Its type.
    pub fn kind(&self) -> Type {
        match self {
            Value::Ip(ip) => Type::of_ip(*ip),
            Value::Mac(_) => Type::Mac,
            Value::Proto(_) => Type::Proto,
            Value::Port(_) => Type::Port,
            Value::Mark(_) => Type::Mark,
            Value::ClassId(_) => Type::ClassId,
            Value::IfName(_) => Type::IfName,
        }
    }

    /// Its bytes, unpadded (an interface name is always 16).
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Value::Ip(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Value::Ip(IpAddr::V6(ip)) => ip.octets().to_vec(),
            Value::Mac(mac) => mac.to_vec(),
            Value::Proto(proto) => vec![*proto],
            Value::Port(port) => port.to_be_bytes().to_vec(),
            Value::Mark(number) | Value::ClassId(number) => number.to_ne_bytes().to_vec(),
            Value::IfName(name) => {
                let mut bytes = name.as_bytes()[..name.len().min(15)].to_vec();
                bytes.resize(16, 0);
                bytes
            }
        }
    }
}

impl From<IpAddr> for Value<'_> {
    fn from(ip: IpAddr) -> Self {
        Value::Ip(ip)
    }
}

impl From<Ipv4Addr> for Value<'_> {
    fn from(ip: Ipv4Addr) -> Self {
        Value::Ip(ip.into())
    }
}

impl From<Ipv6Addr> for Value<'_> {
    fn from(ip: Ipv6Addr) -> Self {
        Value::Ip(ip.into())
    }
}

/// The bytes of one value, or of a concatenation with every field padded to whole registers.
pub fn key(values: &[Value<'_>]) -> Vec<u8> {
    if let [one] = values {
        return one.bytes();
    }
    let mut bytes = Vec::with_capacity(values.len() * 4);
    for value in values {
        bytes.extend_from_slice(&value.bytes());
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Takes the bytes of a key or of map data apart.
///
/// # Errors
/// [`Error::Malformed`] when their length is not that of `types`.
pub fn fields<'a>(types: &[Type], bytes: &'a [u8]) -> Result<Vec<Value<'a>>> {
    let crooked =
        || Error::Malformed { doing: "read a set element".into(), why: "its length does not fit its type" };
    let (_, length, _) = describe(types);
    if bytes.len() != length {
        return Err(crooked());
    }
    let mut at = 0;
    let mut values = Vec::with_capacity(types.len());
    for kind in types {
        let field = bytes.get(at..at + kind.width()).ok_or_else(crooked)?;
        values.push(value_of(*kind, field).ok_or_else(crooked)?);
        at += kind.padded();
    }
    Ok(values)
}

fn value_of(kind: Type, field: &[u8]) -> Option<Value<'_>> {
    Some(match kind {
        Type::Ipv4 | Type::Ipv6 => Value::Ip(crate::netlink::attr::ip(field)?),
        Type::Mac => Value::Mac(field.try_into().ok()?),
        Type::Proto => Value::Proto(*field.first()?),
        Type::Port => Value::Port(u16::from_be_bytes(field.try_into().ok()?)),
        Type::Mark => Value::Mark(u32::from_ne_bytes(field.try_into().ok()?)),
        Type::ClassId => Value::ClassId(u32::from_ne_bytes(field.try_into().ok()?)),
        Type::IfName => {
            let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
            Value::IfName(std::str::from_utf8(&field[..end]).ok()?)
        }
    })
}

/// What happens to a packet next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Ends the hook's walk through this base chain; other base chains still see the packet.
    Accept,
    /// The packet is gone.
    Drop,
    /// Back to the calling chain, or the base chain's policy.
    Return,
    /// To a regular chain, and back after its end.
    Jump(String),
    /// To a regular chain, whose end returns to the caller's caller.
    Goto(String),
}

impl Verdict {
    pub(super) fn code(&self) -> i32 {
        match self {
            Verdict::Drop => 0,
            Verdict::Accept => 1,
            Verdict::Jump(_) => -3,
            Verdict::Goto(_) => -4,
            Verdict::Return => -5,
        }
    }

    pub(super) fn chain(&self) -> Option<&str> {
        match self {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concatenations_use_six_bits_a_type_and_whole_registers() {
        // What `nft --debug=mnl` sends for the same types.
        assert_eq!(describe(&[Type::IfName, Type::Mac]), (0xa49, 24, 0));
        assert_eq!(describe(&[Type::Proto, Type::Port]), (0x30d, 8, 0));
        assert_eq!(describe(&[Type::Ipv4, Type::Port]), (0x1cd, 8, 0));
        assert_eq!(describe(&[Type::Port]), (13, 2, 2));
        assert_eq!(describe(&[Type::Mark]), (19, 4, 1));
        let bytes = key(&[Value::Proto(6), Value::Port(80)]);
        assert_eq!(bytes, [6, 0, 0, 0, 0, 80, 0, 0]);
        assert_eq!(key(&[Value::Port(80)]), [0, 80]);
    }

    #[test]
    fn fields_undo_key() {
        let values = [
            Value::IfName("veth0"),
            Value::Mac([1, 2, 3, 4, 5, 6]),
            Value::Mark(7),
            Value::Ip("10.1.2.3".parse().unwrap()),
            Value::Ip("fd00::1".parse().unwrap()),
            Value::Proto(17),
            Value::Port(53),
        ];
        let types: Vec<Type> = values.iter().map(Value::kind).collect();
        assert_eq!(fields(&types, &key(&values)).unwrap(), values);
        assert!(fields(&types[..2], &key(&values)).is_err());
    }

    #[test]
    fn a_long_interface_name_is_cut_to_what_a_link_can_have() {
        let bytes = Value::IfName("0123456789abcdefgh").bytes();
        assert_eq!(bytes.len(), 16);
        assert_eq!(bytes[15], 0);
    }
}
