//! Services and what belongs to them as any API server tells them: the stand-in, or kube-apiserver where KUBEBUILDER_ASSETS is
//! set.

mod support;

use std::time::Duration;

use daemon::proxy::Feeds;
use daemon::source::services;
use lab::apiserver::Streaming;
use serde_json::{Value, json};
use support::*;

/// A Service of the namespace `default`, with a ClusterIP where `host` is not 0.
fn service(name: &str, host: u8, mut spec: Value) -> Value {
    if host != 0 {
        let ip = format!("10.96.0.{host}");
        spec["clusterIP"] = json!(ip);
        spec["clusterIPs"] = json!([ip]);
    }
    json!({"kind": "Service", "metadata": {"namespace": "default", "name": name}, "spec": spec})
}

fn slice(service: &str, address: &str) -> Value {
    let labels = json!({"kubernetes.io/service-name": service});
    json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": format!("{service}-1"), "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "nodeName": "a", "hints": {"forZones": [{"name": "z1"}]}}],
    })
}

/// Waits until what has come since the last time says all of `words`, and returns it.
async fn told(feeds: &Feeds, words: &[&str]) -> String {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut told = String::new();
    loop {
        let (changes, _) = feeds.inbox.take();
        if !changes.is_empty() {
            told += &format!("{changes:?}");
        }
        if words.iter().all(|word| told.contains(word)) {
            return told;
        }
        let states: Vec<_> = feeds.states.iter().map(|state| state.borrow().clone()).collect();
        assert!(tokio::time::Instant::now() < deadline, "waited for {words:?}: {told}: {states:?}");
        // The pause between two looks.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const EVERYTHING: [&str; 4] =
    ["all_services: Some", "all_slices: Some", "service_cidrs: Some", "node: Some(Some"];

#[tokio::test]
async fn objects_of_every_kind_come_change_and_go() {
    for streaming in [Streaming::Served, Streaming::Refused] {
        let cluster = Cluster::any_with(streaming, hurried()).await;
        cluster.put("a", "10.1.0.0/24").await;
        let feeds = services::from_api(&cluster.config, "a", &["10.96.0.0/24".parse().unwrap()]);
        told(&feeds, &EVERYTHING).await;
        let port = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
        cluster.put_object(service("plain", 50, json!({"type": "ClusterIP", "ports": port}))).await;
        let mut balanced = service(
            "balanced",
            51,
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": port,
                "loadBalancerSourceRanges": ["192.0.2.0/24"]}),
        );
        balanced["metadata"]["annotations"] = json!({"bowline.dev/ipvs-scheduler": "wrr"});
        balanced["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.8", "ipMode": "Proxy"}]}});
        cluster.put_object(balanced).await;
        cluster.put_object(service("headless", 0, json!({"clusterIP": "None", "ports": port}))).await;
        cluster.put_object(slice("plain", "10.1.0.5")).await;
        let mut bare = slice("headless", "10.1.0.6");
        bare["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
        cluster.put_object(bare).await;
        cluster.put_object(slice("balanced", "10.1.0.7")).await;
        let words =
            ["10.96.0.50", "10.96.0.51", "203.0.113.8", "mode: Proxy", "192.0.2.0", "\"wrr\"", "\"z1\""];
        let all = told(&feeds, &[&words[..], &["10.1.0.5", "10.1.0.7"]].concat()).await;
        assert!(!all.contains("10.1.0.6") && !all.contains("\"headless\""), "{all}");

        // Given to another proxy, as good as deleted.
        let mut foreign = service("plain", 50, json!({"type": "ClusterIP", "ports": port}));
        foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "other"});
        cluster.put_object(foreign).await;
        told(&feeds, &["name: \"plain\" }: None"]).await;
        cluster.delete_object(&slice("balanced", "")).await;
        told(&feeds, &["name: \"balanced-1\" }: None"]).await;
        cluster
            .put_object(json!({"kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/16"]}}))
            .await;
        told(&feeds, &["10.97.0.0"]).await;
        cluster.put_object(slice("plain", "10.1.0.9")).await;
        told(&feeds, &["10.1.0.9"]).await;
    }
}

#[tokio::test]
async fn a_server_that_comes_back_without_history_tells_everything_anew() {
    let mut cluster = Cluster::any().await;
    let port = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    cluster.put("a", "10.1.0.0/24").await;
    cluster.put("gone", "10.2.0.0/24").await;
    cluster.put_object(service("plain", 50, json!({"type": "ClusterIP", "ports": port}))).await;
    let feeds = services::from_api(&cluster.config, "a", &["10.96.0.0/24".parse().unwrap()]);
    told(&feeds, &[&EVERYTHING[..], &["10.96.0.50"]].concat()).await;
    cluster.lose_history("gone").await;
    cluster.put_object(service("later", 52, json!({"type": "ClusterIP", "ports": port}))).await;
    let all = told(&feeds, &["all_services: Some", "all_slices: Some", "10.96.0.52"]).await;
    assert!(all.contains("10.96.0.50"), "{all}");
    let is_well = || feeds.states.iter().all(|state| state.borrow().is_connected);
    cluster.wait("every source to be well", |_| is_well()).await;
}
