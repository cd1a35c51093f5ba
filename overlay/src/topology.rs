//! What a plan is made from: settings, this node, the others.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use kernel::link::LinkId;

use crate::DualStack;

/// How packets to a pod of another node travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// In UDP, as an Ethernet frame (RFC 7348): whatever the network between nodes is.
    #[default]
    Vxlan,
    /// As they are, by the other node's address: the network between nodes must deliver them (all on one link).
    Routed,
    /// As they are to nodes of the own subnet, by VXLAN beyond.
    CrossSubnet,
    /// In IP (protocol 4 and 41).
    Ipip,
    /// Encrypted.
    Wireguard,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Mode; 5] = [Mode::Vxlan, Mode::Routed, Mode::CrossSubnet, Mode::Ipip, Mode::Wireguard];

    /// Its name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Vxlan => "vxlan",
            Mode::Routed => "routed",
            Mode::CrossSubnet => "cross-subnet",
            Mode::Ipip => "ipip",
            Mode::Wireguard => "wireguard",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Mode::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is none of {}", Mode::ALL.map(Mode::as_str).join(", ")))
    }
}

/// What an administrator decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How packets travel.
    pub mode: Mode,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// UDP port of WireGuard, IPv4 underlay; that of IPv6 is the next one.
    pub wireguard_port: u16,
    /// MTU of pods in bytes; `None` is the largest that fits.
    pub mtu: Option<u32>,
    /// Whether a routing rule leads pods to nodes beyond a tunnel even where the kernel has a better way: for hosts with
    /// reverse path filters in their ruleset, which only a rule contents.
    pub always_by_rule: bool,
    /// Whether the VXLAN device may leave checksums to the network card; `None` decides by the kernel's version.
    pub vxlan_checksum_offload: Option<bool>,
}

impl Default for Settings {
    /// VNI 1 on flannel's port.
    fn default() -> Self {
        Settings {
            mode: Mode::default(),
            vni: 1,
            vxlan_port: 8472,
            wireguard_port: 51820,
            mtu: None,
            always_by_rule: false,
            vxlan_checksum_offload: None,
        }
    }
}

/// By which link and address this node talks to the others, in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The link.
    pub link: LinkId,
    /// The node's address on it.
    pub ip: IpAddr,
    /// Length of the subnet's prefix there: who is within it can be sent to directly.
    pub prefix: u8,
    /// MTU of the link in bytes.
    pub mtu: u32,
}

impl Uplink {
    /// The subnet that it is on; `None` for a prefix that no address has.
    pub fn subnet(&self) -> Option<IpNetwork> {
        IpNetwork::new(self.ip, self.prefix).ok().map(kernel::route::masked)
    }
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Local {
    /// Name of the node.
    pub name: String,
    /// Where it meets the others.
    pub uplinks: DualStack<Option<Uplink>>,
    /// Its pods' addresses.
    pub pod_cidrs: DualStack<Option<IpNetwork>>,
    /// What its kernel can do; see [`crate::Dataplane::abilities`].
    pub abilities: Abilities,
}

/// What a kernel can do so that a node needs no routing rule. By default nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// IPv6 routes for packets of some source only.
    pub source_routes: bool,
    /// nf_tables can send a packet that is about to leave a link out of another one.
    pub diversion: bool,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peer {
    /// Name of the node.
    pub name: String,
    /// Its address for other nodes.
    pub ips: DualStack<Option<IpAddr>>,
    /// Its pods' addresses.
    pub pod_cidrs: DualStack<Option<IpNetwork>>,
    /// Its WireGuard public key, 32 bytes.
    pub wireguard_key: Option<[u8; 32]>,
}
