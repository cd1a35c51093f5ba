//! Pod to pod across nodes: what a TCP connection carries on the path that the daemon makes, and on the same path made
//! with ip(8), in one run.
//!
//! All clusters stand side by side; short runs of iperf3 alternate between them, so that whatever else the machine does
//! hits all. A ratio is the median of each round's. There are three paths by hand: one that only carries packets, the
//! same once more, whose ratio to the first is what the machine's noise does to all of them, and one that can do what
//! ours can: its pods reach the world beyond the cluster, by a rule that masquerades what leaves. Such a rule makes the
//! kernel track connections, whoever has written it, and tracking is most of what a path costs more than the plain one.

use std::net::IpAddr;

use lab::by_hand::{self, Path};
use lab::cluster::{Families, Shape};
use lab::{Cluster, Daemon, Space};

/// The least that a path may carry in comparison with its twin.
const LEAST: f64 = 0.98;
/// Bytes of one run: some tenths of a second.
const AMOUNT: &str = "256M";

/// What becomes of pods' packets that leave a cluster made by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// Nobody would answer them.
    Stays,
    /// They get their node's address.
    Masqueraded,
}

/// A cluster with a pod on each of its two nodes.
struct Side {
    pods: [(Space, Vec<IpAddr>); 2],
    _daemons: Vec<Daemon>,
    cluster: Cluster,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_quick = args.iter().any(|arg| arg == "--quick");
    let only = args.iter().position(|arg| arg == "--only").and_then(|at| args.get(at + 1));
    lab::own_user_namespace().expect("root, or a user namespace");
    println!(
        "| path | family | bowline, Gbit/s | by hand, Gbit/s | ratio | by hand to itself | by hand with masquerade | ratio to that |\n|---|---|---|---|---|---|---|---|"
    );
    let mut is_enough = true;
    for (mode, path) in [("vxlan", Path::Vxlan), ("routed", Path::Routed)] {
        if only.is_none_or(|only| only == mode) {
            let sides = [
                ours(mode),
                by_hand(path, Leaving::Stays),
                by_hand(path, Leaving::Stays),
                by_hand(path, Leaving::Masqueraded),
            ];
            for (name, family) in [("IPv4", 0), ("IPv6", 1)] {
                let figures = figures(&sides, family, if is_quick { 5 } else { 41 });
                is_enough &= figures.ratio >= LEAST;
                println!("| {mode} | {name} {figures}");
            }
        }
    }
    if !is_enough {
        println!("\nA path carries less than {LEAST} of its twin.");
    }
}

struct Figures {
    ours: f64,
    by_hand: f64,
    masqueraded: f64,
    ratio: f64,
    noise: f64,
    ratio_to_masqueraded: f64,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [ours, by_hand, masqueraded] = [self.ours, self.by_hand, self.masqueraded].map(|bits| bits / 1e9);
        let Figures { ratio, noise, ratio_to_masqueraded, .. } = self;
        write!(
            f,
            "| {ours:.2} | {by_hand:.2} | {ratio:.3} | {noise:.3} | {masqueraded:.2} | {ratio_to_masqueraded:.3} |"
        )
    }
}

/// Alternating runs on all sides; the first of each fills caches and does not count.
fn figures(sides: &[Side; 4], family: usize, rounds: usize) -> Figures {
    let mut runs: [Vec<f64>; 4] = Default::default();
    for round in 0..=rounds {
        for turn in 0..sides.len() {
            // Everybody comes first in turn.
            let side = (round + turn) % sides.len();
            runs[side].push(carried(&sides[side], family));
        }
    }
    let ratio = |a: usize, b: usize| {
        let mut ratios: Vec<f64> = runs[a].iter().zip(&runs[b]).skip(1).map(|(a, b)| a / b).collect();
        median(&mut ratios)
    };
    let (ratio, noise, ratio_to_masqueraded) = (ratio(0, 1), ratio(2, 1), ratio(0, 3));
    let [ours, by_hand, _, masqueraded] = runs.each_mut().map(|runs| median(&mut runs[1..]));
    Figures { ours, by_hand, masqueraded, ratio, noise, ratio_to_masqueraded }
}

fn ours(mode: &str) -> Side {
    let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster can be made");
    let daemons = cluster.start_all(&["--mode", mode]);
    let pods = [0, 1].map(|node| {
        let joined = cluster.pod(node, &format!("pod-{node}"));
        (Space::clone(&joined.pod), joined.ips())
    });
    Side { pods, _daemons: daemons, cluster }
}

fn by_hand(path: Path, leaving: Leaving) -> Side {
    let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster can be made");
    by_hand::connect(&cluster, path);
    if leaving == Leaving::Masqueraded {
        by_hand::masquerade(&cluster);
    }
    let pods = [0, 1].map(|node| {
        let made = by_hand::pod(cluster.node(node), &format!("pod-{node}"), 2);
        (Space::clone(&made.pod), made.ips)
    });
    Side { pods, _daemons: Vec::new(), cluster }
}

/// Bits per second at which one connection carries [`AMOUNT`], as the receiver counts them.
fn carried(side: &Side, family: usize) -> f64 {
    let [(from, _), (to, addresses)] = &side.pods;
    let log = side.cluster.manifests().aside().join("iperf3");
    let address = addresses[family].to_string();
    let mut server = to.start("iperf3", &["-s", "-1", "-B", &address, "-A", "1", "--forceflush"], &log);
    lab::wait::until("iperf3 to listen", || {
        std::fs::read_to_string(&log).ok()?.contains("Server listening").then_some(())
    });
    let output = from.output("iperf3", &["-c", &address, "-n", AMOUNT, "-A", "0", "-J"], b"");
    let _ = server.wait();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let figure = said["end"]["sum_received"]["bits_per_second"].as_f64();
    figure.unwrap_or_else(|| panic!("iperf3 to {address}: {said}"))
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
