//! Ranges and range sets: pools of addresses that cannot be wrong once they are made.
//!
//! ```text
//! subnet 10.1.2.0/28    .0 .1 .2 .3 .4 .5 .6 .7 .8 .9 .10 .11 .12 .13 .14 .15
//!                       net gw |first                         last|       broadcast
//! ```

use std::fmt;
use std::net::IpAddr;

use cni::json::{Cidr, OptIp};
use cni::{Error, Result};
use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::address::{Family, number};

/// A range as it is written; every field is checked by [`Range::parse`].
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RawRange {
    /// The network, host bits zero.
    pub subnet: Option<Cidr>,
    /// The first address to hand out; default: the subnet's first.
    pub range_start: OptIp,
    /// The last address to hand out; default: the subnet's last.
    pub range_end: OptIp,
    /// The gateway, never handed out; default: the subnet's first address.
    pub gateway: OptIp,
}

/// A run of addresses inside one subnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    subnet: IpNetwork,
    gateway: IpAddr,
    first: u128,
    last: u128,
}

/// A pool: one address is taken from it per attachment. Never empty, one family, no overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<Range>,
}

/// The pools of a network in the order of the result. No two overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSets(Vec<RangeSet>);

impl Range {
    /// Checks a range; `key` is where it is written, for messages.
    pub fn parse(key: &str, raw: &RawRange) -> Result<Self> {
        let Some(Cidr(subnet)) = raw.subnet else {
            return Err(Error::config(format!("{key}.subnet: missing; a range needs its subnet")));
        };
        ensure_subnet(key, subnet)?;
        let (start, end) = (raw.range_start.0, raw.range_end.0);
        let lowest = number(subnet.network()) + 1;
        let highest = match number(subnet.network()) | !number(subnet.mask()) {
            all_ones if subnet.is_ipv4() => (all_ones & u128::from(u32::MAX)) - 1,
            all_ones => all_ones,
        };
        let first = start.map_or(lowest, number);
        let last = end.map_or(highest, number);
        let outside = |address: &IpAddr| !subnet.contains(*address);
        if let Some(start) = start.filter(|start| outside(start) || number(*start) > last) {
            let until = end.map(|end| format!(" before rangeEnd {end}")).unwrap_or_default();
            return Err(Error::config(format!("{key}: RangeStart {start} not in network {subnet}{until}")));
        }
        if let Some(end) = end.filter(|end| outside(end) || number(*end) < first) {
            return Err(Error::config(format!("{key}: RangeEnd {end} not in network {subnet}")));
        }
        let gateway = raw.gateway.0.unwrap_or_else(|| Family::of(subnet.ip()).address(lowest));
        Ok(Range { subnet, gateway, first, last })
    }

    /// The gateway of this range's subnet.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// `address` with this range's prefix length.
    pub fn with_prefix(&self, address: IpAddr) -> IpNetwork {
        IpNetwork::new(address, self.subnet.prefix()).unwrap_or(self.subnet)
    }

    /// Whether `address` lies between the first and the last address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.family() == Family::of(address) && (self.first..=self.last).contains(&number(address))
    }

    fn family(&self) -> Family {
        Family::of(self.subnet.ip())
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.family() == other.family() && self.first <= other.last && other.first <= self.last
    }

    /// IPv4's all-zeros and all-ones host parts are the network's own.
    fn is_reserved(&self, at: u128) -> bool {
        let host = !number(self.subnet.mask()) & u128::from(u32::MAX);
        self.family() == Family::V4 && (at & host == 0 || at & host == host)
    }
}

impl RangeSet {
    /// Checks a set; `key` is where it is written, for messages.
    pub fn parse(key: &str, raw: &[RawRange]) -> Result<Self> {
        let mut ranges: Vec<Range> = Vec::with_capacity(raw.len());
        for (at, raw) in raw.iter().enumerate() {
            let range = Range::parse(&format!("{key}[{at}]"), raw)?;
            if let Some(first) = ranges.first().filter(|first| first.family() != range.family()) {
                return Err(Error::config(format!(
                    "{key}: {} and {} are of different families; give each family a set of its own",
                    first.subnet, range.subnet
                )));
            }
            if let Some(other) = ranges.iter().find(|other| other.overlaps(&range)) {
                return Err(Error::config(format!("{key}: ranges {other} and {range} overlap")));
            }
            ranges.push(range);
        }
        if ranges.is_empty() {
            return Err(Error::config(format!("{key}: the range set is empty")));
        }
        Ok(RangeSet { ranges })
    }

    /// The set's family.
    pub fn family(&self) -> Family {
        self.ranges[0].family()
    }

    /// The range that contains `address`.
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.ranges.iter().find(|range| range.contains(address))
    }

    /// Whether `address` is some range's gateway.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.gateway == address)
    }

    /// Whether `address` may be handed out: inside, and neither a gateway nor IPv4's network or broadcast address.
    pub fn is_usable(&self, address: IpAddr) -> bool {
        let reserved = |range: &Range| range.is_reserved(number(address));
        self.range_of(address).is_some_and(|range| !reserved(range)) && !self.is_gateway(address)
    }

    /// Every usable address once, in a circle that starts behind `after`, where that is inside, and so ends with it.
    pub fn walk(&self, after: Option<IpAddr>) -> Walk<'_> {
        let inside = after.and_then(|after| {
            let at = self.ranges.iter().position(|range| range.contains(after))?;
            Some((at, number(after)))
        });
        match inside {
            Some((at, end)) => Walk { set: self, at, next: Some(end), end: Some((at, end)), started: false },
            None => Walk { set: self, at: 0, next: Some(self.ranges[0].first), end: None, started: true },
        }
    }
}

impl RangeSets {
    /// Checks pools given with their keys.
    pub fn parse<'a>(raw: impl IntoIterator<Item = (String, &'a [RawRange])>) -> Result<Self> {
        let mut sets: Vec<(String, RangeSet)> = Vec::new();
        for (key, raw) in raw {
            let set = RangeSet::parse(&key, raw)?;
            for (other_key, other) in &sets {
                let clash = set.ranges.iter().find_map(|range| {
                    other.ranges.iter().find(|other| other.overlaps(range)).map(|other| (range, other))
                });
                if let Some((range, other)) = clash {
                    return Err(Error::config(format!("{key}: {range} overlaps {other} of {other_key}")));
                }
            }
            sets.push((key, set));
        }
        Ok(RangeSets(sets.into_iter().map(|(_, set)| set).collect()))
    }

    /// The pools in order.
    pub fn iter(&self) -> std::slice::Iter<'_, RangeSet> {
        self.0.iter()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.family();
        write!(f, "{}-{}", family.address(self.first), family.address(self.last))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.ranges.iter().enumerate() {
            write!(f, "{}{range}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// See [`RangeSet::walk`].
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    set: &'a RangeSet,
    at: usize,
    /// Where to look next (`started`), or behind which address to start.
    next: Option<u128>,
    /// Where the circle closes.
    end: Option<(usize, u128)>,
    started: bool,
}

impl<'a> Iterator for Walk<'a> {
    type Item = (&'a Range, IpAddr);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let here = self.next?;
            let (at, range) = (self.at, &self.set.ranges[self.at]);
            self.advance(here);
            if !std::mem::replace(&mut self.started, true) {
                continue;
            }
            if self.end == Some((at, here)) {
                self.next = None;
            }
            let address = range.family().address(here);
            if !range.is_reserved(here) && !self.set.is_gateway(address) {
                return Some((range, address));
            }
        }
    }
}

impl Walk<'_> {
    fn advance(&mut self, here: u128) {
        if here < self.set.ranges[self.at].last {
            self.next = Some(here + 1);
            return;
        }
        self.at += 1;
        if self.at < self.set.ranges.len() {
            self.next = Some(self.set.ranges[self.at].first);
        } else if self.end.is_some() {
            self.at = 0;
            self.next = Some(self.set.ranges[0].first);
        } else {
            self.at = 0;
            self.next = None;
        }
    }
}

fn ensure_subnet(key: &str, subnet: IpNetwork) -> Result<()> {
    if subnet.prefix() > Family::of(subnet.ip()).width() - 2 {
        return Err(Error::config(format!("{key}.subnet: network {subnet} is too small to allocate from")));
    }
    if subnet.ip().is_multicast() || subnet.ip().is_loopback() {
        return Err(Error::config(format!("{key}.subnet: {subnet} holds no addresses that a pod can have")));
    }
    if subnet.ip() != subnet.network() {
        return Err(Error::config(format!(
            "{key}.subnet: {subnet} has host bits set; the network address is {}",
            subnet.network()
        )));
    }
    Ok(())
}
