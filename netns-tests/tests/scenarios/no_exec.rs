//! With nftables as the backend no verb starts another program, own IPAM included.

use lab::fault::programs_executed;
use lab::network::Request;
use lab::plugin::Invocation;
use lab::{Network, Node, Subject, on_bowline};
use serde_json::{Value, json};

use crate::conflists::{bridge, host_local, list};

fn no_program(node: &Node, call: &Invocation) -> Value {
    let (outcome, executed) = programs_executed(node, call);
    assert_eq!(executed, Vec::<String>::new(), "{:?} {:?}", call.program, call.env["CNI_COMMAND"]);
    outcome.unwrap_or_else(|refusal| panic!("{:?} {:?}: {refusal}", call.program, call.env["CNI_COMMAND"]))
}

fn every_verb(node: &Node, subject: &Subject, plugins: Value) {
    let network = Network::new(subject, list("pods", plugins));
    let mapping = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
    ]);
    let mut on_a = network.attachment(&node.pod("a"), Request::capability("portMappings", mapping));
    let all = 0..network.kinds().len();
    for index in all.clone() {
        on_a.result = no_program(node, &on_a.invocation("ADD", index));
    }
    for index in all.clone() {
        no_program(node, &on_a.invocation("CHECK", index));
    }
    for (index, kind) in network.kinds().iter().enumerate() {
        let mut conf = network.request(index, None, &Request::default());
        no_program(node, &Invocation::new(subject, "STATUS", kind, &conf));
        conf["cni.dev/valid-attachments"] = json!([{"containerID": "a", "ifname": "eth0"}]);
        no_program(node, &Invocation::new(subject, "GC", kind, &conf));
    }
    // Twice: the second finds nothing any more.
    for index in all.clone().rev().chain(all.rev()) {
        no_program(node, &on_a.invocation("DEL", index));
    }
}

on_bowline! {
    /// The whole chain on a bridge.
    fn no_exec_in_the_bridge_chain(node, subject) {
        let plugins = json!([
            bridge(&["10.1.0.0/24", "fd00:1::/64"], json!({"ipMasq": true, "macspoofchk": true})),
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "ingressRate": 1_000_000, "ingressBurst": 1_000_000, "egressRate": 1_000_000, "egressBurst": 1_000_000},
            {"type": "tuning", "mtu": 1300},
            {"type": "firewall", "ingressPolicy": "same-bridge"},
        ]);
        every_verb(node, subject, plugins);
        node.delete_bridge("cni0");
    }

    /// Somebody else's rules of iptables-nft are no reason to run it.
    fn no_exec_beside_iptables(node, subject) {
        node.sh("iptables-nft -t nat -A POSTROUTING -j ACCEPT");
        node.sh("iptables-nft -A FORWARD -j ACCEPT");
        let plugins = json!([
            bridge(&["10.1.0.0/24"], json!({"ipMasq": true})),
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "firewall"},
        ]);
        every_verb(node, subject, plugins);
        node.sh("nft flush ruleset");
        node.delete_bridge("cni0");
    }

    /// ptp with static addresses, and a plain loopback.
    fn no_exec_in_ptp_and_loopback(node, subject) {
        let mut ipam = host_local(&["10.1.0.0/24"]);
        every_verb(node, subject, json!([{"type": "ptp", "ipMasq": true, "ipam": ipam}]));
        node.unbind_net("/run/netns/a".as_ref()).unwrap();
        ipam = json!({"type": "static", "addresses": [{"address": "10.1.0.9/24", "gateway": "10.1.0.1"}]});
        every_verb(node, subject, json!([{"type": "ptp", "ipMasq": true, "ipam": ipam}]));
        node.unbind_net("/run/netns/a".as_ref()).unwrap();
        every_verb(node, subject, json!([{"type": "loopback"}]));
    }

    /// Pods of a cluster, whose nodes are peers of each other.
    fn no_exec_in_vxlan_and_routed(node, subject) {
        for kind in ["vxlan", "routed"] {
            let peer = json!({"ips": ["203.0.113.1", "2001:db8:113::1"], "podCIDRs": ["10.2.0.0/24", "fd00:2::/64"]});
            let subnets = ["10.1.0.0/24", "fd00:1::/64"];
            every_verb(node, subject, json!([{"type": kind, "subnets": subnets, "peers": [peer]}]));
            node.unbind_net("/run/netns/a".as_ref()).unwrap();
        }
        node.delete_bridge("bowline0");
        for tunnel in ["bowline.1", "bowline6.1"] {
            node.sh(&format!("ip link delete {tunnel}"));
        }
        for family in ["-4", "-6"] {
            node.sh(&format!("ip {family} route flush table all proto 98"));
            node.sh(&format!("ip {family} rule flush proto 98"));
        }
    }

    /// Programs that an installer has copied one by one know each other as well.
    fn no_exec_among_copies(node, subject) {
        let copies = tempfile::tempdir().unwrap();
        for name in ["bridge", "host-local"] {
            std::fs::copy(subject.directory.join(name), copies.path().join(name)).unwrap();
        }
        every_verb(node, &Subject::mixed(copies.path()), json!([bridge(&["10.1.0.0/24"], json!({}))]));
        node.delete_bridge("cni0");
    }
}
