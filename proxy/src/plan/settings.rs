//! What an administrator decides, and what follows for one family on this node.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::state::Snapshot;
use crate::{DualStack, Family};

/// How packets of this node's pods are told from others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DetectLocal {
    /// They are not: nobody is masqueraded towards a ClusterIP.
    #[default]
    Off,
    /// By their source in the cluster's pod network.
    ClusterCidr(DualStack<Option<IpNetwork>>),
    /// By their source in this node's pod CIDR.
    NodeCidr,
    /// By the interface they come in by.
    Interface(Arc<str>),
    /// By the beginning of the name of the interface they come in by.
    InterfacePrefix(Arc<str>),
}

/// On which addresses NodePorts answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// The node's own for others; every one while these are unknown.
    #[default]
    Primary,
    /// Every address of the node; in a family without networks here.
    Within(Vec<IpNetwork>),
}

/// What an administrator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How packets of pods are known.
    pub detect_local: DetectLocal,
    /// Whether packets to ClusterIPs are masqueraded whoever sends them.
    pub masquerade_all: bool,
    /// On which addresses NodePorts answer.
    pub node_port_addresses: NodePortAddresses,
    /// The bit of the packet mark, 0 to 31, that says "to be masqueraded" between two hooks.
    pub masquerade_bit: u8,
    /// Whether external IPs, which any author of a Service may choose, are served.
    pub serves_external_ips: bool,
}

impl Default for Settings {
    /// kube-proxy's in nftables mode.
    fn default() -> Self {
        Settings {
            detect_local: DetectLocal::default(),
            masquerade_all: false,
            node_port_addresses: NodePortAddresses::default(),
            masquerade_bit: 14,
            serves_external_ips: true,
        }
    }
}

/// How a packet of a pod is known, in one family.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Detect {
    /// Its source is in here.
    Source(IpNetwork),
    /// It came in by this interface.
    Interface(Arc<str>),
    /// It came in by an interface whose name begins so.
    InterfacePrefix(Arc<str>),
}

/// Where NodePorts answer, in one family.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NodePorts {
    /// On every address of this host but loopback.
    Everywhere,
    /// On these.
    On(Vec<IpAddr>),
}

/// What does not depend on Services, in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The family.
    pub family: Family,
    /// How packets of pods are known; none is not at all.
    pub detect: Option<Detect>,
    /// Whether everything to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// The mark's bits that say "to be masqueraded".
    pub masquerade_mark: u32,
    /// Whether external IPs are served.
    pub serves_external_ips: bool,
    /// Where NodePorts answer.
    pub node_ports: NodePorts,
    /// Whether NodePorts are asked for on loopback too. Only dataplanes that can serve them there take notice.
    pub has_loopback_node_ports: bool,
    /// Where ClusterIPs come from; none lies in another.
    pub service_cidrs: Vec<IpNetwork>,
    /// The node's addresses that are not loopback, sorted.
    pub addresses: Vec<IpAddr>,
    /// The node's name, as endpoints call it.
    pub node: Arc<str>,
    /// The node's zone, empty when unknown.
    pub zone: Arc<str>,
    /// The node's address for others.
    pub node_ip: Option<IpAddr>,
}

impl Site {
    /// What `settings` mean on this node.
    pub fn new(snapshot: &Snapshot, settings: &Settings, family: Family) -> Self {
        let node = &snapshot.node;
        let is_of_family = |ip: &IpAddr| Family::of(*ip) == family && !ip.is_loopback();
        let mut addresses: Vec<IpAddr> = node.addresses.iter().copied().filter(is_of_family).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let detect = match &settings.detect_local {
            DetectLocal::Off => None,
            DetectLocal::ClusterCidr(networks) => networks.of(family).map(Detect::Source),
            DetectLocal::NodeCidr => node.pod_cidrs.of(family).map(Detect::Source),
            DetectLocal::Interface(name) => Some(Detect::Interface(Arc::clone(name))),
            DetectLocal::InterfacePrefix(prefix) => Some(Detect::InterfacePrefix(Arc::clone(prefix))),
        };
        let node_ip = node.ips.of(family).filter(|ip| !ip.is_loopback());
        Site {
            family,
            detect,
            masquerade_all: settings.masquerade_all,
            masquerade_mark: 1 << (settings.masquerade_bit % 32),
            serves_external_ips: settings.serves_external_ips,
            node_ports: node_ports(settings, family, node_ip, &addresses),
            has_loopback_node_ports: has_loopback(settings, family, node_ip),
            service_cidrs: outermost(snapshot.service_cidrs.iter().copied(), family),
            addresses,
            node: Arc::clone(&node.name),
            zone: Arc::clone(&node.zone),
            node_ip,
        }
    }
}

fn node_ports(
    settings: &Settings,
    family: Family,
    node_ip: Option<IpAddr>,
    addresses: &[IpAddr],
) -> NodePorts {
    match &settings.node_port_addresses {
        NodePortAddresses::Primary => node_ip.map_or(NodePorts::Everywhere, |ip| NodePorts::On(vec![ip])),
        NodePortAddresses::Within(networks) => {
            let networks: Vec<_> = networks.iter().filter(|n| Family::of_network(**n) == family).collect();
            if networks.is_empty() {
                return NodePorts::Everywhere;
            }
            let within = |ip: &&IpAddr| networks.iter().any(|network| network.contains(**ip));
            NodePorts::On(addresses.iter().filter(within).copied().collect())
        }
    }
}

fn has_loopback(settings: &Settings, family: Family, node_ip: Option<IpAddr>) -> bool {
    let loopback = match family {
        Family::V4 => IpAddr::from([127, 0, 0, 1]),
        Family::V6 => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    };
    match &settings.node_port_addresses {
        NodePortAddresses::Primary => node_ip.is_none(),
        NodePortAddresses::Within(networks) => {
            let mut networks = networks.iter().filter(|n| Family::of_network(**n) == family).peekable();
            networks.peek().is_none() || networks.any(|network| network.contains(loopback))
        }
    }
}

/// Those networks of one family that lie in no other one, sorted.
pub(crate) fn outermost(networks: impl IntoIterator<Item = IpNetwork>, family: Family) -> Vec<IpNetwork> {
    let mut wide: Vec<IpNetwork> = networks
        .into_iter()
        .filter(|n| Family::of_network(*n) == family)
        .filter_map(|n| IpNetwork::new(n.network(), n.prefix()).ok())
        .collect();
    wide.sort_by_key(|n| (n.prefix(), n.ip()));
    let mut kept: Vec<IpNetwork> = Vec::new();
    for network in wide {
        if !kept.iter().any(|outer| outer.contains(network.ip())) {
            kept.push(network);
        }
    }
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Node;

    fn networks(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    fn site(settings: &Settings, family: Family) -> Site {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let addresses = ["127.0.0.1", "192.0.2.1", "198.51.100.1", "::1", "fd00::1"].map(ip).to_vec();
        let ips = DualStack { v4: Some(ip("192.0.2.1")), v6: None };
        let node = Node { addresses, ips, ..Node::default() };
        let mut snapshot = Snapshot::default();
        snapshot.node = node.into();
        Site::new(&snapshot, settings, family)
    }

    #[test]
    fn networks_within_others_are_left_out() {
        let all = networks(&["10.1.0.0/16", "10.0.0.0/8", "fd00::/64", "192.0.2.7/24", "10.0.0.0/8"]);
        assert_eq!(outermost(all, Family::V4), networks(&["10.0.0.0/8", "192.0.2.0/24"]));
    }

    #[test]
    fn node_ports_answer_where_they_are_told_and_never_on_loopback() {
        let within = |texts: &[&str]| Settings {
            node_port_addresses: NodePortAddresses::Within(networks(texts)),
            ..Settings::default()
        };
        let on = |texts: &[&str]| NodePorts::On(texts.iter().map(|t| t.parse().unwrap()).collect());
        let rows = [
            (Settings::default(), Family::V4, on(&["192.0.2.1"])),
            (Settings::default(), Family::V6, NodePorts::Everywhere),
            (within(&[]), Family::V4, NodePorts::Everywhere),
            (within(&["198.51.100.0/24"]), Family::V4, on(&["198.51.100.1"])),
            (within(&["198.51.100.0/24"]), Family::V6, NodePorts::Everywhere),
            (within(&["127.0.0.0/8"]), Family::V4, on(&[])),
            (within(&["0.0.0.0/0"]), Family::V4, on(&["192.0.2.1", "198.51.100.1"])),
        ];
        for (settings, family, expected) in rows {
            assert_eq!(site(&settings, family).node_ports, expected, "{settings:?} {family}");
        }
    }
}
