//! What one program costs at one size.

use std::time::{Duration, Instant};

use kernel::netlink::monitor::GROUP_NFTABLES;
use kernel::netlink::{Monitor, Protocol};
use lab::apiserver::ApiServer;
use lab::cluster::{Families, Shape};
use lab::{Cluster, daemon};

use crate::contestant::{Backend, Program, Running, start};
use crate::objects::{service, slice};

/// Single changes that are timed, at most.
const CHANGES: u32 = 200;
/// Even where each takes seconds.
const LEAST: usize = 3;
/// How long single changes are timed.
const ENOUGH: Duration = Duration::from_secs(25);
/// Changes whose cost is counted.
pub const BURST: u32 = 1_000;
/// How long anything may take: kube-proxy needs minutes for its first sync in some modes.
const LIMIT: Duration = Duration::from_secs(600);
/// NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWGEN: the end of a transaction.
const TRANSACTION: u16 = (10 << 8) | 15;
/// Every sync, from its begin to its end.
const SYNCS: &str = "kubeproxy_sync_proxy_rules_duration_seconds_count";
/// Endpoints that are not what they were.
const ENDPOINT_CHANGES: &str = "kubeproxy_sync_proxy_rules_endpoint_changes_total";
/// Those of everything.
const FULL: &str = "kubeproxy_sync_full_proxy_rules_duration_seconds";

/// A program on a cluster.
pub struct Stage {
    /// Its cluster, of one node.
    pub cluster: Cluster,
    /// Where its objects are.
    pub server: ApiServer,
    /// The program.
    pub running: Running,
    program: Program,
    backend: Backend,
    services: u32,
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// The first sync as the program itself timed it.
    pub first: Duration,
    /// From a change in the API to the end of the kernel's transaction, or of the sync; sorted.
    pub changes: Vec<Duration>,
    /// Processor time of the program and those that it started, of a thousand changes.
    pub burst: Duration,
    /// Largest resident memory of the program alone, in KiB.
    pub peak_kib: u64,
}

impl Stage {
    /// Starts a program with so many Services and times its first sync.
    pub fn new(program: &Program, backend: Backend, services: u32) -> (Stage, Figures) {
        let cluster = Cluster::new(&Shape::flat(1, Families::V4)).expect("a cluster");
        let (server, source) = cluster.serve();
        for number in 0..services {
            server.put(service(number));
            server.put(slice(number, 0));
        }
        let running = start(program, backend, &cluster, &source);
        let stage = Stage { cluster, server, running, program: program.clone(), backend, services };
        let first = stage.until("the first sync", || {
            let syncs = stage.metric(&format!("{FULL}_count")).filter(|syncs| *syncs > 0.0)?;
            Some(stage.metric(&format!("{FULL}_sum"))? / syncs)
        });
        if *program == Program::Bowlined {
            stage.cluster.node(0).until_ready(&stage.running.daemon);
        }
        (stage, Figures { first: Duration::from_secs_f64(first), ..Figures::default() })
    }

    /// Everything that comes after the first sync.
    pub fn measure(&self, figures: &mut Figures) {
        self.until_idle();
        figures.changes = self.changes();
        figures.changes.sort_unstable();
        figures.burst = self.burst();
        if self.program == Program::Bowlined && self.backend == Backend::Nftables {
            // An audit holds everything twice, so it belongs to what memory is needed. Whoever touches the table causes one.
            let audits = self.metric(&format!("{FULL}_count"));
            self.cluster.node(0).sh("nft add element ip bowline_proxy cluster-ips { 192.0.2.1 }");
            self.until("an audit", || (self.metric(&format!("{FULL}_count")) > audits).then_some(()));
        }
        figures.peak_kib = self.of_status("VmHWM:");
    }

    /// Waits as long as even kube-proxy needs.
    pub fn until<T>(&self, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(found) = condition() {
                return found;
            }
            let daemon = &self.running.daemon;
            let is_well = daemon.is_running() && Instant::now() < deadline;
            assert!(is_well, "{} does not come to {what}:\n{}", self.program.name(), daemon.log());
            // The pause between two looks, not the wait itself.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = daemon::http(self.cluster.node(0), self.running.metrics, "/metrics")?;
        let sample = body.lines().find_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_ours = rest.starts_with(' ') || rest.starts_with('{') && rest.contains("\"IPv4\"");
            is_ours.then(|| rest.rsplit(' ').next())?
        });
        sample?.parse().ok()
    }

    /// From the change in the API until it is programmed, each after a pause so long that nothing delays it.
    fn changes(&self) -> Vec<Duration> {
        let pause = match self.program {
            Program::Bowlined => Duration::from_millis(120),
            // Its least pause between two syncs is a second.
            Program::KubeProxy(_) => Duration::from_millis(1_200),
        };
        let node = self.cluster.node(0);
        let monitor = node.run(|| Monitor::open_of(Protocol::Netfilter, &[GROUP_NFTABLES]));
        let mut monitor = monitor.expect("events of nf_tables");
        let mut took: Vec<Duration> = Vec::new();
        let began = Instant::now();
        for round in 1..=CHANGES {
            if took.len() >= LEAST && began.elapsed() >= ENOUGH {
                break;
            }
            // The program shall be idle: what is timed is one change, not the pause after another.
            std::thread::sleep(pause);
            // What is there by now is older; events may have been lost, which is the same.
            while monitor.pending().is_ok_and(|events| !events.is_empty()) {}
            let syncs = self.metric(SYNCS);
            let started = Instant::now();
            self.server.put(slice(round.wrapping_mul(7919) % self.services, round));
            if self.backend == Backend::Nftables {
                let arrived = monitor.wait(started + LIMIT, |event| event.kind == TRANSACTION);
                assert!(arrived.expect("events can be read"), "the change has reached the kernel");
            } else {
                // A script may be several transactions, and legacy iptables announces nothing.
                self.until("a sync", || (self.metric(SYNCS) > syncs).then_some(()));
            }
            took.push(started.elapsed());
        }
        took
    }

    /// Processor time for changes in quick succession.
    fn burst(&self) -> Duration {
        self.until_idle();
        let (before, known) = (self.processor(), self.metric(ENDPOINT_CHANGES));
        for round in 0..BURST {
            self.server.put(slice(round % self.services, CHANGES + 1 + round));
        }
        self.until("news of the changes", || (self.metric(ENDPOINT_CHANGES) > known).then_some(()));
        self.until_idle();
        Duration::from_millis(self.processor() - before)
    }

    /// Until it has used no processor time for longer than it ever waits before a sync.
    pub fn until_idle(&self) {
        let quiet = match self.program {
            Program::Bowlined => Duration::from_millis(600),
            Program::KubeProxy(_) => Duration::from_millis(2_500),
        };
        let (mut since, mut used) = (Instant::now(), self.processor());
        self.until("rest", || {
            let now = self.processor();
            // Two ticks are nothing but a look at metrics.
            if now > used + 20 || self.has_children() {
                (since, used) = (Instant::now(), now);
            }
            (since.elapsed() >= quiet).then_some(())
        });
    }

    /// Whether a program that it has started still runs: its time counts only afterwards.
    fn has_children(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.running.daemon.pid()));
        let children = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children"));
        tasks.into_iter().flatten().flatten().any(|task| children(task).is_ok_and(|text| !text.is_empty()))
    }

    /// User and system time so far, that of ended children too, in milliseconds: a clock tick is ten.
    fn processor(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.running.daemon.pid()));
        let stat = stat.unwrap_or_default();
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(4);
        fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10
    }

    fn of_status(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.running.daemon.pid()));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    }
}
