//! The table's sets and maps.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use kernel::nft::{Batch, Data, Element, End, Field, Set, Table, Type, Value};

use crate::Family;
use crate::nftables::nft_family;
use crate::state::Protocol;

/// Name of the table, the same in both families.
pub const TABLE: &str = "bowline_ipvs";

/// The table of a family, ours alone.
pub(super) fn table(family: Family) -> Table<'static> {
    Table {
        family: nft_family(family),
        name: TABLE,
        comment: "Services: what IPVS can't decide. Owned by bowline; changes are undone",
    }
}

/// The packet's side of a frontend.
pub(super) fn frontend(family: Family) -> [Field; 3] {
    [Field::Daddr(nft_family(family)), Field::L4proto, Field::Dport]
}

/// Every set and map. Their order is that of changes in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Map {
    Addresses,
    Leaving,
    Ranged,
    Allowed,
    Reject,
    Drop,
    DropOutside,
    Masquerade,
    MasqueradeOthers,
    MasqueradeNode,
    Inside,
    Outside,
    Hairpins,
    HealthChecks,
    Frontends,
    Excluded,
}

impl Map {
    pub(super) const ALL: [Map; 16] = [
        Map::Addresses,
        Map::Leaving,
        Map::Ranged,
        Map::Allowed,
        Map::Reject,
        Map::Drop,
        Map::DropOutside,
        Map::Masquerade,
        Map::MasqueradeOthers,
        Map::MasqueradeNode,
        Map::Inside,
        Map::Outside,
        Map::Hairpins,
        Map::HealthChecks,
        Map::Frontends,
        Map::Excluded,
    ];

    pub(super) fn name(self) -> &'static str {
        self.set(Family::V4).name
    }

    /// Whether several Service ports may ask for the same element.
    pub(super) fn is_shared(self) -> bool {
        matches!(self, Map::Addresses | Map::Hairpins)
    }

    pub(super) fn set(self, family: Family) -> Set<'static> {
        use Type::{Ipv4, Ipv6, Port, Proto};
        let v4 = family == Family::V4;
        let of = |one: &'static [Type], other: &'static [Type]| if v4 { one } else { other };
        let frontend = of(&[Ipv4, Proto, Port], &[Ipv6, Proto, Port]);
        let endpoint = of(&[Ipv4, Port], &[Ipv6, Port]);
        let set = match self {
            Map::Addresses => Set::new("addresses", of(&[Ipv4], &[Ipv6])),
            Map::Leaving => Set::new("leaving", of(&[Ipv4], &[Ipv6])),
            Map::Ranged => Set::new("ranged", frontend),
            Map::Allowed => {
                Set::new("allowed", of(&[Ipv4, Proto, Port, Ipv4], &[Ipv6, Proto, Port, Ipv6])).intervals()
            }
            Map::Reject => Set::new("rejected", frontend),
            Map::Drop => Set::new("dropped", frontend),
            Map::DropOutside => Set::new("dropped-from-outside", frontend),
            Map::Masquerade => Set::new("masquerade", frontend),
            Map::MasqueradeOthers => Set::new("masquerade-others", frontend),
            Map::MasqueradeNode => Set::new("masquerade-node", frontend),
            Map::Inside => Set::map("inside", frontend, endpoint),
            Map::Outside => Set::map("outside", frontend, endpoint),
            Map::Hairpins => Set::new("hairpins", of(&[Ipv4, Ipv4], &[Ipv6, Ipv6])),
            Map::HealthChecks => Set::new("health-checks", &[Port]),
            Map::Frontends => Set::new("frontends", frontend),
            Map::Excluded => Set::new("excluded", of(&[Ipv4], &[Ipv6])).intervals(),
        };
        set.comment(self.purpose())
    }

    fn purpose(self) -> &'static str {
        match self {
            Map::Addresses => "on kube-ipvs0: other ports of them are rejected",
            Map::Leaving => "there until the last connections of their virtual servers have ended",
            Map::Ranged => "load balancer IPs with loadBalancerSourceRanges",
            Map::Allowed => "who may use these",
            Map::Reject => "without endpoints",
            Map::Drop => "traffic policy Local, without endpoints here",
            Map::DropOutside => "the same, but pods and this node get others",
            Map::Masquerade => "whoever sends",
            Map::MasqueradeOthers => "all but pods",
            Map::MasqueradeNode => "this node alone",
            Map::Inside => "traffic policy Local: where pods and this node find the other virtual server",
            Map::Outside => "traffic policy Local: where others find the other virtual server",
            Map::Hairpins => "endpoints of this node, as their own clients",
            Map::HealthChecks => "health check node ports, on every address",
            Map::Frontends => "every virtual server, and frontends without endpoints",
            Map::Excluded => "virtual servers here are others': for who cleans up",
        }
    }
}

/// What makes an element one of its kind.
pub(super) type Which = (Map, Vec<u8>, End);

/// Elements, each once.
pub(super) type Elements = BTreeMap<Which, Element>;

/// One element of a set or map.
pub(super) fn entry(map: Map, element: Element) -> (Which, Element) {
    ((map, element.key.clone(), element.end.clone()), element)
}

/// Whether an interval of addresses has `ip` in it.
pub(super) fn covers(interval: &Element, ip: IpAddr) -> bool {
    let key = kernel::nft::key(&[ip.into()]);
    let is_before_end = match &interval.end {
        End::Before(end) => key < *end,
        End::Last(last) => key <= *last,
        End::Single => key == interval.key,
        End::Open => true,
    };
    key >= interval.key && is_before_end
}

/// Where clients connect: what a virtual server and an element have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct At {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
}

impl At {
    pub(super) fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    pub(super) fn values(&self) -> [Value<'static>; 3] {
        [self.ip().into(), Value::Proto(self.protocol.number()), Value::Port(self.address.port())]
    }

    /// The virtual server's key.
    pub(super) fn key(&self) -> kernel::ipvs::Key {
        kernel::ipvs::Key::Address { address: self.address, protocol: self.protocol.number() }
    }

    /// Of a virtual server; none for one by mark, and for protocols that Services don't know.
    pub(super) fn of(key: kernel::ipvs::Key) -> Option<Self> {
        let kernel::ipvs::Key::Address { address, protocol } = key else { return None };
        let protocol = Protocol::ALL.into_iter().find(|known| known.number() == protocol)?;
        Some(At { address, protocol })
    }
}

/// Elements to delete and to add.
#[derive(Debug, Default)]
pub(super) struct Diff {
    delete: Vec<(Map, Element)>,
    add: Vec<(Map, Element)>,
    replaced: usize,
}

impl Diff {
    /// An element with other data is deleted and added. Comments don't count.
    pub(super) fn new(old: &Elements, new: &Elements) -> Self {
        let mut diff = Diff::default();
        for (which, element) in old {
            let kept = new.get(which);
            if kept.is_none_or(|other| other.data != element.data) {
                diff.delete.push((which.0, element.clone()));
                diff.replaced += usize::from(kept.is_some());
            }
        }
        for (which, element) in new {
            if old.get(which).is_none_or(|other| other.data != element.data) {
                diff.add.push((which.0, element.clone()));
            }
        }
        diff
    }

    /// Elements touched: one that is replaced counts once.
    pub(super) fn touched(&self) -> usize {
        self.delete.len() + self.add.len() - self.replaced
    }

    /// Deletions first, so that a key may come back with other data in the same batch.
    pub(super) fn write(&self, batch: &mut Batch, table: &Table<'_>) {
        for part in self.delete.chunk_by(|(one, _), (other, _)| one == other) {
            batch.delete_elements(table, part[0].0.name(), part.iter().map(|(_, element)| element));
        }
        for part in self.add.chunk_by(|(one, _), (other, _)| one == other) {
            batch.create_elements(table, part[0].0.name(), part.iter().map(|(_, element)| element));
        }
    }
}

/// The address and port that a map's element leads to.
pub(super) fn leads_to(element: &Element, family: Family) -> Option<SocketAddr> {
    let Some(Data::Value(bytes)) = &element.data else { return None };
    let address = if family == Family::V4 { Type::Ipv4 } else { Type::Ipv6 };
    match kernel::nft::fields(&[address, Type::Port], bytes).ok()?[..] {
        [Value::Ip(ip), Value::Port(port)] => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}
