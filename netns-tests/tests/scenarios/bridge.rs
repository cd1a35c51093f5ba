//! bridge: pods on one node.

use lab::traffic::{Server, ask_tcp, ask_udp, ping};
use lab::{Network, Node, on_both};
use serde_json::json;

use crate::conflists::{bridge, list};

on_both! {
    /// Two pods of both families reach each other and their gateway, and see each other's own addresses.
    fn add_del_dual_stack(node, subject) {
        let plugins = json!([bridge(&["10.1.0.0/24", "fd00:1::/64"], json!({}))]);
        let network = Network::new(subject, list("pods", plugins));
        let (a, b) = (node.pod("a"), node.pod("b"));
        let on_a = network.add(node, &a, Default::default()).unwrap();
        let on_b = network.add(node, &b, Default::default()).unwrap();
        for (mine, peer, gateway) in
            [(0, on_b.ips()[0], "10.1.0.1"), (1, on_b.ips()[1], "fd00:1::1")]
        {
            let (tcp, udp) = (Server::tcp(&b, (peer, 80), "b"), Server::udp(&b, (peer, 53), "b"));
            let seen = format!("b {}", on_a.ips()[mine]);
            assert_eq!(ask_tcp(&a, tcp.address), Some(seen.clone()));
            assert_eq!(ask_udp(&a, udp.address), Some(seen));
            assert!(ping(&a, gateway.parse::<std::net::IpAddr>().unwrap()), "{gateway}");
        }
        on_a.check(node).unwrap();
        on_b.check(node).unwrap();
        on_a.del(node).unwrap();
        on_b.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// With ipMasq the outside sees the node; without, it would see an address that it cannot answer.
    fn masquerade(node, subject) {
        let plugins = json!([bridge(&["10.1.0.0/24", "fd00:1::/64"], json!({"ipMasq": true}))]);
        let network = Network::new(subject, list("pods", plugins));
        let (a, b) = (node.pod("a"), node.pod("b"));
        let on_a = network.add(node, &a, Default::default()).unwrap();
        let on_b = network.add(node, &b, Default::default()).unwrap();
        for outside in [std::net::IpAddr::from(Node::OUTSIDE4), Node::OUTSIDE6.into()] {
            let server = Server::tcp(node.outside(), (outside, 80), "outside");
            assert_eq!(ask_tcp(&a, server.address), Some(format!("outside {}", Node::ip_like(outside))));
        }
        let server = Server::tcp(&b, (on_b.ip(), 80), "b");
        assert_eq!(ask_tcp(&a, server.address), Some(format!("b {}", on_a.ip())), "never pod to pod");
        on_a.del(node).unwrap();
        on_b.del(node).unwrap();
        node.delete_bridge("cni0");
    }
}
