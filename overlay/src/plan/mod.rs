//! What the kernel is to hold so that pods of every node reach each other, as a value.
//!
//! ```text
//!        pod CIDR of this node                       pod CIDR of a peer
//!   unreachable (last resort)              neighbour  next hop -> VTEP MAC            (vxlan)
//!   its network address on the tunnel      FDB        VTEP MAC -> node address        (vxlan)
//!                                          route      pod CIDR via next hop           (last)
//!                                          node address the same way, for packets of pods alone
//! ```
//! Why the last: a pod that talks to the *address of a node* beyond a tunnel must keep its own address, and no network
//! between nodes knows pods' addresses. So such packets travel by the tunnel too. There are three ways to tell them from
//! the node's own, and each node takes the first that its kernel has:
//!
//! | family, mode | way | Linux |
//! |---|---|---|
//! | IPv6 by VXLAN | a route from the pod CIDR to the node's address | with CONFIG_IPV6_SUBTREES |
//! | IPv4 by VXLAN | an nf_tables chain that takes them off the uplink: [`Diversion`] | 5.16 |
//! | others | a rule: from the pod CIDR lookup [`crate::NODES_TABLE`] | any |
//!
//! `routingRules: always` takes the rule. It comes last because any rule at all, whoever made it, makes the kernel look up the way of every packet step by
//! step, which costs 7 to 10 % of what a connection between pods carries (IPv6: 2 to 5 %).

mod check;
mod model;
mod mtu;
mod screen;
mod show;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use kernel::Mac;
use kernel::route::{MAIN, masked};

use crate::topology::{Abilities, Local, Mode, Peer, Settings, Uplink};
use crate::{Family, NODES_TABLE, mac};

pub use check::check;
pub use model::{
    Diversion, Forward, Hop, Neighbour, Plan, Problem, Route, Rule, Tunnel, TunnelKind, WireguardPeer,
};

/// Preference of the rules that send pods' packets to [`crate::NODES_TABLE`]: before the main table's 32766.
pub const RULE_PRIORITY: u32 = 9800;
/// Metric of the routes that refuse packets for pods that don't exist: any other route to the same network goes first.
pub const LAST_RESORT: u32 = 65_535;

/// The address of a node's tunnel device: the network address of its pod CIDR, which no pod ever gets.
pub fn tunnel_ip(pod_cidr: IpNetwork) -> IpAddr {
    pod_cidr.network()
}

/// Plans. Pure; the same for the same arguments, in whatever order peers come.
///
/// Peers that cannot be reached as they are become [`Plan::problems`]; the others are planned all the same. Call
/// [`check`] first: settings that make no sense give a plan that makes none.
pub fn plan(settings: &Settings, local: &Local, peers: &[Peer]) -> Plan {
    let mut plan = Plan { mtu: mtu::of_pods(settings, local), ..Plan::default() };
    for family in Family::BOTH {
        let (Some(uplink), Some(pods)) = (local.uplinks.of(family), local.pod_cidrs.of(family)) else {
            continue;
        };
        let site = Site { settings, family, uplink, pods: masked(*pods), abilities: local.abilities };
        plan.this_node(&site);
        for peer in screen::reachable(&site, peers, &mut plan.problems) {
            plan.peer(&site, &peer);
        }
        plan.rule(&site);
    }
    plan.sort();
    plan
}

/// This node in one family.
struct Site<'a> {
    settings: &'a Settings,
    family: Family,
    uplink: &'a Uplink,
    pods: IpNetwork,
    abilities: Abilities,
}

/// A peer in one family, complete.
struct Remote<'a> {
    name: &'a str,
    ip: IpAddr,
    pods: IpNetwork,
    key: Option<[u8; 32]>,
    /// Hardware address of its VXLAN device, where it has one.
    mac: Option<Mac>,
    path: Path,
}

/// How pods' packets to a node beyond a tunnel are told from the node's own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    Source,
    Diversion,
    Rule,
}

/// How packets get to a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Direct,
    Tunnel,
}

impl Site<'_> {
    fn path_to(&self, ip: IpAddr) -> Path {
        match self.settings.mode {
            Mode::Routed => Path::Direct,
            Mode::CrossSubnet if self.is_on_link(ip) => Path::Direct,
            Mode::Vxlan | Mode::CrossSubnet | Mode::Ipip | Mode::Wireguard => Path::Tunnel,
        }
    }

    fn telling(&self) -> Telling {
        match (self.family, self.settings.mode) {
            _ if self.settings.always_by_rule => Telling::Rule,
            (Family::V6, Mode::Vxlan | Mode::CrossSubnet) if self.abilities.source_routes => Telling::Source,
            (Family::V4, Mode::Vxlan | Mode::CrossSubnet) if self.abilities.diversion => Telling::Diversion,
            _ => Telling::Rule,
        }
    }

    fn is_on_link(&self, ip: IpAddr) -> bool {
        self.uplink.subnet().is_some_and(|subnet| subnet.contains(ip))
    }

    fn tunnel(&self) -> Option<Tunnel> {
        let Settings { mode, vni, vxlan_port, wireguard_port, vxlan_checksum_offload, .. } = *self.settings;
        let local = self.uplink.ip;
        let underlay = self.uplink.link.name.clone();
        let (kind, mac) = match mode {
            Mode::Routed => return None,
            Mode::Vxlan | Mode::CrossSubnet => {
                let checksum_offload = vxlan_checksum_offload;
                let kind = TunnelKind::Vxlan { vni, port: vxlan_port, local, underlay, checksum_offload };
                (kind, Some(mac::vtep(local)))
            }
            Mode::Ipip => (TunnelKind::Ipip { local, underlay }, None),
            Mode::Wireguard => (TunnelKind::Wireguard { port: self.wireguard_port(wireguard_port) }, None),
        };
        let mtu = self.uplink.mtu.saturating_sub(mtu::overhead(mode, self.family));
        Some(Tunnel {
            name: device_name(mode, vni, self.family),
            kind,
            address: host(tunnel_ip(self.pods)),
            mac,
            mtu,
        })
    }

    fn wireguard_port(&self, of_v4: u16) -> u16 {
        match self.family {
            Family::V4 => of_v4,
            Family::V6 => of_v4.saturating_add(1),
        }
    }
}

impl Plan {
    fn this_node(&mut self, site: &Site<'_>) {
        self.routes.push(Route { table: MAIN, dst: site.pods, from: None, hop: Hop::Unreachable });
        if let Some(tunnel) = site.tunnel() {
            self.tunnels.push(tunnel);
        }
    }

    /// Only where it leads somewhere.
    fn rule(&mut self, site: &Site<'_>) {
        let is_nodes =
            |route: &Route| route.table == NODES_TABLE && Family::of_network(route.dst) == site.family;
        if self.routes.iter().any(is_nodes) {
            self.rules.push(Rule { from: site.pods, table: NODES_TABLE });
        }
    }

    fn peer(&mut self, site: &Site<'_>, peer: &Remote<'_>) {
        let mode = site.settings.mode;
        self.nodes.insert(peer.ip, peer.name.to_owned());
        self.nodes.insert(peer.pods.network(), peer.name.to_owned());
        if peer.path == Path::Direct {
            let hop = Hop::Direct { device: site.uplink.link.name.clone(), gateway: peer.ip };
            self.routes.push(Route { table: MAIN, dst: peer.pods, from: None, hop });
            return;
        }
        let device = device_name(mode, site.settings.vni, site.family);
        let next = next_hop(peer);
        self.nodes.insert(next, peer.name.to_owned());
        let tunnel = |gateway| Hop::Tunnel { device: device.clone(), gateway };
        let hop = match (mode, site.family) {
            (Mode::Wireguard, _) => tunnel(None),
            (Mode::Ipip, Family::V4) => tunnel(Some(peer.ip)),
            // The kernel refuses an IPv6 next hop that another link's subnet holds.
            (Mode::Ipip, Family::V6) => {
                Hop::Encapsulated { device: device.clone(), from: site.uplink.ip, to: peer.ip }
            }
            (Mode::Vxlan | Mode::CrossSubnet | Mode::Routed, _) => tunnel(Some(next)),
        };
        self.routes.push(Route { table: MAIN, dst: peer.pods, from: None, hop: hop.clone() });
        self.tell_pods(site, peer, next, hop);
        match (&peer.mac, peer.key) {
            (None, Some(key)) => {
                let endpoint = SocketAddr::new(peer.ip, site.wireguard_port(site.settings.wireguard_port));
                let mut allowed = vec![peer.pods, host(peer.ip)];
                allowed.sort();
                self.wireguard.push(WireguardPeer { device, key, endpoint, allowed });
            }
            (Some(mac), _) => {
                self.neighbours.push(Neighbour { device: device.clone(), ip: next, mac: mac.clone() });
                self.fdb.push(Forward { device, mac: mac.clone(), to: peer.ip });
            }
            (None, None) => {}
        }
    }

    /// Pods reach the address of `peer` by `hop` too.
    fn tell_pods(&mut self, site: &Site<'_>, peer: &Remote<'_>, next: IpAddr, hop: Hop) {
        let (dst, from) = (host(peer.ip), Some(site.pods));
        match site.telling() {
            Telling::Source => self.routes.push(Route { table: MAIN, dst, from, hop }),
            Telling::Rule => self.routes.push(Route { table: NODES_TABLE, dst, from: None, hop }),
            Telling::Diversion => {
                let diversion = self.diversion.get_or_insert_with(|| Diversion {
                    uplink: site.uplink.link.name.clone(),
                    device: device_name(site.settings.mode, site.settings.vni, site.family),
                    from: site.pods,
                    nodes: BTreeMap::new(),
                });
                // Of two names of one node either will do; the same one each time.
                let way = diversion.nodes.entry(peer.ip).or_insert(next);
                *way = next.min(*way);
            }
        }
    }

    fn sort(&mut self) {
        self.tunnels.sort();
        self.neighbours.sort();
        self.neighbours.dedup();
        self.fdb.sort();
        self.fdb.dedup();
        self.merge_wireguard_peers();
        self.routes.sort();
        self.routes.dedup_by(|a, b| (a.table, a.dst, a.from) == (b.table, b.dst, b.from));
        self.rules.sort();
        self.problems.sort();
        self.problems.dedup();
    }

    /// One peer for each key: of two names of one node, both have the pods.
    fn merge_wireguard_peers(&mut self) {
        self.wireguard.sort();
        self.wireguard.dedup_by(|next, kept| {
            let same = (&next.device, next.key) == (&kept.device, kept.key);
            if same {
                kept.allowed.append(&mut next.allowed);
                kept.allowed.sort();
                kept.allowed.dedup();
            }
            same
        });
    }
}

/// The name of the device of `mode` that carries `family`; longer than a link's may be when the VNI has many digits,
/// which [`check`] refuses. Empty in mode routed.
pub fn device_name(mode: Mode, vni: u32, family: Family) -> String {
    match (mode, family) {
        (Mode::Vxlan | Mode::CrossSubnet, Family::V4) => format!("bowline.{vni}"),
        (Mode::Vxlan | Mode::CrossSubnet, Family::V6) => format!("bowline6.{vni}"),
        (Mode::Ipip, Family::V4) => "bowline-ipip".to_owned(),
        (Mode::Ipip, Family::V6) => "bowline-ip6".to_owned(),
        (Mode::Wireguard, Family::V4) => "bowline-wg".to_owned(),
        (Mode::Wireguard, Family::V6) => "bowline-wg6".to_owned(),
        (Mode::Routed, _) => String::new(),
    }
}

/// By which a VXLAN device finds a peer. An IPv6 next hop that is not link-local is refused as soon as any other link's
/// route covers it, `onlink` or not (Linux to this day).
fn next_hop(peer: &Remote<'_>) -> IpAddr {
    let link_local = || Some(peer.mac.as_ref()?.link_local()?.ip());
    match peer.ip {
        IpAddr::V4(_) => tunnel_ip(peer.pods),
        IpAddr::V6(_) => link_local().unwrap_or_else(|| tunnel_ip(peer.pods)),
    }
}

/// `ip` as a network of one address.
fn host(ip: IpAddr) -> IpNetwork {
    IpNetwork::from(ip)
}
