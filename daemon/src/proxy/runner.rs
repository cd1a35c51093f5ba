//! The thread that runs the engine: when to sync, what to do about failures, what to tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kernel::netlink::Socket;
use proxy::engine::{Depth, Engine, Synced};
use proxy::state::ServiceName;
use proxy::{Change, DualStack, Family, Mode};
use tokio::sync::{mpsc, watch};

use super::census::Census;
use super::clock::Clock;
use super::metrics::Metrics;
use super::published::{FamilyState, Published};
use super::sysctls;
use super::watcher::Woken;
use super::{Config, Feeds, Leftovers, Question, addresses, answer};
use crate::log::chain_of;

/// How long this node's own Node is waited for: without it NodePorts answer on every address.
const NODE_WITHIN: Duration = Duration::from_secs(10);

/// The engine, with its clock.
pub(super) struct Runner {
    pub(super) config: Config,
    pub(super) feeds: Feeds,
    pub(super) engine: Engine,
    pub(super) metrics: Arc<Metrics>,
    pub(super) published: watch::Sender<Arc<Published>>,
    pub(super) ask: mpsc::Receiver<Question>,
    pub(super) route: Socket,
    /// What is wrong with the families that are not served, and with settings.
    pub(super) standing: Vec<String>,
    pub(super) clocks: DualStack<Clock>,
    /// Nothing older can have been waited for by us.
    started: SystemTime,
    triggers: BTreeMap<ServiceName, SystemTime>,
    /// Since when changes wait that were taken from the inbox.
    waiting_since: Option<Instant>,
    is_settled: bool,
    began: Instant,
}

impl Runner {
    pub(super) fn new(
        (config, feeds, engine): (Config, Feeds, Engine),
        metrics: Arc<Metrics>,
        published: watch::Sender<Arc<Published>>,
        ask: mpsc::Receiver<Question>,
        route: Socket,
    ) -> Self {
        Runner {
            config,
            feeds,
            engine,
            metrics,
            published,
            ask,
            route,
            standing: Vec::new(),
            clocks: DualStack::default(),
            started: SystemTime::now(),
            triggers: BTreeMap::new(),
            waiting_since: None,
            is_settled: false,
            began: Instant::now(),
        }
    }

    /// Says something to what has woken the thread; false when it shall end.
    pub(super) fn respond(&mut self, woken: Woken) -> bool {
        match woken {
            Woken::Ended => return false,
            Woken::Question(question) => self.answer(question),
            Woken::Addresses => self.look_at_addresses(),
            Woken::Rules => self.heed(true),
            Woken::Changes | Woken::Time | Woken::Source => {}
        }
        true
    }

    /// Notes whether somebody else has changed rules of ours.
    pub(super) fn heed(&mut self, is_warned: bool) {
        self.clocks.iter_mut().for_each(|(_, clock)| clock.is_warned |= is_warned);
    }

    /// Tells the inbox which addresses there are.
    pub(super) fn look_at_addresses(&mut self) {
        match addresses::list(&mut self.route) {
            Ok(all) if self.engine.snapshot().node.addresses == all => {}
            Ok(all) => self.feeds.inbox.put([Change::Addresses(all)]),
            Err(error) => tracing::warn!("{}", chain_of(&error)),
        }
    }

    /// Takes what there is, syncs what is due, and tells how it went. Returns whether the kernel was written to.
    pub(super) fn turn(&mut self) -> bool {
        self.take();
        let mut has_written = false;
        for family in Family::BOTH {
            has_written |= self.turn_of(family);
        }
        let is_due = Family::BOTH.into_iter().any(|family| self.engine.is_due(family));
        if !is_due && self.is_ready() {
            self.waiting_since = None;
            self.triggers.clear();
            self.metrics.caught_up();
            self.settle();
        }
        self.publish();
        has_written
    }

    /// Whether enough is known to program anything.
    fn is_ready(&self) -> bool {
        let knows_node = self.engine.own_node().is_some() || self.began.elapsed() >= NODE_WITHIN;
        self.engine.is_ready() && knows_node
    }

    fn take(&mut self) {
        let (changes, since) = self.feeds.inbox.take();
        if changes.is_empty() {
            return;
        }
        let applied = self.engine.apply(changes);
        self.metrics.took(applied.services, applied.endpoints);
        if applied.is_nothing() {
            return;
        }
        self.waiting_since = self.waiting_since.or(since);
        for (service, at) in applied.triggers {
            if at >= self.started {
                self.triggers.entry(service).or_insert(at);
            }
        }
        Family::BOTH
            .into_iter()
            .filter(|family| self.engine.is_due(*family))
            .for_each(|f| self.metrics.queue(f));
        // Health servers must learn that something waits before a sync that may take seconds.
        self.publish();
    }

    fn turn_of(&mut self, family: Family) -> bool {
        let now = Instant::now();
        let clock = self.clocks.of(family);
        let may = clock.earliest(&self.config).is_none_or(|earliest| earliest <= now);
        if !self.is_ready() || !may || self.engine.plan(family).is_none() && !self.engine.is_due(family) {
            return false;
        }
        if self.engine.is_due(family) {
            self.sync(family, Depth::Changes);
            return true;
        }
        let is_audit = clock.audit_due(&self.config).is_none_or(|due| due <= now);
        if is_audit || self.is_flushed(family) {
            self.sync(family, Depth::Everything);
            return true;
        }
        false
    }

    /// Asks once in a sync period.
    fn is_flushed(&mut self, family: Family) -> bool {
        let clock = self.clocks.of_mut(family);
        if clock.asked.is_some_and(|asked| asked.elapsed() < self.config.sync_period) {
            return false;
        }
        clock.asked = Some(Instant::now());
        match self.engine.is_flushed(family) {
            Ok(true) => {
                tracing::warn!(%family, "somebody has removed the rules of Services; they come back");
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(%family, "{}", chain_of(&error));
                false
            }
        }
    }

    fn sync(&mut self, family: Family, depth: Depth) {
        let was_first = self.clocks.of(family).last_success.is_none();
        let started = Instant::now();
        let outcome = self.engine.sync(family, depth);
        let clock = self.clocks.of_mut(family);
        clock.ended = Some(Instant::now());
        match outcome {
            Ok(None) => {}
            Ok(Some(synced)) => {
                clock.failures = 0;
                clock.failure = None;
                clock.last_success = Some(SystemTime::now());
                clock.syncs += 1;
                if synced.report.is_full {
                    clock.audited = Some((Instant::now(), started.elapsed()));
                    clock.is_warned = false;
                }
                self.succeeded(family, &synced, was_first);
            }
            Err(error) => {
                let failure = chain_of(&error);
                if clock.failure.as_deref() != Some(&failure) {
                    tracing::error!(%family, "Services can't be programmed: {failure}");
                }
                let is_partial = clock.failures == 0 && !was_first && depth == Depth::Changes;
                clock.failures = clock.failures.saturating_add(1);
                clock.failure = Some(failure.into());
                self.metrics.failed(family, is_partial);
            }
        }
    }

    fn succeeded(&mut self, family: Family, synced: &Synced, was_first: bool) {
        self.metrics.synced(family, synced);
        self.metrics.count_rules(family, &self.engine.rule_counts(family));
        let now = SystemTime::now();
        for trigger in self.triggers.values() {
            self.metrics.programmed(family, now.duration_since(*trigger).unwrap_or_default());
        }
        let report = &synced.report;
        let took_ms = (report.took + synced.planning).as_secs_f64() * 1e3;
        if was_first {
            let ports = self.engine.plan(family).map_or(0, |plan| plan.ports.len());
            tracing::info!(%family, ports, elements = report.elements, took_ms, "Services are programmed");
        } else {
            tracing::debug!(%family, elements = report.elements, is_full = report.is_full, took_ms, "synced");
        }
        if synced.repaired > 0 {
            let count = synced.repaired;
            tracing::warn!(%family, count, "somebody had removed or changed rules of Services; they are back");
        }
        if let Some(Err(error)) = &synced.forgotten {
            tracing::warn!(%family, "stale flows can't be forgotten: {}", chain_of(error));
        }
        if was_first && self.config.leftovers == Leftovers::KubeProxy {
            match proxy::nftables::remove_kube_proxy(family) {
                Ok(true) => tracing::info!(%family, "kube-proxy's table is gone"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%family, "kube-proxy's table stays: {}", chain_of(&error)),
            }
        }
        for (mode, outcome) in &synced.removed {
            match outcome {
                Ok(()) => tracing::info!(%family, "what was left of mode {mode} is gone"),
                Err(error) => tracing::warn!(%family, "mode {mode} has left rules: {}", chain_of(error)),
            }
        }
    }

    /// Once everything is in place for the first time.
    fn settle(&mut self) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let mut is_iptables = false;
        let mut served = DualStack::default();
        for (family, mode) in self.engine.families() {
            *served.of_mut(family) = true;
            is_iptables |= mode == Mode::Iptables;
        }
        let outcome = sysctls::ensure(&self.config, &served, is_iptables);
        outcome.changes.iter().for_each(|change| tracing::info!("{change}"));
        outcome.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
        self.standing.extend(outcome.problems);
    }

    fn answer(&mut self, question: Question) {
        self.take();
        // Who asked may have gone meanwhile.
        match question {
            Question::Services(filter, reply) => {
                drop(reply.send(answer::services(&mut self.engine, &filter)))
            }
            Question::Trace(asked, reply) => {
                let answer = answer::has_link(&asked).and_then(|()| answer::trace(&mut self.engine, &asked));
                drop(reply.send(answer));
            }
        }
    }

    /// When to wake at the latest.
    pub(super) fn next_due(&self) -> Instant {
        let now = Instant::now();
        let mut due = now + self.config.sync_period;
        if !self.is_ready() {
            return if self.engine.is_ready() { due.min(self.began + NODE_WITHIN) } else { due };
        }
        for (family, _) in self.engine.families() {
            let clock = self.clocks.of(family);
            let earliest = clock.earliest(&self.config).unwrap_or(now);
            due = clock.count_due().map_or(due, |count| due.min(count));
            if self.engine.is_due(family) {
                due = due.min(earliest);
            } else if let Some(audit) = clock.audit_due(&self.config) {
                due = due.min(audit.max(earliest));
            } else {
                due = due.min(earliest);
            }
        }
        due
    }

    /// Counts a family's plan anew when that is due: after changes, but not after each of very many.
    fn count(&mut self, family: Family, mode: Mode) {
        let clock = self.clocks.of_mut(family);
        let Some(plan) = self.engine.plan(family) else { return };
        if *clock.health != plan.health {
            clock.health = Arc::new(plan.health.clone());
        }
        if clock.count_due().is_none_or(|due| due > Instant::now()) {
            return;
        }
        let started = Instant::now();
        let census = Census::of(plan);
        clock.counted = Some((Instant::now(), started.elapsed()));
        for problem in census.problems.iter().filter(|problem| !clock.census.problems.contains(problem)) {
            tracing::warn!("{problem}");
        }
        self.metrics.show(family, mode, &census);
        clock.census = census;
    }

    fn publish(&mut self) {
        let mut problems = self.standing.clone();
        for state in &self.feeds.states {
            problems.extend(state.borrow().problems.iter().cloned());
        }
        let mut families = DualStack::default();
        for (family, mode) in self.engine.families().collect::<Vec<_>>() {
            self.count(family, mode);
            let clock = self.clocks.of(family);
            problems.extend(clock.failure.iter().map(|failure| format!("{family} Services: {failure}")));
            problems.extend(clock.census.problems.iter().cloned());
            let is_due = self.engine.is_due(family);
            let plan = self.engine.plan(family);
            *families.of_mut(family) = Some(FamilyState {
                mode,
                last_success: clock.last_success,
                waiting_since: self.waiting_since.filter(|_| is_due),
                failure: clock.failure.clone(),
                health: Arc::clone(&clock.health),
                node_ports: plan
                    .map_or(proxy::plan::NodePorts::Everywhere, |plan| plan.site.node_ports.clone()),
                ports: plan.map_or(0, |plan| plan.ports.len()),
                syncs: clock.syncs,
            });
        }
        problems.dedup();
        self.metrics.complain(problems.len());
        let is_programmed = families.present().next().is_some()
            && families.present().all(|(_, state): (_, &FamilyState)| state.last_success.is_some());
        let node_eligible = self.engine.own_node().map(|node| node.is_some_and(|node| !node.is_leaving));
        let published = Published {
            node: Arc::clone(&self.engine.snapshot().node.name),
            families,
            node_eligible,
            is_programmed,
            problems: problems.into(),
        };
        self.published.send_if_modified(|old| {
            let differs = **old != published;
            *old = Arc::new(published);
            differs
        });
    }
}
