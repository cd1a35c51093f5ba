//! portmap: host ports.

use lab::network::Request;
use lab::traffic::{Server, UdpClient, ask_tcp, ask_udp, is_silent_tcp};
use lab::{Attachment, Network, Node, Subject, on_both, on_bowline, on_bowline_iptables};
use serde_json::{Value, json};

use crate::conflists::{bridge, list};

const DUAL: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

fn network(subject: &Subject, keys: Value) -> Network {
    let mut portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    for (key, value) in keys.as_object().into_iter().flatten() {
        portmap[key] = value.clone();
    }
    // The backend of the masquerade follows that of portmap, as a node has one or the other.
    let masquerade = keys.get("backend").map_or(json!({}), |b| json!({"ipMasqBackend": b}));
    let mut masquerade = masquerade;
    masquerade["ipMasq"] = json!(true);
    Network::new(subject, list("pods", json!([bridge(&DUAL, masquerade), portmap])))
}

fn ports(mappings: Value) -> Request {
    Request::capability("portMappings", mappings)
}

/// A pod's server is reached by the node's port from outside, from the node itself, from another pod, and from the
/// pod itself; a second attachment's port stays when the first one goes.
fn tcp_story(node: &Node, network: &Network) {
    let (a, b) = (node.pod("a"), node.pod("b"));
    let mapping = |port| json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
    let on_a = network.add(node, &a, ports(mapping(8080))).unwrap();
    let on_b = network.add(node, &b, ports(mapping(8081))).unwrap();
    for family in 0..2 {
        let (pod_a, pod_b) = (on_a.ips()[family], on_b.ips()[family]);
        let (in_a, in_b) = (Server::tcp(&a, (pod_a, 80), "a"), Server::tcp(&b, (pod_b, 80), "b"));
        let host = Node::ip_like(pod_a);
        let outside =
            if host.is_ipv4() { Node::OUTSIDE4.into() } else { std::net::IpAddr::from(Node::OUTSIDE6) };
        assert_eq!(ask_tcp(node.outside(), (host, 8080)), Some(format!("a {outside}")), "from outside");
        assert_eq!(ask_tcp(node.outside(), (host, 8081)), Some(format!("b {outside}")), "from outside");
        assert!(ask_tcp(node, (host, 8080)).is_some_and(|said| said.starts_with("a ")), "from the node");
        if host.is_ipv4() {
            let local = ask_tcp(node, (std::net::Ipv4Addr::LOCALHOST, 8080));
            assert!(local.is_some_and(|said| said.starts_with("a ")), "from localhost");
        }
        assert!(ask_tcp(&b, (host, 8080)).is_some_and(|said| said.starts_with("a ")), "from a neighbour");
        assert!(ask_tcp(&a, (host, 8080)).is_some_and(|said| said.starts_with("a ")), "hairpin");
        assert!(is_silent_tcp(node.outside(), (host, 8082)), "an unmapped port");
        drop((in_a, in_b));
    }
    check(node, &on_a);
    on_a.del(node).unwrap();
    let in_b = Server::tcp(&b, (on_b.ip(), 80), "b");
    assert!(is_silent_tcp(node.outside(), (Node::IP4, 8080)), "the port outlives its pod");
    assert!(ask_tcp(node.outside(), (Node::IP4, 8081)).is_some(), "a's DEL took b's port");
    drop(in_b);
    on_b.del(node).unwrap();
    node.delete_bridge("cni0");
}

/// A live UDP flow follows its port to the next pod, and dies with the last.
fn udp_story(node: &Node, network: &Network) {
    let mapping = json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]);
    let (a, b) = (node.pod("a"), node.pod("b"));
    let on_a = network.add(node, &a, ports(mapping.clone())).unwrap();
    let client = UdpClient::new(node.outside(), (Node::IP4, 5353));
    let in_a = Server::udp(&a, (on_a.ip(), 53), "a");
    assert!(client.ask().is_some_and(|said| said.starts_with("a ")));
    drop(in_a);
    on_a.del(node).unwrap();
    let on_b = network.add(node, &b, ports(mapping)).unwrap();
    let in_b = Server::udp(&b, (on_b.ip(), 53), "b");
    assert!(client.ask().is_some_and(|said| said.starts_with("b ")), "the flow still goes to the dead pod");
    drop(in_b);
    on_b.del(node).unwrap();
    node.delete_bridge("cni0");
}

/// CHECK, where it works: the reference (1.1.1) looks for IPv4 rules among those of IPv6.
fn check(node: &Node, attachment: &Attachment) {
    if !attachment.network.subject.is_reference {
        attachment.check(node).unwrap();
    }
}

on_both! {
    /// The story of host ports over TCP, both families.
    fn tcp(node, subject) { tcp_story(node, &network(subject, json!({}))); }

    /// The story of host ports over UDP.
    fn udp_takeover(node, subject) { udp_story(node, &network(subject, json!({}))); }

    /// A mapping with a host address is answered there only.
    fn host_ip(node, subject) {
        node.sh("ip addr add 203.0.113.3/24 dev eth0");
        let network = network(subject, json!({}));
        let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "203.0.113.3"}]);
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, ports(mapping)).unwrap();
        let server = Server::tcp(&pod, (on_a.ip(), 80), "a");
        assert!(ask_tcp(node.outside(), (std::net::Ipv4Addr::new(203, 0, 113, 3), 8080)).is_some());
        assert!(is_silent_tcp(node.outside(), (Node::IP4, 8080)));
        drop(server);
        check(node, &on_a);
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
        node.sh("ip addr del 203.0.113.3/24 dev eth0");
    }

    /// Without SNAT the pod sees its neighbour behind a host port as it is.
    fn snat_off(node, subject) {
        let network = network(subject, json!({"snat": false}));
        let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, ports(mapping)).unwrap();
        let server = Server::tcp(&pod, (on_a.ip(), 80), "a");
        assert_eq!(ask_tcp(node.outside(), (Node::IP4, 8080)), Some(format!("a {}", Node::OUTSIDE4)));
        drop(server);
        check(node, &on_a);
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }
}

on_bowline! {
    /// Explicitly on nftables; the last DEL takes the tables along.
    fn tcp_nftables(node, subject) {
        tcp_story(node, &network(subject, json!({"backend": "nftables"})));
        assert_eq!(node.sh("nft list ruleset"), "");
    }

    /// A flow is cut when its port goes, not when the next pod comes: conntrack forgets it on DEL.
    fn udp_flow_is_forgotten_on_del(node, subject) {
        let network = network(subject, json!({}));
        let pod = node.pod("a");
        let mapping = json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]);
        let on_a = network.add(node, &pod, ports(mapping)).unwrap();
        let server = Server::udp(&pod, (on_a.ip(), 53), "a");
        assert!(ask_udp(node.outside(), (Node::IP4, 5353)).is_some());
        assert!(node.sh("conntrack -L -p udp").contains("dport=5353"));
        drop(server);
        on_a.del(node).unwrap();
        assert!(!node.sh("conntrack -L -p udp").contains("dport=5353"));
        node.delete_bridge("cni0");
    }

    /// Nobody else's flow is forgotten when a pod with other ports comes and goes.
    fn udp_flow_of_a_neighbour_is_kept(node, subject) {
        let network = network(subject, json!({}));
        let (pod, neighbour) = (node.pod("a"), node.pod("b"));
        let on_udp = json!([{"hostPort": 5353, "containerPort": 53, "protocol": "udp"}]);
        let on_tcp = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let on_a = network.add(node, &pod, ports(on_udp)).unwrap();
        let server = Server::udp(&pod, (on_a.ip(), 53), "a");
        assert!(ask_udp(node.outside(), (Node::IP4, 5353)).is_some());
        let on_b = network.add(node, &neighbour, ports(on_tcp)).unwrap();
        assert!(node.sh("conntrack -L -p udp").contains("dport=5353"), "ADD of a TCP port forgot it");
        on_b.del(node).unwrap();
        assert!(node.sh("conntrack -L -p udp").contains("dport=5353"), "DEL of a TCP port forgot it");
        drop(server);
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// Conditions select who may use the port.
    fn conditions(node, subject) {
        let keys = json!({"conditionsV4": ["ip", "saddr", "!=", "203.0.113.1"], "backend": "nftables"});
        let network = network(subject, keys);
        let pod = node.pod("a");
        let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let on_a = network.add(node, &pod, ports(mapping)).unwrap();
        let server = Server::tcp(&pod, (on_a.ip(), 80), "a");
        assert!(is_silent_tcp(node.outside(), (Node::IP4, 8080)), "excluded by its source");
        node.outside().sh("ip addr add 203.0.113.9/24 dev eth0");
        node.outside().sh("ip route replace 203.0.113.0/24 dev eth0 src 203.0.113.9");
        assert!(ask_tcp(node.outside(), (Node::IP4, 8080)).is_some());
        drop(server);
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// With masqAll the pod sees the bridge, whoever asks.
    fn masq_all(node, subject) {
        let network = network(subject, json!({"masqAll": true}));
        let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, ports(mapping)).unwrap();
        let server = Server::tcp(&pod, (on_a.ip(), 80), "a");
        assert_eq!(ask_tcp(node.outside(), (Node::IP4, 8080)), Some("a 10.1.0.1".to_owned()));
        drop(server);
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }
}

on_bowline_iptables! {
    /// The same stories by the reference's chains.
    fn tcp_iptables(node, subject) { tcp_story(node, &network(subject, json!({"backend": "iptables"}))); }

    /// UDP by the reference's chains.
    fn udp_takeover_iptables(node, subject) { udp_story(node, &network(subject, json!({"backend": "iptables"}))); }

    /// Conditions in iptables' words.
    fn conditions_iptables(node, subject) {
        let keys = json!({"conditionsV4": ["!", "-s", "203.0.113.1"], "backend": "iptables"});
        let network = network(subject, keys);
        let pod = node.pod("a");
        let mapping = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
        let on_a = network.add(node, &pod, ports(mapping)).unwrap();
        let server = Server::tcp(&pod, (on_a.ip(), 80), "a");
        assert!(is_silent_tcp(node.outside(), (Node::IP4, 8080)), "excluded by its source");
        drop(server);
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }
}
