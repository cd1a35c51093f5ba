//! The same network as a daemon makes, made with ip(8): what the lab is proved with, and what throughput is compared to.

use std::net::IpAddr;

use crate::cluster::Member;
use crate::{Cluster, Pod};

/// How packets travel between nodes that were connected by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// By VXLAN 1 on UDP port 8472.
    Vxlan,
    /// As they are, by the other node's address.
    Routed,
}

impl Path {
    /// What is left of an uplink's 1500 bytes for pods of the family of `ip`.
    pub fn mtu(self, ip: IpAddr) -> usize {
        match self {
            Path::Vxlan if ip.is_ipv4() => 1450,
            Path::Vxlan => 1430,
            Path::Routed => 1500,
        }
    }
}

/// A pod that was attached with ip(8).
#[derive(Debug)]
pub struct ByHand {
    /// The sandbox.
    pub pod: Pod,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// Connects every node of `cluster` with every other.
///
/// # Panics
/// When ip(8) refuses.
pub fn connect(cluster: &Cluster, path: Path) {
    for member in cluster.nodes() {
        member.write("/proc/sys/net/ipv4/ip_forward", "1");
        member.write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        let mtu = member.entry().ips.iter().map(|ip| path.mtu(*ip)).min().unwrap_or(1280);
        let mut commands =
            format!("link add hand0 mtu {mtu} type bridge forward_delay 0\nlink set hand0 up\n");
        for cidr in &member.entry().pod_cidrs {
            let nodad = if cidr.contains(':') { " nodad" } else { "" };
            commands.push_str(&format!("addr add {} dev hand0{nodad}\n", nth(cidr, 1)));
        }
        if path == Path::Vxlan {
            for ip in &member.entry().ips {
                let (link, mtu) = (vxlan(*ip), path.mtu(*ip));
                // One UDP socket cannot serve both families, so there are two devices with two identifiers.
                let vni = if ip.is_ipv4() { 1 } else { 2 };
                commands.push_str(&format!(
                    "link add {link} address {} mtu {mtu} type vxlan id {vni} dstport 8472 local {ip} nolearning dev eth0\n\
                     link set {link} up\n",
                    mac(member)
                ));
            }
        }
        member.ip_batch(&commands).unwrap_or_else(|e| panic!("{e}"));
        for peer in cluster.nodes().iter().filter(|peer| peer.entry() != member.entry()) {
            reach(member, peer, path);
        }
    }
}

/// Gives what pods send out of a connected cluster their node's address, by a rule as the manual of nft(8) has it.
///
/// # Panics
/// When nft(8) refuses.
pub fn masquerade(cluster: &Cluster) {
    for member in cluster.nodes() {
        member.sh("nft add table inet hand");
        member.sh("nft add chain inet hand leaving { type nat hook postrouting priority srcnat ; }");
        for pods in &member.entry().pod_cidrs {
            let is_v6 = pods.contains(':');
            let family = if is_v6 { "ip6" } else { "ip" };
            let inside: Vec<String> = cluster
                .cluster_cidrs()
                .into_iter()
                .chain(cluster.nodes().iter().flat_map(|node| &node.entry().ips).map(IpAddr::to_string))
                .filter(|network| network.contains(':') == is_v6)
                .collect();
            member.sh(&format!(
                "nft add rule inet hand leaving {family} saddr {pods} {family} daddr != {{ {} }} masquerade",
                inside.join(", ")
            ));
        }
    }
}

/// Lets `member` reach the pods of `peer`.
fn reach(member: &Member, peer: &Member, path: Path) {
    for (cidr, ip) in peer.entry().pod_cidrs.iter().zip(&peer.entry().ips) {
        let command = match path {
            Path::Routed => format!("ip route add {cidr} via {ip}"),
            Path::Vxlan => {
                let (link, gateway) = (vxlan(*ip), cidr.split('/').next().unwrap_or_default());
                member.sh(&format!("bridge fdb append {} dev {link} dst {ip}", mac(peer)));
                member
                    .sh(&format!("ip neigh replace {gateway} lladdr {} dev {link} nud permanent", mac(peer)));
                format!("ip route add {cidr} via {gateway} dev {link} onlink")
            }
        };
        member.sh(&command);
    }
}

/// A pod on a node that [`connect`] has readied, the `nth` there (from 2).
///
/// # Panics
/// When ip(8) refuses.
pub fn pod(member: &Member, name: &str, nth_pod: u8) -> ByHand {
    let pod = member.pod(name);
    let link = format!("hand-{name}");
    let mtu = member.read("/sys/class/net/hand0/mtu");
    member.sh(&format!("ip link add {link} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"));
    member.sh(&format!("ip link set {link} master hand0 up"));
    let mut commands = "link set lo up\nlink set eth0 up\n".to_owned();
    let mut ips = Vec::new();
    for cidr in &member.entry().pod_cidrs {
        let nodad = if cidr.contains(':') { " nodad" } else { "" };
        let (address, gateway) = (nth(cidr, nth_pod), nth(cidr, 1));
        let bare = |address: &str| address.split('/').next().unwrap_or_default().to_owned();
        commands.push_str(&format!(
            "addr add {address} dev eth0{nodad}\nroute add default via {}\n",
            bare(&gateway)
        ));
        ips.extend(bare(&address).parse::<IpAddr>());
    }
    pod.ip_batch(&commands).unwrap_or_else(|e| panic!("{e}"));
    ByHand { pod, ips }
}

/// The same pod on a cable that ends at its node, which routes to it: what the plug-in `routed` makes.
///
/// # Panics
/// When ip(8) refuses.
pub fn routed_pod(member: &Member, name: &str, nth_pod: u8) -> ByHand {
    let pod = member.pod(name);
    let link = format!("hand-{name}");
    let mtu = member.read("/sys/class/net/hand0/mtu");
    member.sh(&format!("ip link add {link} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {name}"));
    member.write(format!("/proc/sys/net/ipv4/conf/{link}/proxy_arp"), "1");
    member.write(format!("/proc/sys/net/ipv4/neigh/{link}/proxy_delay"), "0");
    let mut of_node = format!("link set {link} up\naddr add fe80::1/64 dev {link} nodad\n");
    let mut of_pod = "link set lo up\nlink set eth0 up\n".to_owned();
    let mut ips = Vec::new();
    for cidr in &member.entry().pod_cidrs {
        let address = nth(cidr, nth_pod);
        let ip: IpAddr = address.split('/').next().and_then(|ip| ip.parse().ok()).expect("a pod CIDR");
        of_node.push_str(&format!("route add {ip} dev {link}\n"));
        of_pod.push_str(&match ip {
            IpAddr::V4(_) => format!(
                "addr add {ip}/32 dev eth0\nroute add 169.254.1.1 dev eth0\nroute add default via 169.254.1.1\n"
            ),
            IpAddr::V6(_) => {
                format!("addr add {ip}/128 dev eth0 nodad\nroute add default via fe80::1 dev eth0\n")
            }
        });
        ips.push(ip);
    }
    member.ip_batch(&of_node).unwrap_or_else(|e| panic!("{e}"));
    pod.ip_batch(&of_pod).unwrap_or_else(|e| panic!("{e}"));
    ByHand { pod, ips }
}

/// A routing rule for each pod CIDR of a connected cluster, by which pods' packets look into a table of their own first.
///
/// # Panics
/// When ip(8) refuses.
pub fn rules(cluster: &Cluster) {
    for member in cluster.nodes() {
        for pods in &member.entry().pod_cidrs {
            let family = if pods.contains(':') { "-6" } else { "-4" };
            member.sh(&format!("ip {family} rule add from {pods} lookup 100"));
        }
    }
}

/// Lets the VXLAN devices of a connected cluster pass on what they receive as it is.
///
/// # Panics
/// When ethtool(8) refuses.
pub fn leave_unmerged(cluster: &Cluster) {
    for member in cluster.nodes() {
        for ip in &member.entry().ips {
            member.sh(&format!("ethtool -K {} gro off", vxlan(*ip)));
        }
    }
}

fn vxlan(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "hand-vxlan4" } else { "hand-vxlan6" }
}

/// A hardware address after the node's number.
fn mac(member: &Member) -> String {
    let number: u8 = member.entry().name.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or_default();
    format!("02:00:00:00:00:{number:02x}")
}

/// The `n`th address of a CIDR whose host part is zero, with the CIDR's length.
fn nth(cidr: &str, n: u8) -> String {
    match cidr.split_once('/') {
        Some((network, length)) if network.contains(':') => format!("{network}{n:x}/{length}"),
        Some((network, length)) => {
            format!("{}.{n}/{length}", network.rsplit_once('.').map_or("", |(head, _)| head))
        }
        None => cidr.to_owned(),
    }
}
