//! Facts in, findings out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::judge::{Answer, by_node, judge};
use super::list::{NodeFacts, PodFacts};
use super::{Asked, NAMESPACE, SELECTOR, Severity, State, Survey};
use crate::status::{Check, PeerStatus, ServicesStatus, SourceStatus, Status, SyncStatus};

/// A cluster of nodes a, b, c, all of them well; `change` spoils it.
struct Facts {
    nodes: BTreeMap<&'static str, Value>,
    pods: BTreeMap<&'static str, PodFacts>,
    answers: BTreeMap<&'static str, Answer>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Facts {
    fn well() -> Self {
        let numbered = || NAMES.into_iter().zip(1..);
        let node = |(name, i): (&'static str, i32)| {
            let object = json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux"}},
                "spec": {"podCIDRs": [format!("10.{i}.0.0/24")]},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": format!("192.0.2.{i}")}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            });
            (name, object)
        };
        let pod = |name: &'static str| {
            let pod = PodFacts {
                name: format!("bowline-{name}"),
                node: name.into(),
                container: "bowlined".into(),
                phase: "Running".into(),
                is_running: true,
                ..PodFacts::default()
            };
            (name, pod)
        };
        let peers = |name: &str| {
            let others = NAMES.into_iter().filter(|other| *other != name);
            others.map(|other| PeerStatus { name: other.into(), ..PeerStatus::default() }).collect::<Vec<_>>()
        };
        let answer = |(name, i): (&'static str, i32)| {
            let status = Status {
                version: env!("CARGO_PKG_VERSION").into(),
                node: name.into(),
                mode: "vxlan".into(),
                vni: Some(1),
                mtu: Some(1450),
                ready: true,
                told: 1000,
                pod_cidrs: vec![format!("10.{i}.0.0/24").parse().expect("a network")],
                peers: peers(name),
                peers_known: 2,
                source: SourceStatus {
                    what: "api https://x".into(),
                    connected: true,
                    ..SourceStatus::default()
                },
                last_sync: Some(SyncStatus { at: 990, ..SyncStatus::default() }),
                ..Status::default()
            };
            (name, Answer::Status(Box::new(status)))
        };
        Facts {
            nodes: numbered().map(node).collect(),
            pods: NAMES.into_iter().map(pod).collect(),
            answers: numbered().map(answer).collect(),
        }
    }

    fn status(&mut self, name: &str) -> &mut Status {
        match self.answers.get_mut(name) {
            Some(Answer::Status(status)) => status,
            _ => panic!("{name} answers"),
        }
    }

    fn pod(&mut self, name: &str) -> &mut PodFacts {
        self.answers.remove(name);
        self.pods.get_mut(name).expect("a pod")
    }

    fn judge(self) -> Survey {
        let nodes = self.nodes.into_values().map(|node| serde_json::from_value(node).expect("a node"));
        let nodes: Vec<NodeFacts> = nodes.collect();
        let answers = self.answers.into_iter().map(|(name, answer)| (name.to_owned(), answer)).collect();
        let asked = Asked {
            kubeconfig: None,
            context: None,
            namespace: NAMESPACE.into(),
            selector: SELECTOR.into(),
            nodes: vec![],
            patience: std::time::Duration::ZERO,
        };
        judge(&nodes, &by_node(self.pods.into_values().collect()), &answers, &asked)
    }
}

/// A name, what spoils node c, how c is then, and the finding: where, how bad, words of it, words of the advice.
type Row = (&'static str, fn(&mut Facts), State, (&'static str, Severity, &'static str, &'static str));

const CLUSTER: &str = "cluster";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("no pod", |f| { f.pods.remove("c"); f.answers.remove("c"); },
        State::NoDaemon, ("c", Severity::Problem, "no pod of bowlined is here", "describe daemonset")),
    ("an image that is not there", |f| { let pod = f.pod("c"); pod.is_running = false; pod.why = Some("ImagePullBackOff: gone".into()); },
        State::NoDaemon, ("c", Severity::Problem, "pod bowline-c does not run: ImagePullBackOff: gone", "docs/install.md")),
    ("a crash", |f| { let pod = f.pod("c"); pod.is_running = false; pod.why = Some("CrashLoopBackOff: 10s".into()); },
        State::NoDaemon, ("c", Severity::Problem, "CrashLoopBackOff", "logs bowline-c --previous")),
    ("not scheduled", |f| { let pod = f.pod("c"); pod.is_running = false; pod.phase = "Pending".into(); },
        State::NoDaemon, ("c", Severity::Problem, "does not run: Pending", "describe pod bowline-c")),
    ("no right to ask", |f| { f.answers.insert("c", Answer::Failed("403: pods \"c\" is forbidden".into())); },
        State::NoAnswer, ("c", Severity::Problem, "does not answer: 403", "right to get and create pods/exec")),
    ("a kubelet out of reach", |f| { f.answers.insert("c", Answer::Failed("500: error dialing backend: dial tcp: no route".into())); },
        State::NoAnswer, ("c", Severity::Problem, "no route", "port 10250")),
    ("a daemon that hangs", |f| { f.answers.insert("c", Answer::Failed("no answer within 10 s".into())); },
        State::NoAnswer, ("c", Severity::Problem, "no answer within 10 s", "logs bowline-c")),
    ("no pod CIDR", |f| f.nodes.get_mut("c").expect("c")["spec"] = Value::Null,
        State::Problem, ("c", Severity::Problem, "its Node has no pod CIDR", "--allocate-node-cidrs=true")),
    ("no address", |f| f.nodes.get_mut("c").expect("c")["status"] = Value::Null,
        State::Problem, ("c", Severity::Problem, "no address that others could reach", "--node-ip")),
    ("a broken pod CIDR", |f| f.nodes.get_mut("c").expect("c")["spec"]["podCIDRs"][0] = json!("10.3.0.1/24"),
        State::Problem, ("c", Severity::Problem, "spec.podCIDRs[0]", "change it in the Node")),
    ("two nodes with one pod CIDR", |f| f.nodes.get_mut("c").expect("c")["spec"]["podCIDRs"][0] = json!("10.1.0.0/24"),
        State::Problem, (CLUSTER, Severity::Problem, "a 10.1.0.0/24 and c 10.1.0.0/24 overlap", "delete the Node object")),
    ("two nodes with one address", |f| f.nodes.get_mut("c").expect("c")["status"]["addresses"][0]["address"] = json!("192.0.2.1"),
        State::Ok, (CLUSTER, Severity::Problem, "a and c have the same address 192.0.2.1", "--node-ip")),
    ("the kubelet is not ready", |f| f.nodes.get_mut("c").expect("c")["status"]["conditions"][0]["status"] = json!("False"),
        State::Ok, ("c", Severity::Note, "the kubelet is not ready", "kubectl describe node c")),
    ("a node of another system", |f| { f.pods.remove("c"); f.answers.remove("c"); f.nodes.get_mut("c").expect("c")["metadata"]["labels"]["kubernetes.io/os"] = json!("windows"); },
        State::NotOurs, ("c", Severity::Note, "runs windows", "")),
    ("a condition that is not met", |f| { let it = f.status("c"); it.ready = false; it.checks = vec![Check::met("node", ""), Check::unmet("configuration", "mtu: `9` is too small"), Check::unmet("kernel", "waits")]; },
        State::NotReady, ("c", Severity::Problem, "configuration: mtu: `9` is too small", "rollout restart")),
    ("a source out of touch", |f| f.status("c").source = SourceStatus { what: "api https://x".into(), since: Some(900), problems: vec!["refused".into()], ..SourceStatus::default() },
        State::Problem, ("c", Severity::Problem, "out of touch with the api https://x for 100 s: refused", "goes on working")),
    ("a stale sync", |f| f.status("c").last_sync = Some(SyncStatus { at: 700, ..SyncStatus::default() }),
        State::Problem, ("c", Severity::Problem, "has not looked at its kernel for 300 s", "deleting the pod is safe")),
    ("a kernel that refuses", |f| f.status("c").last_sync = Some(SyncStatus { at: 999, failures: vec!["add route: EPERM".into()], ..SyncStatus::default() }),
        State::Problem, ("c", Severity::Problem, "the kernel refused: add route: EPERM", "logs bowline-c")),
    ("drift", |f| f.status("c").drift_repaired = [("overlay".to_owned(), 3)].into(),
        State::Ok, ("c", Severity::Note, "3 of overlay", "ManageForeignRoutes=no")),
    ("a peer that is not known", |f| { let it = f.status("c"); it.peers.pop(); it.peers_known = 1; },
        State::Problem, ("c", Severity::Problem, "does not know b", "ask again")),
    ("a peer that is not known, told in brief", |f| { let it = f.status("c"); it.peers.clear(); it.peers_known = 1; },
        State::Problem, ("c", Severity::Problem, "knows 1 of 2 other nodes", "ask again")),
    ("a peer that can't be reached", |f| for name in ["a", "b"] { f.status(name).peers[1].problems.push("no way".into()); },
        State::Problem, ("c", Severity::Problem, "a, b can't reach its pods: no way", "")),
    ("a peer that is gone", |f| f.status("c").peers.push(PeerStatus { name: "x".into(), problems: vec!["no pod CIDR".into()], ..PeerStatus::default() }),
        State::Problem, ("c", Severity::Problem, "still knows x, which is no Node any more", "ask again")),
    ("a Node made anew", |f| f.status("c").pod_cidrs = vec!["10.9.0.0/24".parse().expect("a network")],
        State::Problem, ("c", Severity::Problem, "addresses of 10.9.0.0/24, but its Node says 10.3.0.0/24", "drain")),
    ("Services that wait", |f| for name in NAMES { f.status(name).services = Some(ServicesStatus { waiting: (name == "c").then_some(31), ..ServicesStatus::default() }); },
        State::Problem, ("c", Severity::Problem, "a change of Services has been waiting for 31 s", "bowline services")),
    ("Services on some nodes alone", |f| f.status("c").services = Some(ServicesStatus::default()),
        State::Ok, (CLUSTER, Severity::Problem, "Services differs: left to kube-proxy on a, b; served on c", "rollout restart")),
    ("an older daemon", |f| f.status("c").version = "0.0.1".into(),
        State::Ok, (CLUSTER, Severity::Note, "bowlined differs: 0.0.1 on c; ", "rollout status")),
    ("a newer cluster", |f| for name in NAMES { f.status(name).version = "9.0.0".into(); },
        State::Ok, (CLUSTER, Severity::Note, "the daemons are 9.0.0", "the same version")),
    ("another mode", |f| f.status("c").mode = "routed".into(),
        State::Ok, (CLUSTER, Severity::Problem, "mode differs: routed on c; vxlan on a, b", "rollout restart")),
    ("another VNI", |f| f.status("c").vni = Some(2),
        State::Ok, (CLUSTER, Severity::Problem, "VNI differs: 1 on a, b; 2 on c", "rollout restart")),
    ("another MTU", |f| f.status("c").mtu = Some(1400),
        State::Ok, (CLUSTER, Severity::Note, "pod MTU differs: 1400 on c; 1450 on a, b", "set `mtu`")),
    ("what the daemon wants known", |f| f.status("c").notes.push("foreign plug-in bridge".into()),
        State::Ok, ("c", Severity::Note, "foreign plug-in bridge", "")),
];

#[test]
fn what_is_wrong_is_told_once_where_it_belongs_with_what_to_do() {
    for (name, spoil, state, (place, severity, what, advice)) in ROWS {
        let mut facts = Facts::well();
        spoil(&mut facts);
        let survey = facts.judge();
        let c = survey.nodes.iter().find(|node| node.name == "c").expect("c");
        assert_eq!(c.state, *state, "{name}: {survey:#?}");
        let told = if *place == CLUSTER { &survey.findings } else { &c.findings };
        let matching = told.iter().filter(|it| it.what.contains(what)).collect::<Vec<_>>();
        assert_eq!(matching.len(), 1, "{name}: {what}: {survey:#?}");
        assert_eq!(matching[0].severity, *severity, "{name}");
        assert!(matching[0].advice.contains(advice), "{name}: {:?}", matching[0]);
        assert_eq!(survey.is_well(), *severity == Severity::Note, "{name}: {survey:#?}");
    }
}

#[test]
fn what_keeps_a_node_from_being_ready_is_not_noted_again() {
    let mut facts = Facts::well();
    let status = facts.status("c");
    status.ready = false;
    status.checks = vec![Check::unmet("kernel", "VNI 1 is taken")];
    status.notes = vec!["VNI 1 is taken".into(), "another".into()];
    let survey = facts.judge();
    let said: Vec<&str> = survey.nodes[2].findings.iter().map(|it| it.what.as_str()).collect();
    assert_eq!(said, ["kernel: VNI 1 is taken", "another"]);
}

#[test]
fn a_cluster_that_is_well_has_nothing_to_say() {
    let survey = Facts::well().judge();
    let said = survey.nodes.iter().flat_map(|node| &node.findings).chain(&survey.findings);
    assert_eq!(said.collect::<Vec<_>>(), Vec::<&super::Finding>::new());
    assert!(survey.nodes.iter().all(|node| node.state == State::Ok));
}

#[test]
fn where_bowline_is_not_installed_that_is_said_once() {
    let mut facts = Facts::well();
    facts.pods.clear();
    facts.answers.clear();
    let survey = facts.judge();
    assert_eq!(survey.findings.len(), 1, "{survey:#?}");
    assert!(
        survey.findings[0].what.contains(SELECTOR) && survey.nodes.iter().all(|it| it.findings.is_empty())
    );
}

#[test]
fn a_cluster_of_proxies_needs_no_pod_network() {
    let mut facts = Facts::well();
    for name in NAMES {
        facts.nodes.get_mut(name).expect("a node")["spec"] = Value::Null;
        let services =
            ServicesStatus { mode: "nftables".into(), is_programmed: true, ..ServicesStatus::default() };
        *facts.status(name) = Status {
            version: env!("CARGO_PKG_VERSION").into(),
            mode: crate::kube_proxy::NAME.into(),
            ready: true,
            services: Some(services),
            ..Status::default()
        };
    }
    let survey = facts.judge();
    assert!(survey.is_well(), "{survey:#?}");
}

#[test]
fn of_two_pods_on_a_node_the_one_that_runs_matters() {
    let pod = |name: &str, is_running, is_leaving| PodFacts {
        name: name.into(),
        node: "a".into(),
        is_running,
        is_leaving,
        ..PodFacts::default()
    };
    for (pods, expected) in [
        (vec![pod("old", true, true), pod("new", false, false)], "old"),
        (vec![pod("new", true, false), pod("old", true, true)], "new"),
        (vec![pod("failed", false, true), pod("new", false, false)], "new"),
    ] {
        assert_eq!(by_node(pods)["a"].name, expected);
    }
}
