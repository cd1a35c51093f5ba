//! What a cluster of many nodes costs one of them: `cargo bench -p bowline-overlay --bench nodes -- [--nodes N]`.
//!
//! Every step happens in a network namespace of its own, dual stack, with a data plane that remembers nothing. Ends
//! with failure when a thousand nodes take more than half a second.

#[path = "../tests/cluster/mod.rs"]
mod cluster;
#[path = "../tests/ground/mod.rs"]
mod ground;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use overlay::plan::plan;
use overlay::sync::Report;
use overlay::{Mode, Peer};

const GOAL: Duration = Duration::from_millis(500);
const GOAL_NODES: u16 = 1000;

fn main() -> ExitCode {
    let mut words = std::env::args().skip_while(|word| word != "--nodes").skip(1);
    let nodes: u16 =
        words.next().map_or(GOAL_NODES, |word| word.parse().expect("--nodes takes a number up to 50000"));
    println!(
        "{:<13} {:<22} {:>9} {:>9} {:>9} {:>7}",
        "mode", "step", "plan ms", "sync ms", "requests", "writes"
    );
    let slowest =
        [Mode::Vxlan, Mode::Routed, Mode::CrossSubnet].map(|mode| measure(mode, nodes)).into_iter().max();
    let slowest = slowest.unwrap_or_default();
    println!("slowest from nothing: {:.3} s for {nodes} nodes, dual stack", slowest.as_secs_f64());
    if nodes <= GOAL_NODES && slowest > GOAL { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Shows every step in `mode`; the time from nothing, plan and sync.
fn measure(mode: Mode, nodes: u16) -> Duration {
    let space = ground::node(1);
    ground::sh(&space, "ip addr add 172.16.0.1/12 dev eth0");
    let mut local = ground::local(&space, 1);
    for (uplink, ip, prefix) in
        [(&mut local.uplinks.v4, "172.16.0.1", 12), (&mut local.uplinks.v6, "2001:db8::1", 64)]
    {
        let uplink = uplink.as_mut().expect("both families");
        (uplink.ip, uplink.prefix) = (ip.parse().expect("an address"), prefix);
    }
    let all: Vec<Peer> = (2..=nodes + 2).map(|n| peer(mode, n)).collect();
    let few = &all[..usize::from(nodes)];
    let step = |name: &str, peers: &[Peer]| {
        let started = Instant::now();
        let plan = plan(&cluster::settings(mode), &local, peers);
        let planned = started.elapsed();
        assert!(plan.problems.is_empty(), "{:?}", plan.problems.first());
        let report = ground::sync_wholly(&space, &plan);
        show(mode, name, planned, &report);
        planned + report.took
    };
    let from_nothing = step(&format!("{nodes} nodes from nothing"), few);
    step("nothing to do", few);
    step("one more node", &all);
    step("one node less", few);
    from_nothing
}

fn show(mode: Mode, step: &str, planned: Duration, report: &Report) {
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{:<13} {step:<22} {:>9.2} {:>9.2} {:>9} {:>7}",
        mode.as_str(),
        millis(planned),
        millis(report.took),
        report.requests,
        report.writes
    );
}

/// Node `n` in 172.16.0.0/12; in mode cross-subnet every other one is beyond a router.
fn peer(mode: Mode, n: u16) -> Peer {
    let beyond = mode == Mode::CrossSubnet && n.is_multiple_of(2);
    let mut peer = if beyond { cluster::beyond(n) } else { cluster::node(n) };
    let [high, low] = n.to_be_bytes();
    peer.ips.v4 = Some(if beyond { [198, 18, high, low] } else { [172, 16, high, low] }.into());
    peer.pod_cidrs.v4 = Some(cluster::network(&format!("11.{high}.{low}.0/24")));
    peer
}
