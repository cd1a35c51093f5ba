//! Two address families as a type: written for one, mapped over both.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// The family of `ip`.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The family of `network`.
    pub fn of_network(network: IpNetwork) -> Self {
        Family::of(network.ip())
    }

    /// Bits of an address: the prefix length of a single host.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// Whether two networks have an address in common.
pub fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

/// One of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct DualStack<T> {
    /// Of IPv4.
    pub v4: T,
    /// Of IPv6.
    pub v6: T,
}

impl<T> DualStack<T> {
    /// That of `family`.
    pub fn of(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// That of `family`, to change.
    pub fn of_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Each with its family to change, IPv4 first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Family, &mut T)> {
        [(Family::V4, &mut self.v4), (Family::V6, &mut self.v6)].into_iter()
    }

    /// Makes one for each family.
    pub fn from_fn(mut make: impl FnMut(Family) -> T) -> Self {
        DualStack { v4: make(Family::V4), v6: make(Family::V6) }
    }

    /// Each with its family, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::BOTH.into_iter().map(|family| (family, self.of(family)))
    }
}

impl<T> DualStack<Option<T>> {
    /// Those that are there, IPv4 first.
    pub fn present(&self) -> impl Iterator<Item = (Family, &T)> {
        self.iter().filter_map(|(family, value)| value.as_ref().map(|value| (family, value)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.present().next().is_none()
    }
}

impl DualStack<Option<IpAddr>> {
    /// The first address of each family.
    pub fn first_of(ips: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut firsts = Self::default();
        for ip in ips {
            firsts.of_mut(Family::of(ip)).get_or_insert(ip);
        }
        firsts
    }
}

impl DualStack<Option<IpNetwork>> {
    /// The first network of each family.
    pub fn first_network_of(networks: impl IntoIterator<Item = IpNetwork>) -> Self {
        let mut firsts = Self::default();
        for network in networks {
            firsts.of_mut(Family::of_network(network)).get_or_insert(network);
        }
        firsts
    }
}
