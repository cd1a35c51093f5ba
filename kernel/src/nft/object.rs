//! Tables, chains, sets and their elements as values.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::value::{Type, Value, Verdict, key};

/// Which packets a table sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Ethernet frames crossing a bridge.
    Bridge,
    /// Frames of single links.
    Netdev,
}

impl Family {
    /// NFPROTO_*.
    pub fn number(self) -> u8 {
        match self {
            Family::Inet => 1,
            Family::Ip => 2,
            Family::Netdev => 5,
            Family::Bridge => 7,
            Family::Ip6 => 10,
        }
    }

    /// `ip` or `ip6`, as `address` asks.
    pub fn of_ip(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::Ip } else { Family::Ip6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Inet => "inet",
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Bridge => "bridge",
            Family::Netdev => "netdev",
        })
    }
}

/// A table: family, name and an optional comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Table<'a> {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: &'a str,
    /// Empty for none.
    pub comment: &'a str,
}

impl<'a> Table<'a> {
    /// A table without a comment; constant, so a feature names its table once.
    pub const fn new(family: Family, name: &'a str) -> Self {
        Table { family, name, comment: "" }
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

/// Where a base chain is hooked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    /// Of family `netdev`: what a link is about to send (Linux 5.16).
    Egress,
}

/// What a base chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainKind {
    /// Filtering.
    Filter,
    /// Address translation: sees the first packet of a flow only.
    Nat,
    /// Output packets are routed again after changes.
    Route,
}

/// The end of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the kernel's own words")]
pub enum Policy {
    Accept,
    Drop,
}

/// What makes a chain a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base {
    /// Its type.
    pub kind: ChainKind,
    /// Its hook.
    pub hook: Hook,
    /// Lower runs earlier; `nft` prints names for the customary numbers.
    pub priority: i32,
    /// Its policy.
    pub policy: Policy,
}

impl Base {
    /// A base chain with policy accept.
    pub const fn new(kind: ChainKind, hook: Hook, priority: i32) -> Self {
        Base { kind, hook, priority, policy: Policy::Accept }
    }
}

/// A chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chain<'a> {
    /// Its name.
    pub name: &'a str,
    /// Set for a base chain.
    pub base: Option<Base>,
    /// Name of the link that a base chain of family `netdev` is for; empty in other families. The chain goes with it.
    pub device: &'a str,
    /// Empty for none.
    pub comment: &'a str,
}

impl<'a> Chain<'a> {
    /// A regular chain.
    pub const fn regular(name: &'a str) -> Self {
        Chain { name, base: None, device: "", comment: "" }
    }

    /// A base chain.
    pub const fn base(name: &'a str, base: Base) -> Self {
        Chain { name, base: Some(base), device: "", comment: "" }
    }

    /// The same for one link, in a table of family `netdev`.
    #[must_use]
    pub const fn of_device(mut self, device: &'a str) -> Self {
        self.device = device;
        self
    }

    /// The same with a comment.
    #[must_use]
    pub const fn comment(mut self, comment: &'a str) -> Self {
        self.comment = comment;
        self
    }
}

/// What a map's elements hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MapData<'a> {
    /// Values.
    Types(&'a [Type]),
    /// Verdicts: a verdict map. Adding an element that jumps makes the kernel walk the whole map again to look for
    /// loops, so its cost grows with the map (measured on 6.18: 0.13 ms at 1,000 elements, 5 ms at 30,000).
    Verdict,
}

/// A set, map or verdict map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Set<'a> {
    /// Its name.
    pub name: &'a str,
    /// The key's type; more than one make a concatenation. With more than five, nft can't print the elements.
    pub key: &'a [Type],
    /// None for a set.
    pub data: Option<MapData<'a>>,
    /// Whether elements may be intervals and prefixes.
    pub interval: bool,
    /// Set when rules add elements, which leave again after the time that the rule gives them: at most so many.
    pub dynamic: Option<u32>,
    /// Empty for none.
    pub comment: &'a str,
}

impl<'a> Set<'a> {
    /// A set.
    pub const fn new(name: &'a str, key: &'a [Type]) -> Self {
        Set { name, key, data: None, interval: false, dynamic: None, comment: "" }
    }

    /// A map to values.
    pub const fn map(name: &'a str, key: &'a [Type], data: &'a [Type]) -> Self {
        Set { data: Some(MapData::Types(data)), ..Set::new(name, key) }
    }

    /// A verdict map.
    pub const fn verdict_map(name: &'a str, key: &'a [Type]) -> Self {
        Set { data: Some(MapData::Verdict), ..Set::new(name, key) }
    }

    /// The same, for intervals and prefixes.
    #[must_use]
    pub const fn intervals(mut self) -> Self {
        self.interval = true;
        self
    }

    /// The same, for at most `size` elements that rules add and that leave when their time is over.
    #[must_use]
    pub const fn dynamic(mut self, size: u32) -> Self {
        self.dynamic = Some(size);
        self
    }

    /// The same with a comment.
    #[must_use]
    pub const fn comment(mut self, comment: &'a str) -> Self {
        self.comment = comment;
        self
    }
}

/// What a map element maps to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    /// The bytes of a value or concatenation, see [`key`].
    Value(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// Where an element's interval ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// It is one key, no interval.
    Single,
    /// At this key, which belongs to it: intervals of concatenations.
    Last(Vec<u8>),
    /// Before this key: intervals of single values.
    Before(Vec<u8>),
    /// Nowhere: an interval of single values up to the greatest.
    Open,
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Element {
    /// The key's bytes.
    pub key: Vec<u8>,
    /// Where an interval that begins at `key` ends.
    pub end: End,
    /// What a map maps it to.
    pub data: Option<Data>,
    /// Empty for none. At most 128 bytes reach the kernel.
    pub comment: String,
}

impl Element {
    /// A set element.
    pub fn new(values: &[Value<'_>]) -> Self {
        Self::raw(key(values))
    }

    /// An element by its key's bytes, as a listing gave them.
    pub fn raw(key: Vec<u8>) -> Self {
        Element { key, end: End::Single, data: None, comment: String::new() }
    }

    /// All addresses of `prefix`; needs an interval set with a single address as key.
    pub fn prefix(prefix: IpNetwork) -> Self {
        Self::interval(&[prefix.network().into()], &[prefix.broadcast().into()])
    }

    /// The interval from `first` to `last`, both included; in concatenations, field by field.
    pub fn interval(first: &[Value<'_>], last: &[Value<'_>]) -> Self {
        let last_key = key(last);
        let end = match last {
            [_] => successor(last_key).map_or(End::Open, End::Before),
            _ => End::Last(last_key),
        };
        Element { end, ..Self::new(first) }
    }

    /// The same, mapped to values.
    #[must_use]
    pub fn to(mut self, values: &[Value<'_>]) -> Self {
        self.data = Some(Data::Value(key(values)));
        self
    }

    /// The same, mapped to a verdict.
    #[must_use]
    pub fn verdict(mut self, verdict: Verdict) -> Self {
        self.data = Some(Data::Verdict(verdict));
        self
    }

    /// The same with a comment.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = comment.into();
        self
    }
}

/// The next key in network byte order; none after the greatest.
fn successor(mut key: Vec<u8>) -> Option<Vec<u8>> {
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(key);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_of_single_values_ends_before_the_next_key() {
        let prefix = |text: &str| Element::prefix(text.parse().unwrap());
        assert_eq!(prefix("10.0.0.0/8").end, End::Before(vec![11, 0, 0, 0]));
        assert_eq!(prefix("255.0.0.0/8").end, End::Open);
        let ports = Element::interval(&[Value::Proto(6), Value::Port(1)], &[Value::Proto(6), Value::Port(9)]);
        assert_eq!(ports.end, End::Last(vec![6, 0, 0, 0, 0, 9, 0, 0]));
    }
}
