//! Metrics in the words of Prometheus.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::status::Status;

/// Seconds: from a look that finds nothing to do, to a thousand nodes at once on a busy machine.
const BUCKETS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cause {
    cause: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    check: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    mode: String,
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    peers: Family<State, Gauge>,
    programmed: Family<Kind, Gauge>,
    drift: Family<Kind, Counter>,
    syncs: Family<Outcome, Counter>,
    took: Histogram,
    checks: Family<Name, Gauge>,
    ready: Gauge,
    mtu: Gauge,
    connected: Gauge,
    snapshots: Counter<u64, AtomicU64>,
    restarts: Family<Cause, Counter<u64, AtomicU64>>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Metrics {
    /// All at zero, for a node in `mode`.
    pub fn new(mode: &str) -> Self {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("bowline"),
            peers: Family::default(),
            programmed: Family::default(),
            drift: Family::default(),
            syncs: Family::default(),
            took: Histogram::new(BUCKETS),
            checks: Family::default(),
            ready: Gauge::default(),
            mtu: Gauge::default(),
            connected: Gauge::default(),
            snapshots: Counter::default(),
            restarts: Family::default(),
        };
        let build: Family<Build, Gauge> = Family::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION"), mode: mode.to_owned() }).set(1);
        let all = &mut metrics.registry;
        all.register("build_info", "Version and mode of this daemon", build);
        all.register("peers", "Other nodes, by whether their pods can be reached", metrics.peers.clone());
        all.register(
            "programmed",
            "Objects that the kernel holds for other nodes",
            metrics.programmed.clone(),
        );
        let help = "Objects that somebody else had removed or changed, put back";
        all.register("drift_repaired", help, metrics.drift.clone());
        all.register(
            "syncs",
            "Times that the kernel was brought to what it should be",
            metrics.syncs.clone(),
        );
        let help = "How long that took";
        all.register_with_unit("sync_duration", help, Unit::Seconds, metrics.took.clone());
        all.register("check", "1 where a condition of readiness is met", metrics.checks.clone());
        all.register("ready", "1 when new pods can be carried", metrics.ready.clone());
        all.register_with_unit("pod_mtu", "Largest packet of pods", Unit::Bytes, metrics.mtu.clone());
        let help = "1 while the API or the directory of manifests is in touch";
        all.register("source_connected", help, metrics.connected.clone());
        all.register("source_snapshots", "Snapshots of all Nodes so far", metrics.snapshots.clone());
        let help = "Restarts of the watch after an error, by cause";
        all.register("source_restarts", help, metrics.restarts.clone());
        metrics
    }

    /// Counts a sync.
    pub fn synced(&self, took: std::time::Duration, is_whole: bool) {
        self.took.observe(took.as_secs_f64());
        let outcome = if is_whole { "success" } else { "failure" };
        self.syncs.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts `count` objects that were put back.
    pub fn repaired(&self, kind: &str, count: u64) {
        self.drift.get_or_create(&Kind { kind: kind.to_owned() }).inc_by(count);
    }

    /// Sets all that follows from the node's state.
    pub fn show(&self, status: &Status) {
        let problematic = status.peers.iter().filter(|peer| !peer.problems.is_empty()).count();
        for (state, count) in [("reachable", status.peers.len() - problematic), ("problem", problematic)] {
            self.peers.get_or_create(&State { state }).set(signed(count));
        }
        let programmed = &status.programmed;
        for (kind, count) in [
            ("tunnels", programmed.tunnels),
            ("routes", programmed.routes),
            ("rules", programmed.rules),
            ("fdb", programmed.fdb),
            ("neighbours", programmed.neighbours),
            ("wireguard", programmed.wireguard),
        ] {
            self.programmed.get_or_create(&Kind { kind: kind.to_owned() }).set(signed(count));
        }
        for check in &status.checks {
            self.checks.get_or_create(&Name { check: check.name.clone() }).set(i64::from(check.ok));
        }
        self.ready.set(i64::from(status.ready));
        self.mtu.set(i64::from(status.mtu.unwrap_or(0)));
        self.connected.set(i64::from(status.source.connected));
        catch_up(&self.snapshots, status.source.snapshots);
        for (cause, count) in &status.source.restarts {
            catch_up(&self.restarts.get_or_create(&Cause { cause: cause.clone() }), *count);
        }
    }

    /// All of them as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Raises a counter to what its owner counts.
fn catch_up(counter: &Counter<u64, AtomicU64>, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Check, PeerStatus};

    #[test]
    fn what_the_node_is_can_be_read() {
        let metrics = Metrics::new("vxlan");
        let bad = PeerStatus { problems: vec!["is away".into()], ..PeerStatus::default() };
        let mut status = Status {
            peers: vec![PeerStatus::default(), bad],
            checks: vec![Check::met("node", ""), Check::unmet("plugins", "gone")],
            mtu: Some(1450),
            ..Status::default()
        };
        status.source.snapshots = 3;
        status.source.restarts.insert("410".into(), 2);
        metrics.show(&status);
        metrics.show(&status);
        metrics.repaired("overlay", 2);
        metrics.synced(std::time::Duration::from_millis(2), true);
        let text = metrics.text();
        for line in [
            "bowline_peers{state=\"reachable\"} 1",
            "bowline_peers{state=\"problem\"} 1",
            "bowline_pod_mtu_bytes 1450",
            "bowline_check{check=\"plugins\"} 0",
            "bowline_source_restarts_total{cause=\"410\"} 2",
            "bowline_source_snapshots_total 3",
            "bowline_drift_repaired_total{kind=\"overlay\"} 2",
            "bowline_sync_duration_seconds_bucket{le=\"0.0025\"} 1",
            "bowline_syncs_total{outcome=\"success\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\n{text}");
        }
        assert!(text.contains("bowline_build_info{version="), "{text}");
    }
}
