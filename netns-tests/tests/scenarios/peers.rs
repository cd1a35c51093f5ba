//! Two nodes by hand: `vxlan` and `routed` with static peers, and no daemon anywhere.

use std::net::SocketAddr;

use lab::cluster::{Families, Member, Shape};
use lab::network::Request;
use lab::scenario::{Leftovers, no_trace};
use lab::traffic::{Fate, Server, ask_tcp, ping_of_size, throughput};
use lab::{Attachment, Cluster, Network, Node, Pod, Snapshot, Space, Subject, on_bowline};
use serde_json::{Value, json};

use crate::conflists::{list, shipped};

const KINDS: [&str; 2] = ["vxlan", "routed"];

/// The network of one node, with the other as its only peer.
fn network(cluster: &Cluster, kind: &str, own: usize) -> Network {
    let (own, other) = (cluster.node(own).entry(), cluster.node(1 - own).entry());
    let peer = json!({"name": other.name, "ips": other.ips, "podCIDRs": other.pod_cidrs});
    let plugin = json!({"type": kind, "subnets": own.pod_cidrs, "peers": [peer]});
    Network::new(&Subject::bowline(), list("pods", json!([plugin])))
}

/// A pod on the node with that number.
fn join(cluster: &Cluster, network: &Network, node: usize, name: &str) -> (Pod, Attachment) {
    let pod = cluster.node(node).pod(name);
    let attachment = network.add(cluster.node(node), &pod, Request::default());
    (pod, attachment.unwrap_or_else(|refusal| panic!("ADD of {name}: {refusal}")))
}

/// TCP from `from` to every address of `to`, which must see the pod's own.
fn meets(from: (&Space, &Attachment), to: (&Space, &Attachment)) {
    for (ip, own) in to.1.ips().into_iter().zip(from.1.ips()) {
        let server = Server::tcp(to.0, (ip, 80), "met");
        assert_eq!(ask_tcp(from.0, server.address), Some(format!("met {own}")), "{own} to {ip}");
    }
}

/// What pods' packets may have on a link of 1500 bytes.
fn mtu(kind: &str, families: Families) -> usize {
    match (kind, families) {
        ("routed", _) => 1500,
        (_, Families::V4) => 1450,
        _ => 1430,
    }
}

/// Takes away what belongs to the node, as an administrator would.
fn clear(node: &Member) {
    for link in ["bowline0", "bowline.1", "bowline6.1"] {
        let _ = node.try_sh(&format!("ip link delete {link}"));
    }
    for family in ["-4", "-6"] {
        let _ = node.try_sh(&format!("ip {family} route flush table all proto 98"));
        let _ = node.try_sh(&format!("ip {family} rule flush proto 98"));
    }
}

/// Everything that pods of two nodes can do, in every family and by both plug-ins; afterwards the nodes are as before.
#[test]
fn two_nodes_by_hand() {
    for kind in KINDS {
        for families in Families::ALL {
            let cluster =
                Cluster::new(&Shape::flat(2, families)).expect("a cluster (the lab's tests need root)");
            let before = [0, 1].map(|index| Snapshot::of(cluster.node(index)));
            by_hand(&cluster, kind, families);
            for (index, before) in before.iter().enumerate() {
                clear(cluster.node(index));
                no_trace(cluster.node(index), before, Leftovers::Nothing);
            }
        }
    }
}

fn by_hand(cluster: &Cluster, kind: &str, families: Families) {
    let networks = [0, 1].map(|index| network(cluster, kind, index));
    networks[0].status(cluster.node(0)).unwrap();
    let (a, on_a) = join(cluster, &networks[0], 0, "a");
    let (a2, on_a2) = join(cluster, &networks[0], 0, "a2");
    let (b, on_b) = join(cluster, &networks[1], 1, "b");
    let uplink = cluster.capture(0);
    meets((&a, &on_a), (&b, &on_b));
    meets((&b, &on_b), (&a2, &on_a2));
    meets((&a, &on_a), (&a2, &on_a2));
    nodes_and_outside(cluster, (&a, &on_a), (&b, &on_b));
    for ip in on_b.ips() {
        let mtu = mtu(kind, families);
        assert_eq!(ping_of_size(&a, ip, mtu), Fate::Answered, "{kind} {families:?} {ip}: {mtu}");
        assert_eq!(ping_of_size(&a, ip, mtu + 1), Fate::TooBig, "{kind} {families:?} {ip}: {mtu} + 1");
    }
    let packets = uplink.stop();
    let between: Vec<_> =
        packets.iter().filter(|packet| on_b.ips().contains(&packet.innermost().to)).collect();
    assert!(!between.is_empty());
    for packet in between {
        assert_eq!(packet.inside.is_some(), kind == "vxlan", "{packet}");
        assert!(!packet.is_fragment && packet.length <= 1500, "{packet}");
    }
    for (index, attachment) in [(0, &on_a), (0, &on_a2), (1, &on_b)] {
        attachment.check(cluster.node(index)).unwrap();
        attachment.del(cluster.node(index)).unwrap();
        attachment.del(cluster.node(index)).unwrap();
    }
}

/// A pod and the other node, both ways with their own addresses; the outside behind the pod's node.
fn nodes_and_outside(cluster: &Cluster, a: (&Pod, &Attachment), b: (&Pod, &Attachment)) {
    for own in a.1.ips() {
        let (near, far) = (cluster.node(0), cluster.node(1));
        let server = Server::tcp(far, (far.ip_like(own), 81), "node");
        assert_eq!(ask_tcp(a.0, server.address), Some(format!("node {own}")), "pod to node");
        let outside = cluster.outside_ips().into_iter().find(|ip| ip.is_ipv4() == own.is_ipv4()).unwrap();
        let server = Server::tcp(cluster.outside(), (outside, 81), "out");
        let seen = format!("out {}", near.ip_like(own));
        assert_eq!(ask_tcp(a.0, server.address), Some(seen), "masquerade");
    }
    for ip in b.1.ips() {
        let server = Server::tcp(b.0, (ip, 82), "b");
        assert!(ask_tcp(cluster.node(0), server.address).is_some(), "node to pod {ip}");
    }
}

/// The files of conf/ as they are shipped, on the nodes that they are for.
#[test]
fn the_shipped_pairs() {
    for kind in KINDS {
        let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster");
        let networks = ["a", "b"]
            .map(|side| Network::new(&Subject::bowline(), shipped(&format!("{kind}-static-{side}"))));
        let (a, on_a) = join(&cluster, &networks[0], 0, "a");
        let (b, on_b) = join(&cluster, &networks[1], 1, "b");
        meets((&a, &on_a), (&b, &on_b));
        meets((&b, &on_b), (&a, &on_a));
        on_a.check(cluster.node(0)).unwrap();
        on_a.del(cluster.node(0)).unwrap();
        on_b.del(cluster.node(1)).unwrap();
    }
}

/// CHECK finds whatever somebody removes of the way to a peer, and the next ADD puts it back.
#[test]
fn check_finds_what_is_missing_of_the_overlay() {
    let losses = [
        ("vxlan", "bridge fdb del 62:6c:ac:10:00:0b dev bowline.1 dst 172.16.0.11", "62:6c:ac:10:00:0b"),
        ("vxlan", "ip neigh del 10.244.1.0 dev bowline.1", "10.244.1.0"),
        ("vxlan", "ip route del 10.244.1.0/24", "10.244.1.0/24"),
        ("vxlan", "ip -6 route del fd00:244:1::/64", "fd00:244:1::/64"),
        ("vxlan", "ip rule del from 10.244.0.0/24 lookup 9800", "9800"),
        ("vxlan", "ip link del bowline6.1", "bowline6.1"),
        ("vxlan", "ip link set bowline.1 down", "bowline.1"),
        ("vxlan", "ip link set bowline.1 mtu 1400", "bowline.1"),
        ("routed", "ip route del 10.244.1.0/24", "10.244.1.0/24"),
        ("routed", "ip -6 route del fd00:244:1::/64", "fd00:244:1::/64"),
        ("routed", "ip route del unreachable 10.244.0.0/24", "10.244.0.0/24"),
    ];
    for kind in KINDS {
        let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster");
        let networks = [0, 1].map(|index| network(&cluster, kind, index));
        let node = cluster.node(0);
        let (a, on_a) = join(&cluster, &networks[0], 0, "a");
        let (b, on_b) = join(&cluster, &networks[1], 1, "b");
        on_a.check(node).unwrap();
        for (number, (_, loss, words)) in losses.iter().filter(|(of, ..)| *of == kind).enumerate() {
            node.sh(loss);
            let refusal = on_a.check(node).expect_err(loss);
            assert!(refusal.msg.contains(words), "{loss}: {refusal}");
            join(&cluster, &networks[0], 0, &format!("more-{number}"));
            on_a.check(node).unwrap_or_else(|refusal| panic!("{loss}: not put back: {refusal}"));
            meets((&a, &on_a), (&b, &on_b));
        }
    }
}

/// A node that has moved is found again by the next ADD under the new list, and no second way to the old place stays.
#[test]
fn a_peer_that_has_moved_is_followed() {
    let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster");
    for kind in KINDS {
        let networks = [0, 1].map(|index| network(&cluster, kind, index));
        let mut elsewhere = networks[0].clone();
        elsewhere.list["plugins"][0]["peers"][0]["ips"] = json!(["172.16.0.99", "2001:db8::99"]);
        let (a, on_a) = join(&cluster, &elsewhere, 0, &format!("{kind}-a"));
        let (b, on_b) = join(&cluster, &networks[1], 1, &format!("{kind}-b"));
        let (a2, on_a2) = join(&cluster, &networks[0], 0, &format!("{kind}-a2"));
        meets((&a2, &on_a2), (&b, &on_b));
        meets((&b, &on_b), (&a, &on_a));
        on_a2.check(cluster.node(0)).unwrap();
        for (index, attachment) in [(0, on_a), (0, on_a2), (1, on_b)] {
            attachment.del(cluster.node(index)).unwrap();
        }
        [0, 1].iter().for_each(|index| clear(cluster.node(*index)));
    }
}

/// One wrong value at one place of the list; the words that the refusal must hold.
#[test]
fn a_list_that_cannot_be_is_refused() {
    let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster");
    let rows = [
        ("vxlan", "/mtu", json!(1500), "mtu: 1500 is more than the 1430"),
        ("vxlan", "/mtu", json!(1000), "mtu: 1000 is less than"),
        ("vxlan", "/vni", json!(12_345_678), "vni: 12345678"),
        ("vxlan", "/uplink", json!("eth7"), "eth7"),
        ("vxlan", "/subnets/0", json!("172.16.0.0/16"), "172.16.0.0/24"),
        ("vxlan", "/peers/0/ips/0", json!("172.16.0.10"), "172.16.0.10"),
        ("routed", "/peers/0/ips/0", json!("192.0.2.7"), "192.0.2.7"),
        ("vxlan", "/peers/0/podCIDRs/0", json!("10.244.0.0/25"), "10.244.0.0/25"),
    ];
    for (kind, pointer, wrong, words) in rows {
        let mut network = network(&cluster, kind, 0);
        put(&mut network.list["plugins"][0], pointer, wrong);
        let before = Snapshot::quick(cluster.node(0));
        let pod = cluster.node(0).pod("a");
        let refusal = network.add(cluster.node(0), &pod, Request::default()).expect_err(pointer);
        assert!(refusal.msg.starts_with(kind) && refusal.msg.contains(words), "{pointer}: {refusal}");
        let status = network.status(cluster.node(0)).expect_err(pointer);
        assert!(status.msg.contains(words), "{pointer}: {status}");
        assert_eq!(before.difference(cluster.node(0)), "", "{pointer}");
        pod.remove_netns_path();
    }
}

fn put(target: &mut Value, pointer: &str, value: Value) {
    match target.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => target[pointer.trim_start_matches('/')] = value,
    }
}

on_bowline! {
    /// What the daemon's configurations say before the daemon has readied the node, and once it runs.
    fn a_node_without_facts_says_so(node, subject) {
        for kind in KINDS {
            let network = Network::new(subject, shipped(kind));
            let status = network.status(node).expect_err(kind);
            assert_eq!(status.code, 50, "{status}");
            let pod = node.pod("a");
            let add = network.add(node, &pod, Request::default()).expect_err(kind);
            assert_eq!(add.code, 11, "{add}");
            for refusal in [status, add] {
                assert!(refusal.msg.contains("/run/bowline/node.json is absent: bowlined"), "{refusal}");
            }
            pod.remove_netns_path();
        }
    }

    /// A pod with a cable of its own is served by the node's port like any other, and limited like any other.
    fn a_routed_pod_behind_the_nodes_port(node, subject) {
        let mut list = shipped("routed");
        list["plugins"][0]["subnets"] = json!(["10.1.0.0/24", "fd00:1::/64"]);
        list["plugins"][0]["peers"] = json!([]);
        let network = Network::new(subject, list);
        let (a, b) = (node.pod("a"), node.pod("b"));
        let port = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let mut wish = Request::capability("portMappings", port);
        let limits = json!({"ingressRate": 20_000_000, "ingressBurst": 2_000_000});
        wish.capabilities.insert("bandwidth".into(), limits);
        let on_a = network.add(node, &a, wish).unwrap();
        let on_b = network.add(node, &b, Request::default()).unwrap();
        for ip in on_a.ips() {
            let _server = Server::tcp(&a, (ip, 80), "a");
            let (host, outside) = (Node::ip_like(ip), if ip.is_ipv4() { Node::OUTSIDE4.into() } else { std::net::IpAddr::from(Node::OUTSIDE6) });
            assert_eq!(ask_tcp(node.outside(), (host, 8080)), Some(format!("a {outside}")), "from outside");
            for (who, from) in [("the node", &**node), ("a neighbour", &*b), ("itself", &*a)] {
                assert!(ask_tcp(from, (host, 8080)).is_some_and(|said| said.starts_with("a ")), "{who}, {ip}");
            }
        }
        let rate = throughput(&b, &a, SocketAddr::new(on_a.ip(), 0), std::time::Duration::from_secs(1));
        assert!((10_000_000..26_000_000).contains(&rate), "{rate} bit/s");
        for attachment in [on_a, on_b] {
            attachment.check(node).unwrap();
            attachment.del(node).unwrap();
        }
        node.sh("ip -4 route flush proto 98");
        node.sh("ip -6 route flush proto 98");
    }

    /// Facts are enough, and peers are not taken where a daemon has its own.
    fn a_node_with_facts_needs_no_more(node, subject) {
        let facts = json!({"node": "one", "mode": "vxlan", "podCidrs": ["10.1.0.0/24", "fd00:1::/64"], "mtu": 1450});
        for kind in KINDS {
            node.write("/run/bowline/node.json", &facts.to_string());
            let network = Network::new(subject, shipped(kind));
            network.status(node).unwrap();
            let (a, b) = (node.pod("a"), node.pod("b"));
            let on_a = network.add(node, &a, Request::default()).unwrap();
            let on_b = network.add(node, &b, Request::default()).unwrap();
            meets((&a, &on_a), (&b, &on_b));
            for ip in on_b.ips() {
                let server = Server::tcp(&b, (ip, 82), "b");
                assert!(ask_tcp(node, server.address).is_some(), "the node reaches {ip}");
            }
            let mut with_peers = network.clone();
            with_peers.list["plugins"][0] = json!({"type": kind, "subnet": "10.1.0.0/24", "peers": []});
            let refusal = with_peers.status(node).expect_err("two masters");
            assert!(refusal.msg.contains("bowlined runs this node"), "{refusal}");
            node.sh("rm -r /run/bowline");
            for attachment in [on_a, on_b] {
                attachment.del(node).unwrap();
            }
            for pod in [a, b] {
                pod.remove_netns_path();
            }
        }
        node.delete_bridge("bowline0");
    }
}
