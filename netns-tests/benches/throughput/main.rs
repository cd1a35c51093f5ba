//! Pod to pod across nodes: what a TCP connection carries on the path that the daemon makes, and on the same path made
//! with ip(8), in one run.
//!
//! Both clusters stand side by side; short runs of iperf3 alternate between them, so that whatever else the machine
//! does hits both. Medians are compared.

use std::net::IpAddr;

use lab::by_hand::{self, ByHand, Path};
use lab::cluster::{Families, Joined, Shape};
use lab::{Cluster, Daemon, Space};

/// The least that a path may carry in comparison with its twin.
const LEAST: f64 = 0.98;

struct Ours {
    cluster: Cluster,
    pods: [Joined; 2],
    _daemons: Vec<Daemon>,
}

struct Twin {
    cluster: Cluster,
    pods: [ByHand; 2],
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rounds = if args.iter().any(|arg| arg == "--quick") { 5 } else { 25 };
    lab::own_user_namespace().expect("root, or a user namespace");
    println!("| path | family | bowline, Gbit/s | by hand, Gbit/s | ratio |\n|---|---|---|---|---|");
    let mut is_enough = true;
    for (mode, path) in [("vxlan", Path::Vxlan), ("routed", Path::Routed)] {
        let (ours, twin) = (ours(mode), twin(path));
        for (name, family) in [("IPv4", 0), ("IPv6", 1)] {
            let (mut of_ours, mut of_twin) = (Vec::new(), Vec::new());
            for round in 0..=rounds {
                let pods = &ours.pods;
                let figure = carried(&ours.cluster, [&pods[0].pod, &pods[1].pod], pods[1].ips()[family]);
                let pods = &twin.pods;
                let beside = carried(&twin.cluster, [&pods[0].pod, &pods[1].pod], pods[1].ips[family]);
                // The first run of each fills caches.
                if round > 0 {
                    of_ours.push(figure);
                    of_twin.push(beside);
                }
            }
            let (a, b) = (median(&mut of_ours), median(&mut of_twin));
            println!("| {mode} | {name} | {:.2} | {:.2} | {:.3} |", a / 1e9, b / 1e9, a / b);
            is_enough &= a / b >= LEAST;
        }
    }
    // A coarse answer is no verdict.
    if !is_enough && rounds > 5 {
        eprintln!("a path carries less than {LEAST} of its twin");
        std::process::exit(1);
    }
}

fn ours(mode: &str) -> Ours {
    let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster can be made");
    let daemons = cluster.start_all(&["--mode", mode]);
    let pods = [cluster.pod(0, "a"), cluster.pod(1, "b")];
    Ours { cluster, pods, _daemons: daemons }
}

fn twin(path: Path) -> Twin {
    let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).expect("a cluster can be made");
    by_hand::connect(&cluster, path);
    let pods = [by_hand::pod(cluster.node(0), "a", 2), by_hand::pod(cluster.node(1), "b", 2)];
    Twin { cluster, pods }
}

/// Bits per second that one connection carries in a second, as the receiver counts them.
fn carried(cluster: &Cluster, [from, to]: [&Space; 2], address: IpAddr) -> f64 {
    let log = cluster.manifests().aside().join("iperf3");
    let address = address.to_string();
    let mut server = to.start("iperf3", &["-s", "-1", "-B", &address, "-A", "1", "--forceflush"], &log);
    lab::wait::until("iperf3 to listen", || {
        std::fs::read_to_string(&log).ok()?.contains("Server listening").then_some(())
    });
    let output = from.output("iperf3", &["-c", &address, "-t", "1", "-A", "0", "-J"], b"");
    let _ = server.wait();
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let figure = said["end"]["sum_received"]["bits_per_second"].as_f64();
    figure.unwrap_or_else(|| panic!("iperf3 to {address}: {said}"))
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
