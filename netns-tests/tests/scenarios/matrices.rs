//! Every plug-in under every circumstance: DEL, GC, STATUS and CHECK where the reference leaks, lies or is silent.

use lab::network::Request;
use lab::plugin::Invocation;
use lab::{Attachment, Network, Node, Pod, Snapshot, Subject, on_bowline};
use serde_json::{Value, json};

use crate::conflists::{bridge, host_local, list};

const DUAL: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

/// Every plug-in at work.
fn everything() -> Vec<(&'static str, Value)> {
    vec![
        (
            "bridge",
            json!([
                bridge(&DUAL, json!({"ipMasq": true, "macspoofchk": true})),
                {"type": "portmap", "capabilities": {"portMappings": true}},
                {
                    "type": "bandwidth",
                    "ingressRate": 1_000_000, "ingressBurst": 1_000_000, "egressRate": 1_000_000, "egressBurst": 1_000_000,
                },
                {"type": "tuning", "mtu": 1300},
                {"type": "firewall", "ingressPolicy": "same-bridge"},
            ]),
        ),
        (
            "ptp",
            json!([
                {"type": "ptp", "ipMasq": true, "ipam": host_local(&DUAL)},
                {"type": "portmap", "capabilities": {"portMappings": true}},
                {"type": "bandwidth", "egressRate": 1_000_000, "egressBurst": 1_000_000},
                {"type": "tuning", "allmulti": true},
                {"type": "firewall"},
            ]),
        ),
        ("loopback", json!([{"type": "loopback"}])),
    ]
}

fn ports() -> Request {
    let mappings = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
    ]);
    Request::capability("portMappings", mappings)
}

fn delete_bridge(node: &Node) {
    let _ = node.try_sh("ip link delete cni0");
}

/// Takes a pod's sandbox away as a runtime does when it tears down before DEL: path and links are gone.
fn lose_sandbox(pod: &Pod) {
    let _ = pod.try_sh("ip link delete eth0");
    pod.remove_netns_path();
}

on_bowline! {
    /// Netns empty, netns gone, DEL twice, DEL with no prevResult, and all at once: success, and nothing is left.
    fn del_matrix(node, subject) {
        type Circumstance = fn(&Pod, &mut Attachment);
        let circumstances: [(&str, Circumstance); 6] = [
            ("as usual", |_, _| {}),
            ("netns empty", |pod, attachment| {
                lose_sandbox(pod);
                attachment.netns = Default::default();
            }),
            ("netns empty, sandbox alive", |_, attachment| attachment.netns = Default::default()),
            ("netns gone", |pod, _| lose_sandbox(pod)),
            ("no prevResult", |_, attachment| attachment.result = Value::Null),
            ("neither netns nor prevResult", |pod, attachment| {
                lose_sandbox(pod);
                attachment.result = Value::Null;
            }),
        ];
        for (name, plugins) in everything() {
            let network = Network::new(subject, list("pods", plugins));
            let warm = node.pod("warm");
            network.add(node, &warm, ports()).unwrap().del(node).unwrap();
            delete_bridge(node);
            let before = Snapshot::quick(node);
            for (index, (circumstance, arrange)) in circumstances.iter().enumerate() {
                let pod = node.pod(&format!("{name}-{index}"));
                let mut attachment = network.add(node, &pod, ports()).unwrap();
                arrange(&pod, &mut attachment);
                for time in ["first", "second"] {
                    attachment
                        .del(node)
                        .unwrap_or_else(|refusal| panic!("{name}, {circumstance}, {time} DEL: {refusal}"));
                }
                if circumstance.contains("sandbox alive") {
                    // Without a path the plug-in cannot know the container end; the runtime removes it with the sandbox.
                    let _ = pod.try_sh("ip link delete eth0");
                }
                delete_bridge(node);
                let difference = before.difference(node);
                assert!(difference.is_empty(), "{name}, {circumstance}:\n{difference}");
            }
            warm.remove_netns_path();
        }
    }

    /// GC removes what belongs to no valid attachment, spares valid ones and other networks, and steps over
    /// malformed records.
    fn gc_matrix(node, subject) {
        for (name, plugins) in everything() {
            let network = Network::new(subject, list("pods", plugins.clone()));
            let mut elsewhere = plugins;
            if name == "bridge" {
                elsewhere[0] = bridge(&["10.2.0.0/24"], json!({"bridge": "other0", "ipMasq": true}));
            } else if name == "ptp" {
                elsewhere[0]["ipam"] = host_local(&["10.2.0.0/24"]);
            }
            let other = Network::new(subject, list("others", elsewhere));
            let (kept_pod, other_pod) = (node.pod("kept"), node.pod("other"));
            let kept = network.add(node, &kept_pod, ports()).unwrap();
            let mut on_other = ports();
            on_other.capabilities["portMappings"] = json!([{"hostPort": 9090, "containerPort": 80, "protocol": "tcp"}]);
            let on_other = other.add(node, &other_pod, on_other).unwrap();
            let with_two = Snapshot::quick(node);

            let stale_pod = node.pod("stale");
            let mut request = ports();
            request.capabilities["portMappings"] = json!([{"hostPort": 8081, "containerPort": 80, "protocol": "udp"}]);
            let stale = network.add(node, &stale_pod, request).unwrap();
            network.gc(node, &[&kept, &stale]).unwrap();
            stale.check(node).unwrap();
            lose_sandbox(&stale_pod);
            if name != "loopback" {
                node.write("/var/lib/cni/networks/pods/10.1.0.200", "");
                node.write("/var/lib/cni/networks/pods/README", "not a lease");
            }
            network.gc(node, &[&kept]).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            node.run(|| std::fs::remove_file("/var/lib/cni/networks/pods/README")).ok();
            let difference = with_two.difference(node);
            assert!(difference.is_empty(), "{name}:\n{difference}");
            kept.check(node).unwrap();
            on_other.check(node).unwrap();

            lose_sandbox(&kept_pod);
            network.gc(node, &[]).unwrap();
            on_other.check(node).unwrap();
            on_other.del(node).unwrap();
            other_pod.remove_netns_path();
            delete_bridge(node);
            let _ = node.try_sh("ip link delete other0");
        }
    }

    /// Without the key GC removes nothing: unknown is not empty.
    fn gc_without_the_key_removes_nothing(node, subject) {
        let (_, plugins) = everything().remove(0);
        let network = Network::new(subject, list("pods", plugins));
        let on_a = network.add(node, &node.pod("a"), ports()).unwrap();
        let before = Snapshot::of(node);
        for (index, kind) in network.kinds().iter().enumerate() {
            let conf = network.request(index, None, &Request::default());
            Invocation::new(subject, "GC", kind, &conf).run(node).unwrap();
        }
        let difference = before.difference(node);
        assert!(difference.is_empty(), "{difference}");
        on_a.del(node).unwrap();
        delete_bridge(node);
    }

    /// A full pool is code 50 or 51 until an address is free again; a node that can serve says nothing.
    fn status_full_pool(node, subject) {
        for plugin in [bridge(&["10.1.0.0/30"], json!({})), json!({"type": "ptp", "ipam": host_local(&["10.1.0.0/30"])})] {
            let network = Network::new(subject, list("pods", json!([plugin])));
            network.status(node).unwrap();
            let pod = node.pod("a");
            let on_a = network.add(node, &pod, Request::default()).unwrap();
            let refused = network.status(node).unwrap_err();
            assert!(matches!(refused.code, 50 | 51), "{refused}");
            on_a.del(node).unwrap();
            network.status(node).unwrap();
            pod.remove_netns_path();
            delete_bridge(node);
        }
    }

    /// A lease directory that cannot be written is code 50.
    fn status_read_only_data_dir(node, subject) {
        node.cramp("/var/lib/cni".as_ref(), 0).unwrap();
        let network = Network::new(subject, list("pods", json!([bridge(&["10.1.0.0/24"], json!({}))])));
        let refused = network.status(node).unwrap_err();
        assert!(matches!(refused.code, 50 | 51) && refused.msg.contains("/var/lib/cni"), "{refused}");
        node.unmount("/var/lib/cni".as_ref()).unwrap();
    }

    /// Who may not enter pods, or not change links or filters, can serve no ADD; who only hands out addresses can.
    fn status_without_capabilities(node, subject) {
        const NONE: &[&str] = &[];
        const FILTERS: &[&str] = &["net_admin"];
        const ALL: &[&str] = &["net_admin", "sys_admin"];
        let ipam = host_local(&DUAL);
        let rows = [
            (bridge(&DUAL, json!({})), ALL),
            (json!({"type": "ptp", "ipam": ipam}), ALL),
            (json!({"type": "vxlan", "mtu": 1400, "ipam": ipam}), ALL),
            (json!({"type": "routed", "mtu": 1400, "ipam": ipam}), ALL),
            (json!({"type": "loopback"}), ALL),
            (json!({"type": "bandwidth"}), ALL),
            (json!({"type": "tuning"}), ALL),
            (json!({"type": "portmap"}), FILTERS),
            (json!({"type": "firewall", "backend": "nftables"}), FILTERS),
            (json!({"type": "host-local", "ipam": ipam}), NONE),
            (json!({"type": "static", "ipam": {"addresses": []}}), NONE),
        ];
        assert_eq!(rows.len(), std::fs::read_dir(&subject.directory).unwrap().count(), "a row for every plug-in");
        for (plugin, needed) in rows {
            let kind = plugin["type"].as_str().unwrap().to_owned();
            let conf = Network::new(subject, list("pods", json!([plugin]))).request(0, None, &Request::default());
            let mut call = Invocation::new(subject, "STATUS", &kind, &conf);
            call.run(node).unwrap_or_else(|refused| panic!("{kind}: {refused}"));
            for lost in ALL {
                call.under = ["setpriv", "--bounding-set", &format!("-{lost}"), "--"].map(str::to_owned).to_vec();
                match call.run(node) {
                    Ok(_) => assert!(!needed.contains(lost), "{kind} without {lost} says that all is well"),
                    Err(refused) => {
                        assert!(needed.contains(lost), "{kind} without {lost}: {refused}");
                        assert!(refused.code == 50 && refused.msg.contains("ermitted"), "{kind}: {refused}");
                    }
                }
            }
        }
    }

    /// A backend whose program is missing is code 50, and only where that backend was chosen.
    fn status_without_iptables(node, subject) {
        // Debian's alternatives lead to the programs; /etc is the node's own.
        for family in ["iptables", "ip6tables"] {
            for program in ["", "-save", "-restore"] {
                node.sh(&format!("rm /etc/alternatives/{family}{program}"));
            }
        }
        let without = |plugin: Value| {
            let kind = plugin["type"].as_str().unwrap().to_owned();
            let conf = Network::new(subject, list("pods", json!([plugin]))).request(0, None, &Request::default());
            Invocation::new(subject, "STATUS", &kind, &conf).run(node)
        };
        for plugin in [
            json!({"type": "portmap", "backend": "iptables"}),
            json!({"type": "firewall", "backend": "iptables"}),
            bridge(&DUAL, json!({"ipMasq": true, "ipMasqBackend": "iptables"})),
        ] {
            let refused = without(plugin.clone()).unwrap_err();
            assert!(refused.code == 50 && refused.msg.contains("iptables"), "{plugin}: {refused}");
        }
        for plugin in [
            json!({"type": "portmap"}),
            json!({"type": "firewall", "backend": "nftables"}),
            bridge(&DUAL, json!({"ipMasq": true})),
        ] {
            without(plugin).unwrap();
        }
    }

    /// Every plug-in that can serve says so by saying nothing.
    fn status_is_silent_when_all_is_well(node, subject) {
        for (_, plugins) in everything() {
            Network::new(subject, list("pods", plugins)).status(node).unwrap();
        }
    }

    /// Leases that a reboot made stale are found by GC, and a lease directory survives one.
    fn reboot(node, subject) {
        let network = Network::new(subject, list("pods", json!([bridge(&DUAL, json!({"ipMasq": true}))])));
        let pods: Vec<_> = (0..3).map(|i| node.pod(&format!("pod-{i}"))).collect();
        for pod in &pods {
            network.add(node, pod, Request::default()).unwrap();
        }
        // The kernel forgets everything, the disk nothing.
        for pod in &pods {
            lose_sandbox(pod);
        }
        delete_bridge(node);
        node.sh("nft flush ruleset");
        let again = node.pod("again");
        let on_again = network.add(node, &again, Request::default()).unwrap();
        assert_eq!(on_again.ip().to_string(), "10.1.0.5", "the pointer survives");
        network.gc(node, &[&on_again]).unwrap();
        let leases = node.list("/var/lib/cni/networks/pods");
        assert!(leases.contains(&"10.1.0.5".into()) && !leases.contains(&"10.1.0.2".into()), "{leases:?}");
        on_again.check(node).unwrap();
        on_again.del(node).unwrap();
        delete_bridge(node);
    }
}

/// A way to break an attachment behind the plug-ins' backs, and who must notice.
struct Damage {
    what: &'static str,
    notices: usize,
    apply: fn(&Node, &Pod, &Attachment),
}

const DAMAGES: [Damage; 10] = [
    Damage { what: "the link is gone", notices: 0, apply: |_, pod, _| drop(pod.sh("ip link delete eth0")) },
    Damage {
        what: "an address is gone",
        notices: 0,
        apply: |_, pod, _| drop(pod.sh("ip addr flush dev eth0")),
    },
    Damage {
        what: "the default route is gone",
        notices: 0,
        apply: |_, pod, _| drop(pod.sh("ip route del default")),
    },
    Damage {
        what: "the port left the bridge",
        notices: 0,
        apply: |node, _, on| drop(node.sh(&format!("ip link set {} nomaster", on.host_end("veth")))),
    },
    Damage {
        what: "the masquerade is gone",
        notices: 0,
        apply: |node, _, _| drop(node.sh("nft delete table inet bowline_masquerade")),
    },
    Damage {
        what: "the spoof check is gone",
        notices: 0,
        apply: |node, _, _| drop(node.sh("nft delete table bridge bowline_spoof")),
    },
    Damage {
        what: "the lease is gone",
        notices: 0,
        apply: |node, _, on| {
            let lease = format!("/var/lib/cni/networks/pods/{}", on.ip());
            node.run(|| std::fs::remove_file(lease)).unwrap();
        },
    },
    Damage {
        what: "the port mappings are gone",
        notices: 1,
        apply: |node, _, _| drop(node.sh("nft delete table ip bowline_hostport")),
    },
    Damage {
        what: "the tbf of the host end is gone",
        notices: 2,
        apply: |node, _, on| drop(node.sh(&format!("tc qdisc del dev {} root", on.host_end("veth")))),
    },
    Damage {
        what: "the redirect to the ifb is gone",
        notices: 2,
        apply: |node, _, on| drop(node.sh(&format!("tc qdisc del dev {} ingress", on.host_end("veth")))),
    },
];

on_bowline! {
    /// Each thing taken away in turn is missed by its own plug-in's CHECK, and DEL copes with it all the same.
    fn check_negative(node, subject) {
        let network = full_chain(subject);
        for (index, damage) in DAMAGES.iter().enumerate() {
            let pod = node.pod(&format!("a-{index}"));
            let on_a = network.add(node, &pod, ports()).unwrap();
            on_a.check(node).unwrap_or_else(|refusal| panic!("before {}: {refusal}", damage.what));
            (damage.apply)(node, &pod, &on_a);
            let outcome = on_a.invocation("CHECK", damage.notices).run(node);
            assert!(outcome.is_err(), "{}: CHECK does not notice", damage.what);
            on_a.del(node).unwrap_or_else(|refusal| panic!("{}, then DEL: {refusal}", damage.what));
        }
        delete_bridge(node);
    }

    /// What later plug-ins and other programs may change is no drift: no false alarm.
    fn check_gives_no_false_alarm(node, subject) {
        let network = full_chain(subject);
        let (a, b) = (node.pod("a"), node.pod("b"));
        let on_a = network.add(node, &a, ports()).unwrap();
        a.sh("ip addr add 10.99.0.1/24 dev eth0");
        a.sh("ip route add 10.98.0.0/24 dev eth0");
        node.sh(&format!("ip link set {} alias mine", on_a.host_end("veth")));
        node.sh("nft add table inet foreign");
        let on_b = network.add(node, &b, Request::default()).unwrap();
        on_a.check(node).unwrap();
        on_b.del(node).unwrap();
        on_a.check(node).unwrap();
        on_a.del(node).unwrap();
        node.sh("nft delete table inet foreign");
        delete_bridge(node);
    }
}

fn full_chain(subject: &Subject) -> Network {
    let (_, mut plugins) = everything().remove(0);
    plugins[4] = json!({"type": "firewall"});
    Network::new(subject, list("pods", plugins))
}
