//! How long a node waits for the image: from `ctr run` to the pod's readiness, in a cluster of 5,000 Services, on an empty
//! node and on one that is upgraded. What is run is what conf/rendered says.

use std::time::{Duration, Instant};

use lab::Cluster;
use lab::cluster::{Families, Shape};
use lab::kubelet::Kubelet;
use lab::rendered::Rendered;
use serde_json::json;

const SERVICES: u32 = 5_000;
const ENDPOINTS: u32 = 4;
const ROUNDS: u32 = 5;
/// The promise, for an idle machine of two processors.
const GOAL: Duration = Duration::from_secs(2);

fn main() {
    let cluster = Cluster::new(&Shape::flat(1, Families::V4)).expect("root: containerd needs it");
    let (server, _) = cluster.serve();
    for number in 0..SERVICES {
        server.put(service(number));
        server.put(slice(number));
    }
    let mut manifest = Rendered::read("vxlan");
    manifest.set("apiServer", &format!("[\"{}\"]", server.url()));
    let kubelet = Kubelet::start(cluster.node(0), &cluster.node(0).entry().name);
    // The image is on the node before a pod starts, or nobody could say what was measured.
    kubelet.import(manifest.pod()["containers"][0]["image"].as_str().expect("an image"));
    println!("| {SERVICES} Services x {ENDPOINTS} | container start to ready |");
    println!("|---|---|");
    let mut slowest = Duration::ZERO;
    for round in 0..ROUNDS {
        let started = Instant::now();
        let container = kubelet.run(&manifest, &format!("round-{round}"));
        container.until_ready();
        let took = started.elapsed();
        slowest = slowest.max(took);
        let what = if round == 0 { "empty node" } else { "upgrade" };
        println!("| {what} | {} ms |", took.as_millis());
        container.terminate();
    }
    println!("slowest {} ms, goal {} ms", slowest.as_millis(), GOAL.as_millis());
}

fn service(number: u32) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": format!("s{number}")},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip(96, number), "clusterIPs": [ip(96, number)], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080}],
        },
    })
}

fn slice(number: u32) -> serde_json::Value {
    let endpoint = |nth: u32| json!({"addresses": [ip(100 + nth, number)], "conditions": {"ready": true, "serving": true}});
    let name = format!("s{number}");
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

/// An address of its own for each number.
fn ip(second: u32, number: u32) -> String {
    format!("10.{second}.{}.{}", 1 + number / 250, 1 + number % 250)
}
