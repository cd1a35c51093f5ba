//! From facts to findings: what is wrong with each node, and what to do about it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::list::{NodeFacts, PodFacts};
use super::{Asked, Survey, whole};
use crate::kube_proxy;
use crate::status::{Check, Status};

/// The daemon looks at its kernel once a minute; who has not done so for that many seconds is stuck.
const STALE: u64 = 180;
/// A change of Services gets into the kernel within seconds.
const WAITING: u64 = 30;
/// That many names are told one by one.
const NAMED: usize = 5;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Something does not work, or will not.
    Problem,
    /// Good to know.
    Note,
}

/// Something about a node or a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What there is, in a sentence.
    pub what: String,
    /// What to do about it; empty where `what` says it.
    pub advice: String,
}

impl Finding {
    /// Something that does not work.
    pub fn problem(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { severity: Severity::Problem, what: what.into(), advice: advice.into() }
    }

    /// Something good to know.
    pub fn note(what: impl Into<String>, advice: impl Into<String>) -> Self {
        Finding { severity: Severity::Note, what: what.into(), advice: advice.into() }
    }
}

/// How a node is, in a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Ready, and nothing is wrong.
    Ok,
    /// Ready, but something is wrong.
    Problem,
    /// New pods can't be carried, or Services are not served.
    NotReady,
    /// The daemon runs and does not answer.
    NoAnswer,
    /// No daemon runs.
    #[default]
    NoDaemon,
    /// No node for bowline.
    NotOurs,
}

/// A node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSurvey {
    /// Its name.
    pub name: String,
    /// How it is, in a word.
    pub state: State,
    /// The daemon's pod.
    pub pod: Option<String>,
    /// How often that was started again.
    pub restarts: u32,
    /// What the daemon tells.
    pub status: Option<Status>,
    /// How many other nodes it should know.
    pub peers_expected: usize,
    /// What is to be said, the worst first.
    pub findings: Vec<Finding>,
}

/// What a daemon answered.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Its status.
    Status(Box<Status>),
    /// Why there is none.
    Failed(String),
}

/// Of each node the pod that matters: one that runs, and is not about to go.
pub fn by_node(mut pods: Vec<PodFacts>) -> BTreeMap<String, PodFacts> {
    pods.sort_by_key(|pod| (pod.is_running, !pod.is_leaving));
    pods.into_iter().map(|pod| (pod.node.clone(), pod)).collect()
}

/// What all nodes must be judged by.
pub(super) struct Scene<'a> {
    pub asked: &'a Asked,
    /// Nodes that others should reach: with a pod CIDR and an address.
    pub reachable: BTreeSet<&'a str>,
    /// Whether bowline carries pods here, or serves Services alone.
    pub is_network: bool,
    /// Whether there is any pod of bowline.
    pub is_installed: bool,
}

/// Judges a cluster.
pub fn judge(
    nodes: &[NodeFacts],
    pods: &BTreeMap<String, PodFacts>,
    answers: &BTreeMap<String, Answer>,
    asked: &Asked,
) -> Survey {
    let reachable = nodes.iter().filter(|it| !it.node.pod_cidrs.is_empty() && !it.node.ips.is_empty());
    let modes = answers.values().filter_map(|answer| match answer {
        Answer::Status(status) => Some(status.mode.as_str()),
        Answer::Failed(_) => None,
    });
    let modes: BTreeSet<&str> = modes.collect();
    let scene = Scene {
        asked,
        reachable: reachable.map(|it| it.node.name.as_str()).collect(),
        is_network: modes.is_empty() || modes.iter().any(|mode| *mode != kube_proxy::NAME),
        is_installed: !pods.is_empty(),
    };
    let judged = nodes.iter().map(|facts| {
        let name = &facts.node.name;
        scene.node(facts, pods.get(name), answers.get(name))
    });
    let mut nodes_judged: Vec<NodeSurvey> = judged.collect();
    nodes_judged.sort_by(|a, b| a.name.cmp(&b.name));
    whole::tell_peers(&mut nodes_judged);
    let findings = whole::findings(nodes, &nodes_judged, &scene);
    for node in &mut nodes_judged {
        node.findings.sort_by_key(|finding| finding.severity);
        let is_wrong = node.findings.iter().any(|finding| finding.severity == Severity::Problem);
        if node.state == State::Ok && is_wrong {
            node.state = State::Problem;
        }
    }
    Survey { server: String::new(), nodes: nodes_judged, findings }
}

impl Scene<'_> {
    fn node(&self, facts: &NodeFacts, pod: Option<&PodFacts>, answer: Option<&Answer>) -> NodeSurvey {
        let name = &facts.node.name;
        let mut survey = NodeSurvey {
            name: name.clone(),
            pod: pod.map(|pod| pod.name.clone()),
            restarts: pod.map_or(0, |pod| pod.restarts),
            peers_expected: self.reachable.iter().filter(|other| *other != name).count(),
            ..NodeSurvey::default()
        };
        if pod.is_none() && !matches!(facts.os.as_str(), "" | "linux") {
            survey.state = State::NotOurs;
            survey.findings.push(Finding::note(format!("runs {}; bowline is for Linux", facts.os), ""));
            return survey;
        }
        self.look_at_object(facts, &mut survey.findings);
        let namespace = &self.asked.namespace;
        match (pod, answer) {
            (None, _) => survey.findings.extend(self.is_installed.then(|| self.absent())),
            (Some(pod), None) => survey.findings.push(self.idle(pod)),
            (Some(pod), Some(Answer::Failed(sentence))) => {
                survey.state = State::NoAnswer;
                let what = format!("bowlined does not answer: {sentence}");
                survey.findings.push(Finding::problem(what, silent(namespace, &pod.name, sentence)));
            }
            (Some(pod), Some(Answer::Status(status))) => {
                survey.state = if status.ready { State::Ok } else { State::NotReady };
                self.look_at_status(facts, pod, status, &mut survey.findings);
                survey.status = Some(status.as_ref().clone());
            }
        }
        survey
    }

    /// What the Node itself says.
    fn look_at_object(&self, facts: &NodeFacts, findings: &mut Vec<Finding>) {
        let fix = "change it in the Node object, or where that gets it from";
        findings.extend(facts.faults.iter().map(|fault| Finding::problem(fault.clone(), fix)));
        if let Some(why) = &facts.not_ready {
            let advice = format!("`kubectl describe node {}` tells more", facts.node.name);
            findings.push(Finding::note(format!("the kubelet is not ready: {why}"), advice));
        }
        if self.is_network && facts.node.pod_cidrs.is_empty() {
            let advice = "let kube-controller-manager allocate them (--allocate-node-cidrs=true --cluster-cidr=..., kubeadm's \
                          networking.podSubnet), or set spec.podCIDRs yourself";
            findings.push(Finding::problem("its Node has no pod CIDR, so its pods get no addresses", advice));
        }
        if self.is_network && facts.node.ips.is_empty() {
            let advice = "let the kubelet or the cloud's controller set one (kubelet --node-ip)";
            findings.push(Finding::problem("its Node has no address that others could reach", advice));
        }
    }

    fn absent(&self) -> Finding {
        let Asked { namespace, selector, .. } = self.asked;
        let advice = format!(
            "`kubectl -n {namespace} describe daemonset -l {selector}` tells why: its node selector, or a taint that it does \
             not tolerate"
        );
        Finding::problem("no pod of bowlined is here", advice)
    }

    /// A pod that does not run.
    fn idle(&self, pod: &PodFacts) -> Finding {
        let (namespace, name) = (&self.asked.namespace, &pod.name);
        let why = pod.why.clone().unwrap_or_else(|| pod.phase.clone());
        let advice = if why.contains("Image") || why.contains("ErrImage") {
            format!("make {} available to this node: docs/install.md, \"The image\"", pod.image)
        } else if why.contains("CrashLoop") {
            format!("`kubectl -n {namespace} logs {name} --previous` says why it ended")
        } else {
            format!("`kubectl -n {namespace} describe pod {name}` tells more")
        };
        Finding::problem(format!("pod {name} does not run: {why}"), advice)
    }

    /// What the daemon says.
    fn look_at_status(
        &self,
        facts: &NodeFacts,
        pod: &PodFacts,
        status: &Status,
        findings: &mut Vec<Finding>,
    ) {
        let log = format!("`kubectl -n {} logs {}` tells more", self.asked.namespace, pod.name);
        // Behind the first that is unmet the others only wait for it.
        let unmet = status.checks.iter().find(|check| !check.ok);
        findings.extend(unmet.map(|check| self.unmet(check, &log)));
        let source = &status.source;
        if !source.connected && !source.what.is_empty() {
            let since = source.since.map(|since| format!(" for {} s", status.told.saturating_sub(since)));
            let why = whole::listed(&source.problems, "; ");
            let what = format!("out of touch with the {}{}: {why}", source.what, since.unwrap_or_default());
            let advice = "what is programmed goes on working, changes do not arrive: see that this node reaches the API server";
            findings.push(Finding::problem(what, advice));
        }
        if let Some(sync) = &status.last_sync {
            let age = status.told.saturating_sub(sync.at);
            if age > STALE {
                let what = format!("has not looked at its kernel for {age} s");
                let advice = format!("{log}; deleting the pod is safe, what is in the kernel stays");
                findings.push(Finding::problem(what, advice));
            }
            let refused = sync.failures.iter();
            findings
                .extend(refused.map(|it| Finding::problem(format!("the kernel refused: {it}"), log.clone())));
        }
        if !status.drift_repaired.is_empty() {
            let kinds = status.drift_repaired.iter().map(|(kind, count)| format!("{count} of {kind}"));
            let what = format!(
                "put back what somebody else had removed or changed: {}",
                kinds.collect::<Vec<_>>().join(", ")
            );
            let advice = "once is a firewall's reload; if it grows look for another network or proxy, NetworkManager, or \
                          systemd-networkd (ManageForeignRoutes=no)";
            findings.push(Finding::note(what, advice));
        }
        self.look_at_peers(facts, status, findings);
        if let Some(waiting) = status.services.as_ref().and_then(|it| it.waiting).filter(|it| *it > WAITING) {
            let what = format!("a change of Services has been waiting for {waiting} s");
            findings
                .push(Finding::problem(what, format!("{log}; `bowline services` shows what the kernel has")));
        }
        // The daemon may note what also keeps it from being ready.
        let news =
            status.notes.iter().filter(|note| !findings.iter().any(|it| it.what.ends_with(note.as_str())));
        let news: Vec<Finding> = news.map(|note| Finding::note(note.clone(), "")).collect();
        findings.extend(news);
    }

    fn unmet(&self, check: &Check, log: &str) -> Finding {
        let namespace = &self.asked.namespace;
        let advice = match check.name.as_str() {
            "source" => {
                "see that this node reaches the API server, and that the ServiceAccount has its ClusterRole"
                    .to_owned()
            }
            "configuration" => format!(
                "change the ConfigMap, then `kubectl -n {namespace} rollout restart daemonset -l {}`",
                self.asked.selector
            ),
            "services" => "`bowline services` on this node shows which Services, and why".to_owned(),
            "node" => "see its Node object: spec.podCIDRs and status.addresses".to_owned(),
            _ => log.to_owned(),
        };
        Finding::problem(format!("{}: {}", check.name, check.detail), advice)
    }

    fn look_at_peers(&self, facts: &NodeFacts, status: &Status, findings: &mut Vec<Finding>) {
        if status.mode == kube_proxy::NAME || status.peers.is_empty() && !status.ready {
            return;
        }
        let own = &facts.node;
        let [has, should] = [&status.pod_cidrs, &own.pod_cidrs].map(|cidrs| {
            let cidrs: BTreeSet<String> = cidrs.iter().map(ToString::to_string).collect();
            cidrs.into_iter().collect::<Vec<_>>().join(", ")
        });
        if has != should && !has.is_empty() {
            let what = format!("gives pods addresses of {has}, but its Node says {should}");
            findings.push(Finding::problem(what, "the Node was made anew: drain it, and restart its pods"));
        }
        let advice = "it has not heard of them: see its source above, or ask again in a moment";
        let is_whole = status.peers.len() == status.peers_known;
        let known: BTreeSet<&str> = status.peers.iter().map(|peer| peer.name.as_str()).collect();
        let missing: Vec<&str> = self
            .reachable
            .iter()
            .copied()
            .filter(|name| *name != own.name && !known.contains(name))
            .collect();
        let count = self.reachable.iter().filter(|name| **name != own.name).count();
        if is_whole && !missing.is_empty() {
            findings.push(Finding::problem(format!("does not know {}", named(&missing)), advice));
        } else if !is_whole && status.peers_known < count {
            let what = format!("knows {} of {count} other nodes", status.peers_known);
            findings.push(Finding::problem(what, advice));
        }
    }
}

/// What to do about a daemon that does not answer.
fn silent(namespace: &str, pod: &str, sentence: &str) -> String {
    if sentence.starts_with("403") || sentence.starts_with("401") {
        return format!("you need the right to get and create pods/exec in {namespace}");
    }
    if sentence.contains("dial") || sentence.starts_with("502") || sentence.starts_with("503") {
        return "the API server does not reach this node's kubelet (port 10250), so `kubectl logs` fails as well: see \
                the kubelet, and the firewalls on the way"
            .to_owned();
    }
    format!("`kubectl -n {namespace} logs {pod}` tells more")
}

/// `a, b and 7 more`.
pub(super) fn named(names: &[&str]) -> String {
    match names.len() > NAMED {
        true => format!("{} and {} more", names[..NAMED].join(", "), names.len() - NAMED),
        false => names.join(", "),
    }
}
