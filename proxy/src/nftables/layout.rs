//! The table's sets and maps.

use kernel::nft::{Element, Family as NftFamily, Field, Set, Table, Type};

use crate::Family;

/// The table of a family, ours alone.
pub(super) fn table(family: Family) -> Table<'static> {
    Table {
        family: nft_family(family),
        name: super::TABLE,
        comment: "Services: frontends to endpoints. Owned by bowline; changes are undone",
    }
}

/// The same for a moment, to see whether the kernel takes it.
pub(super) fn rehearsal(family: Family) -> Table<'static> {
    Table { name: "bowline_rehearsal", comment: "is gone in a moment", ..table(family) }
}

/// nftables' word for a family.
pub(crate) fn nft_family(family: Family) -> NftFamily {
    match family {
        Family::V4 => NftFamily::Ip,
        Family::V6 => NftFamily::Ip6,
    }
}

/// The packet's side of a frontend with an address.
pub(super) fn frontend(family: Family) -> [Field; 3] {
    [Field::Daddr(nft_family(family)), Field::L4proto, Field::Dport]
}

/// Every set and map that holds what plans say. Their order is that of changes in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Map {
    ClusterIps,
    NodePortAddresses,
    Ranged,
    Allowed,
    Hairpins,
    Endpoints,
    Numbers,
    Slots,
    Inside,
    Outside,
    Frontends,
    NodePorts,
}

impl Map {
    pub(super) const ALL: [Map; 12] = [
        Map::ClusterIps,
        Map::NodePortAddresses,
        Map::Ranged,
        Map::Allowed,
        Map::Hairpins,
        Map::Endpoints,
        Map::Numbers,
        Map::Slots,
        Map::Inside,
        Map::Outside,
        Map::Frontends,
        Map::NodePorts,
    ];

    pub(super) fn name(self) -> &'static str {
        self.set(Family::V4).name
    }

    /// Whether several Service ports may ask for the same element.
    pub(super) fn is_shared(self) -> bool {
        matches!(self, Map::ClusterIps | Map::Hairpins)
    }

    pub(super) fn set(self, family: Family) -> Set<'static> {
        use Type::{ClassId, Ipv4, Ipv6, Mark, Port, Proto};
        let v4 = family == Family::V4;
        let of = |one: &'static [Type], other: &'static [Type]| if v4 { one } else { other };
        let address = of(&[Ipv4], &[Ipv6]);
        let frontend = of(&[Ipv4, Proto, Port], &[Ipv6, Proto, Port]);
        let endpoint = of(&[Ipv4, Port], &[Ipv6, Port]);
        let set = match self {
            Map::ClusterIps => Set::new("cluster-ips", address),
            Map::NodePortAddresses => Set::new("node-port-addresses", address),
            Map::Ranged => Set::new("ranged", frontend),
            Map::Allowed => {
                Set::new("allowed", of(&[Ipv4, Proto, Port, Ipv4], &[Ipv6, Proto, Port, Ipv6])).intervals()
            }
            Map::Hairpins => Set::new("hairpins", of(&[Ipv4, Ipv4], &[Ipv6, Ipv6])),
            Map::Endpoints => Set::map("endpoints", &[ClassId, Mark], endpoint),
            Map::Numbers => Set::map("numbers", &[ClassId], endpoint),
            Map::Slots => Set::map("slots", &[ClassId, Mark], &[ClassId]),
            Map::Inside => Set::map("inside", &[ClassId], &[ClassId]),
            Map::Outside => Set::map("outside", &[ClassId], &[ClassId]),
            Map::Frontends => Set::map("frontends", frontend, &[ClassId]),
            Map::NodePorts => Set::map("node-ports", &[Proto, Port], &[ClassId]),
        };
        set.comment(self.purpose())
    }

    fn purpose(self) -> &'static str {
        match self {
            Map::ClusterIps => "every ClusterIP: other ports of them are rejected",
            Map::NodePortAddresses => "where NodePorts answer, unless on every address",
            Map::Ranged => "load balancer IPs with loadBalancerSourceRanges",
            Map::Allowed => "who may use these",
            Map::Hairpins => "endpoints of this node, as their own clients",
            Map::Endpoints => "pool, 0 to size - 1: endpoint",
            Map::Numbers => "affinity: number of an endpoint in its pool: endpoint",
            Map::Slots => "affinity: pool, 0 to size - 1: number",
            Map::Inside => "traffic policy Local: pool and way of pods and this node",
            Map::Outside => "traffic policy Local: pool and way of everybody else",
            Map::Frontends => "pool and way (the last three digits)",
            Map::NodePorts => "the same for NodePorts",
        }
    }
}

/// Which client went to which endpoint: elements that the kernel itself adds and forgets.
pub(super) fn clients(family: Family) -> Set<'static> {
    const MOST: u32 = 1 << 20;
    let key: &[Type] =
        if family == Family::V4 { &[Type::ClassId, Type::Ipv4] } else { &[Type::ClassId, Type::Ipv6] };
    Set::map("clients", key, &[Type::ClassId]).dynamic(MOST).comment("affinity: pool, client: number")
}

/// From a way to the chain that carries it out. Two, for a chain must not lead to itself.
pub(super) const WAYS: Set<'static> =
    Set::verdict_map("ways", &[Type::ClassId]).comment("way of a frontend: chain");
/// Those ways that [`super::skeleton`]'s `by-source` leads to.
pub(super) const WAYS_BY_SOURCE: Set<'static> =
    Set::verdict_map("ways-by-source", &[Type::ClassId]).comment("way of inside and outside: chain");

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) map: Map,
    pub(super) element: Element,
}
