//! Services that come, go, change their kind and their hands; proxies and API servers that go away and come back.

use super::ground::{
    Ground, answers, at, but, cluster_ips, ready, service, service_cidr, silent, unanswered,
};
use super::stories;
use lab::daemon;
use lab::wait::until;
use serde_json::json;

const HTTP: &[(&str, &str, u16)] = &[("http", "TCP", 8080)];

stories! {
    /// One that goes takes nothing of the others along, and may come back as it was.
    fn services_come_and_go(mode) {
        let mut ground = Ground::new(mode, 2, 3);
        let (nodes, port) = ([ground.node_ips(0), ground.node_ips(1)].concat(), |of: u8| 30080 + u16::from(of));
        let up = |ground: &Ground, name: &str, number: u8, pod: usize| {
            ground.put(service(name, number, &[("http", "TCP", 80, port(number))]));
            ground.slice(name, "1", HTTP, &ready(2, [pod]));
        };
        let outside = ground.cluster.outside().clone();
        (1..=2).for_each(|of| up(&ground, &format!("web-{of}"), of, usize::from(of) - 1));
        for of in 1..=2 {
            let name = format!("s{}", of - 1);
            answers("TCP", &ground.client, &at(&cluster_ips(of), 80), &[&name]);
            answers("TCP", &outside, &at(&nodes, port(of)), &[&name]);
        }
        ground.delete("web-1");
        unanswered(&ground.client, &at(&cluster_ips(1), 80));
        unanswered(&outside, &at(&nodes, port(1)));
        up(&ground, "web-3", 3, 2);
        answers("TCP", &ground.client, &at(&cluster_ips(3), 80), &["s2"]);
        answers("TCP", &outside, &at(&nodes, port(2)), &["s1"]);
        ground.restart(0);
        up(&ground, "web-1", 1, 0);
        answers("TCP", &ground.client, &at(&cluster_ips(1), 80), &["s0"]);
        answers("TCP", &ground.client, &at(&cluster_ips(2), 80), &["s1"]);
        // A NodePort that was given back may be another Service's, and Services may have the same endpoints.
        ground.delete("web-3");
        ground.put(service("web-4", 4, &[("http", "TCP", 80, port(3))]));
        ground.slice("web-4", "1", HTTP, &ready(2, [1]));
        answers("TCP", &outside, &at(&nodes, port(3)), &["s1"]);
        ground.delete("web-4");
        unanswered(&outside, &at(&nodes, port(3)));
        answers("TCP", &outside, &at(&nodes, port(2)), &["s1"]);
    }

    /// From name to address and back, by type; in and out of this proxy's care, by label; the second family first.
    fn a_service_changes_its_kind(mode) {
        let ground = Ground::new(mode, 2, 2);
        let (to, nodes) = (at(&cluster_ips(10), 80), at(&ground.node_ips(1), 30080));
        let name = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {"type": "ExternalName", "externalName": "example.com"}});
        let by_cluster_ip = service("web", 10, &[("http", "TCP", 80, 0)]);
        let by_node_port = service("web", 10, &[("http", "TCP", 80, 30080)]);
        ground.put(name.clone());
        ground.slice("web", "1", HTTP, &ready(2, [0, 1]));
        unanswered(&ground.client, &to);
        ground.put(by_cluster_ip.clone());
        answers("TCP", &ground.client, &to, &["s0", "s1"]);
        ground.put(name.clone());
        unanswered(&ground.client, &to);
        ground.put(by_node_port.clone());
        answers("TCP", &ground.client, &to, &["s0", "s1"]);
        answers("TCP", ground.cluster.outside(), &nodes, &["s0", "s1"]);
        ground.put(name);
        unanswered(&ground.client, &to);
        unanswered(ground.cluster.outside(), &nodes);
        let [v4, v6] = cluster_ips(10);
        let families = json!({"clusterIP": v6, "clusterIPs": [v6, v4], "ipFamilies": ["IPv6", "IPv4"]});
        let second_first = but(by_node_port, &families);
        ground.put(second_first.clone());
        answers("TCP", &ground.client, &to, &["s0", "s1"]);
        let mut others = second_first.clone();
        others["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
        ground.put(others);
        unanswered(&ground.client, &to);
        ground.put(second_first);
        answers("TCP", &ground.client, &to, &["s0", "s1"]);
        let one = but(by_cluster_ip, &json!({"clusterIP": v6, "clusterIPs": [v6], "ipFamilies": ["IPv6"]}));
        ground.put(one);
        unanswered(&ground.client, &to[..1]);
        answers("TCP", &ground.client, &to[1..], &["s0", "s1"]);
    }

    /// What is there goes on without the API, and what comes after it counts.
    fn the_api_restarts(mode) {
        let ground = Ground::new(mode, 2, 2);
        let put = |name: &str, number: u8, pod: usize| {
            ground.put(service(name, number, &[("http", "TCP", 80, 0)]));
            ground.slice(name, "1", HTTP, &ready(2, [pod]));
        };
        put("before", 10, 0);
        answers("TCP", &ground.client, &at(&cluster_ips(10), 80), &["s0"]);
        ground.api.stop();
        answers("TCP", &ground.client, &at(&cluster_ips(10), 80), &["s0"]);
        put("after", 11, 1);
        ground.api.resume(ground.cluster.listener(ground.api.address().port()));
        answers("TCP", &ground.client, &at(&cluster_ips(11), 80), &["s1"]);
        answers("TCP", &ground.client, &at(&cluster_ips(10), 80), &["s0"]);
    }

    /// A new range of ClusterIPs, and Services in it.
    fn another_service_cidr_is_served(mode) {
        let ground = Ground::new(mode, 2, 1);
        let ips = ["10.97.0.10", "fd00:97::10"].map(|ip| ip.parse().expect("an address"));
        ground.put(service_cidr("more", ["10.97.0.0/24", "fd00:97::/120"]));
        // The range is known by what happens to its unused addresses; iptables knows nothing of ranges.
        if !ground.is_iptables() {
            silent(&ground.client, &at(&ips, 80));
        }
        let elsewhere = json!({"clusterIP": ips[0], "clusterIPs": ips});
        ground.put(but(service("web", 10, &[("http", "TCP", 80, 0)]), &elsewhere));
        ground.slice("web", "1", HTTP, &ready(2, [0]));
        answers("TCP", &ground.client, &at(&ips, 80), &["s0"]);
    }

    /// Somebody removes every rule by hand.
    fn rules_removed_by_hand_come_back(mode) {
        let ground = Ground::new(mode, 2, 2);
        ground.put(service("web", 10, &[("http", "TCP", 80, 30080)]));
        ground.slice("web", "1", HTTP, &ready(2, [0, 1]));
        let (to, nodes) = (at(&cluster_ips(10), 80), at(&ground.node_ips(0), 30080));
        answers("TCP", &ground.client, &to, &["s0", "s1"]);
        let node = ground.cluster.node(0);
        if ground.is_iptables() {
            for program in ["iptables", "ip6tables"] {
                let saved = node.sh(&format!("{program}-save"));
                let rest: String = saved.lines().filter(|line| !line.contains("KUBE")).map(|line| format!("{line}\n")).collect();
                let restored = node.output::<&str>(&format!("{program}-restore"), &[], rest.as_bytes());
                assert!(restored.status.success(), "{restored:?}");
            }
        } else {
            ["ip", "ip6"].iter().for_each(|family| drop(node.sh(&format!("nft delete table {family} bowline_proxy"))));
        }
        answers("TCP", &ground.client, &to, &["s0", "s1"]);
        answers("TCP", ground.cluster.outside(), &nodes, &["s0", "s1"]);
        until("the repair to be counted", || {
            node.metric("bowline_proxy_drift_repaired_total", "").filter(|count| *count > 0.0)
        });
        if !ground.is_iptables() {
            // A chain of rules that never change, emptied, is counted too.
            let counted = || node.metric("bowline_proxy_drift_repaired_total", "").unwrap_or_default();
            let before = counted();
            node.sh("nft flush chain ip bowline_proxy services");
            until("the chain to be counted", || (counted() > before).then_some(()));
        }
        answers("TCP", &ground.client, &to, &["s0", "s1"]);
        trace_knows_links_and_loopback(&ground);
    }
}

/// `bowline trace` follows packets through links that there are, and to NodePorts on loopback where they are served.
fn trace_knows_links_and_loopback(ground: &Ground) {
    let node = ground.cluster.node(0);
    let bowline = daemon::program("bowline");
    let trace = |from: &str, to: &str| {
        let output = node.output(&bowline.to_string_lossy(), &["trace", from, to], b"");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (is_fine, said) = trace("eth0", "10.96.0.10:80");
    assert!(is_fine && said.contains("on node node-0: "), "{said}");
    let (is_fine, said) = trace("eth7", "10.96.0.10:80");
    assert!(!is_fine && said.contains("this node has no link `eth7`"), "{said}");
    let (is_fine, said) = trace("node", "127.0.0.1:30080");
    assert!(is_fine, "{said}");
    assert_eq!(said.contains("serves NodePort 30080 on loopback too"), ground.is_iptables(), "{said}");
    assert_eq!(said.contains("8080"), ground.is_iptables(), "{said}");
}
