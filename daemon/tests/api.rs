//! The API as a source, and what is written to it: by the stand-in, and by kube-apiserver where KUBEBUILDER_ASSETS is
//! set. Both pass the same cases.

mod support;

use std::time::Duration;

use daemon::objects::WIREGUARD_KEY;
use daemon::source::SourceState;
use daemon::source::api::{self, Timing};
use daemon::source::publish::{self, Wanted};
use lab::apiserver::Streaming;
use overlay::Mode;
use serde_json::{Value, json};
use support::*;
use tokio::sync::watch;

#[tokio::test]
async fn nodes_come_change_go_and_come_back_as_others() {
    let mut cluster = Cluster::any().await;
    cluster.nodes_are(&[]).await;
    cluster.put("a", "10.1.0.0/24").await;
    cluster.put("b", "10.2.0.0/24").await;
    cluster.nodes_are(&["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
    cluster.is_well().await;
    let ip: std::net::IpAddr = "192.0.2.9".parse().unwrap();
    let moved = json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}});
    cluster.put_object(moved).await;
    cluster.node_is("a", "has moved", |node| node.ips == [ip]).await;
    let uid = cluster.feed.objects.borrow().as_ref().unwrap().nodes["b"].uid.clone();
    cluster.delete("b").await;
    cluster.nodes_are(&["a=10.1.0.0/24"]).await;
    cluster.put("b", "10.3.0.0/24").await;
    cluster.nodes_are(&["a=10.1.0.0/24", "b=10.3.0.0/24"]).await;
    assert_ne!(cluster.feed.objects.borrow().as_ref().unwrap().nodes["b"].uid, uid);
    assert_eq!(cluster.feed.state.borrow().restarts, [].into());
}

#[tokio::test]
async fn a_dual_stack_node_is_read_whole() {
    let mut cluster = Cluster::any().await;
    cluster
        .put_object(json!({
            "metadata": {"name": "a", "annotations": {"other": "kept"}},
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:10:1::/64"]},
            "status": {
                "addresses": [
                    {"type": "InternalIP", "address": "192.0.2.1"},
                    {"type": "InternalIP", "address": "2001:db8::1"},
                ],
                "conditions": [{"type": "NetworkUnavailable", "status": "True"}],
            },
        }))
        .await;
    cluster
        .node_is("a", "is whole", |node| {
            node.ips.len() == 2
                && node.pod_cidrs.len() == 2
                && node.network_unavailable == Some(true)
                && node.created > 0
        })
        .await;
}

#[tokio::test]
async fn a_burst_is_one_snapshot_and_heartbeats_are_none() {
    let mut cluster = Cluster::any().await;
    cluster.put("a", "10.1.0.0/24").await;
    cluster.nodes_are(&["a=10.1.0.0/24"]).await;
    let before = cluster.feed.state.borrow().snapshots;
    let node = |heartbeat: &str| {
        json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": heartbeat}],
        }})
    };
    cluster.node_is("a", "has its address", |node| node.ips.len() == 1).await;
    let settled = cluster.feed.state.borrow().snapshots;
    assert!(settled <= before + 1);
    cluster.put_object(node("2026-01-01T00:00:00Z")).await;
    cluster.put_object(node("2026-01-01T00:05:00Z")).await;
    let names: Vec<String> = (0..40).map(|i| format!("n{i:02}")).collect();
    for name in &names {
        cluster.put_object(json!({"metadata": {"name": name}, "spec": {}, "status": {}})).await;
    }
    let expected: Vec<String> = names.iter().map(|name| format!("{name}=none")).collect();
    let expected: Vec<&str> =
        ["a=10.1.0.0/24"].into_iter().chain(expected.iter().map(String::as_str)).collect();
    cluster.nodes_are(&expected).await;
    let snapshots = cluster.feed.state.borrow().snapshots - settled;
    assert!(snapshots <= 20, "{snapshots} snapshots of 40 changes in quick succession");
}

#[tokio::test]
async fn a_server_may_stop_and_come_back() {
    for is_gentle in [false, true] {
        let mut cluster = Cluster::any().await;
        cluster.put("a", "10.1.0.0/24").await;
        cluster.nodes_are(&["a=10.1.0.0/24"]).await;
        cluster.is_well().await;
        cluster.stop(is_gentle);
        cluster.state_is("no connection", |state| !state.is_connected).await;
        let is_refused =
            |state: &SourceState| state.problems.iter().any(|p| p.contains("Connection refused"));
        cluster.state_is("refused", is_refused).await;
        assert!(cluster.feed.state.borrow().restarts["connect"] > 0);
        assert_eq!(cluster.feed.objects.borrow().as_ref().unwrap().nodes.len(), 1);
        cluster.resume().await;
        cluster.put("b", "10.2.0.0/24").await;
        cluster.nodes_are(&["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
        cluster.is_well().await;
    }
}

#[tokio::test]
async fn a_list_of_a_thousand_nodes_is_one_stream_or_ten_pages() {
    let names: Vec<String> = (0..1000).map(|i| format!("n{i:03}")).collect();
    for streaming in [Streaming::Served, Streaming::Refused] {
        let mut cluster = Cluster::any_with(streaming, hurried()).await;
        cluster.nodes_are(&[]).await;
        cluster.put_all(&names).await;
        // What is here came event by event; a second source begins with all of it.
        let mut second = api::run(cluster.config.clone());
        let first = tokio::time::timeout(DEADLINE, second.objects.wait_for(Option::is_some)).await;
        let first = first.expect("a list").unwrap().clone().unwrap();
        assert_eq!(first.nodes.len(), 1000, "{streaming:?}: half a list was published");
        cluster.delete("n000").await;
        let gone = second.objects.wait_for(|objects| objects.as_ref().unwrap().nodes.len() == 999);
        let gone = tokio::time::timeout(DEADLINE, gone).await.map(|found| found.is_ok());
        assert_eq!(gone, Ok(true), "the watch goes on where the list stood");
        let requests = cluster.requests();
        let pages = requests.iter().filter(|request| *request == "list nodes").count();
        // The first source listed no node at all, so one page.
        assert_eq!(pages, if streaming == Streaming::Served { 0 } else { 1 + 10 }, "{requests:?}");
    }
}

#[tokio::test]
async fn history_that_is_gone_means_everything_anew() {
    for streaming in [Streaming::Served, Streaming::Refused] {
        let mut cluster = Cluster::any_with(streaming, hurried()).await;
        cluster.put("a", "10.1.0.0/24").await;
        cluster.put("gone", "10.2.0.0/24").await;
        cluster.nodes_are(&["a=10.1.0.0/24", "gone=10.2.0.0/24"]).await;
        cluster.is_well().await;
        cluster.lose_history("gone").await;
        cluster.nodes_are(&["a=10.1.0.0/24"]).await;
        cluster.is_well().await;
        let restarts = cluster.feed.state.borrow().restarts.clone();
        assert!(restarts.contains_key("410"), "{restarts:?}");
    }
}

#[tokio::test]
async fn a_server_that_has_no_time_is_left_alone_for_as_long_as_it_says() {
    let timing = Timing { watch: Duration::from_secs(2), longest_pause: Duration::from_secs(5), ..hurried() };
    let mut cluster = Cluster::any_with(Streaming::Served, timing).await;
    cluster.put("a", "10.1.0.0/24").await;
    cluster.nodes_are(&["a=10.1.0.0/24"]).await;
    cluster.throttle().await;
    let refusals = |count: u64| {
        move |state: &SourceState| state.restarts.get("429").is_some_and(|times| *times >= count)
    };
    cluster.state_is("a refusal", refusals(1)).await;
    let first = tokio::time::Instant::now();
    let state = cluster.state_is("more of them", refusals(4)).await;
    assert!(first.elapsed() >= Duration::from_millis(2_900), "3 pauses took {:?}", first.elapsed());
    assert!(state.problems[0].contains("429 Too Many Requests"), "{:?}", state.problems);
    assert_eq!(cluster.feed.objects.borrow().as_ref().unwrap().nodes.len(), 1);
    cluster.relent().await;
    cluster.put("b", "10.2.0.0/24").await;
    cluster.nodes_are(&["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
    cluster.is_well().await;
}

#[tokio::test]
async fn credentials_that_end_are_read_anew() {
    let timing = Timing { watch: Duration::from_secs(2), ..hurried() };
    let mut cluster = Cluster::any_with(Streaming::Served, timing).await;
    cluster.put("a", "10.1.0.0/24").await;
    cluster.nodes_are(&["a=10.1.0.0/24"]).await;
    cluster.revoke().await;
    let state = cluster.state_is("a refusal", |state| state.restarts.contains_key("401")).await;
    assert!(state.problems[0].contains("not (or no longer) valid"), "{:?}", state.problems);
    cluster.grant().await;
    cluster.put("b", "10.2.0.0/24").await;
    cluster.nodes_are(&["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
    cluster.is_well().await;
}

/// Runs a writer for node `a`, waits until the node is as `is` says, and returns the node's object.
async fn published(cluster: &mut Cluster, wanted: Wanted, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let (sender, receiver) = watch::channel(wanted);
    let problem = publish::run(cluster.config.clone(), "a".into(), cluster.feed.objects.clone(), receiver);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let object = cluster.object("a").await;
        if is(&object) {
            drop(sender);
            return object;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited for {what}: {:?}: {object}",
            problem.borrow()
        );
        // The pause between two looks.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn condition(node: &Value) -> Value {
    let conditions = node["status"]["conditions"].as_array();
    let found =
        conditions.and_then(|all| all.iter().find(|condition| condition["type"] == "NetworkUnavailable"));
    found.cloned().unwrap_or_default()
}

#[tokio::test]
async fn network_unavailable_becomes_false_and_nothing_else_changes() {
    let mut cluster = Cluster::any().await;
    cluster
        .put_object(json!({
            "metadata": {"name": "a", "labels": {"l": "1"}, "annotations": {"n": "1"}},
            "spec": {"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24"]},
            "status": {"conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"},
            ]},
        }))
        .await;
    cluster.node_is("a", "is unavailable", |node| node.network_unavailable == Some(true)).await;
    let before = cluster.object("a").await;
    let wanted = Wanted::in_mode(Mode::Vxlan, true, None);
    let is_false = |node: &Value| condition(node)["status"] == "False";
    let after = published(&mut cluster, wanted, "the condition", is_false).await;
    assert_eq!(condition(&after)["reason"], "BowlineIsUp");
    for part in ["labels", "annotations", "uid", "name"] {
        assert_eq!(after["metadata"][part], before["metadata"][part], "{part}");
    }
    assert_eq!(after["spec"], before["spec"]);
    assert_eq!(after["status"]["conditions"].as_array().map(Vec::len), Some(2));
    cluster.node_is("a", "is available", |node| node.network_unavailable == Some(false)).await;
}

#[tokio::test]
async fn no_annotation_and_no_label_is_written_in_modes_without_keys() {
    let mut cluster = Cluster::any().await;
    let unavailable = json!({"conditions": [{"type": "NetworkUnavailable", "status": "True"}]});
    let is_false = |node: &Value| condition(node)["status"] == "False";
    for mode in Mode::ALL.into_iter().filter(|mode| *mode != Mode::Wireguard) {
        cluster.put_object(json!({"metadata": {"name": "a"}, "spec": {}, "status": unavailable})).await;
        cluster.node_is("a", "is unavailable", |node| node.network_unavailable == Some(true)).await;
        let before = cluster.object("a").await;
        let wanted = Wanted::in_mode(mode, true, Some([7; 32]));
        let after = published(&mut cluster, wanted, "the condition", is_false).await;
        for part in ["labels", "annotations", "finalizers"] {
            assert_eq!(after["metadata"][part], before["metadata"][part], "{mode}: {part}");
        }
        cluster.delete("a").await;
        cluster.nodes_are(&[]).await;
    }
}

#[tokio::test]
async fn the_wireguard_key_is_one_annotation() {
    let mut cluster = Cluster::any().await;
    cluster
        .put_object(json!({"metadata": {"name": "a", "annotations": {"n": "1"}}, "spec": {}, "status": {}}))
        .await;
    cluster.node_is("a", "is there", |_| true).await;
    let wanted = Wanted::in_mode(Mode::Wireguard, true, Some([7; 32]));
    let has_key = |node: &Value| node["metadata"]["annotations"][WIREGUARD_KEY].is_string();
    let node = published(&mut cluster, wanted, "the key", has_key).await;
    assert_eq!(node["metadata"]["annotations"]["n"], "1");
    assert_eq!(condition(&node), Value::Null);
    cluster.node_is("a", "has its key", |node| node.wireguard_key == Some([7; 32])).await;
}
