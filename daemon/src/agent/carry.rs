//! What lies between a reachable node and pods on it: sysctls, rules, plug-ins, files. And taking it back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use overlay::{DualStack, Family, Local, NodeFacts, Plan};

use super::Agent;
use super::turn::{Findings, Patience, Stop};
use super::view::View;
use crate::log::chain_of;
use crate::node::masquerade::{self, Masquerade};
use crate::node::{Outcome, forward, pods, sysctls};
use crate::status::{Check, LEASES};
use crate::{conflist, file, install};

/// How long a node may fail before runtimes are told not to bring it new pods.
const GRACE: Duration = Duration::from_secs(10);

impl Agent {
    /// Sysctls, masquerade, forwarding.
    pub(super) fn prepare(
        &mut self,
        view: &View,
        local: &Local,
        findings: &mut Findings,
    ) -> Result<(), Stop> {
        let failed = |name: &'static str| {
            move |error: kernel::Error| Stop::Failure(Check::unmet(name, chain_of(&error)))
        };
        let families = DualStack::from_fn(|family| local.pod_cidrs.of(family).is_some());
        let set = sysctls::ensure_forwarding(&mut self.route, families, &local.uplinks)
            .map_err(failed("forwarding"))?;
        self.settle("sysctl", set, self.memory.forwarded.is_some(), findings);
        let (set, bridge) =
            sysctls::ensure_bridge_filter(&mut self.route, families).map_err(failed("forwarding"))?;
        self.settle("sysctl", set, self.memory.forwarded.is_some(), findings);

        let pods: Vec<IpNetwork> = local.pod_cidrs.present().map(|(_, cidr)| *cidr).collect();
        let accepted = forward::sync(&mut self.netfilter, &pods).map_err(failed("forwarding"))?;
        let is_same = self.memory.forwarded.as_ref() == Some(&pods);
        self.settle("forwarding", accepted, is_same, findings);
        self.memory.forwarded = Some(pods);
        findings.checks.push(Check::met("forwarding", format!("br_netfilter {bridge}")));

        let leases = Path::new(LEASES);
        let restored = pods::restore(&mut self.route, leases, conflist::NETWORK, &mut self.memory.pods);
        self.settle("pods", restored.map_err(failed("pods"))?, true, findings);

        let wanted = self.wanted_masquerade(view, local);
        let changes = masquerade::sync(&mut self.netfilter, &wanted).map_err(failed("masquerade"))?;
        let is_same = self.memory.masquerade.as_ref() == Some(&wanted);
        self.settle("masquerade", Outcome { changes, problems: Vec::new() }, is_same, findings);
        let families: Vec<String> = wanted.present().map(|(family, _)| family.to_string()).collect();
        self.memory.masquerade = Some(wanted);
        let detail = if families.is_empty() { "off".to_owned() } else { families.join(", ") };
        findings.checks.push(Check::met("masquerade", detail));
        Ok(())
    }

    fn wanted_masquerade(&self, view: &View, local: &Local) -> DualStack<Option<Masquerade>> {
        let ranges = &self.config.ranges;
        let uplinks = local.uplinks.present().map(|(_, uplink)| IpNetwork::from(uplink.ip));
        let inside: Vec<IpNetwork> = [&view.inside, &ranges.cluster, &ranges.service, &ranges.non_masquerade]
            .into_iter()
            .flatten()
            .copied()
            .chain(uplinks)
            .collect();
        DualStack::from_fn(|family| {
            let pods = (*local.pod_cidrs.of(family)).filter(|_| *self.config.masquerade.of(family))?;
            let of_family = |network: &&IpNetwork| Family::of_network(**network) == family;
            Some(Masquerade { pods: vec![pods], inside: inside.iter().filter(of_family).copied().collect() })
        })
    }

    /// Tells changes; as drift where nothing new was wanted.
    fn settle(&mut self, kind: &str, outcome: Outcome, is_same: bool, findings: &mut Findings) {
        if is_same && !outcome.changes.is_empty() {
            self.repaired(kind, outcome.changes.len());
        }
        if !outcome.changes.is_empty() {
            tracing::info!(changes = outcome.changes.len(), "{kind}: {}", outcome.changes[0]);
        }
        for change in &outcome.changes {
            tracing::debug!("{change}");
        }
        findings.notes.extend(outcome.problems);
    }

    /// Plug-ins, then the facts that they read, then the list by which runtimes find them.
    pub(super) fn offer(&mut self, view: &View, plan: &Plan, findings: &mut Findings) -> Result<(), Stop> {
        let paths = self.config.paths.clone();
        let failed = |name: &'static str| move |what: String| Stop::Failure(Check::unmet(name, what));
        let needed = conflist::KIND;
        if self.memory.installed.is_none() || !install::is_there(&paths.cni_bin, needed) {
            let others =
                install::install(&self.program, &paths.cni_bin, needed).map_err(failed("plug-ins"))?;
            tracing::info!(directory = %paths.cni_bin.display(), "plug-ins are installed");
            self.memory.installed = Some(others);
        }
        let others = self.memory.installed.clone().unwrap_or_default();
        if !others.is_empty() {
            let names = others.join(", ");
            findings
                .notes
                .push(format!("plug-ins of another project stay in {}: {names}", paths.cni_bin.display()));
        }
        findings.checks.push(Check::met("plug-ins", paths.cni_bin.display().to_string()));

        let facts = NodeFacts {
            node: self.config.node_name.clone(),
            mode: self.config.settings.mode.to_string(),
            pod_cidrs: view.pod_cidrs.present().map(|(_, cidr)| *cidr).collect(),
            mtu: plan.mtu,
        };
        let text =
            serde_json::to_string_pretty(&facts).map_err(|error| failed("conflist")(error.to_string()))?;
        let path = self.facts_path();
        file::ensure(&path, (text + "\n").as_bytes(), 0o644).map_err(failed("conflist"))?;
        let list = conflist::list(&path);
        if conflist::ensure(&paths.cni_conf, &list).map_err(failed("conflist"))? {
            if self.memory.was_ready && self.memory.unready_since.is_none() {
                self.repaired("conflist", 1);
            }
            tracing::info!(directory = %paths.cni_conf.display(), "wrote the network configuration list");
        }
        if let Some(other) = conflist::other_in_front(&paths.cni_conf) {
            let what = "comes before ours by name, so container runtimes take it: move it away";
            findings.notes.push(format!("{} {what}", other.display()));
        }
        findings
            .checks
            .push(Check::met("conflist", paths.cni_conf.join(conflist::FILE).display().to_string()));
        Ok(())
    }

    /// Takes back what promises that this node carries new pods, with some `patience` after [`GRACE`]. Pods that run are
    /// not touched.
    pub(super) fn withdraw(&mut self, patience: Patience) {
        let since = *self.memory.unready_since.get_or_insert_with(Instant::now);
        if patience == Patience::Some && since.elapsed() < GRACE {
            return;
        }
        let conflist = conflist::remove(&self.config.paths.cni_conf);
        let facts = file::remove(&self.facts_path());
        for removed in [conflist, facts] {
            match removed {
                Ok(true) => tracing::warn!("runtimes are told that this node takes no new pods"),
                Ok(false) => {}
                Err(error) => tracing::error!("{error}"),
            }
        }
    }

    /// Where the plug-ins read the facts of this node.
    pub(super) fn facts_path(&self) -> PathBuf {
        self.config.paths.run.join("node.json")
    }
}
