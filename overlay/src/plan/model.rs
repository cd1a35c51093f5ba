//! The words of a plan.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use kernel::Mac;

/// What the kernel is to hold. Every list is sorted and without duplicates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Tunnel devices.
    pub tunnels: Vec<Tunnel>,
    /// Which hardware address answers for a peer's tunnel address (VXLAN).
    pub neighbours: Vec<Neighbour>,
    /// Which node has a hardware address (VXLAN).
    pub fdb: Vec<Forward>,
    /// Peers of WireGuard devices.
    pub wireguard: Vec<WireguardPeer>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Routing rules.
    pub rules: Vec<Rule>,
    /// What is taken off the uplink into a tunnel.
    pub diversion: Option<Diversion>,
    /// MTU of pods in bytes; 0 when this node has pods of no family.
    pub mtu: u32,
    /// Peers that cannot be reached, in whole or in one family, and why.
    pub problems: Vec<Problem>,
    /// Who has a node address, or the pod CIDR with a network address: for messages.
    pub nodes: BTreeMap<IpAddr, String>,
}

/// A tunnel device. It carries the packets of one family, over the same family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// What it is.
    pub kind: TunnelKind,
    /// Its only address: [`super::tunnel_ip`] as a host.
    pub address: IpNetwork,
    /// Its hardware address, where it has one.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
}

/// Kinds of tunnel with what cannot be changed once it is made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TunnelKind {
    /// VXLAN without learning.
    Vxlan {
        /// Network identifier.
        vni: u32,
        /// UDP port.
        port: u16,
        /// Outer source address.
        local: IpAddr,
        /// Name of the link that packets leave by.
        underlay: String,
        /// Whether checksums may be left to the card; `None` decides by the kernel's version.
        checksum_offload: Option<bool>,
    },
    /// IP in IP: `ipip`, or `ip6tnl` where `local` is an IPv6 address. The next hop is the outer destination.
    Ipip {
        /// Outer source address.
        local: IpAddr,
        /// Name of the link that packets leave by.
        underlay: String,
    },
    /// WireGuard.
    Wireguard {
        /// UDP port.
        port: u16,
    },
}

/// A permanent neighbour entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Name of the device.
    pub device: String,
    /// Next hop of a peer's routes: its tunnel address, of IPv6 the link-local address of its hardware address.
    pub ip: IpAddr,
    /// Hardware address of its VXLAN device.
    pub mac: Mac,
}

/// An entry of a VXLAN device's forwarding database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// Name of the device.
    pub device: String,
    /// Hardware address of a peer's VXLAN device.
    pub mac: Mac,
    /// The peer's node address.
    pub to: IpAddr,
}

/// A peer of a WireGuard device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WireguardPeer {
    /// Name of the device.
    pub device: String,
    /// Public key.
    pub key: [u8; 32],
    /// Where its packets go.
    pub endpoint: SocketAddr,
    /// Which addresses are behind it, sorted.
    pub allowed: Vec<IpNetwork>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Table.
    pub table: u32,
    /// Destination.
    pub dst: IpNetwork,
    /// Only packets from here take it.
    pub from: Option<IpNetwork>,
    /// Where to.
    pub hop: Hop,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// To `gateway`, an address on the subnet of the link called `device`.
    Direct {
        /// Name of the link.
        device: String,
        /// Node address of a peer.
        gateway: IpAddr,
    },
    /// Into a tunnel; to `gateway`, which is taken to be on the link.
    Tunnel {
        /// Name of the device.
        device: String,
        /// A neighbour (VXLAN) or the node address (IP in IP) of a peer; WireGuard looks at the destination.
        gateway: Option<IpAddr>,
    },
    /// Into a tunnel that is told the outer addresses with each packet.
    Encapsulated {
        /// Name of the device.
        device: String,
        /// Outer source.
        from: IpAddr,
        /// Outer destination: the node address of a peer.
        to: IpAddr,
    },
    /// Nowhere: ICMP unreachable, with metric [`super::LAST_RESORT`].
    Unreachable,
}

/// A routing rule: packets from `from` look in `table` before the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Source.
    pub from: IpNetwork,
    /// Table.
    pub table: u32,
}

/// IPv4 packets that are taken off the uplink, when they are about to leave by it, into a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Diversion {
    /// Name of the link that they are taken from.
    pub uplink: String,
    /// Name of the tunnel.
    pub device: String,
    /// Those of this source only.
    pub from: IpNetwork,
    /// Those to these nodes only, each with its neighbour on the tunnel.
    pub nodes: BTreeMap<IpAddr, IpAddr>,
}

/// Why a peer cannot be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Name of the node; empty when it is this one.
    pub peer: String,
    /// What is wrong.
    pub what: String,
}
