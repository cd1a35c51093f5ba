//! Metrics of the proxy: kube-proxy's names, so that dashboards and alerts go on, and our own beside them.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kernel::netlink::{Protocol, Socket};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use proxy::engine::Synced;
use proxy::iptables::Counters;
use proxy::{Family, Mode, RuleCount};

use super::census::Census;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    ip_family: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Policy {
    traffic_policy: &'static str,
    ip_family: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ModeOf {
    mode: &'static str,
    ip_family: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableOf {
    table: &'static str,
    ip_family: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

/// Which path a probe asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// `/healthz`.
    Healthz,
    /// `/livez`.
    Livez,
}

type Seconds = Gauge<f64, AtomicU64>;
type Times = Labelled<Of, Histogram, fn() -> Histogram>;

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    kube: Registry,
    own: Registry,
    sync: Times,
    full: Times,
    partial: Times,
    last: Labelled<Of, Seconds>,
    queued: Labelled<Of, Seconds>,
    programming: Times,
    endpoints_pending: Gauge,
    services_pending: Gauge,
    endpoints: Counter,
    services: Counter,
    no_local: Labelled<Policy, Gauge>,
    healthz: Labelled<Code, Counter>,
    livez: Labelled<Code, Counter>,
    restore_failures: Labelled<Of, Counter>,
    rules: Labelled<TableOf, Gauge>,
    rules_written: Labelled<TableOf, Gauge>,
    partial_restore_failures: Labelled<Of, Counter>,
    nftables_failures: Labelled<Of, Counter>,
    nftables_cleanup_failures: Labelled<Of, Counter>,
    forgetting: Times,
    forgotten: Labelled<Of, Counter>,
    modes: Labelled<ModeOf, Gauge>,
    repaired: Labelled<Of, Counter>,
    failures: Labelled<Of, Counter>,
    elements: Labelled<Of, Counter>,
    ports: Labelled<Of, Gauge>,
    problems: Gauge,
}

/// Seconds: 1 ms, doubled 14 times.
fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Seconds, as kube-proxy has them: fine at first, then up to five minutes.
fn programming_buckets() -> Histogram {
    let ones = (1..60).map(f64::from);
    let fives = (60..120).step_by(5).map(f64::from);
    let thirties = (120..=300).step_by(30).map(f64::from);
    Histogram::new([0.25, 0.5].into_iter().chain(ones).chain(fives).chain(thirties))
}

fn of(family: Family) -> Of {
    Of { ip_family: name(family) }
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

impl Metrics {
    /// All at zero; of what only one mode has, those of `mode`.
    pub fn new(mode: Mode) -> Self {
        let mut metrics = Metrics {
            kube: Registry::with_prefix("kubeproxy"),
            own: Registry::with_prefix("bowline_proxy"),
            sync: Times::new_with_constructor(sync_buckets),
            full: Times::new_with_constructor(sync_buckets),
            partial: Times::new_with_constructor(sync_buckets),
            last: Labelled::default(),
            queued: Labelled::default(),
            programming: Times::new_with_constructor(programming_buckets),
            endpoints_pending: Gauge::default(),
            services_pending: Gauge::default(),
            endpoints: Counter::default(),
            services: Counter::default(),
            no_local: Labelled::default(),
            healthz: Labelled::default(),
            livez: Labelled::default(),
            restore_failures: Labelled::default(),
            rules: Labelled::default(),
            rules_written: Labelled::default(),
            partial_restore_failures: Labelled::default(),
            nftables_failures: Labelled::default(),
            nftables_cleanup_failures: Labelled::default(),
            forgetting: Times::new_with_constructor(sync_buckets),
            forgotten: Labelled::default(),
            modes: Labelled::default(),
            repaired: Labelled::default(),
            failures: Labelled::default(),
            elements: Labelled::default(),
            ports: Labelled::default(),
            problems: Gauge::default(),
        };
        metrics.register_kube();
        metrics.register_of_mode(mode);
        metrics.register_own();
        metrics
    }

    fn register_kube(&mut self) {
        let kube = &mut self.kube;
        add(kube, "sync_proxy_rules_duration_seconds", "How long a sync took", &self.sync);
        add(kube, "proxy_healthz", "Answers of /healthz", &self.healthz);
        add(kube, "proxy_livez", "Answers of /livez", &self.livez);
        add(kube, "sync_proxy_rules_last_timestamp_seconds", "When the last sync succeeded", &self.last);
        let queued = "When the last sync was asked for";
        add(kube, "sync_proxy_rules_last_queued_timestamp_seconds", queued, &self.queued);
        let programming = "From what changed endpoints to the rules that follow them";
        add(kube, "network_programming_duration_seconds", programming, &self.programming);
        let waiting = "Slices that no sync has brought into the kernel yet";
        add(kube, "sync_proxy_rules_endpoint_changes_pending", waiting, &self.endpoints_pending);
        let waiting = "Services that no sync has brought into the kernel yet";
        add(kube, "sync_proxy_rules_service_changes_pending", waiting, &self.services_pending);
        add(kube, "sync_proxy_rules_endpoint_changes", "Changes of endpoints", &self.endpoints);
        add(kube, "sync_proxy_rules_service_changes", "Changes of Services", &self.services);
        let without = "Service ports with policy Local that have endpoints, but none on this node";
        add(kube, "sync_proxy_rules_no_local_endpoints_total", without, &self.no_local);
        let walking = "How long stale flows were looked for";
        add(kube, "conntrack_reconciler_sync_duration_seconds", walking, &self.forgetting);
        add(kube, "conntrack_reconciler_deleted_entries", "Stale flows forgotten", &self.forgotten);
    }

    fn register_of_mode(&mut self, mode: Mode) {
        let kube = &mut self.kube;
        if mode.as_str() != "ipvs" {
            let help = "How long a sync of everything took";
            add(kube, "sync_full_proxy_rules_duration_seconds", help, &self.full);
            let help = "How long a sync of changes took";
            add(kube, "sync_partial_proxy_rules_duration_seconds", help, &self.partial);
        }
        if mode == Mode::Nftables {
            let help = "Syncs that the kernel refused";
            add(kube, "sync_proxy_rules_nftables_sync_failures", help, &self.nftables_failures);
            let help = "Rules of other modes that can't be removed";
            add(kube, "sync_proxy_rules_nftables_cleanup_failures", help, &self.nftables_cleanup_failures);
        } else {
            let help = "Syncs that the kernel refused";
            add(kube, "sync_proxy_rules_iptables_restore_failures", help, &self.restore_failures);
        }
        if mode == Mode::Iptables {
            let help = "Syncs of changes that the kernel refused";
            let failures = &self.partial_restore_failures;
            add(kube, "sync_proxy_rules_iptables_partial_restore_failures", help, failures);
            add(kube, "sync_proxy_rules_iptables_total", "Rules of Services in a table", &self.rules);
            let help = "Rules that the last sync has written to a table";
            add(kube, "sync_proxy_rules_iptables_last", help, &self.rules_written);
            kube.register_collector(Box::new(KernelCounters::default()));
        }
    }

    fn register_own(&mut self) {
        let own = &mut self.own;
        add(own, "mode", "1 for the mode that serves a family", &self.modes);
        let help = "Elements or rules that somebody else had removed or changed, put back";
        add(own, "drift_repaired", help, &self.repaired);
        add(own, "sync_failures", "Syncs that the kernel refused", &self.failures);
        add(own, "elements_changed", "Elements, rules or servers that syncs have touched", &self.elements);
        add(own, "service_ports", "Service ports that are served", &self.ports);
        add(own, "problems", "Sentences about what is wrong", &self.problems);
    }

    /// How much somebody else had removed or changed so far, in both families.
    pub fn repaired(&self) -> u64 {
        [Family::V4, Family::V6]
            .into_iter()
            .map(|family| self.repaired.get_or_create(&of(family)).get())
            .sum()
    }

    /// Changes were taken from the inbox.
    pub fn took(&self, services: usize, endpoints: usize) {
        self.services.inc_by(services as u64);
        self.endpoints.inc_by(endpoints as u64);
        self.services_pending.inc_by(signed(services));
        self.endpoints_pending.inc_by(signed(endpoints));
    }

    /// A family has something to do.
    pub fn queue(&self, family: Family) {
        self.queued.get_or_create(&of(family)).set(seconds(SystemTime::now()));
    }

    /// Every family is as it should be.
    pub fn caught_up(&self) {
        self.services_pending.set(0);
        self.endpoints_pending.set(0);
    }

    /// A sync has succeeded.
    pub fn synced(&self, family: Family, synced: &Synced) {
        let of = of(family);
        let took = (synced.report.took + synced.planning).as_secs_f64();
        self.sync.get_or_create(&of).observe(took);
        let by_depth = if synced.report.is_full { &self.full } else { &self.partial };
        by_depth.get_or_create(&of).observe(took);
        self.last.get_or_create(&of).set(seconds(SystemTime::now()));
        self.elements.get_or_create(&of).inc_by(synced.report.elements as u64);
        self.repaired.get_or_create(&of).inc_by(synced.repaired as u64);
        if let Some(Ok(count)) = &synced.forgotten {
            self.forgetting.get_or_create(&of).observe(synced.forgetting.as_secs_f64());
            self.forgotten.get_or_create(&of).inc_by(*count as u64);
        }
        let failed = synced.removed.iter().filter(|(_, outcome)| outcome.is_err()).count();
        self.nftables_cleanup_failures.get_or_create(&of).inc_by(failed as u64);
    }

    /// A family's iptables rules as the last sync has left them.
    pub fn count_rules(&self, family: Family, counts: &[RuleCount]) {
        for count in counts {
            let of = TableOf { table: count.table, ip_family: name(family) };
            self.rules.get_or_create(&of).set(signed(count.total));
            self.rules_written.get_or_create(&of).set(signed(count.last));
        }
    }

    /// A sync has failed.
    pub fn failed(&self, family: Family, is_partial: bool) {
        let of = of(family);
        self.failures.get_or_create(&of).inc();
        self.nftables_failures.get_or_create(&of).inc();
        self.restore_failures.get_or_create(&of).inc();
        if is_partial {
            self.partial_restore_failures.get_or_create(&of).inc();
        }
    }

    /// Endpoints are in the kernel this long after what changed them.
    pub fn programmed(&self, family: Family, after: Duration) {
        self.programming.get_or_create(&of(family)).observe(after.as_secs_f64());
    }

    /// How many there are of what.
    pub fn show(&self, family: Family, mode: Mode, census: &Census) {
        let ip_family = name(family);
        self.modes.get_or_create(&ModeOf { mode: mode.as_str(), ip_family }).set(1);
        self.ports.get_or_create(&of(family)).set(signed(census.ports));
        for (traffic_policy, count) in
            [("internal", census.no_local_internal), ("external", census.no_local_external)]
        {
            self.no_local.get_or_create(&Policy { traffic_policy, ip_family }).set(signed(count));
        }
    }

    /// A probe was answered.
    pub fn probed(&self, probe: Probe, code: u16) {
        let counted = match probe {
            Probe::Healthz => &self.healthz,
            Probe::Livez => &self.livez,
        };
        counted.get_or_create(&Code { code }).inc();
    }

    /// How many sentences say what is wrong.
    pub fn complain(&self, problems: usize) {
        self.problems.set(signed(problems));
    }

    /// All of them as text, without the end mark of an exposition.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for registry in [&self.kube, &self.own] {
            // Writing into a String can't fail.
            let _ = prometheus_client::encoding::text::encode_registry(&mut text, registry);
        }
        text
    }
}

/// What the kernel counts for the iptables chains of both families, read whenever somebody asks.
#[derive(Debug, Default)]
struct KernelCounters(Mutex<Option<Socket>>);

impl KernelCounters {
    fn read(&self) -> Option<Counters> {
        let mut socket = self.0.lock().ok()?;
        if socket.is_none() {
            *socket = Socket::open(Protocol::Netfilter).ok();
        }
        Counters::read(socket.as_mut()?).ok()
    }
}

impl Collector for KernelCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let counters = self.read().unwrap_or_default();
        let all = [
            (
                "iptables_ct_state_invalid_dropped_packets",
                "Packets dropped because they belong to no connection",
                counters.invalid_dropped,
            ),
            (
                "iptables_localhost_nodeports_accepted_packets",
                "Connections to node ports on loopback",
                counters.localhost_accepted,
            ),
        ];
        for (name, help, packets) in all {
            let counter = ConstCounter::new(packets.unwrap_or_default());
            let encoder = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(encoder)?;
        }
        Ok(())
    }
}

fn add(registry: &mut Registry, name: &str, help: &str, metric: &(impl Metric + Clone)) {
    registry.register(name, help, metric.clone());
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has happened to a family once; before that a metric of families has no sample.
    fn use_all(metrics: &Metrics, mode: Mode) {
        let family = Family::V4;
        metrics.queue(family);
        metrics.programmed(family, Duration::ZERO);
        metrics.failed(family, true);
        metrics.show(family, mode, &Census::default());
        metrics.count_rules(family, &[RuleCount { table: "nat", total: 1, last: 1 }]);
        [Probe::Healthz, Probe::Livez].into_iter().for_each(|probe| metrics.probed(probe, 200));
        for is_full in [true, false] {
            let synced = Synced {
                report: proxy::Report { is_full, ..proxy::Report::default() },
                planning: Duration::ZERO,
                repaired: 0,
                forgotten: Some(Ok(1)),
                forgetting: Duration::ZERO,
                removed: Vec::new(),
            };
            metrics.synced(family, &synced);
        }
    }

    /// The names that dashboards and alerts have, `_total` of counters left out as a registry does.
    #[test]
    fn every_mode_has_the_names_of_kube_proxy() {
        let everywhere = [
            "sync_proxy_rules_duration_seconds",
            "sync_proxy_rules_last_timestamp_seconds",
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "network_programming_duration_seconds",
            "sync_proxy_rules_endpoint_changes_pending",
            "sync_proxy_rules_service_changes_pending",
            "sync_proxy_rules_endpoint_changes",
            "sync_proxy_rules_service_changes",
            "sync_proxy_rules_no_local_endpoints_total",
            "proxy_healthz",
            "proxy_livez",
            "conntrack_reconciler_sync_duration_seconds",
            "conntrack_reconciler_deleted_entries",
        ];
        let rows: [(Mode, &[&str]); 3] = [
            (
                Mode::Iptables,
                &[
                    "sync_full_proxy_rules_duration_seconds",
                    "sync_partial_proxy_rules_duration_seconds",
                    "sync_proxy_rules_iptables_restore_failures",
                    "sync_proxy_rules_iptables_partial_restore_failures",
                    "sync_proxy_rules_iptables_total",
                    "sync_proxy_rules_iptables_last",
                    "iptables_ct_state_invalid_dropped_packets",
                    "iptables_localhost_nodeports_accepted_packets",
                ],
            ),
            (
                Mode::Nftables,
                &[
                    "sync_full_proxy_rules_duration_seconds",
                    "sync_partial_proxy_rules_duration_seconds",
                    "sync_proxy_rules_nftables_sync_failures",
                    "sync_proxy_rules_nftables_cleanup_failures",
                ],
            ),
            (Mode::Ipvs, &["sync_proxy_rules_iptables_restore_failures"]),
        ];
        for (mode, more) in rows {
            let metrics = Metrics::new(mode);
            use_all(&metrics, mode);
            let text = metrics.text();
            let names =
                text.lines().filter_map(|line| line.strip_prefix("# TYPE kubeproxy_")?.split(' ').next());
            let names: std::collections::BTreeSet<&str> = names.collect();
            let wanted = everywhere.iter().chain(more).copied().collect();
            assert_eq!(names, wanted, "{mode}");
        }
    }
}
