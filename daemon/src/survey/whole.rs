//! What concerns more than one node.

use std::collections::BTreeMap;

use kernel::dual::overlap;

use super::judge::{Finding, NodeSurvey, Scene, named};
use super::list::NodeFacts;
use crate::kube_proxy;
use crate::status::Status;

/// Things with something between.
pub(super) fn listed(things: &[impl ToString], between: &str) -> String {
    things.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

/// What is wrong with a node in the eyes of others is told once, with that node.
pub(super) fn tell_peers(nodes: &mut [NodeSurvey]) {
    let mut told: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for node in nodes.iter() {
        for peer in node.status.iter().flat_map(|status| &status.peers) {
            for what in &peer.problems {
                told.entry((peer.name.clone(), what.clone())).or_default().push(node.name.clone());
            }
        }
    }
    for ((peer, what), by) in told {
        let by: Vec<&str> = by.iter().map(String::as_str).collect();
        let finding = Finding::problem(format!("{} can't reach its pods: {what}", named(&by)), "");
        match nodes.iter_mut().find(|node| node.name == peer) {
            Some(node) => node.findings.push(finding),
            None => {
                let gone = nodes.iter_mut().filter(|node| by.contains(&node.name.as_str()));
                gone.for_each(|node| {
                    node.findings.push(Finding::problem(
                        format!("still knows {peer}, which is no Node any more: {what}"),
                        "it has not heard that it is gone: ask again in a moment, then see its log",
                    ));
                });
            }
        }
    }
}

/// What concerns more than one.
pub(super) fn findings(facts: &[NodeFacts], nodes: &[NodeSurvey], scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (namespace, selector) = (&scene.asked.namespace, &scene.asked.selector);
    if !scene.is_installed {
        let what = format!("no pod labelled {selector} is in namespace {namespace}");
        let advice = "install bowline (docs/install.md), or say where it is: --namespace, --selector";
        return vec![Finding::problem(what, advice)];
    }
    let update = format!(
        "an update is under way, or stuck: `kubectl -n {namespace} rollout status daemonset -l {selector}`"
    );
    if let Some(what) = differing(nodes, "bowlined", |status| Some(status.version.clone())) {
        findings.push(Finding::note(what, update));
    }
    let network = |status: &Status| status.mode != kube_proxy::NAME;
    let one = "one ConfigMap is for all nodes: `kubectl -n NAMESPACE rollout restart daemonset -l SELECTOR`"
        .replace("NAMESPACE", namespace)
        .replace("SELECTOR", selector);
    if let Some(what) = differing(nodes, "mode", |it| network(it).then(|| it.mode.clone())) {
        findings.push(Finding::problem(format!("{what}: these do not reach each other"), one.clone()));
    }
    if let Some(what) = differing(nodes, "VNI", |it| Some(it.vni?.to_string())) {
        findings.push(Finding::problem(format!("{what}: these do not reach each other"), one.clone()));
    }
    let services = |status: &Status| {
        Some(if status.services.is_some() { "served" } else { "left to kube-proxy" }.to_owned())
    };
    if let Some(what) = differing(nodes, "Services", services) {
        findings.push(Finding::problem(what, one));
    }
    if let Some(what) = differing(nodes, "pod MTU", |status| Some(status.mtu?.to_string())) {
        findings.push(Finding::note(
            format!("{what}: large packets between these are cut or refused on the way"),
            "set `mtu` for all to the smallest, unless the networks between them are meant to differ",
        ));
    }
    findings.extend(claims(facts).into_iter().filter(|_| scene.is_network));
    let own = env!("CARGO_PKG_VERSION");
    let newest = nodes.iter().filter_map(|node| Some(node.status.as_ref()?.version.as_str())).max();
    if let Some(theirs) = newest.filter(|theirs| *theirs != own) {
        let what = format!("this bowline is {own}, the daemons are {theirs}");
        findings.push(Finding::note(
            what,
            "what it shows may be incomplete: take the program of the same version",
        ));
    }
    findings
}

/// `WHAT differs: x on a, b; y on c`; `None` when all that say something say the same.
fn differing(nodes: &[NodeSurvey], what: &str, of: impl Fn(&Status) -> Option<String>) -> Option<String> {
    let mut by_value: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        if let Some(value) = node.status.as_ref().and_then(&of) {
            by_value.entry(value).or_default().push(&node.name);
        }
    }
    let shown = by_value.iter().map(|(value, nodes)| format!("{value} on {}", named(nodes)));
    (by_value.len() > 1).then(|| format!("{what} differs: {}", shown.collect::<Vec<_>>().join("; ")))
}

/// Nodes that claim the same pods or the same address.
fn claims(facts: &[NodeFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, one) in facts.iter().enumerate() {
        for other in &facts[..index] {
            let (one, other) = (&one.node, &other.node);
            let cidrs =
                one.pod_cidrs.iter().flat_map(|cidr| other.pod_cidrs.iter().map(move |with| (cidr, with)));
            findings.extend(cidrs.filter(|(cidr, with)| overlap(**cidr, **with)).map(|(cidr, with)| {
                let what = format!(
                    "{} {with} and {} {cidr} overlap: only the newer Node's pods are reached",
                    other.name, one.name
                );
                Finding::problem(
                    what,
                    "delete the Node object that is no more, or give one of them another pod CIDR",
                )
            }));
            let shared = one.ips.iter().find(|ip| other.ips.contains(ip));
            findings.extend(shared.map(|ip| {
                let what = format!("{} and {} have the same address {ip}", other.name, one.name);
                Finding::problem(what, "delete the Node object that is no more, or set kubelet --node-ip")
            }));
        }
    }
    findings
}
