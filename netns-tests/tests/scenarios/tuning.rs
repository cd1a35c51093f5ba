//! tuning: sysctls and link attributes of a pod's interface, put back on DEL.

use lab::network::Request;
use lab::{Network, Subject, on_both, on_bowline};
use serde_json::{Value, json};

use crate::conflists::{bridge, list};

fn network(subject: &Subject, keys: Value) -> Network {
    let mut tuning = json!({"type": "tuning", "capabilities": {"mac": true}});
    for (key, value) in keys.as_object().into_iter().flatten() {
        tuning[key] = value.clone();
    }
    Network::new(subject, list("pods", json!([bridge(&["10.1.0.0/24"], json!({})), tuning])))
}

on_both! {
    /// Every attribute from the configuration is set, seen by CHECK, and put back by DEL of tuning alone.
    fn set_check_restore(node, subject) {
        let rows = [
            (json!({"promisc": true}), "PROMISC"),
            (json!({"mtu": 1300}), "mtu 1300"),
            (json!({"allmulti": true}), "ALLMULTI"),
            (json!({"mac": "c2:00:00:00:00:07"}), "c2:00:00:00:00:07"),
            (json!({"args": {"cni": {"mtu": 1290}}}), "mtu 1290"),
        ];
        for (keys, shown) in rows {
            let network = network(subject, keys.clone());
            let pod = node.pod("a");
            let on_a = network.add(node, &pod, Request::default()).unwrap();
            assert!(pod.sh("ip -d link show eth0").contains(shown), "{keys}");
            on_a.check(node).unwrap();
            on_a.invocation("DEL", 1).run(node).unwrap();
            assert!(!pod.sh("ip -d link show eth0").contains(shown), "{keys}");
            on_a.del(node).unwrap();
            pod.remove_netns_path();
        }
        node.delete_bridge("cni0");
    }

    /// A sysctl of the pod's namespace; drift is found by CHECK.
    fn sysctl(node, subject) {
        let network = network(subject, json!({"sysctl": {"net.core.somaxconn": "500"}}));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        assert_eq!(pod.read("/proc/sys/net/core/somaxconn"), "500");
        on_a.check(node).unwrap();
        pod.write("/proc/sys/net/core/somaxconn", "501");
        on_a.check(node).unwrap_err();
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }
}

on_bowline! {
    /// Sysctls, with IFNAME standing for the interface; drift is found by CHECK.
    fn sysctls_of_the_interface(node, subject) {
        let keys = json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net.core.somaxconn": "500"}});
        let network = network(subject, keys);
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        assert_eq!(pod.read("/proc/sys/net/ipv4/conf/eth0/arp_filter"), "1");
        assert_eq!(pod.read("/proc/sys/net/core/somaxconn"), "500");
        on_a.check(node).unwrap();
        pod.write("/proc/sys/net/core/somaxconn", "501");
        on_a.check(node).unwrap_err();
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// A sysctl that the node's list does not allow is refused.
    fn allow_list(node, subject) {
        node.write("/etc/cni/tuning/allowlist.conf", "^net.core.somaxconn$\n");
        let allowed = network(subject, json!({"sysctl": {"net.core.somaxconn": "500"}}));
        let on_a = allowed.add(node, &node.pod("a"), Request::default()).unwrap();
        let refused = network(subject, json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}}));
        let b = node.pod("b");
        refused.add(node, &b, Request::default()).unwrap_err();
        refused.attachment(&b, Request::default()).del(node).unwrap();
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }

    /// The backup goes with DEL, also when the namespace is gone.
    fn data_dir_is_empty_after_del(node, subject) {
        let network = network(subject, json!({"mtu": 1300, "promisc": true, "allmulti": true, "txQLen": 77}));
        for is_gone in [false, true] {
            let pod = node.pod("a");
            let on_a = network.add(node, &pod, Request::default()).unwrap();
            assert_eq!(node.list("/run/cni/tuning"), ["a_eth0.json"]);
            if is_gone {
                pod.remove_netns_path();
                pod.sh("ip link delete eth0");
            }
            on_a.del(node).unwrap();
            assert_eq!(node.list("/run/cni/tuning"), Vec::<String>::new());
            if !is_gone {
                pod.remove_netns_path();
            }
        }
        node.delete_bridge("cni0");
    }

    /// txQLen, which Debian's reference lacks.
    fn tx_queue_length(node, subject) {
        let network = network(subject, json!({"txQLen": 77}));
        let pod = node.pod("a");
        let on_a = network.add(node, &pod, Request::default()).unwrap();
        assert!(pod.sh("ip link show eth0").contains("qlen 77"));
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        node.delete_bridge("cni0");
    }
}
