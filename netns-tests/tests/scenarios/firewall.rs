//! firewall: pods through a host firewall, and pods kept apart.

use lab::network::Request;
use lab::traffic::{Server, ask_tcp, is_silent_tcp};
use lab::{Network, Node, Subject, on_both, on_bowline, on_bowline_iptables};
use serde_json::{Value, json};

use crate::conflists::{bridge, list};

fn network(subject: &Subject, name: &str, keys: Value) -> Network {
    let (index, link) = if name == "foo" { (1, "foo0") } else { (2, "bar0") };
    let subnet = format!("10.{index}.0.0/24");
    let mut firewall = json!({"type": "firewall"});
    for (key, value) in keys.as_object().into_iter().flatten() {
        firewall[key] = value.clone();
    }
    let plugin = bridge(&[&subnet], json!({"bridge": link, "ipMasq": true}));
    Network::new(subject, list(name, json!([plugin, firewall])))
}

/// Who reaches whom: two pods on foo, one on bar; (foo to foo, foo to bar).
fn reach(node: &Node, subject: &Subject, keys: &Value, expected: (bool, bool)) {
    let (own, foreign) = (network(subject, "foo", keys.clone()), network(subject, "bar", keys.clone()));
    let pods: Vec<_> = ["foo-1", "foo-2", "bar-1"].iter().map(|name| node.pod(name)).collect();
    let on: Vec<_> = [&own, &own, &foreign]
        .into_iter()
        .zip(&pods)
        .map(|(network, pod)| network.add(node, pod, Request::default()).unwrap())
        .collect();
    for (target, reached) in [(1, expected.0), (2, expected.1)] {
        let server = Server::tcp(&pods[target], (on[target].ip(), 80), "server");
        if reached {
            assert!(ask_tcp(&pods[0], server.address).is_some(), "{keys}: {}", on[target].container_id);
        } else {
            assert!(is_silent_tcp(&pods[0], server.address), "{keys}: {}", on[target].container_id);
        }
    }
    let server = Server::tcp(node.outside(), (Node::OUTSIDE4, 80), "outside");
    assert!(ask_tcp(&pods[0], server.address).is_some(), "{keys}: the outside is never cut off");
    for attachment in &on {
        attachment.check(node).unwrap();
        attachment.del(node).unwrap();
    }
    for pod in &pods {
        pod.remove_netns_path();
    }
    node.delete_bridge("foo0");
    node.delete_bridge("bar0");
}

on_both! {
    /// open lets everything through; same-bridge keeps networks apart.
    fn same_bridge(node, subject) {
        reach(node, subject, &json!({}), (true, true));
        reach(node, subject, &json!({"ingressPolicy": "same-bridge"}), (true, false));
    }

    /// The previous result is passed through, and a second ADD repeats nothing.
    fn pass_through(node, subject) {
        let network = network(subject, "foo", json!({}));
        let mut on_a = network.attachment(&node.pod("a"), Request::default());
        on_a.add_step(node, 0).unwrap();
        let (first, mut ruleset) = (on_a.result.clone(), String::new());
        for _ in 0..2 {
            on_a.add_step(node, 1).unwrap();
            assert_eq!(on_a.result, first);
            let now = node.sh("nft -s list ruleset");
            assert!(ruleset.is_empty() || ruleset == now, "a repeated ADD changed\n{ruleset}\nto\n{now}");
            ruleset = now;
        }
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        node.delete_bridge("foo0");
    }
}

on_bowline! {
    /// isolated keeps neighbours on one bridge apart too (Debian's reference does not know it yet).
    fn isolated(node, subject) {
        reach(node, subject, &json!({"ingressPolicy": "isolated"}), (false, false));
    }

    /// CHECK fails once the rules are gone, and DEL still succeeds.
    fn check_then_clean(node, subject) {
        let on_a = network(subject, "foo", json!({})).add(node, &node.pod("a"), Request::default()).unwrap();
        on_a.check(node).unwrap();
        node.sh("nft flush ruleset");
        on_a.invocation("CHECK", 1).run(node).unwrap_err();
        on_a.del(node).unwrap();
        node.delete_bridge("foo0");
    }

    /// A host firewall whose FORWARD policy is DROP, as Docker and ufw leave it: an accept in a table of ours would
    /// not overrule it, so pods must get through it all the same.
    fn forward_policy_drop(node, subject) {
        node.sh("nft add table ip filter");
        node.sh("nft add chain ip filter FORWARD { type filter hook forward priority 0 ; policy drop ; }");
        let before = node.sh("nft -s list ruleset");
        reach(node, subject, &json!({}), (true, true));
        assert_eq!(node.sh("nft -s list ruleset"), before);
        node.sh("nft delete table ip filter");
    }
}

on_bowline_iptables! {
    /// The reference's chains, for hosts whose firewall is iptables: FORWARD drops, pods pass.
    fn rules_iptables(node, subject) {
        node.sh("iptables -P FORWARD DROP");
        let keys = json!({"backend": "iptables"});
        let on_a = network(subject, "foo", keys.clone()).add(node, &node.pod("a"), Request::default()).unwrap();
        let rules = node.sh("iptables -S");
        assert!(rules.contains("-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD"), "{rules}");
        assert!(rules.contains("-j CNI-ADMIN"), "{rules}");
        on_a.del(node).unwrap();
        node.delete_bridge("foo0");
        reach(node, subject, &keys, (true, true));
        node.sh("iptables -P FORWARD ACCEPT");
    }

    /// Keeping apart by the reference's stages.
    fn same_bridge_iptables(node, subject) {
        reach(node, subject, &json!({"backend": "iptables", "ingressPolicy": "same-bridge"}), (true, false));
    }

    /// Keeping neighbours apart too; bridged packets pass iptables only with br_netfilter switched on, its default.
    fn isolated_iptables(node, subject) {
        assert_eq!(node.read("/proc/sys/net/bridge/bridge-nf-call-iptables"), "1");
        reach(node, subject, &json!({"backend": "iptables", "ingressPolicy": "isolated"}), (false, false));
    }

    /// The administrator's chain by another name.
    fn admin_chain(node, subject) {
        let keys = json!({"backend": "iptables", "iptablesAdminChainName": "MY-ADMIN"});
        let network = network(subject, "foo", keys);
        let on_a = network.add(node, &node.pod("a"), Request::default()).unwrap();
        assert!(node.sh("iptables -S").contains("-j MY-ADMIN"));
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        node.delete_bridge("foo0");
    }
}
