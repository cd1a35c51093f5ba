//! Ports: several, edited, named, on endpoints that have other numbers, spread over slices; and protocols.

use super::ground::{Ground, answers, at, but, cluster_ips, ready, service, unanswered};
use super::stories;
use serde_json::json;

stories! {
    /// Several ports, edited while the Service lives.
    fn ports_are_what_the_service_has_now(mode) {
        let ground = Ground::new(mode, 2, 2);
        let to = |port| at(&cluster_ips(10), port);
        ground.put(service("web", 10, &[("a", "TCP", 80, 0), ("b", "TCP", 81, 0)]));
        ground.slice("web", "1", &[("a", "TCP", 8080), ("b", "TCP", 8081)], &ready(2, [0]));
        answers("TCP", &ground.client, &to(80), &["s0"]);
        answers("TCP", &ground.client, &to(81), &["s0-b"]);
        ground.put(service("web", 10, &[("b", "TCP", 82, 0)]));
        answers("TCP", &ground.client, &to(82), &["s0-b"]);
        unanswered(&ground.client, &[to(80), to(81)].concat());
        ground.put(service("web", 10, &[("a", "TCP", 82, 0), ("b", "TCP", 80, 0)]));
        answers("TCP", &ground.client, &to(82), &["s0"]);
        answers("TCP", &ground.client, &to(80), &["s0-b"]);
    }

    /// One port name, other numbers on other endpoints, slice by slice; ports and endpoints in slices of their own.
    fn slices_make_one_service(mode) {
        let ground = Ground::new(mode, 2, 2);
        let to = |port| at(&cluster_ips(10), port);
        ground.put(service("web", 10, &[("a", "TCP", 80, 0), ("b", "TCP", 81, 0)]));
        ground.slice("web", "1", &[("a", "TCP", 8080)], &ready(2, [0]));
        ground.slice("web", "2", &[("a", "TCP", 8081)], &ready(2, [1]));
        // The same endpoint's other port is in a slice of its own, as mirrored Endpoints have it.
        ground.slice("web", "3", &[("b", "TCP", 8081)], &ready(2, [0]));
        answers("TCP", &ground.client, &to(80), &["s0", "s1-b"]);
        answers("TCP", &ground.client, &to(81), &["s0-b"]);
        ground.slice("web", "1", &[("a", "TCP", 8081)], &ready(2, [0]));
        answers("TCP", &ground.client, &to(80), &["s0-b", "s1-b"]);
        // A slice that somebody labels as headless is out; without the label it is in again.
        for family in ["IPv4", "IPv6"] {
            let mut slice = ground.slice_object(("web", "2"), family, &[("a", "TCP", 8081)], &ready(2, [1]));
            slice["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
            ground.put(slice);
        }
        answers("TCP", &ground.client, &to(80), &["s0-b"]);
        ground.slice("web", "2", &[("a", "TCP", 8081)], &ready(2, [1]));
        answers("TCP", &ground.client, &to(80), &["s0-b", "s1-b"]);
    }

    /// TCP and UDP on one number, with NodePorts and endpoints of their own, whatever the type.
    fn protocols_share_a_number(mode) {
        let ground = Ground::new(mode, 2, 2);
        let ips = cluster_ips(10);
        let slices = || {
            ground.slice("web", "tcp", &[("t", "TCP", 8080)], &ready(2, [0]));
            ground.slice("web", "udp", &[("u", "UDP", 8081)], &ready(2, [1]));
        };
        let cluster_ip = || {
            answers("TCP", &ground.client, &at(&ips, 80), &["s0"]);
            answers("UDP", &ground.client, &at(&ips, 80), &["s1-b"]);
        };
        let nodes = [ground.node_ips(0), ground.node_ips(1)].concat();
        ground.put(service("web", 10, &[("t", "TCP", 80, 0)]));
        slices();
        answers("TCP", &ground.client, &at(&ips, 80), &["s0"]);
        ground.put(service("web", 10, &[("t", "TCP", 80, 30081), ("u", "UDP", 80, 30082)]));
        cluster_ip();
        answers("TCP", ground.cluster.outside(), &at(&nodes, 30081), &["s0"]);
        answers("UDP", ground.cluster.outside(), &at(&nodes, 30082), &["s1-b"]);
        unanswered(ground.cluster.outside(), &at(&nodes, 30082));
        let balanced = service("web", 10, &[("t", "TCP", 80, 30080), ("u", "UDP", 80, 30080)]);
        ground.put(but(balanced, &json!({"type": "LoadBalancer"})));
        cluster_ip();
        answers("UDP", ground.cluster.outside(), &at(&nodes, 30080), &["s1-b"]);
    }
}
