//! Everybody reaches everybody, as who they are: each mode, each family, with real packets.

use std::net::IpAddr;

use lab::capture::Tunnel;
use lab::cluster::{Families, Joined, Shape};
use lab::scenario::Leftovers;
use lab::traffic::{Fate, Server, ask_tcp, ask_udp, ping, ping_of_size};
use lab::{Cluster, Packet, Snapshot, Space, daemon, scenario};

/// What is special about the nodes of a story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Nothing.
    Plain,
    /// Packets must come in where their source would be answered to.
    StrictReversePath,
    /// Firewalls whose policy for forwarded packets is to drop them: one made with nft, one with iptables.
    DropsForwarded,
}

/// How packets between pods of two nodes look on the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// They never get there.
    Absent,
    /// As the pods sent them.
    Bare,
    /// Inside of others.
    In(Tunnel),
    /// Nobody can tell.
    Sealed,
}

/// A node's number and the names of the pods on it.
const PODS: [(usize, &[&str]); 3] = [(0, &["a", "b"]), (1, &["c"]), (2, &["d"])];

/// The whole story of one mode.
pub fn story(mode: &str, families: Families, host: Host) {
    let shape = match mode {
        // Nothing but the nodes knows the way, so all are on one link.
        "routed" => Shape::flat(3, families),
        // An emulated machine takes its time.
        "ipip" | "wireguard" => Shape::routed(&[1, 1], families),
        _ => Shape::routed(&[2, 1], families),
    };
    let cluster = Cluster::new(&shape).unwrap();
    cluster.nodes().iter().for_each(|node| prepare(node, host));
    let before: Vec<Snapshot> = cluster.nodes().iter().map(|node| Snapshot::of(node)).collect();
    let cidrs = cluster.cluster_cidrs().join(",");
    // Keys are published by annotation, so that mode needs the API.
    let served = (mode == "wireguard").then(|| cluster.serve());
    let source = served.as_ref().map_or_else(|| cluster.source(), |(_, source)| source.clone());
    let daemons = cluster.start_all_with(&source, &["--mode", mode, "--cluster-cidr", &cidrs]);
    let pods: Vec<(usize, Joined)> = PODS
        .iter()
        .filter(|(node, _)| *node < cluster.nodes().len())
        .flat_map(|(node, names)| names.iter().map(|name| (*node, cluster.pod(*node, name))))
        .collect();
    for family in 0..pods[0].1.ips().len() {
        pods_reach_everybody(&cluster, &pods, family);
        outside_sees_nodes(&cluster, &pods, family);
        for (node, pod) in &pods[1..] {
            let capture = cluster.capture(*node);
            let mtu = whole_packets_pass(&pods[0].1, pod, family);
            let ends = (pods[0].1.ips()[family], pod.ips()[family]);
            // Pods of both families have the MTU that fits the larger headers, whether these are needed or not.
            let is_tight = pods[0].1.ips().len() == family + 1 && (mode != "cross-subnet" || *node == 2);
            looks(&capture.stop(), ends, expected_wire(mode, *node), is_tight.then_some(mtu));
        }
    }
    daemons.into_iter().for_each(|daemon| assert_eq!(daemon.terminate(), 0));
    assert!(ping(&pods[0].1.pod, pods[pods.len() - 1].1.ips()[0]), "pods need no running daemon");
    for (node, pod) in &pods {
        pod.attachment.del(cluster.node(*node)).unwrap();
    }
    for (node, before) in cluster.nodes().iter().zip(&before) {
        clean_up(node);
        scenario::no_trace(node, before, Leftovers::Nothing);
    }
}

fn prepare(node: &Space, host: Host) {
    match host {
        Host::Plain => {}
        Host::StrictReversePath => {
            for key in ["all", "default", "eth0"] {
                node.write(format!("/proc/sys/net/ipv4/conf/{key}/rp_filter"), "1");
            }
        }
        Host::DropsForwarded => {
            node.sh("nft add table inet host");
            node.sh(
                "nft add chain inet host forward { type filter hook forward priority 10 ; policy drop ; }",
            );
            node.sh("iptables -P FORWARD DROP");
            node.sh("ip6tables -P FORWARD DROP");
        }
    }
}

/// How packets from node 0 to another must look.
fn expected_wire(mode: &str, node: usize) -> Wire {
    match (mode, node) {
        (_, 0) => Wire::Absent,
        ("routed", _) | ("cross-subnet", 1) => Wire::Bare,
        ("ipip", _) => Wire::In(Tunnel::Ip),
        ("wireguard", _) => Wire::Sealed,
        _ => Wire::In(Tunnel::Vxlan(1)),
    }
}

/// Pod to pod and pod to node with the pod's own address, node to pod.
fn pods_reach_everybody(cluster: &Cluster, pods: &[(usize, Joined)], family: usize) {
    for (_, server) in pods {
        let address = server.ips()[family];
        let (tcp, udp) =
            (Server::tcp(server, (address, 80), "pod"), Server::udp(server, (address, 53), "pod"));
        for (_, client) in pods.iter().filter(|(_, client)| client.ips() != server.ips()) {
            let seen = format!("pod {}", client.ips()[family]);
            assert_eq!(ask_tcp(client, tcp.address), Some(seen.clone()), "to {address}");
            assert_eq!(ask_udp(client, udp.address), Some(seen), "to {address}");
            assert!(ping(&client.pod, address), "{} to {address}", client.ips()[family]);
        }
        for node in cluster.nodes() {
            assert!(ask_tcp(node, tcp.address).is_some(), "{} to {address}", node.name());
            assert!(ping(node, address), "{} to {address}", node.name());
        }
    }
    for node in cluster.nodes() {
        let address = node.entry().ips[family];
        let server = Server::tcp(node, (address, 80), "node");
        for (_, client) in pods {
            let seen = format!("node {}", client.ips()[family]);
            assert_eq!(ask_tcp(client, server.address), Some(seen), "to {}", node.name());
        }
    }
}

/// What leaves the cluster carries its node's address: whoever is outside knows no way to pods.
fn outside_sees_nodes(cluster: &Cluster, pods: &[(usize, Joined)], family: usize) {
    let outside = cluster.outside_ips()[family];
    let server = Server::tcp(cluster.outside(), (outside, 80), "outside");
    for (node, pod) in pods {
        let seen = format!("outside {}", cluster.node(*node).ip_like(outside));
        assert_eq!(ask_tcp(pod, server.address), Some(seen), "{:?}", pod.ips());
    }
}

/// The largest packet that a pod may send passes whole, and one byte more is refused. Gives its size in bytes.
fn whole_packets_pass(from: &Joined, to: &Joined, family: usize) -> usize {
    let destination = to.ips()[family];
    // A pod sees its node's /sys, so only netlink knows.
    let link = from.sh("ip -o link show dev eth0");
    let mtu: usize =
        link.split_whitespace().skip_while(|word| *word != "mtu").nth(1).unwrap().parse().unwrap();
    assert_eq!(ping_of_size(&from.pod, destination, mtu), Fate::Answered, "{mtu} bytes to {destination}");
    assert_eq!(
        ping_of_size(&from.pod, destination, mtu + 1),
        Fate::TooBig,
        "{} bytes to {destination}",
        mtu + 1
    );
    mtu
}

/// What was seen on the uplink of the second pod's node looks as it must, and nothing was fragmented. Where the MTU of
/// pods is decided by this family, its largest packet fills the uplink's.
fn looks(packets: &[Packet], (from, to): (IpAddr, IpAddr), wire: Wire, tight_mtu: Option<usize>) {
    assert!(!packets.iter().any(|packet| packet.is_fragment), "fragments: {packets:#?}");
    assert!(packets.iter().all(|packet| packet.length <= 1500), "{packets:#?}");
    let ours: Vec<&Packet> = packets.iter().filter(|packet| packet.is_between(from, to)).collect();
    match wire {
        Wire::Absent | Wire::Sealed => assert!(ours.is_empty(), "seen on the wire: {ours:?}"),
        Wire::Bare => assert!(ours.iter().all(|packet| packet.inside.is_none()), "{ours:#?}"),
        Wire::In(tunnel) => {
            let is_right = |packet: &&Packet| packet.inside.as_ref().is_some_and(|(seen, _)| *seen == tunnel);
            assert!(ours.iter().all(is_right), "{ours:#?}");
            let ports = ours.iter().filter_map(|packet| packet.ports).map(|(_, port)| port);
            assert!(ports.into_iter().all(|port| port == 8472), "{ours:#?}");
        }
    }
    if let Some(mtu) = tight_mtu.filter(|_| wire != Wire::Absent) {
        let largest = packets.iter().map(|packet| packet.length).max();
        assert!(largest > Some(1500 - 16), "the MTU {mtu} wastes room: {packets:#?}");
    }
}

/// `bowline cleanup`, once the last pod is gone.
fn clean_up(node: &Space) {
    node.sh(&format!("{} cleanup", daemon::program("bowline").display()));
}

macro_rules! stories {
    ($($name:ident: $mode:literal, $families:ident, $host:ident;)*) => {$(
        #[test]
        fn $name() {
            story($mode, Families::$families, Host::$host);
        }
    )*};
}

stories! {
    vxlan_v4: "vxlan", V4, Plain;
    vxlan_v6: "vxlan", V6, Plain;
    vxlan_dual: "vxlan", Dual, Plain;
    routed_v4: "routed", V4, Plain;
    routed_v6: "routed", V6, Plain;
    routed_dual: "routed", Dual, Plain;
    cross_subnet_v4: "cross-subnet", V4, Plain;
    cross_subnet_v6: "cross-subnet", V6, Plain;
    cross_subnet_dual: "cross-subnet", Dual, Plain;
    vxlan_with_strict_reverse_path: "vxlan", V4, StrictReversePath;
    routed_with_strict_reverse_path: "routed", V4, StrictReversePath;
    cross_subnet_with_strict_reverse_path: "cross-subnet", V4, StrictReversePath;
    vxlan_where_the_host_drops_forwarded: "vxlan", Dual, DropsForwarded;
    routed_where_the_host_drops_forwarded: "routed", Dual, DropsForwarded;
}
