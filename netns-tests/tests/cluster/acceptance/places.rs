//! Where clients and endpoints are: policies, zones, nodes, host networks.

use super::ground::{
    Conditions, Endpoint, Ground, answers, at, but, cluster_ips, ready, refused, service, silent, with,
};
use super::stories;
use lab::Space;
use serde_json::json;

const HTTP: &[(&str, &str, u16)] = &[("http", "TCP", 8080)];

stories! {
    /// Only endpoints of the client's node, whether clients or endpoints are pods or the nodes themselves.
    fn internal_policy_local(mode) {
        let mut ground = Ground::new(mode, 2, 2);
        let far = ground.cluster.pod(1, "far");
        let to = at(&cluster_ips(10), 80);
        let local = |number| {
            let it = service("web", number, &[("http", "TCP", 80, 0)]);
            but(it, &json!({"internalTrafficPolicy": "Local"}))
        };
        ground.put(local(10));
        ground.slice("web", "1", HTTP, &ready(2, [0]));
        let here: [&Space; 2] = [&ground.client, ground.cluster.node(0)];
        let there: [&Space; 2] = [&far, ground.cluster.node(1)];
        here.iter().for_each(|from| answers("TCP", from, &to, &["s0"]));
        there.iter().for_each(|from| silent(from, &to));
        ground.slice("web", "1", HTTP, &ready(2, [0, 1]));
        there.iter().for_each(|from| answers("TCP", from, &to, &["s1"]));
        here.iter().for_each(|from| answers("TCP", from, &to, &["s0"]));
        // Terminating ones of this node, where there are no others.
        ground.slice("web", "1", HTTP, &with(2, [0], Conditions::Leaving));
        here.iter().for_each(|from| answers("TCP", from, &to, &["s0"]));
        there.iter().for_each(|from| silent(from, &to));
        let node = Space::clone(ground.cluster.node(0));
        ground.serve(&node, "host-0");
        let host = Endpoint { pod: None, ..ready(2, [0])[0] };
        ground.slice("web", "1", HTTP, &[host]);
        for from in [&*ground.client, &node] {
            answers("TCP", from, &to, &["host-0"]);
        }
        silent(&far, &to);
    }

    /// Endpoints in the network of their nodes, reached from everywhere by everything.
    fn endpoints_in_host_networks(mode) {
        let mut ground = Ground::new(mode, 2, 0);
        for node in 0..2 {
            let space = Space::clone(ground.cluster.node(node));
            ground.serve(&space, &format!("host-{node}"));
        }
        let ports = [("http", "TCP", 80, 30080), ("ask", "UDP", 80, 30080)];
        ground.put(service("web", 10, &ports));
        let hosts = [0, 1].map(|node| Endpoint { pod: None, node, ..ready(2, [0])[0] });
        ground.slice("web", "1", &[("http", "TCP", 8080), ("ask", "UDP", 8080)], &hosts);
        let nodes = [ground.node_ips(0), ground.node_ips(1)].concat();
        for protocol in ["TCP", "UDP"] {
            let from: [&Space; 2] = [&ground.client, ground.cluster.node(0)];
            for from in from {
                answers(protocol, from, &at(&cluster_ips(10), 80), &["host-0", "host-1"]);
                answers(protocol, from, &at(&nodes, 30080), &["host-0", "host-1"]);
            }
        }
    }

    /// Terminating endpoints serve where there is no other, and nobody else does.
    fn endpoints_that_are_not_ready(mode) {
        let ground = Ground::new(mode, 2, 2);
        let far = ground.cluster.pod(1, "far");
        ground.put(service("web", 10, &[("http", "TCP", 80, 30080)]));
        let to = [at(&cluster_ips(10), 80), at(&ground.node_ips(0), 30080), at(&ground.node_ips(1), 30080)].concat();
        let from: [&Space; 3] = [&ground.client, &far, ground.cluster.node(1)];
        let all = |expected: &[&str]| from.iter().for_each(|from| answers("TCP", from, &to, expected));
        let endpoints = |conditions| ground.slice("web", "1", HTTP, &with(2, [0], conditions));
        from.iter().for_each(|from| refused(from, &to));
        // With publishNotReadyAddresses the slice says ready, whatever the pod is.
        endpoints(Conditions::Ready);
        all(&["s0"]);
        for conditions in [Conditions::Unready, Conditions::Gone] {
            endpoints(conditions);
            from.iter().for_each(|from| refused(from, &to));
        }
        endpoints(Conditions::Leaving);
        all(&["s0"]);
        ground.slice("web", "2", HTTP, &ready(2, [1]));
        all(&["s1"]);
        ground.slice("web", "1", HTTP, &ready(2, [0]));
        all(&["s0", "s1"]);
    }

    /// The own zone, else any; the own node, else the own zone, else any; back when that is there again.
    fn hints_keep_clients_near(mode) {
        let ground = Ground::new(mode, 2, 4);
        for (node, zone) in [(0, "a"), (1, "b")] {
            let mut object = ground.cluster.node(node).entry().object();
            object["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
            ground.put(object);
        }
        let far = ground.cluster.pod(1, "far");
        let to = at(&cluster_ips(10), 80);
        ground.put(service("web", 10, &[("http", "TCP", 80, 0)]));
        // Pods 0 and 2 are on the first node.
        let hinted = |pods: &[usize], by_node: bool| {
            let zones: [&[&str]; 2] = [&["a"], &["b"]];
            let nodes: [&[usize]; 2] = [&[0], &[1]];
            let one = |pod: &usize| {
                let nodes = if by_node { nodes[pod % 2] } else { &[] };
                Endpoint { zones: zones[pod % 2], nodes, ..ready(2, [*pod])[0] }
            };
            ground.slice("web", "1", HTTP, &pods.iter().map(one).collect::<Vec<_>>());
        };
        hinted(&[0, 1, 2, 3], false);
        answers("TCP", &ground.client, &to, &["s0", "s2"]);
        answers("TCP", &far, &to, &["s1", "s3"]);
        hinted(&[1, 3], false);
        answers("TCP", &ground.client, &to, &["s1", "s3"]);
        hinted(&[0, 1], true);
        answers("TCP", &ground.client, &to, &["s0"]);
        answers("TCP", &far, &to, &["s1"]);
        hinted(&[1], true);
        answers("TCP", &ground.client, &to, &["s1"]);
        hinted(&[0, 1], true);
        answers("TCP", &ground.client, &to, &["s0"]);
        // Both nodes are in one zone now: without an endpoint on the node the zone's are taken, and no others.
        let mut object = ground.cluster.node(0).entry().object();
        object["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "b"});
        ground.put(object);
        let in_zone = Endpoint { zones: &["b"], nodes: &[1], ..ready(2, [1])[0] };
        let elsewhere = Endpoint { zones: &["c"], nodes: &[1], ..ready(2, [0])[0] };
        ground.slice("web", "1", HTTP, &[in_zone, elsewhere]);
        answers("TCP", &ground.client, &to, &["s1"]);
    }
}
