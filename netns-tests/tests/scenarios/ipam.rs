//! host-local and static, as bridge delegates to them.

use lab::network::Request;
use lab::{Network, Node, Subject, on_both, on_bowline};
use serde_json::{Value, json};

use crate::conflists::{bridge, list};

const DUAL: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];
const LEASES: &str = "/var/lib/cni/networks/pods";

fn with_ipam(subject: &Subject, ipam: Value, capability: &str) -> Network {
    // Two ranges of one family would need two gateway addresses on the bridge, which the reference refuses.
    let is_gateway = capability != "ipRanges";
    let keys = json!({"isGateway": is_gateway, "ipam": ipam, "capabilities": {capability: true}});
    let plugin = bridge(&DUAL, keys);
    Network::new(subject, list("pods", json!([plugin])))
}

on_both! {
    /// The reference's files, byte for byte; DEL leaves the markers only.
    fn lease_files(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({}))])));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        let second = network.add(node, &pod, Request::ifname("eth1")).unwrap();
        assert_eq!(on_a.ips(), ["10.1.0.2", "fd00:1::2"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
        let raw = |file: &str| node.run(|| std::fs::read_to_string(format!("{LEASES}/{file}")).unwrap());
        assert_eq!(raw("10.1.0.2"), "a\r\neth0");
        assert_eq!(raw("fd00:1::3"), "a\r\neth1");
        assert_eq!(raw("last_reserved_ip.0"), "10.1.0.3");
        assert_eq!(raw("last_reserved_ip.1"), "fd00:1::3");
        on_a.del(node).unwrap();
        assert_eq!(leases(node), ["10.1.0.3", "fd00:1::3"]);
        second.check(node).unwrap();
        second.del(node).unwrap();
        assert_eq!(leases(node), Vec::<String>::new());
        node.delete_bridge("cni0");
    }

    /// Addresses that were asked for, by CNI_ARGS, args.cni.ips and runtimeConfig; a taken one is refused.
    fn custom_ip(node, subject) {
        let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00:1::/64"}]]});
        let network = with_ipam(subject, ipam, "ips");
        let add = |name: &str, request: Request| network.add(node, &node.pod(name), request);
        let by_args = add("a", Request { args: "IgnoreUnknown=1;IP=10.1.0.40".into(), ..Request::default() }).unwrap();
        let by_runtime = add("b", Request::capability("ips", json!(["10.1.0.41", "fd00:1::41/64"]))).unwrap();
        assert_eq!(by_args.ip().to_string(), "10.1.0.40");
        assert_eq!(by_runtime.ips(), ["10.1.0.41", "fd00:1::41"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
        for taken in ["10.1.0.40", "10.1.0.1", "10.77.0.1"] {
            let pod = node.pod(&format!("c-{taken}"));
            let request = Request::capability("ips", json!([taken]));
            let refused = network.add(node, &pod, request.clone()).unwrap_err();
            assert!(refused.msg.contains(taken), "{refused}");
            // The reference leaves its veth to the DEL that every runtime sends.
            network.attachment(&pod, request).del(node).unwrap();
        }
        by_args.del(node).unwrap();
        by_runtime.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// Ranges from the runtime come first.
    fn runtime_ranges(node, subject) {
        let network = with_ipam(subject, json!({"type": "host-local", "subnet": "10.1.0.0/24"}), "ipRanges");
        let request = Request::capability("ipRanges", json!([[{"subnet": "10.7.0.0/24", "rangeStart": "10.7.0.9"}]]));
        let on_a = network.add(node, &node.pod("a"), request).unwrap();
        assert_eq!(on_a.ips(), ["10.7.0.9", "10.1.0.2"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// A small pool runs dry, says so, and serves again after a DEL.
    fn exhausted_pool(node, subject) {
        let network = with_ipam(subject, json!({"type": "host-local", "subnet": "10.1.0.0/30"}), "ips");
        let on_a = network.add(node, &node.pod("a"), Request::default()).unwrap();
        let b = node.pod("b");
        let refused = network.add(node, &b, Request::default()).unwrap_err();
        assert!(refused.msg.contains("no IP addresses available in range set"), "{refused}");
        network.attachment(&b, Request::default()).del(node).unwrap();
        on_a.del(node).unwrap();
        let on_b = network.add(node, &b, Request::default()).unwrap();
        on_b.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// static: from the configuration, and replaced by the runtime's.
    fn static_addresses(node, subject) {
        let ipam = json!({
            "type": "static", "addresses": [{"address": "10.1.0.10/24", "gateway": "10.1.0.1"}],
            "routes": [{"dst": "0.0.0.0/0"}],
        });
        let network = with_ipam(subject, ipam, "ips");
        let on_a = network.add(node, &node.pod("a"), Request::default()).unwrap();
        assert_eq!(on_a.ip().to_string(), "10.1.0.10");
        let on_b = network.add(node, &node.pod("b"), Request::capability("ips", json!(["10.1.0.11/24"]))).unwrap();
        assert_eq!(on_b.ip().to_string(), "10.1.0.11");
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        on_b.del(node).unwrap();
        node.delete_bridge("cni0");
    }
}

on_bowline! {
    /// Files of the oldest format, which hold the container ID only, are freed too.
    fn old_format(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&["10.1.0.0/24"], json!({}))])));
        let on_a = network.add(node, &node.pod("a"), Request::default()).unwrap();
        node.write(format!("{LEASES}/10.1.0.2"), "a");
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        assert_eq!(leases(node), Vec::<String>::new());
        node.delete_bridge("cni0");
    }
}

fn leases(node: &Node) -> Vec<String> {
    node.list(LEASES).into_iter().filter(|n| n.parse::<std::net::IpAddr>().is_ok()).collect()
}
