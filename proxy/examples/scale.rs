//! What Services cost: `cargo run --release -p bowline-proxy --example scale -- [SERVICES] [ENDPOINTS] [--backend NAME]`,
//! as root. NAME is nftables (if none is given), iptables (whichever variant suits), iptables-nft, iptables-legacy, or
//! ipvs, in an emulated machine where this kernel has none. Such a machine is twenty times as slow, so several names
//! (`nftables,ipvs`) are all measured in one, and it is their ratio that counts.
//!
//! Makes a network namespace of its own, plans and syncs so many Services there with so many endpoints each, and then
//! changes one endpoint a thousand times (a hundred times where that takes programs). Prints milliseconds.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use kernel::iptables::Variant;
use proxy::iptables::Iptables;
use proxy::ipvs::Ipvs;
use proxy::nftables::Nftables;
use proxy::plan::DetectLocal;
use proxy::state::{Endpoint, EndpointSlice, Protocol, Service, ServiceName, ServicePort, SlicePort};
use proxy::{
    Dataplane, DualStack, Family, IptablesOptions, IpvsOptions, Report, ServicePlan, Settings, Snapshot,
};

/// From the first endpoint of one Service to that of the next: 30,000 Services fit into 10.0.0.0/8.
const STRIDE: u32 = 500;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let backend = match arguments.iter().position(|argument| argument == "--backend") {
        Some(at) => arguments.drain(at..(at + 2).min(arguments.len())).nth(1).unwrap_or_default(),
        None => "nftables".to_owned(),
    };
    if backend.split(',').any(|name| name == "ipvs") {
        let again: Vec<String> = std::env::args().skip(1).collect();
        if let Some(said) = lab::vm::emulated_for_ipvs(&again) {
            println!("{said}");
            return Ok(());
        }
    }
    let mut numbers = arguments.iter().map(|text| text.parse::<u32>());
    let services = numbers.next().transpose()?.unwrap_or(5000);
    let endpoints = numbers.next().transpose()?.unwrap_or(4);
    for backend in backend.split(',') {
        let space = lab::Space::new_node()?;
        space.sh("ip link set lo up");
        space.run(|| measure(backend, services, endpoints))?;
    }
    Ok(())
}

fn open(backend: &str) -> Result<Box<dyn Dataplane>, Failure> {
    let options = IptablesOptions::default();
    Ok(match backend {
        "nftables" => Box::new(Nftables::open(Family::V4)?),
        "iptables" => Box::new(Iptables::open(Family::V4, &options)?),
        "iptables-nft" => Box::new(Iptables::open_variant(Family::V4, Variant::Nft, &options)?),
        "iptables-legacy" => Box::new(Iptables::open_variant(Family::V4, Variant::Legacy, &options)?),
        "ipvs" => Box::new(Ipvs::open(Family::V4, &IpvsOptions::default())?),
        other => return Err(format!("--backend: `{other}` is none of them").into()),
    })
}

fn measure(backend: &str, services: u32, endpoints: u32) -> Result<(), Failure> {
    let changes: u32 = if matches!(backend, "nftables" | "ipvs") { 1000 } else { 100 };
    let settings = Settings {
        detect_local: DetectLocal::ClusterCidr(DualStack { v4: "10.0.0.0/9".parse().ok(), v6: None }),
        ..Settings::default()
    };
    let mut snapshot = Snapshot::default();
    for number in 0..services {
        snapshot.set_service(service(number));
        snapshot.set_slice("only", slice(number, endpoints, 0));
    }
    let planning = Instant::now();
    let mut plan = ServicePlan::new(&snapshot, &settings, Family::V4);
    println!("{services} Services x {endpoints} endpoints, {backend}");
    println!("  plan                        {}", ms(planning.elapsed()));
    let mut dataplane = open(backend)?;
    show("first sync", &dataplane.sync(&plan, None)?);
    let mut took: Vec<(Duration, usize)> = Vec::new();
    for round in 1..=changes {
        let number = round.wrapping_mul(7919) % services;
        // One endpoint is replaced, or leaves.
        let (count, generation) = [(endpoints, round), (endpoints - 1, 0)][round as usize % 2];
        let changed_slice = slice(number, count, generation);
        let started = Instant::now();
        if !snapshot.set_slice("only", changed_slice) {
            continue;
        }
        let touched = plan.update(&snapshot, &BTreeSet::from([name(number)]));
        let report = dataplane.sync(&plan, Some(&touched))?;
        took.push((started.elapsed(), report.elements));
    }
    took.sort_unstable();
    let at = |percent: usize| {
        took.get(took.len().saturating_sub(1) * percent / 100).map_or(Duration::ZERO, |t| t.0)
    };
    let most = took.iter().map(|t| t.1).max().unwrap_or(0);
    println!("  one endpoint, p50 and p99   {}  {}   at most {most} elements", ms(at(50)), ms(at(99)));
    println!("  memory of this process      {}", memory());
    show("second sync, everything read", &dataplane.sync(&plan, None)?);
    drop(dataplane);
    let mut restarted = open(backend)?;
    show("after a restart", &restarted.sync(&plan, None)?);
    let removing = Instant::now();
    restarted.cleanup()?;
    println!("  cleanup                     {}", ms(removing.elapsed()));
    Ok(())
}

fn show(what: &str, report: &Report) {
    println!(
        "  {what:<28}{}  kernel {}   {} elements in {} requests",
        ms(report.took),
        ms(report.committing),
        report.elements,
        report.requests
    );
}

fn ms(time: Duration) -> String {
    format!("{:9.3} ms", time.as_secs_f64() * 1000.0)
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("?").trim().to_owned();
    format!("{} now, {} at most", line("VmRSS:"), line("VmHWM:"))
}

fn name(number: u32) -> ServiceName {
    ServiceName::new("default", &format!("service-{number}"))
}

fn service(number: u32) -> Service {
    let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 };
    Service {
        cluster_ips: DualStack { v4: Some(address(172 << 24, number + 1)), v6: None },
        ports: vec![port],
        ..Service::new(name(number))
    }
}

/// Endpoints of a Service; `generation` other than 0 gives the first one another address.
fn slice(number: u32, endpoints: u32, generation: u32) -> EndpointSlice {
    let mut slice = EndpointSlice::new(name(number), Family::V4);
    slice.ports = vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }];
    let ip = |index| address(10 << 24, number * STRIDE + index + 1);
    slice.endpoints = (0..endpoints).map(|index| Endpoint::new(ip(index))).collect();
    if let Some(first) = slice.endpoints.first_mut().filter(|_| generation > 0) {
        first.ip = address(11 << 24, generation);
    }
    slice
}

fn address(network: u32, host: u32) -> IpAddr {
    IpAddr::from((network | host).to_be_bytes())
}
