//! What Services cost a node: the real daemon on a stand-in for the API, from its start, and from a watch event to the
//! kernel. `LAB_BOWLINED` names another daemon than `make build`'s; `--quick` takes the smallest size alone.
//!
//! Every size is a cluster of its own. The kernel's own announcement tells when a change has arrived there.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kernel::netlink::monitor::GROUP_NFTABLES;
use kernel::netlink::{Monitor, Protocol};
use lab::apiserver::ApiServer;
use lab::cluster::{Families, Shape};
use lab::wait::{patience, until};
use lab::{Cluster, Daemon};
use serde_json::{Value, json};

const SIZES: [u32; 4] = [1, 1_000, 5_000, 30_000];
const ENDPOINTS: u32 = 4;
/// Single changes that are timed.
const CHANGES: u32 = 200;
/// Changes whose cost is counted.
const BURST: u32 = 1_000;
const CONNECTIONS: usize = 4_000;
/// NFNL_SUBSYS_NFTABLES and NFT_MSG_NEWGEN: the end of a transaction.
const TRANSACTION: u16 = (10 << 8) | 15;

fn main() {
    let is_quick = std::env::args().any(|arg| arg == "--quick");
    lab::own_user_namespace().expect("root, or a user namespace");
    println!(
        "| Services x {ENDPOINTS} | start to ready | first sync | one change, p50 | p99 | CPU of {BURST} changes | memory | at most | new connection, p50 | p99 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let sizes = if is_quick { &SIZES[..2] } else { &SIZES[..] };
    for services in sizes {
        println!("{}", measure(*services));
    }
}

fn measure(services: u32) -> String {
    let cluster = Cluster::new(&Shape::flat(1, Families::V4)).expect("a cluster");
    let (server, source) = cluster.serve();
    for number in 0..services {
        server.put(service(number));
        server.put(slice(number, 0));
    }
    let started = Instant::now();
    let flags = ["--mode=routed", "--proxy-mode=nftables", "--cluster-cidr=10.244.0.0/16"];
    let daemon = cluster.start_with(0, &source, &flags);
    let node = cluster.node(0);
    node.until_ready(&daemon);
    let ready = started.elapsed();
    let sum = "kubeproxy_sync_full_proxy_rules_duration_seconds_sum";
    let first = node.metric(sum, "IPv4").unwrap_or(f64::NAN);
    let latency = latency(&cluster, &server);
    let mut changes = changes(&cluster, &server, services);
    changes.sort_unstable();
    let cpu = burst(&cluster, &server, &daemon, services);
    let memory = |key: &str| resident(&daemon, key) / 1024.0;
    format!(
        "| {services} | {} | {:.0} ms | {} | {} | {cpu:.0} ms | {:.1} MB | {:.1} MB | {} | {} |",
        ms(ready),
        first * 1e3,
        ms(at(&changes, 50)),
        ms(at(&changes, 99)),
        memory("VmRSS:"),
        memory("VmHWM:"),
        us(at(&latency, 50)),
        us(at(&latency, 99)),
    )
}

/// From the change in the API to the end of the kernel's transaction.
fn changes(cluster: &Cluster, server: &ApiServer, services: u32) -> Vec<Duration> {
    let node = cluster.node(0);
    let monitor = node.run(|| Monitor::open_of(Protocol::Netfilter, &[GROUP_NFTABLES]));
    let mut monitor = monitor.expect("events of nf_tables");
    let mut took = Vec::new();
    for round in 1..=CHANGES {
        // The daemon shall be idle: what is timed is one change, not the pause after another.
        std::thread::sleep(Duration::from_millis(150));
        // What is there by now is older; events may have been lost, which is the same.
        while monitor.pending().is_ok_and(|events| !events.is_empty()) {}
        let started = Instant::now();
        server.put(slice(round.wrapping_mul(7919) % services, round));
        let arrived = monitor.wait(started + patience(), |event| event.kind == TRANSACTION);
        assert!(arrived.expect("events can be read"), "the change has reached the kernel");
        took.push(started.elapsed());
    }
    took
}

/// Processor time of the daemon for changes in quick succession, in milliseconds.
fn burst(cluster: &Cluster, server: &ApiServer, daemon: &Daemon, services: u32) -> f64 {
    let total =
        || cluster.node(0).metric("kubeproxy_sync_proxy_rules_endpoint_changes_total", "").unwrap_or(0.0);
    let (before, used) = (total(), processor(daemon));
    for round in 0..BURST {
        server.put(slice(round % services, CHANGES + 1 + round));
    }
    until("all changes to be programmed", || {
        let pending = cluster.node(0).metric("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "")?;
        (pending == 0.0 && total() > before).then_some(())
    });
    processor(daemon) - used
}

/// How long it takes to connect through a ClusterIP, pod to pod.
fn latency(cluster: &Cluster, server: &ApiServer) -> Vec<Duration> {
    let (client, backend) = (cluster.pod(0, "client"), cluster.pod(0, "backend"));
    let ip = backend.ips()[0];
    let listener = backend.pod.run(|| TcpListener::bind((ip, 8080))).expect("a listener");
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            drop(stream)
        }
    });
    let mut real = service(u32::from(u16::MAX));
    real["spec"]["clusterIP"] = json!("10.97.0.1");
    real["spec"]["clusterIPs"] = json!(["10.97.0.1"]);
    let mut of_real = slice(u32::from(u16::MAX), 0);
    of_real["endpoints"] = json!([{"addresses": [ip]}]);
    server.put(of_real);
    server.put(real);
    let to: SocketAddr = ([10, 97, 0, 1], 80).into();
    // A connection from before that would be remembered as going nowhere.
    until("the Service to be programmed", || {
        let ips = cluster.node(0).sh("nft list set ip bowline_proxy cluster-ips");
        ips.contains("10.97.0.1").then_some(())
    });
    client.pod.run(|| {
        // Its endpoint may be on its way still.
        until("the Service to answer", || TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok());
        let once = || {
            let started = Instant::now();
            let mut stream = TcpStream::connect(to).expect("a connection");
            let took = started.elapsed();
            // The server closes; so it is the one that waits out the connection.
            let _ = stream.read(&mut [0]);
            took
        };
        let mut took: Vec<Duration> = (0..CONNECTIONS).map(|_| once()).collect();
        took.sort_unstable();
        took
    })
}

fn service(number: u32) -> Value {
    let ip = address([172, 20, 0, 0], number + 1);
    json!({
        "kind": "Service",
        "metadata": {"namespace": "default", "name": format!("service-{number}"), "labels": {"app": format!("app-{number}")}},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
            "selector": {"app": format!("app-{number}")}, "sessionAffinity": "None",
        },
        "status": {"loadBalancer": {}},
    })
}

/// Endpoints of a Service; the first has another address in each generation.
fn slice(number: u32, generation: u32) -> Value {
    let endpoint = |index: u32| {
        let ip = match index {
            0 if generation > 0 => address([11, 0, 0, 0], generation),
            _ => address([10, 128, 0, 0], number * 8 + index + 1),
        };
        json!({
            "addresses": [ip],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", number % 100),
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("pod-{number}-{index}")},
            "zone": "zone-a",
        })
    };
    let service = format!("service-{number}");
    json!({
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": format!("{service}-abcde"),
            "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

fn address(network: [u8; 4], host: u32) -> IpAddr {
    IpAddr::from((u32::from_be_bytes(network) + host).to_be_bytes())
}

/// Of /proc/PID/status, in KiB.
fn resident(daemon: &Daemon, key: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(f64::NAN)
}

/// User and system time so far, in milliseconds: a clock tick is ten.
fn processor(daemon: &Daemon) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10.0
}

fn at(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn us(time: Duration) -> String {
    format!("{:.0} us", time.as_secs_f64() * 1e6)
}
