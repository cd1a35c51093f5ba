//! From what a turn has found to what is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use ipnetwork::IpNetwork;
use kernel::route::{MAIN, masked};
use overlay::plan::{Hop, Problem};
use overlay::sync::Report;
use overlay::{Mode, Peer, Plan};

use super::Agent;
use super::turn::Findings;
use crate::source::publish::Wanted;
use crate::status::{Check, PeerStatus, Programmed, SourceStatus, SyncStatus, UplinkStatus, seconds};

/// Every condition of readiness, in the order in which it comes about.
const CHECKS: [&str; 9] = [
    "source",
    "node",
    "configuration",
    "kernel",
    "forwarding",
    "masquerade",
    SERVICES,
    "plug-ins",
    "conflist",
];
/// Only of nodes that serve Services.
const SERVICES: &str = "services";

impl Agent {
    /// Makes what was found known.
    pub(super) fn report(&mut self, findings: Findings) {
        let mut status = self.outlets.status.borrow().as_ref().clone();
        status.checks = complete(findings.checks, self.outlets.proxy.is_some());
        status.ready = status.checks.iter().all(|check| check.ok);
        status.notes = findings.notes;
        status.source = SourceStatus::from(&*self.feed.state.borrow());
        if let Some(view) = &findings.view {
            status.pod_cidrs = view.pod_cidrs.present().map(|(_, cidr)| *cidr).collect();
            status.peers = peers(&view.peers, findings.plan.as_ref(), &findings.problems);
        }
        let uplinks = findings.uplinks.present();
        status.uplinks = uplinks
            .map(|(_, uplink)| UplinkStatus {
                link: uplink.link.name.clone(),
                ip: uplink.ip,
                mtu: uplink.mtu,
            })
            .collect();
        let mode = self.config.settings.mode;
        status.vni = matches!(mode, Mode::Vxlan | Mode::CrossSubnet).then_some(self.config.settings.vni);
        if let Some(plan) = &findings.plan {
            status.mtu = Some(plan.mtu).filter(|mtu| *mtu > 0);
            status.programmed = programmed(plan);
        }
        let own = findings.problems.iter().filter(|problem| problem.peer.is_empty());
        status.notes.extend(own.map(|problem| problem.what.clone()));
        self.publish(status.ready, findings.report.as_ref(), &mut status.notes);
        if let Some(report) = findings.report {
            status.syncs += 1;
            status.last_sync = Some(SyncStatus {
                at: seconds(SystemTime::now()),
                took_ms: report.took.as_secs_f64() * 1e3,
                added: report.added,
                removed: report.removed,
                failures: report.failures.iter().map(ToString::to_string).collect(),
            });
        }
        status.drift_repaired.clone_from(&self.memory.drift);
        self.outlets.metrics.show(&status);
        self.outlets.status.send_replace(Arc::new(status));
    }
}

impl Agent {
    /// Tells the API's writer what the Node shall say, and people what stands in the way.
    fn publish(&mut self, is_ready: bool, report: Option<&Report>, notes: &mut Vec<String>) {
        let mode = self.config.settings.mode;
        self.outlets.wanted.send_if_modified(|wanted| {
            let key = report.and_then(|report| report.wireguard_key).or(wanted.wireguard_key);
            let news = Wanted::in_mode(mode, is_ready, key);
            let differs = *wanted != news;
            *wanted = news;
            differs
        });
        if let Some(publication) = &self.outlets.publication {
            notes.extend(publication.borrow().clone());
            return;
        }
        let objects = self.feed.objects.borrow().clone();
        let own = objects.as_ref().and_then(|objects| objects.nodes.get(&self.config.node_name));
        let told = own.and_then(|node| node.wireguard_key);
        let key = self.outlets.wanted.borrow().wireguard_key;
        if let Some(key) = key.filter(|key| told != Some(*key)) {
            let key = base64::prelude::BASE64_STANDARD.encode(key);
            let annotation = crate::objects::WIREGUARD_KEY;
            notes.push(format!("peers need this node's key: annotate its manifest with {annotation}: {key}"));
        }
    }
}

/// Those that were not come to are unmet, behind the one that was.
fn complete(mut checks: Vec<Check>, has_proxy: bool) -> Vec<Check> {
    for name in CHECKS.into_iter().filter(|name| has_proxy || *name != SERVICES) {
        if !checks.iter().any(|check| check.name == name) {
            checks.push(Check::unmet(name, "waits for what is missing above"));
        }
    }
    checks
}

fn programmed(plan: &Plan) -> Programmed {
    Programmed {
        tunnels: plan.tunnels.len(),
        routes: plan.routes.len(),
        rules: plan.rules.len(),
        fdb: plan.fdb.len(),
        neighbours: plan.neighbours.len(),
        wireguard: plan.wireguard.len(),
    }
}

/// All other nodes by name: those that are planned for, and those that have only problems.
fn peers(peers: &[Peer], plan: Option<&Plan>, problems: &[Problem]) -> Vec<PeerStatus> {
    let routes = plan.iter().flat_map(|plan| &plan.routes).filter(|route| route.table == MAIN);
    let hops: BTreeMap<IpNetwork, &Hop> = routes.map(|route| (route.dst, &route.hop)).collect();
    let mut all: BTreeMap<&str, PeerStatus> = BTreeMap::new();
    for peer in peers {
        let pod_cidrs: Vec<IpNetwork> = peer.pod_cidrs.present().map(|(_, cidr)| *cidr).collect();
        let via = pod_cidrs.iter().filter_map(|cidr| hops.get(&masked(*cidr)).and_then(|hop| way(hop)));
        let status = PeerStatus {
            name: peer.name.clone(),
            ips: peer.ips.present().map(|(_, ip)| *ip).collect(),
            via: via.collect(),
            pod_cidrs,
            problems: Vec::new(),
        };
        all.insert(&peer.name, status);
    }
    for problem in problems.iter().filter(|problem| !problem.peer.is_empty()) {
        let peer = all.entry(&problem.peer).or_default();
        peer.name.clone_from(&problem.peer);
        peer.problems.push(problem.what.clone());
    }
    all.into_values().collect()
}

fn way(hop: &Hop) -> Option<String> {
    match hop {
        Hop::Direct { .. } => Some("direct".to_owned()),
        Hop::Tunnel { device, .. } | Hop::Encapsulated { device, .. } => Some(device.clone()),
        Hop::Unreachable => None,
    }
}
