//! Clients from outside: NodePorts, external addresses, load balancers and what these ask.

use std::net::{IpAddr, SocketAddr};

use super::ground::{
    Conditions, Ground, answers, at, balanced, balancer_ips, but, cluster_ips, ready, seen_as, service,
    silent, unanswered, with,
};
use super::stories;
use lab::Space;
use lab::daemon::http;
use lab::load::Load;
use lab::wait::until;
use serde_json::json;

const HTTP: &[(&str, &str, u16)] = &[("http", "TCP", 8080)];
const CHECK: u16 = 32000;

/// Waits until a load balancer is told so: in both families, or nobody listens.
fn checked(from: &Space, ips: &[IpAddr], status: Option<u16>) {
    for ip in ips {
        until(&format!("port {CHECK} of {ip} to tell {status:?}"), || {
            let told = http(from, SocketAddr::new(*ip, CHECK), "/").map(|(status, _)| status);
            (told == status).then_some(())
        });
    }
}

stories! {
    /// Three nodes, of which one has the endpoint and another the client.
    fn external_policy_and_health_checks(mode) {
        let ground = Ground::new(mode, 3, 3);
        let local = service("web", 10, &[("http", "TCP", 80, 30080)]);
        let words = |policy: &str| json!({"externalTrafficPolicy": policy, "healthCheckNodePort": if policy == "Local" { CHECK } else { 0 }});
        let put = |policy: &str| ground.put(balanced(local.clone(), &words(policy)));
        put("Local");
        ground.slice("web", "1", HTTP, &ready(3, [1]));
        let (client, nodes) = (Space::clone(ground.cluster.node(0)), [0, 1, 2].map(|node| ground.node_ips(node)));
        let is_local = || {
            answers("TCP", &client, &at(&nodes[1], 30080), &["s1"]);
            for (ip, own) in nodes[1].iter().zip(&nodes[0]) {
                let at = SocketAddr::new(*ip, 30080);
                until("the client's own address to be seen", || (seen_as(&client, at) == *own).then_some(()));
            }
            answers("TCP", &client, &at(&nodes[0], 30080), &["s1"]);
            silent(&client, &at(&nodes[2], 30080));
            for (node, status) in [(1, 200), (0, 503), (2, 503)] {
                checked(ground.cluster.outside(), &nodes[node], Some(status));
            }
        };
        is_local();
        put("Cluster");
        nodes.iter().for_each(|ips| answers("TCP", &client, &at(ips, 30080), &["s1"]));
        nodes.iter().for_each(|ips| checked(ground.cluster.outside(), ips, None));
        put("Local");
        is_local();
        // The endpoint moves, and the checks with it; then all nodes have one.
        ground.slice("web", "1", HTTP, &ready(3, [2]));
        answers("TCP", &client, &at(&nodes[2], 30080), &["s2"]);
        checked(ground.cluster.outside(), &nodes[2], Some(200));
        checked(ground.cluster.outside(), &nodes[1], Some(503));
        ground.slice("web", "1", HTTP, &ready(3, [0, 1, 2]));
        nodes.iter().for_each(|ips| checked(ground.cluster.outside(), ips, Some(200)));
        for (node, ips) in nodes.iter().enumerate() {
            answers("TCP", ground.cluster.outside(), &at(ips, 30080), &[&format!("s{node}")]);
        }
        // Terminating ones serve on, but are no reason to send more.
        ground.slice("web", "1", HTTP, &with(3, [1], Conditions::Leaving));
        checked(ground.cluster.outside(), &nodes[1], Some(503));
        answers("TCP", ground.cluster.outside(), &at(&nodes[1], 30080), &["s1"]);
        silent(ground.cluster.outside(), &at(&nodes[2], 30080));
    }

    /// From ClusterIP to load balancer and back, with other ports; each way that it had before is gone.
    fn types_and_ports_change(mode) {
        let ground = Ground::new(mode, 2, 2);
        let (outside, nodes) = (ground.cluster.outside(), ground.node_ips(1));
        ground.route_to(&balancer_ips(), 0);
        let ports = |port, node_port| [("http", "TCP", port, node_port), ("ask", "UDP", port, node_port)];
        let of = |port, node_port| service("web", 10, &ports(port, node_port));
        let both = |from: &Space, to: &[SocketAddr]| {
            ["TCP", "UDP"].iter().for_each(|protocol| answers(protocol, from, to, &["s0", "s1"]));
        };
        ground.slice("web", "1", &[("http", "TCP", 8080), ("ask", "UDP", 8080)], &ready(2, [0, 1]));
        ground.put(of(80, 0));
        both(&ground.client, &at(&cluster_ips(10), 80));
        ground.put(of(80, 30080));
        both(outside, &at(&nodes, 30080));
        ground.put(of(80, 30081));
        both(outside, &at(&nodes, 30081));
        unanswered(outside, &at(&nodes, 30080));
        // A load balancer without NodePorts, then with them: the address is the same.
        ground.put(balanced(of(80, 0), &json!({"allocateLoadBalancerNodePorts": false})));
        both(outside, &at(&balancer_ips(), 80));
        unanswered(outside, &at(&nodes, 30081));
        ground.put(balanced(of(80, 30081), &json!({})));
        both(outside, &at(&balancer_ips(), 80));
        both(outside, &at(&nodes, 30081));
        ground.put(balanced(of(81, 30081), &json!({})));
        both(outside, &at(&balancer_ips(), 81));
        both(outside, &at(&nodes, 30081));
        unanswered(outside, &at(&balancer_ips(), 80));
        ground.put(of(81, 0));
        both(&ground.client, &at(&cluster_ips(10), 81));
        unanswered(outside, &[at(&balancer_ips(), 81), at(&nodes, 30081)].concat());
    }

    /// Source ranges, and pods that go through the load balancer's address from a node without endpoints.
    fn load_balancers_for_some_and_for_pods(mode) {
        let ground = Ground::new(mode, 2, 2);
        let (outside, other) = (ground.cluster.outside(), ground.cluster.pod(0, "other"));
        ground.route_to(&balancer_ips(), 0);
        let to = at(&balancer_ips(), 80);
        let web = service("web", 10, &[("http", "TCP", 80, 30080)]);
        let ranges = |ranges: &[String]| {
            ground.put(balanced(web.clone(), &json!({"loadBalancerSourceRanges": ranges})));
        };
        let host = |ip: &IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
        let words = |all: [&str; 2]| all.map(str::to_owned);
        ground.slice("web", "1", HTTP, &ready(2, [1]));
        ranges(&ground.client.ips().iter().map(host).collect::<Vec<_>>());
        answers("TCP", &ground.client, &to, &["s1"]);
        silent(&other, &to);
        silent(outside, &to);
        ranges(&words(["0.0.0.0/0", "::/0"]));
        [&other.pod as &Space, outside].iter().for_each(|from| answers("TCP", from, &to, &["s1"]));
        ranges(&words(["192.0.2.200/32", "2001:db8:ffff::200/128"]));
        [&ground.client.pod as &Space, &other.pod, outside].iter().for_each(|from| silent(from, &to));
        ranges(&[]);
        [&ground.client.pod as &Space, &other.pod, outside].iter().for_each(|from| answers("TCP", from, &to, &["s1"]));
        let local = json!({"externalTrafficPolicy": "Local", "externalIPs": ["198.51.100.7", "2001:db8:fffe::7"]});
        ground.put(balanced(web, &local));
        silent(outside, &to);
        let externals = ["198.51.100.7", "2001:db8:fffe::7"].map(|ip| ip.parse().expect("an address"));
        for to in to.into_iter().chain(at(&externals, 80)) {
            answers("TCP", &ground.client, &[to], &["s1"]);
            assert_eq!(seen_as(&ground.client, to), ground.client.ip_like(to.ip()), "a pod keeps its address");
        }
    }

    /// All endpoints of a node are replaced, gracefully, while connections come through a load balancer.
    fn a_rolling_update_disturbs_no_connection(mode) {
        use Conditions::Leaving;
        for policy in ["Cluster", "Local"] {
            let ground = Ground::new(mode, 2, 4);
            ground.route_to(&balancer_ips(), 0);
            let web = service("web", 10, &[("http", "TCP", 80, 30080)]);
            ground.put(balanced(but(web, &json!({})), &json!({"externalTrafficPolicy": policy})));
            ground.slice("web", "1", HTTP, &ready(2, [0, 1]));
            let to = at(&balancer_ips(), 80);
            answers("TCP", ground.cluster.outside(), &to, if policy == "Local" { &["s0"] } else { &["s0", "s1"] });
            let load = Load::start(ground.cluster.outside(), &to);
            for (old, new) in [([0, 1], [2, 3]), ([2, 3], [0, 1]), ([0, 1], [2, 3])] {
                let both = [with(2, old, Leaving), ready(2, new)].concat();
                for endpoints in [&with(2, old, Leaving)[..], &both, &ready(2, new)] {
                    ground.slice("web", "1", HTTP, endpoints);
                    load.goes_on(80);
                }
            }
            let (made, failures) = load.end();
            assert_eq!(failures, [""; 0], "of {made} connections, {policy}");
        }
    }
}
