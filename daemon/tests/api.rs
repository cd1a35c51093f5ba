//! The API as a source, against the stand-in, and what it may do.

mod support;

use std::time::Duration;

use lab::apiserver::{Misbehaviour, Streaming, Target};
use serde_json::json;
use support::*;

#[tokio::test]
async fn nodes_come_change_and_go_by_streaming_list_and_by_pages() {
    for streaming in [Streaming::Served, Streaming::Refused, Streaming::Unknown] {
        let mut cluster = Cluster::stand_in();
        cluster.server.stream(streaming);
        for i in 0..250 {
            cluster.put(&format!("n{i:03}"), &format!("10.0.{i}.0/24"));
        }
        let expected: Vec<String> = (0..250).map(|i| format!("n{i:03}=10.0.{i}.0/24")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        cluster.nodes_are(&expected).await;
        cluster.is_well().await;
        cluster.put("n000", "10.9.0.0/24");
        cluster.delete("n001");
        let mut expected = expected;
        expected[0] = "n000=10.9.0.0/24";
        expected.remove(1);
        cluster.nodes_are(&expected).await;
        assert_eq!(cluster.feed.state.borrow().restarts, [].into(), "{streaming:?}");
        let lists = cluster.server.requests().iter().filter(|request| request.verb == "list").count();
        assert_eq!(lists, if streaming == Streaming::Served { 0 } else { 3 }, "{streaming:?}");
    }
}

#[tokio::test]
async fn a_burst_is_one_snapshot_and_heartbeats_are_none() {
    let mut cluster = Cluster::stand_in();
    cluster.put("a", "10.1.0.0/24");
    cluster.nodes_are(&["a=10.1.0.0/24"]).await;
    for i in 0..50 {
        cluster.put("b", &format!("10.0.{i}.0/24"));
    }
    cluster.nodes_are(&["a=10.1.0.0/24", "b=10.0.49.0/24"]).await;
    let snapshots = cluster.feed.state.borrow().snapshots;
    assert!(snapshots <= 4, "{snapshots} snapshots of 50 changes within milliseconds");
    let heartbeat = json!({"metadata": {"name": "a"}, "spec": {"podCIDR": "10.1.0.0/24"},
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}});
    cluster.server.put(heartbeat);
    cluster.put("c", "10.3.0.0/24");
    cluster.nodes_are(&["a=10.1.0.0/24", "b=10.0.49.0/24", "c=10.3.0.0/24"]).await;
    assert_eq!(cluster.feed.state.borrow().snapshots, snapshots + 1);
}

/// Brings a server into trouble, changes a node meanwhile, and expects the source to notice, to keep what it had, and
/// to come back.
async fn survives(name: &str, cause: &str, trouble: impl Fn(&Cluster)) {
    for streaming in [Streaming::Served, Streaming::Refused] {
        let mut cluster = Cluster::stand_in();
        cluster.server.stream(streaming);
        cluster.put("a", "10.1.0.0/24");
        cluster.put("gone", "10.2.0.0/24");
        cluster.nodes_are(&["a=10.1.0.0/24", "gone=10.2.0.0/24"]).await;
        cluster.is_well().await;
        trouble(&cluster);
        cluster.delete("gone");
        cluster.put("new", "10.3.0.0/24");
        let counted = |state: &daemon::source::SourceState| state.restarts.contains_key(cause);
        cluster.state_is(&format!("{name}: a restart counted as {cause}"), counted).await;
        // Never empty, never half.
        let objects = cluster.feed.objects.borrow().clone().expect("the last good snapshot stays");
        assert!(objects.nodes.contains_key("a"), "{name}: {objects:?}");
        cluster.server.behave();
        cluster.nodes_are(&["a=10.1.0.0/24", "new=10.3.0.0/24"]).await;
        cluster.is_well().await;
    }
}

#[tokio::test]
async fn every_misbehaviour_is_named_and_survived() {
    use Misbehaviour::*;
    let rows: Vec<(&str, Misbehaviour, &str)> = vec![
        ("410 before the watch", Status(410, None), "410"),
        ("500", Status(500, None), "500"),
        ("503", Status(503, None), "503"),
        ("403", Status(403, None), "403"),
        ("429", Status(429, Some(1)), "429"),
        ("garbage", Garbage, "decode"),
        ("another kind", OtherKind, "decode"),
        ("a web page", WebPage, "decode"),
        ("a line of garbage", GarbageLine, "decode"),
        ("half an answer", Half, "connect"),
        ("no answer", Drop, "connect"),
        ("too slow", Slow(Duration::from_secs(3)), "timeout"),
    ];
    for (name, misbehaviour, cause) in rows {
        survives(name, cause, |cluster| {
            cluster.server.misbehave(Target::Any, misbehaviour.clone(), usize::MAX);
            cluster.server.close_watches();
        })
        .await;
    }
}

#[tokio::test]
async fn watches_end_in_every_way() {
    survives("410 within the watch", "410", |cluster| cluster.server.expire_watches()).await;
    survives("410 because history is gone", "410", |cluster| {
        cluster.server.compact();
        cluster.server.close_watches();
    })
    .await;
    survives("half an event", "connect", |cluster| cluster.server.tear_watches()).await;
}

#[tokio::test]
async fn a_watch_whose_time_is_up_goes_on_without_a_list() {
    let mut cluster = Cluster::stand_in();
    cluster.put("a", "10.1.0.0/24");
    cluster.is_well().await;
    // A bookmark moves the version on, so that history before it is not needed.
    cluster.server.compact();
    cluster.server.bookmark();
    cluster.settle().await;
    cluster.server.close_watches();
    cluster.put("b", "10.2.0.0/24");
    cluster.nodes_are(&["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
    assert_eq!(cluster.feed.state.borrow().restarts, [].into());
    let requests = cluster.server.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(!requests[1].query.contains_key("sendInitialEvents"), "{requests:?}");
}

#[tokio::test]
async fn a_server_that_closes_every_watch_at_once_is_not_stormed() {
    let mut cluster = Cluster::stand_in();
    cluster.put("a", "10.1.0.0/24");
    cluster.is_well().await;
    for _ in 0..3 {
        let requests = cluster.server.requests().len();
        cluster.server.close_watches();
        cluster
            .wait("another watch", |cluster| {
                cluster.server.requests().len() > requests && cluster.server.watches() == 1
            })
            .await;
    }
    assert!(cluster.feed.state.borrow().restarts["closed"] >= 2, "{:?}", cluster.feed.state.borrow());
}

#[tokio::test]
async fn a_server_may_stop_and_come_back() {
    let mut cluster = Cluster::stand_in();
    cluster.put("a", "10.1.0.0/24");
    cluster.nodes_are(&["a=10.1.0.0/24"]).await;
    cluster.is_well().await;
    cluster.server.stop();
    let state = cluster.state_is("no connection", |state| !state.is_connected).await;
    let url = cluster.server.url();
    assert!(state.problems[0].starts_with(&url), "{state:?}");
    cluster.state_is("refused", |state| state.problems.iter().any(|p| p.contains("refused"))).await;
    assert_eq!(cluster.feed.objects.borrow().as_ref().unwrap().nodes.len(), 1);
    cluster.put("b", "10.2.0.0/24");
    let listener = std::net::TcpListener::bind(cluster.server.address()).unwrap();
    cluster.server.resume(listener);
    cluster.nodes_are(&["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
    cluster.is_well().await;
}

#[tokio::test]
async fn a_node_with_a_fault_is_named_and_kept_as_far_as_it_is_good() {
    let mut cluster = Cluster::stand_in();
    cluster
        .server
        .put(json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.1.0.0/24", "fd00::/129"]}}));
    cluster.nodes_are(&["a=10.1.0.0/24"]).await;
    let problem = "Node a: spec.podCIDRs[1]: `fd00::/129` is no CIDR such as 10.244.1.0/24 or fd00:10:1::/64";
    cluster.state_is("the fault", |state| state.is_connected && state.problems == [problem]).await;
    cluster.put("a", "10.1.0.0/24");
    cluster.is_well().await;
}

#[tokio::test]
async fn a_server_that_was_never_good_has_no_snapshot() {
    for misbehaviour in
        [Misbehaviour::Garbage, Misbehaviour::OtherKind, Misbehaviour::Half, Misbehaviour::Status(500, None)]
    {
        let server = lab::apiserver::ApiServer::local();
        server.misbehave(Target::Any, misbehaviour, usize::MAX);
        let mut cluster = Cluster::of(server);
        cluster.state_is("restarts", |state| state.restarts.values().sum::<u64>() >= 3).await;
        assert_eq!(*cluster.feed.objects.borrow(), None);
    }
}
