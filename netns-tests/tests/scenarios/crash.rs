//! crash-matrix: a plug-in is killed before every single step of ADD and of DEL. What the runtime does next (DEL, or GC
//! once the sandbox is gone) leaves no trace, and a fresh ADD of the same name works.

use lab::fault::{Fate, killed_at};
use lab::network::Request;
use lab::{Attachment, Network, Node, Pod, Refusal, Snapshot, Subject, on_bowline, on_bowline_iptables};
use serde_json::{Value, json};

use crate::conflists::{bridge, host_local, list};

const DUAL: [&str; 2] = ["10.1.0.0/24", "fd00:1::/64"];

/// What the runtime does about a killed plug-in.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Recovery {
    /// DEL, as after every failed ADD.
    Del,
    /// The sandbox is removed, and a later GC finds what is left.
    Gc,
}

/// A plug-in under attack: the last of the list, with everything that runs before it.
struct Attack {
    network: Network,
    victim: usize,
    request: Request,
}

fn attack(subject: &Subject, mut plugins: Vec<Value>, victim: usize) -> Attack {
    plugins.truncate(victim + 1);
    for plugin in &mut plugins {
        plugin["capabilities"] = json!({"portMappings": true, "bandwidth": true});
    }
    let mut request = Request::capability(
        "portMappings",
        json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
            {"hostPort": 5353, "containerPort": 53, "protocol": "udp"},
        ]),
    );
    let limits = json!({"ingressRate": 1_000_000, "ingressBurst": 1_000_000, "egressRate": 1_000_000, "egressBurst": 1_000_000});
    request.capabilities.insert("bandwidth".into(), limits);
    Attack { network: Network::new(subject, list("pods", Value::Array(plugins))), victim, request }
}

impl Attack {
    /// The attachment with every plug-in before the victim run.
    fn prepared(&self, node: &Node, pod: &Pod) -> Attachment {
        let mut attachment = self.network.attachment(pod, self.request.clone());
        for index in 0..self.victim {
            attachment.add_step(node, index).unwrap();
        }
        attachment
    }

    /// Walks all steps of `verb`.
    fn walk(&self, node: &Node, verb: &str, recovery: Recovery) {
        let mut steps = 0;
        let pod = node.pod("first");
        let first = self.network.add(node, &pod, self.request.clone()).unwrap();
        first.del(node).unwrap();
        pod.remove_netns_path();
        self.clear(node);
        let before = Snapshot::quick(node);
        for nth in 1.. {
            assert!(nth < 1000, "a plug-in of a thousand steps");
            let pod = node.pod("a");
            let mut attachment = self.prepared(node, &pod);
            if verb == "DEL" {
                attachment.add_step(node, self.victim).unwrap();
            }
            let fate = killed_at(node, &attachment.invocation(verb, self.victim), nth);
            let title = format!("{verb} of {} at step {nth}: {fate:?}", self.network.kinds()[self.victim]);
            let recovered = self.recover(node, &pod, &attachment, recovery);
            recovered.unwrap_or_else(|refusal| panic!("{title}, then {recovery:?}: {refusal}"));
            self.clear(node);
            let difference = before.difference(node);
            assert!(difference.is_empty(), "{title}, then {recovery:?}:\n{difference}");
            match fate {
                Fate::Killed(_) => steps += 1,
                Fate::Ended(outcome) => {
                    outcome.unwrap_or_else(|refusal| panic!("{title}: {refusal}"));
                    break;
                }
            }
        }
        assert!(steps > 5, "only {steps} steps were seen");
        let pod = node.pod("a");
        let fresh = self.network.add(node, &pod, self.request.clone()).unwrap();
        fresh.check(node).unwrap();
        fresh.del(node).unwrap();
        self.clear(node);
    }

    /// What is the node's stays after every DEL, and is missing when the plug-in was killed before making it.
    fn clear(&self, node: &Node) {
        if self.network.kinds()[0] == "routed" {
            node.sh("ip -4 route flush proto 98");
            node.sh("ip -6 route flush proto 98");
        } else {
            let _ = node.try_sh("ip link delete cni0");
        }
    }

    fn recover(
        &self,
        node: &Node,
        pod: &Pod,
        attachment: &Attachment,
        recovery: Recovery,
    ) -> Result<(), Refusal> {
        match recovery {
            Recovery::Del => {
                let outcome = attachment.del(node);
                pod.remove_netns_path();
                outcome
            }
            Recovery::Gc => {
                // The kernel destroys a dead sandbox's links in its own time, so they are taken away here.
                let _ = pod.try_sh("ip link delete eth0");
                pod.remove_netns_path();
                self.network.gc(node, &[])
            }
        }
    }
}

fn chain() -> Vec<Value> {
    vec![
        bridge(&DUAL, json!({"ipMasq": true, "macspoofchk": true})),
        json!({"type": "portmap"}),
        json!({"type": "bandwidth"}),
        json!({"type": "tuning", "mtu": 1300, "allmulti": true}),
        json!({"type": "firewall"}),
    ]
}

fn ptp() -> Vec<Value> {
    vec![json!({"type": "ptp", "ipMasq": true, "ipam": host_local(&DUAL)})]
}

/// With peers, though there are none yet: so this node's own part of the overlay is made, and pods are masqueraded.
fn routed() -> Vec<Value> {
    vec![json!({"type": "routed", "subnets": DUAL, "peers": []})]
}

macro_rules! walks {
    ($(fn $name:ident = $plugins:expr, $victim:literal, $verb:literal, $recovery:ident;)*) => {
        on_bowline! {$(
            /// One walk; the row says which plug-in is killed in which verb, and what follows.
            fn $name(node, subject) {
                attack(subject, $plugins, $victim).walk(node, $verb, Recovery::$recovery);
            }
        )*}
    };
}

walks! {
    fn crash_matrix_bridge_add_then_del = chain(), 0, "ADD", Del;
    fn crash_matrix_bridge_add_then_gc = chain(), 0, "ADD", Gc;
    fn crash_matrix_bridge_del_then_del = chain(), 0, "DEL", Del;
    fn crash_matrix_bridge_del_then_gc = chain(), 0, "DEL", Gc;
    fn crash_matrix_portmap_add_then_del = chain(), 1, "ADD", Del;
    fn crash_matrix_portmap_add_then_gc = chain(), 1, "ADD", Gc;
    fn crash_matrix_portmap_del_then_del = chain(), 1, "DEL", Del;
    fn crash_matrix_bandwidth_add_then_del = chain(), 2, "ADD", Del;
    fn crash_matrix_bandwidth_add_then_gc = chain(), 2, "ADD", Gc;
    fn crash_matrix_bandwidth_del_then_del = chain(), 2, "DEL", Del;
    fn crash_matrix_tuning_add_then_del = chain(), 3, "ADD", Del;
    fn crash_matrix_tuning_add_then_gc = chain(), 3, "ADD", Gc;
    fn crash_matrix_tuning_del_then_del = chain(), 3, "DEL", Del;
    fn crash_matrix_firewall_add_then_del = chain(), 4, "ADD", Del;
    fn crash_matrix_firewall_add_then_gc = chain(), 4, "ADD", Gc;
    fn crash_matrix_firewall_del_then_del = chain(), 4, "DEL", Del;
    fn crash_matrix_ptp_add_then_del = ptp(), 0, "ADD", Del;
    fn crash_matrix_ptp_add_then_gc = ptp(), 0, "ADD", Gc;
    fn crash_matrix_ptp_del_then_del = ptp(), 0, "DEL", Del;
    fn crash_matrix_routed_add_then_del = routed(), 0, "ADD", Del;
    fn crash_matrix_routed_add_then_gc = routed(), 0, "ADD", Gc;
    fn crash_matrix_routed_del_then_del = routed(), 0, "DEL", Del;
    fn crash_matrix_routed_del_then_gc = routed(), 0, "DEL", Gc;
}

/// One plug-in that runs iptables behind a plain bridge, IPv4.
fn on_iptables(plugin: Value) -> Vec<Value> {
    vec![bridge(&DUAL[..1], json!({})), plugin]
}

// With the iptables backend the programs that it runs are killed too, at each of their steps.
on_bowline_iptables! {
    /// The chain, the jump to it, the shared chains.
    fn crash_matrix_portmap_iptables_add_then_del(node, subject) {
        let plugins = on_iptables(json!({"type": "portmap", "backend": "iptables"}));
        attack(subject, plugins, 1).walk(node, "ADD", Recovery::Del);
    }

    /// The same on the way out.
    fn crash_matrix_portmap_iptables_del_then_del(node, subject) {
        let plugins = on_iptables(json!({"type": "portmap", "backend": "iptables"}));
        attack(subject, plugins, 1).walk(node, "DEL", Recovery::Del);
    }

    /// Rules and their record.
    fn crash_matrix_firewall_iptables_add_then_gc(node, subject) {
        let plugins = on_iptables(json!({"type": "firewall", "backend": "iptables"}));
        attack(subject, plugins, 1).walk(node, "ADD", Recovery::Gc);
    }

    /// The same on the way out.
    fn crash_matrix_firewall_iptables_del_then_del(node, subject) {
        let plugins = on_iptables(json!({"type": "firewall", "backend": "iptables"}));
        attack(subject, plugins, 1).walk(node, "DEL", Recovery::Del);
    }

    /// A masquerade chain per attachment.
    fn crash_matrix_masquerade_iptables_add_then_del(node, subject) {
        let plugins = vec![bridge(&DUAL[..1], json!({"ipMasq": true, "ipMasqBackend": "iptables"}))];
        attack(subject, plugins, 0).walk(node, "ADD", Recovery::Del);
    }
}
