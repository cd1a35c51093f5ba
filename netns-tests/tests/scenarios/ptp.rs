//! ptp: a routed veth pair per pod.

use lab::network::Request;
use lab::traffic::{Server, ask_tcp, ping};
use lab::{Network, Node, on_both, on_bowline};
use serde_json::{Value, json};

use crate::conflists::{VERSIONS, host_local, list, under};

const DUAL: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

fn ptp(subnets: &[&str], more: Value) -> Value {
    let mut plugin = json!({"type": "ptp", "ipam": host_local(subnets)});
    for (key, value) in more.as_object().into_iter().flatten() {
        plugin[key] = value.clone();
    }
    plugin
}

on_both! {
    /// Gateway, another pod and the outside are reached, the latter behind the node's address.
    fn dual_stack_and_masquerade(node, subject) {
        let network = Network::new(subject, list("routed", json!([ptp(&DUAL, json!({"ipMasq": true}))])));
        let (a, b) = (node.pod("a"), node.pod("b"));
        let on_a = network.add(node, &a, Request::default()).unwrap();
        let on_b = network.add(node, &b, Request::default()).unwrap();
        let outside = [std::net::IpAddr::from(Node::OUTSIDE4), Node::OUTSIDE6.into()];
        for (family, gateway) in ["10.1.0.1", "fd00:1::1"].into_iter().enumerate() {
            assert!(ping(&a, gateway.parse::<std::net::IpAddr>().unwrap()), "{gateway}");
            let server = Server::tcp(&b, (on_b.ips()[family], 80), "b");
            assert_eq!(ask_tcp(&a, server.address), Some(format!("b {}", on_a.ips()[family])));
            let server = Server::tcp(node.outside(), (outside[family], 80), "out");
            assert_eq!(ask_tcp(&a, server.address), Some(format!("out {}", Node::ip_like(outside[family]))));
        }
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        on_b.del(node).unwrap();
    }

    /// The gateway answers under every version of the protocol.
    fn add_del_v4_every_version(node, subject) {
        for version in if subject.is_reference { &VERSIONS[..6] } else { &VERSIONS[..] } {
            let configuration = list("routed", json!([ptp(&["10.1.0.0/24"], json!({"mtu": 1400}))]));
            let network = Network::new(subject, under(version, configuration));
            let pod = node.pod("a");
            let on_a = network.add(node, &pod, Request::default()).unwrap();
            assert!(ping(&pod, std::net::Ipv4Addr::new(10, 1, 0, 1)), "{version}");
            assert!(pod.sh("ip link show eth0").contains("mtu 1400"));
            if *version >= "0.4.0" {
                on_a.check(node).unwrap();
            }
            on_a.del(node).unwrap();
            pod.remove_netns_path();
        }
    }

    /// Without `dns` the IPAM plug-in's name servers stay; any `dns` replaces them.
    fn dns_kept_and_overridden(node, subject) {
        node.write("/etc/pod-resolv.conf", "nameserver 10.9.9.9\n");
        let rows = [(json!({}), json!(["10.9.9.9"])), (json!({"dns": {"nameservers": ["10.8.8.8"]}}), json!(["10.8.8.8"]))];
        for (keys, servers) in rows {
            let mut plugin = ptp(&DUAL, keys);
            plugin["ipam"]["resolvConf"] = json!("/etc/pod-resolv.conf");
            let network = Network::new(subject, list("routed", json!([plugin])));
            let pod = node.pod("a");
            let on_a = network.add(node, &pod, Request::default()).unwrap();
            assert_eq!(on_a.result["dns"]["nameservers"], servers);
            on_a.del(node).unwrap();
            pod.remove_netns_path();
        }
    }

    /// DEL of what was never added succeeds, and again.
    fn del_unconfigured_ptp(node, subject) {
        let network = Network::new(subject, list("routed", json!([ptp(&DUAL, json!({"ipMasq": true}))])));
        let never = network.attachment(&node.pod("a"), Request::default());
        never.del(node).unwrap();
        never.del(node).unwrap();
    }
}

on_bowline! {
    /// What comes from outside reaches a fresh pod at once over IPv6 too: no address on its way is on probation.
    fn ipv6_is_forwarded_at_once(node, subject) {
        let network = Network::new(subject, list("routed", json!([ptp(&DUAL, json!({}))])));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        assert_eq!(node.sh("ip -6 addr show tentative"), "");
        assert_eq!(pod.sh("ip -6 addr show tentative"), "");
        on_a.del(node).unwrap();
    }

    /// An empty list of name servers is a choice too.
    fn dns_empty_list(node, subject) {
        node.write("/etc/pod-resolv.conf", "nameserver 10.9.9.9\n");
        let mut plugin = ptp(&DUAL, json!({"dns": {"nameservers": []}}));
        plugin["ipam"]["resolvConf"] = json!("/etc/pod-resolv.conf");
        let network = Network::new(subject, list("routed", json!([plugin])));
        let on_a = network.add(node, &node.pod("a"), Request::default()).unwrap();
        assert!(on_a.result["dns"]["nameservers"].as_array().is_none_or(Vec::is_empty), "{}", on_a.result);
        on_a.del(node).unwrap();
    }
}
