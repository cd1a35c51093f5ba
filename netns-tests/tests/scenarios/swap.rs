//! mixed-fleet: the binaries are swapped under running pods, both ways; no lease, rule or packet is lost.

use lab::network::Request;
use lab::traffic::{Server, ask_tcp, is_silent_tcp};
use lab::{Attachment, Network, Node, Pod, Subject};
use lab::{Snapshot, scenario};
use serde_json::{Value, json};

use crate::conflists::{bridge, list, under};

/// The chain that both suites claim, on iptables, IPv4 (the reference's portmap CHECK fails with IPv6).
fn chain(keys: Value, backend: Option<&str>) -> Value {
    let mut plugins = json!([
        bridge(&["10.1.0.0/24"], keys),
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "ingressRate": 100_000_000, "ingressBurst": 1_000_000, "egressRate": 100_000_000, "egressBurst": 1_000_000},
        {"type": "tuning", "mtu": 1300},
        {"type": "firewall"},
    ]);
    if let Some(backend) = backend {
        plugins[0]["ipMasqBackend"] = json!(backend);
        plugins[1]["backend"] = json!(backend);
        plugins[4]["backend"] = json!(backend);
    }
    under("1.0.0", list("pods", plugins))
}

fn request() -> Request {
    Request::capability("portMappings", json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]))
}

fn works(node: &Node, pod: &Pod, attachment: &Attachment) {
    let server = Server::tcp(pod, (attachment.ip(), 80), "a");
    assert!(ask_tcp(node.outside(), (Node::IP4, 8080)).is_some(), "the host port");
    drop(server);
    let server = Server::tcp(node.outside(), (Node::OUTSIDE4, 80), "out");
    assert_eq!(ask_tcp(pod, server.address), Some(format!("out {}", Node::IP4)), "masquerade");
}

/// CHECK by the attachment's suite. The reference's portmap (1.1.1) is left out: it looks for IPv4 rules among those
/// of IPv6 and finds fault with itself.
fn check(node: &Node, attachment: &Attachment) {
    let network = &attachment.network;
    for (index, kind) in network.kinds().iter().enumerate() {
        if kind == "portmap" && network.subject.is_reference {
            continue;
        }
        let outcome = attachment.invocation("CHECK", index).run(node);
        outcome.unwrap_or_else(|refusal| panic!("CHECK of {kind} finds fault: {refusal}"));
    }
}

/// `first` adds two pods; `second` checks and deletes one, adds a third, and so on; nothing remains.
fn swap(name: &str, first: &Network, second: &Network) {
    let node = Node::new(name).unwrap();
    let node = &node;
    let before = Snapshot::of(node);
    let (a, b) = (node.pod("a"), node.pod("b"));
    let on_a = first.add(node, &a, request()).unwrap();
    let on_b = first.add(node, &b, Request::default()).unwrap();
    works(node, &a, &on_a);

    let seen = on_a.as_seen_by(second);
    check(node, &seen);
    check(node, &on_b.as_seen_by(second));
    let c = node.pod("c");
    let on_c = second.add(node, &c, Request::default()).unwrap();
    assert_eq!(on_c.ip().to_string(), "10.1.0.4", "leases of the other suite are respected");
    works(node, &a, &on_a);

    seen.del(node).unwrap();
    let server = Server::tcp(&a, ("0.0.0.0".parse::<std::net::IpAddr>().unwrap(), 80), "a");
    assert!(is_silent_tcp(node.outside(), (Node::IP4, 8080)), "the host port outlives its pod");
    drop(server);
    let leases = node.list("/var/lib/cni/networks/pods");
    assert!(
        !leases.contains(&"10.1.0.2".to_owned()) && leases.contains(&"10.1.0.3".to_owned()),
        "{leases:?}"
    );
    let server = Server::tcp(node.outside(), (Node::OUTSIDE4, 80), "out");
    assert!(ask_tcp(&b, server.address).is_some(), "deleting a took b's rules");
    drop(server);

    on_b.as_seen_by(second).del(node).unwrap();
    // Back again: the first suite deletes what the second added.
    check(node, &on_c.as_seen_by(first));
    on_c.as_seen_by(first).del(node).unwrap();
    // Our firewall records whose an address is where the reference does not look; GC clears what it deleted.
    let ours = if first.subject.is_reference { second } else { first };
    let under_1_1 = Network { list: under("1.1.0", ours.list.clone()), ..ours.clone() };
    under_1_1.gc(node, &[]).unwrap();
    node.delete_bridge("cni0");
    scenario::no_trace(node, &before, scenario::Leftovers::SharedChains);
}

/// Pods of the reference under our binaries with the iptables backend, and the third pod back.
#[test]
fn mixed_fleet_reference_then_ours() {
    let keys = json!({"ipMasq": true});
    let reference = Network::new(&Subject::reference(), chain(keys.clone(), None));
    let ours = Network::new(&Subject::bowline(), chain(keys, Some("iptables")));
    swap("reference-then-ours", &reference, &ours);
}

/// The reverse.
#[test]
fn mixed_fleet_ours_then_reference() {
    let keys = json!({"ipMasq": true});
    let reference = Network::new(&Subject::reference(), chain(keys.clone(), None));
    let ours = Network::new(&Subject::bowline(), chain(keys, Some("iptables")));
    swap("ours-then-reference", &ours, &reference);
}

/// The usual swap: nobody touches the configuration, so ours runs on nftables. Pods of the reference are deleted
/// with all their iptables rules; CHECK does not take their rules for missing.
#[test]
fn mixed_fleet_reference_then_ours_on_nftables() {
    let node = Node::new("reference-then-nftables").unwrap();
    let before = Snapshot::of(&node);
    let keys = json!({"ipMasq": true});
    let reference = Network::new(&Subject::reference(), chain(keys.clone(), None));
    let ours = Network::new(&Subject::bowline(), chain(keys, None));
    let (a, b) = (node.pod("a"), node.pod("b"));
    let on_a = reference.add(&node, &a, request()).unwrap();
    works(&node, &a, &on_a);
    let on_b = ours.add(&node, &b, Request::default()).unwrap();
    works(&node, &a, &on_a);
    on_a.as_seen_by(&ours).del(&node).unwrap();
    on_b.check(&node).unwrap();
    on_b.del(&node).unwrap();
    node.delete_bridge("cni0");
    scenario::no_trace(&node, &before, scenario::Leftovers::SharedChains);
}
