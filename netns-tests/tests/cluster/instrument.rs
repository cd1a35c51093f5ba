//! The instrument itself, on routes that were made with ip(8).

use lab::by_hand::{self, Path};
use lab::capture::Tunnel;
use lab::cluster::{Families, Shape};
use lab::traffic::{Fate, Server, ask_tcp, is_silent_ping, ping, ping_of_size};
use lab::{Cluster, Conversation, Packet};

/// Nodes, switches, router and outside reach each other, and nobody knows pods.
#[test]
fn the_ground_is_there() {
    for families in Families::ALL {
        let cluster = Cluster::new(&Shape::routed(&[2, 1], families)).unwrap();
        for member in cluster.nodes() {
            for to in cluster.nodes().iter().flat_map(|peer| &peer.entry().ips).chain(&cluster.outside_ips())
            {
                assert!(ping(member, *to), "{} to {to}", member.name());
            }
        }
        let pod: std::net::IpAddr =
            if families == Families::V6 { "fd00:244:1::2" } else { "10.244.1.2" }.parse().unwrap();
        assert!(is_silent_ping(cluster.node(0), pod));
    }
}

/// Pods on paths made by hand, seen by captures as they are.
#[test]
fn by_hand_paths_carry_pods_and_captures_tell_them_apart() {
    for path in [Path::Vxlan, Path::Routed] {
        let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).unwrap();
        by_hand::connect(&cluster, path);
        let a = by_hand::pod(cluster.node(0), "a", 2);
        let b = by_hand::pod(cluster.node(1), "b", 2);
        for (from, to) in a.ips.iter().zip(&b.ips) {
            let capture = cluster.capture(1);
            let server = Server::tcp(&b.pod, (*to, 80), "b");
            assert_eq!(ask_tcp(&a.pod, server.address), Some(format!("b {from}")));
            let mtu = a.ips.iter().map(|ip| path.mtu(*ip)).min().unwrap();
            assert_eq!(ping_of_size(&a.pod, *to, mtu), Fate::Answered, "{path:?} {to}");
            assert_eq!(ping_of_size(&a.pod, *to, mtu + 1), Fate::TooBig, "{path:?} {to}");
            let packets = capture.stop();
            let ours: Vec<&Packet> = packets.iter().filter(|packet| packet.is_between(*from, *to)).collect();
            assert!(ours.iter().any(|packet| packet.innermost().length == mtu), "{packets:?}");
            assert!(!packets.iter().any(|packet| packet.is_fragment), "{packets:?}");
            for packet in ours {
                let tunnel = packet.inside.as_ref().map(|(tunnel, _)| *tunnel);
                let vni = if from.is_ipv4() { 1 } else { 2 };
                assert_eq!(tunnel, (path == Path::Vxlan).then_some(Tunnel::Vxlan(vni)), "{packet}");
            }
        }
    }
}

/// A conversation tells how long it was held up.
#[test]
fn a_conversation_notices() {
    let cluster = Cluster::new(&Shape::flat(2, Families::V4)).unwrap();
    let (node, peer) = (cluster.node(0), cluster.node(1));
    let address = peer.entry().ips[0];
    let talk = Conversation::start(node, peer, address);
    talk.goes_on();
    node.sh("ip link set eth0 down");
    // How long it is held up is the point.
    std::thread::sleep(std::time::Duration::from_millis(100));
    node.sh("ip link set eth0 up");
    talk.goes_on();
    assert!(talk.end() >= std::time::Duration::from_millis(100));
}
