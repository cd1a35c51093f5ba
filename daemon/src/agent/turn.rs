//! One turn of the loop: look at everything, write differences, say how it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use overlay::plan::Problem;
use overlay::sync::Report;
use overlay::{DualStack, Local, Plan, Uplink, uplink};

use super::interest::Interest;
use super::view::{self, View};
use super::{AUDIT, Agent, REMIND, RETRY};
use crate::log::chain_of;
use crate::node::masquerade::Masquerade;
use crate::node::pods;
use crate::proxy::Published;
use crate::status::Check;

/// What one turn leaves for the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Whether this node has been ready since the daemon started.
    pub was_ready: bool,
    /// Since when it is not.
    pub unready_since: Option<Instant>,
    /// The last plan that was carried out whole.
    pub plan: Option<Plan>,
    /// What the masquerade table was last made to say.
    pub masquerade: Option<DualStack<Option<Masquerade>>>,
    /// For which pod CIDRs forwarding was last accepted.
    pub forwarded: Option<Vec<IpNetwork>>,
    /// Names of plug-ins that belong to others, once installation has succeeded.
    pub installed: Option<Vec<String>>,
    /// What was last said to be missing, and when.
    pub complaint: Option<(String, Instant)>,
    /// How the Service proxy was.
    pub proxy: Arc<Published>,
    /// What is known of this node's pods.
    pub pods: pods::Memory,
    /// Turns in a row that something failed in.
    pub failures: u32,
    /// Whether the log has heard of this daemon. Before, a mistake of the configuration is all that is said.
    pub announced: bool,
    /// What was put back so far, by kind.
    pub drift: BTreeMap<String, u64>,
}

impl Memory {
    /// When to try again what failed, or to look again at what is in doubt; `None` when nothing is.
    pub fn retry(&self) -> Option<Duration> {
        let Some(doublings) = self.failures.checked_sub(1) else { return self.pods.due() };
        Some(RETRY.saturating_mul(1 << doublings.min(6)).min(AUDIT))
    }
}

/// Why a turn ends early.
pub(super) enum Stop {
    /// Nothing is known of the nodes yet. What an earlier daemon of this boot has promised stays in force.
    Unknown(Check),
    /// Somebody else has to do something first.
    Wait(Check),
    /// The configuration does not fit this node.
    Mistake(Check),
    /// The kernel or a file refuses; it is tried again.
    Failure(Check),
}

/// How long a node that can't carry pods may go on promising it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all.
    None,
    /// A while: what fails is tried again.
    Some,
}

/// What a turn finds out on its way, for the status.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub checks: Vec<Check>,
    pub notes: Vec<String>,
    pub view: Option<View>,
    pub uplinks: DualStack<Option<Uplink>>,
    pub plan: Option<Plan>,
    pub report: Option<Report>,
    pub problems: Vec<Problem>,
}

impl Agent {
    /// Does one turn.
    ///
    /// # Errors
    /// A mistake of the configuration, as a sentence, as long as this node was never ready.
    pub(super) fn turn(&mut self) -> Result<(), String> {
        let mut findings = Findings::default();
        let stop = self.advance(&mut findings).err();
        if let Some(Stop::Mistake(check)) = &stop
            && !self.memory.was_ready
        {
            // No runtime shall find a list that nobody can serve.
            self.withdraw(Patience::None);
            return Err(check.detail.clone());
        }
        let (check, patience) = match stop {
            None => (None, None),
            Some(Stop::Unknown(check)) => (Some(check), None),
            Some(Stop::Wait(check) | Stop::Mistake(check)) => (Some(check), Some(Patience::None)),
            Some(Stop::Failure(check)) => (Some(check), Some(Patience::Some)),
        };
        let again = check.is_some() && !matches!(patience, Some(Patience::None));
        self.memory.failures = if again { self.memory.failures.saturating_add(1) } else { 0 };
        self.complain(check.as_ref());
        if let Some(patience) = patience {
            self.withdraw(patience);
        }
        match check {
            Some(check) => findings.checks.push(check),
            None => {
                self.memory.was_ready = true;
                self.memory.unready_since = None;
            }
        }
        self.report(findings);
        Ok(())
    }

    /// Goes as far as it gets.
    fn advance(&mut self, findings: &mut Findings) -> Result<(), Stop> {
        let view = self.look(findings)?;
        let local = self.locate(&view, findings)?;
        let plan = self.program(&view, &local, findings)?;
        self.prepare(&view, &local, findings)?;
        self.await_services(findings)?;
        self.offer(&view, &plan, findings)
    }

    /// The newest snapshot, as this node sees it.
    fn look(&mut self, findings: &mut Findings) -> Result<View, Stop> {
        let objects = self.feed.objects.borrow_and_update().clone();
        let state = self.feed.state.borrow_and_update().clone();
        let Some(objects) = objects else {
            let problems = state.problems.join("; ");
            let why = if problems.is_empty() { "no answer yet".to_owned() } else { problems };
            let detail = format!("waiting for the first full set of Nodes from {}: {why}", state.what);
            return Err(Stop::Unknown(Check::unmet("source", detail)));
        };
        findings.checks.push(Check::met("source", state.what.clone()));
        let own = &self.config.node_name;
        let view = view::look(own, &self.config.ranges, &objects)
            .map_err(|waiting| Stop::Wait(Check::unmet("node", waiting.sentence(own, &state.what))))?;
        let cidrs: Vec<String> = view.pod_cidrs.present().map(|(_, cidr)| cidr.to_string()).collect();
        findings.checks.push(Check::met("node", cidrs.join(", ")));
        findings.problems.extend(view.problems.iter().cloned());
        findings.view = Some(view.clone());
        Ok(view)
    }

    /// Where this node is, if the configuration fits it.
    fn locate(&mut self, view: &View, findings: &mut Findings) -> Result<Local, Stop> {
        let mistake = |what: String| Stop::Mistake(Check::unmet("configuration", what));
        for (_, cidr) in view.pod_cidrs.present() {
            let checked = self.config.ranges.check_pod_cidr(*cidr);
            checked.map_err(|why| mistake(format!("Node `{}`: {why}", self.config.node_name)))?;
        }
        let uplinks = uplink::find(&mut self.route, &self.choice, &view.ips).map_err(mistake)?;
        let local = Local {
            name: self.config.node_name.clone(),
            uplinks: uplinks.clone(),
            pod_cidrs: view.pod_cidrs,
            abilities: self.abilities,
        };
        findings.uplinks = uplinks;
        overlay::plan::check(&self.config.settings, &local).map_err(mistake)?;
        let found = local.uplinks.present().map(|(_, uplink)| format!("{} on {}", uplink.ip, uplink.link));
        findings.checks.push(Check::met("configuration", found.collect::<Vec<_>>().join(", ")));
        Ok(local)
    }

    /// Whether pods would find Services. What an earlier daemon has promised stays in force: its rules do too.
    fn await_services(&mut self, findings: &mut Findings) -> Result<(), Stop> {
        let Some(proxy) = &self.outlets.proxy else { return Ok(()) };
        let published = proxy.published.borrow().clone();
        self.memory.proxy = Arc::clone(&published);
        findings.notes.extend(published.problems.iter().cloned());
        if !published.is_programmed {
            let why = published.problems.first().map_or("they are being read", String::as_str);
            let detail = format!("Services are not programmed yet: {why}");
            return Err(Stop::Unknown(Check::unmet("services", detail)));
        }
        let ports: usize = published.families.present().map(|(_, family)| family.ports).max().unwrap_or(0);
        let detail = format!("{ports} Service ports by {}", proxy.mode);
        findings.checks.push(Check::met("services", detail));
        Ok(())
    }

    /// Links, routes, FDB and neighbours.
    fn program(&mut self, view: &View, local: &Local, findings: &mut Findings) -> Result<Plan, Stop> {
        let plan = overlay::plan::plan(&self.config.settings, local, &view.peers);
        findings.problems.extend(plan.problems.iter().cloned());
        if !self.memory.was_ready {
            let lacking = |what| Stop::Mistake(Check::unmet("kernel", what));
            self.dataplane.probe(&plan).map_err(lacking)?;
        }
        self.announce();
        let synced = self.dataplane.sync(&plan);
        // Also after a failure: what is there must be watched.
        let route = &mut self.route;
        let index = |name: &str| Some(kernel::link::find(route, name).ok()??.id.index);
        self.interest = Interest::of(&plan, &local.uplinks, index);
        findings.plan = Some(plan.clone());
        let report = synced.map_err(|error| {
            self.outlets.metrics.synced(Duration::ZERO, false);
            Stop::Failure(Check::unmet("kernel", chain_of(&error)))
        })?;
        self.account(&plan, &report, view.peers.len());
        findings.problems.extend(report.failures.iter().cloned());
        let own = report.failures.iter().find(|failure| failure.peer.is_empty()).cloned();
        findings.report = Some(report);
        if let Some(failure) = own {
            self.memory.plan = None;
            return Err(Stop::Failure(Check::unmet("kernel", failure.what)));
        }
        let routes = plan.routes.len();
        findings.checks.push(Check::met("kernel", format!("{routes} routes, pod MTU {}", plan.mtu)));
        self.memory.plan = Some(plan.clone());
        Ok(plan)
    }

    /// Counts what a sync did; what it did although nothing else was wanted, somebody had undone.
    fn account(&mut self, plan: &Plan, report: &Report, peers: usize) {
        self.outlets.metrics.synced(report.took, report.failures.is_empty());
        let changed = report.added + report.removed;
        let is_same = self.memory.plan.as_ref() == Some(plan);
        if is_same && changed > 0 {
            self.repaired("overlay", changed);
        } else if changed > 0 {
            tracing::info!(
                added = report.added,
                removed = report.removed,
                peers,
                took_ms = report.took.as_secs_f64() * 1e3,
                "links, routes and neighbours follow the nodes"
            );
        }
    }

    /// Counts and tells drift.
    pub(super) fn repaired(&mut self, kind: &str, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.outlets.metrics.repaired(kind, count);
        *self.memory.drift.entry(kind.to_owned()).or_default() += count;
        tracing::warn!(kind, count, "somebody had removed or changed what is ours; it is back");
    }

    /// Says what is missing when that changes, and again after a while.
    fn complain(&mut self, check: Option<&Check>) {
        let Some(check) = check else {
            if self.memory.complaint.take().is_some() || !self.memory.was_ready {
                tracing::info!(node = self.config.node_name, "this node can carry pods");
            }
            return;
        };
        let said = &self.memory.complaint;
        // A source takes a moment to answer; its first second is not worth a word.
        if said.is_none() && self.memory.failures == 1 && check.name == "source" {
            return;
        }
        let is_old = said.as_ref().is_some_and(|(what, at)| *what == check.detail && at.elapsed() < REMIND);
        if !is_old {
            self.announce();
            tracing::warn!(check = check.name, "not ready: {}", check.detail);
            self.memory.complaint = Some((check.detail.clone(), Instant::now()));
        }
    }

    fn announce(&mut self) {
        if !std::mem::replace(&mut self.memory.announced, true) {
            let (node, mode) = (&self.config.node_name, self.config.settings.mode);
            tracing::info!(version = env!("CARGO_PKG_VERSION"), %mode, "bowlined keeps node {node}");
        }
    }
}
