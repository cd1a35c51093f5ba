//! Pod to pod across nodes: what a TCP connection carries on the path that the daemon makes, and on the same path made
//! with ip(8), in one run.
//!
//! All clusters stand side by side; short runs of iperf3 alternate between them, so that whatever else the machine does
//! hits all. A ratio is the median of each round's. iperf3 runs with real-time priority where that is allowed: other
//! programs of the machine then delay nothing, and a ratio is good to a hundredth.
//!
//! Beside the path by hand stand three variants of it. The same once more: its ratio is what noise does to all of them.
//! One whose pods are on no bridge, as ours are not: that gains, so it is told apart from what ours does better. One that
//! can do what ours can besides: its pods reach the world beyond the cluster, by a rule that masquerades what leaves.
//! Such a rule makes the kernel track connections, whoever has written it.
//!
//! `--explain` compares what each single thing costs or gains instead, all made by hand.

use std::net::IpAddr;

use lab::by_hand::{self, Path};
use lab::cluster::{Families, Shape};
use lab::{Cluster, Daemon, Space};

/// The least that a path may carry in comparison with its twin.
const LEAST: f64 = 0.98;
/// Bytes of one run: a tenth of a second and more.
const AMOUNT: &str = "256M";
/// For how long a path carries packets before anything counts: caches are warm then, and the daemon has looked at its
/// tunnel's counters twice.
const WARM: std::time::Duration = std::time::Duration::from_secs(11);
/// Runs a program with real-time priority.
const REAL_TIME: [&str; 3] = ["chrt", "--rr", "20"];

/// One thing about a cluster that was made by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trait {
    /// Pods are on cables that end at the node, not on a bridge.
    NoBridge,
    /// What leaves the cluster gets its node's address.
    Masquerade,
    /// There is a routing rule.
    Rule,
    /// VXLAN devices don't merge what they receive.
    Unmerged,
}

use Trait::{Masquerade, NoBridge, Rule, Unmerged};

/// A cluster with a pod on each of its two nodes.
struct Side {
    name: &'static str,
    pods: [(Space, Vec<IpAddr>); 2],
    _daemons: Vec<Daemon>,
    cluster: Cluster,
}

/// What a side carried, in bits per second, and in comparison with the path by hand.
struct Figure {
    median: f64,
    ratio: f64,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let only = args.iter().position(|arg| arg == "--only").and_then(|at| args.get(at + 1));
    let rounds = if has("--quick") { 5 } else { 41 };
    lab::own_user_namespace().expect("root, or a user namespace");
    let mut is_enough = true;
    for (mode, path) in [("vxlan", Path::Vxlan), ("routed", Path::Routed)] {
        if only.is_some_and(|only| only != mode) {
            continue;
        }
        let by_hand = |name, traits: &[Trait]| by_hand(name, path, traits);
        let mut sides = vec![by_hand("by hand", &[]), ours(mode), by_hand("by hand, again", &[])];
        sides.push(by_hand("by hand, no bridge", &[NoBridge]));
        if has("--explain") {
            sides.push(by_hand("no bridge, a rule", &[NoBridge, Rule]));
            sides.push(by_hand("no bridge, masquerade", &[NoBridge, Masquerade]));
            sides.push(by_hand("no bridge, masquerade, a rule", &[NoBridge, Masquerade, Rule]));
            if path == Path::Vxlan {
                sides.push(by_hand("no bridge, not merging", &[NoBridge, Unmerged]));
                sides.push(by_hand("no bridge, masquerade, not merging", &[NoBridge, Masquerade, Unmerged]));
            }
        }
        sides.push(by_hand("by hand, masquerade", &[Masquerade]));
        for (name, family) in [("IPv4", 0), ("IPv6", 1)] {
            let figures = figures(&sides, family, rounds);
            is_enough &= figures[1].ratio >= LEAST;
            println!("| {mode}, {name} | Gbit/s | ratio |\n|---|---|---|");
            for (side, Figure { median, ratio }) in sides.iter().zip(&figures) {
                println!("| {} | {:.2} | {ratio:.3} |", side.name, median / 1e9);
            }
            println!();
        }
    }
    if !is_enough {
        println!("A path carries less than {LEAST} of its twin.");
    }
}

/// Alternating runs on all sides, which are compared with the first.
fn figures(sides: &[Side], family: usize, rounds: usize) -> Vec<Figure> {
    let began = std::time::Instant::now();
    while began.elapsed() < WARM {
        for side in sides {
            carried(side, family);
        }
    }
    let mut runs: Vec<Vec<f64>> = vec![Vec::new(); sides.len()];
    for round in 0..rounds {
        for turn in 0..sides.len() {
            // Everybody comes first in turn.
            let side = (round + turn) % sides.len();
            runs[side].push(carried(&sides[side], family));
        }
    }
    let figure = |side: &Vec<f64>| Figure {
        median: median(side.clone()),
        ratio: median(side.iter().zip(&runs[0]).map(|(one, first)| one / first).collect()),
    };
    runs.iter().map(figure).collect()
}

fn ours(mode: &str) -> Side {
    let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster can be made");
    let daemons = cluster.start_all(&["--mode", mode]);
    let pods = [0, 1].map(|node| {
        let joined = cluster.pod(node, &format!("pod-{node}"));
        (Space::clone(&joined.pod), joined.ips())
    });
    Side { name: "bowline", pods, _daemons: daemons, cluster }
}

fn by_hand(name: &'static str, path: Path, traits: &[Trait]) -> Side {
    let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster can be made");
    by_hand::connect(&cluster, path);
    for of in traits {
        match of {
            NoBridge => {}
            Masquerade => by_hand::masquerade(&cluster),
            Rule => by_hand::rules(&cluster),
            Unmerged => by_hand::leave_unmerged(&cluster),
        }
    }
    let attach = if traits.contains(&NoBridge) { by_hand::routed_pod } else { by_hand::pod };
    let pods = [0, 1].map(|node| {
        let made = attach(cluster.node(node), &format!("pod-{node}"), 2);
        (Space::clone(&made.pod), made.ips)
    });
    Side { name, pods, _daemons: Vec::new(), cluster }
}

/// Bits per second at which one connection carries [`AMOUNT`], as the receiver counts them.
fn carried(side: &Side, family: usize) -> f64 {
    let [(from, _), (to, addresses)] = &side.pods;
    let log = side.cluster.manifests().aside().join("iperf3");
    let address = addresses[family].to_string();
    let server = command(&["iperf3", "-s", "-1", "-B", &address, "-A", "1", "--forceflush"]);
    let mut server = to.start(server[0], &server[1..], &log);
    lab::wait::until("iperf3 to listen", || {
        std::fs::read_to_string(&log).ok()?.contains("Server listening").then_some(())
    });
    let client = command(&["iperf3", "-c", &address, "-n", AMOUNT, "-A", "0", "-J"]);
    let output = from.output(client[0], &client[1..], b"");
    let _ = server.wait();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let figure = said["end"]["sum_received"]["bits_per_second"].as_f64();
    figure.unwrap_or_else(|| panic!("iperf3 to {address}: {said}"))
}

/// The same with real-time priority, where the system gives it.
fn command<'a>(words: &[&'a str]) -> Vec<&'a str> {
    static ALLOWED: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let is_allowed = *ALLOWED.get_or_init(|| {
        let [program, arguments @ ..] = REAL_TIME;
        let tried = std::process::Command::new(program).args(arguments).arg("true").status();
        let allowed = tried.is_ok_and(|status| status.success());
        if !allowed {
            println!("No real-time priority here: other programs disturb, and so do figures.\n");
        }
        allowed
    });
    let prefix = if is_allowed { &REAL_TIME[..] } else { &[] };
    prefix.iter().chain(words).copied().collect()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
