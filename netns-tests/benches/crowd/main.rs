//! A daemon that meets a thousand nodes at once, from manifests, as the DaemonSet runs it: how soon everything is
//! programmed, and what it holds of the machine's memory. `cargo bench -p bowline-lab --bench crowd -- [--nodes N]`.
//!
//! Counted is more than the goal asks for: from the start of the process, which has yet to read the manifests, until it
//! says that the node can carry pods. Ends with failure when a thousand nodes take more than half a second, or the
//! daemon more than 30 MB.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use lab::cluster::{Families, Shape};
use lab::manifests::Entry;
use lab::wait::until;
use lab::{Cluster, Space};

const GOAL: Duration = Duration::from_millis(500);
const GOAL_MEMORY: u64 = 30_000_000;
const GOAL_NODES: u16 = 1000;

fn main() -> ExitCode {
    let mut words = std::env::args().skip_while(|word| word != "--nodes").skip(1);
    let nodes: u16 =
        words.next().map_or(GOAL_NODES, |word| word.parse().expect("--nodes takes a number up to 50000"));
    lab::own_user_namespace().expect("root, or a user namespace");
    println!(
        "| nodes, dual stack | mode | start to ready, ms | of which in the kernel, ms | one more node, ms | memory at most, MB |\n|---|---|---|---|---|---|"
    );
    let is_met = ["vxlan", "routed"].map(|mode| measure(mode, nodes));
    if nodes > GOAL_NODES || is_met == [true, true] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Shows one daemon's figures; whether they are within the goals.
fn measure(mode: &str, nodes: u16) -> bool {
    let cluster = Cluster::new(&Shape::flat(1, Families::Dual)).expect("a cluster can be made");
    let node = cluster.node(0);
    // All others are on the link, as mode routed needs it.
    node.sh("ip addr add 172.16.0.10/12 dev eth0");
    node.sh("ip addr del 172.16.0.10/24 dev eth0");
    node.sh("ip route replace default via 172.16.0.1");
    (0..nodes).for_each(|n| cluster.manifests().write(&paper(n)));

    let started = Instant::now();
    let daemon = cluster.start(0, &["--mode", mode]);
    node.until_ready(&daemon);
    let ready = started.elapsed();
    let in_kernel = node.metric("bowline_sync_duration_seconds_sum", "").unwrap_or(f64::NAN) * 1e3;
    assert_eq!(routes(node), usize::from(nodes) * 2, "routes to pods of others");

    let another = Instant::now();
    cluster.manifests().write(&paper(nodes));
    let last = paper(nodes).pod_cidrs.pop().expect("dual stack");
    until("one more node", || (!node.sh(&format!("ip -6 route show {last}")).is_empty()).then_some(()));
    let another = another.elapsed();
    let memory = peak(daemon.pid());

    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    println!(
        "| {nodes} | {mode} | {:.0} | {in_kernel:.0} | {:.0} | {:.1} |",
        millis(ready),
        millis(another),
        memory as f64 / 1e6
    );
    ready <= GOAL && memory <= GOAL_MEMORY
}

/// A node that exists as a manifest only.
fn paper(n: u16) -> Entry {
    let [high, low] = n.to_be_bytes();
    let ips = [format!("172.17.{high}.{low}"), format!("2001:db8::1:{n:x}")];
    Entry {
        name: format!("paper-{n}"),
        uid: format!("uid-of-paper-{n}"),
        created: "2026-01-02T00:00:00Z".into(),
        ips: ips.iter().map(|ip| ip.parse().expect("an address")).collect(),
        pod_cidrs: vec![format!("11.{high}.{low}.0/24"), format!("fd00:11:{n:x}::/64")],
    }
}

fn routes(node: &Space) -> usize {
    let both = ["-4", "-6"].map(|family| node.sh(&format!("ip {family} route show proto 98")));
    both.iter().flat_map(|said| said.lines()).filter(|line| line.contains(" via ")).count()
}

/// The most that a process has held in memory, in bytes: code and libraries included.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.expect("a running process has a memory") * 1024
}
