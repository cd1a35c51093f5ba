//! From what a turn has found to what is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use ipnetwork::IpNetwork;
use kernel::route::{MAIN, masked};
use overlay::plan::{Hop, Problem};
use overlay::{Mode, Peer, Plan};

use super::Agent;
use super::turn::Findings;
use crate::status::{Check, PeerStatus, Programmed, SourceStatus, SyncStatus, UplinkStatus, seconds};

/// Every condition of readiness, in the order in which it comes about.
const CHECKS: [&str; 8] =
    ["source", "node", "configuration", "kernel", "forwarding", "masquerade", "plug-ins", "conflist"];

impl Agent {
    /// Makes what was found known.
    pub(super) fn report(&mut self, findings: Findings) {
        let mut status = self.status.borrow().as_ref().clone();
        status.checks = complete(findings.checks);
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
        self.metrics.show(&status);
        self.status.send_replace(Arc::new(status));
    }
}

/// Those that were not come to are unmet, behind the one that was.
fn complete(mut checks: Vec<Check>) -> Vec<Check> {
    for name in CHECKS {
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
