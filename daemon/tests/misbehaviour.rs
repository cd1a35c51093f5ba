//! What an API server may do to a source; the stand-in does it on command.

mod support;

use std::time::Duration;

use daemon::source::api::{self, Config, Timing};
use lab::apiserver::{Misbehaviour, Streaming, Target};
use serde_json::json;
use support::*;

#[tokio::test]
async fn lists_are_streamed_or_paged_as_the_server_likes() {
    for streaming in [Streaming::Served, Streaming::Refused, Streaming::Unknown] {
        let mut cluster = Cluster::stand_in();
        cluster.puppet().stream(streaming);
        for i in 0..250 {
            cluster.put(&format!("n{i:03}"), &format!("10.0.{i}.0/24")).await;
        }
        let expected: Vec<String> = (0..250).map(|i| format!("n{i:03}=10.0.{i}.0/24")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        cluster.nodes_are(&expected).await;
        cluster.is_well().await;
        cluster.put("n000", "10.9.0.0/24").await;
        cluster.delete("n001").await;
        let mut expected = expected;
        expected[0] = "n000=10.9.0.0/24";
        expected.remove(1);
        cluster.nodes_are(&expected).await;
        assert_eq!(cluster.feed.state.borrow().restarts, [].into(), "{streaming:?}");
        let lists = cluster.puppet().requests().iter().filter(|request| request.verb == "list").count();
        assert_eq!(lists, if streaming == Streaming::Served { 0 } else { 3 }, "{streaming:?}");
    }
}

/// Brings a server into trouble, changes a node meanwhile, and expects the source to notice, to keep what it had, and
/// to come back.
async fn survives(name: &str, cause: &str, trouble: impl Fn(&Cluster)) {
    for streaming in [Streaming::Served, Streaming::Refused] {
        let mut cluster = Cluster::stand_in();
        cluster.puppet().stream(streaming);
        cluster.put("a", "10.1.0.0/24").await;
        cluster.put("gone", "10.2.0.0/24").await;
        cluster.nodes_are(&["a=10.1.0.0/24", "gone=10.2.0.0/24"]).await;
        cluster.is_well().await;
        trouble(&cluster);
        cluster.delete("gone").await;
        cluster.put("new", "10.3.0.0/24").await;
        let counted = |state: &daemon::source::SourceState| state.restarts.contains_key(cause);
        cluster.state_is(&format!("{name}: a restart counted as {cause}"), counted).await;
        // Never empty, never half.
        let objects = cluster.feed.objects.borrow().clone().expect("the last good snapshot stays");
        assert!(objects.nodes.contains_key("a"), "{name}: {objects:?}");
        cluster.puppet().behave();
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
            cluster.puppet().misbehave(Target::Any, misbehaviour.clone(), usize::MAX);
            cluster.puppet().close_watches();
        })
        .await;
    }
}

#[tokio::test]
async fn watches_end_in_every_way() {
    survives("410 within the watch", "410", |cluster| cluster.puppet().expire_watches()).await;
    survives("410 because history is gone", "410", |cluster| {
        cluster.puppet().compact();
        cluster.puppet().close_watches();
    })
    .await;
    survives("half an event", "connect", |cluster| cluster.puppet().tear_watches()).await;
}

#[tokio::test]
async fn a_watch_whose_time_is_up_goes_on_without_a_list() {
    let mut cluster = Cluster::stand_in();
    cluster.put("a", "10.1.0.0/24").await;
    cluster.is_well().await;
    // A bookmark moves the version on, so that history before it is not needed.
    cluster.puppet().compact();
    cluster.puppet().bookmark();
    cluster.settle().await;
    cluster.puppet().close_watches();
    cluster.put("b", "10.2.0.0/24").await;
    cluster.nodes_are(&["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
    assert_eq!(cluster.feed.state.borrow().restarts, [].into());
    let requests = cluster.puppet().requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(!requests[1].query.contains_key("sendInitialEvents"), "{requests:?}");
}

#[tokio::test]
async fn a_server_that_closes_every_watch_at_once_is_not_stormed() {
    let mut cluster = Cluster::stand_in();
    cluster.put("a", "10.1.0.0/24").await;
    cluster.is_well().await;
    for _ in 0..3 {
        let requests = cluster.puppet().requests().len();
        cluster.puppet().close_watches();
        cluster
            .wait("another watch", |cluster| {
                cluster.puppet().requests().len() > requests && cluster.puppet().watches() == 1
            })
            .await;
    }
    assert!(cluster.feed.state.borrow().restarts["closed"] >= 2, "{:?}", cluster.feed.state.borrow());
}

#[tokio::test]
async fn a_node_with_a_fault_is_named_and_kept_as_far_as_it_is_good() {
    let mut cluster = Cluster::stand_in();
    cluster
        .puppet()
        .put(json!({"metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.1.0.0/24", "fd00::/129"]}}));
    cluster.nodes_are(&["a=10.1.0.0/24"]).await;
    let problem = "Node a: spec.podCIDRs[1]: `fd00::/129` is no CIDR such as 10.244.1.0/24 or fd00:10:1::/64";
    cluster.state_is("the fault", |state| state.is_connected && state.problems == [problem]).await;
    cluster.put("a", "10.1.0.0/24").await;
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

#[tokio::test]
async fn another_server_takes_over() {
    let (first, second) = (lab::apiserver::ApiServer::local(), lab::apiserver::ApiServer::local());
    for server in [&first, &second] {
        server.put(json!({"metadata": {"name": "a"}}));
    }
    let dir = tempfile::tempdir().unwrap();
    let servers = vec![first.url(), second.url()];
    let config = Config { kubeconfig: None, servers, state_dir: dir.path().to_owned(), timing: hurried() };
    let mut feed = api::run(config);
    feed.objects.wait_for(Option::is_some).await.unwrap();
    first.stop();
    second.put(json!({"metadata": {"name": "b"}}));
    let both =
        feed.objects.wait_for(|objects| objects.as_ref().is_some_and(|objects| objects.nodes.len() == 2));
    tokio::time::timeout(DEADLINE, both).await.expect("the second server is asked").unwrap();
}

#[tokio::test]
async fn a_watch_that_says_nothing_is_begun_anew_without_a_list() {
    let server = lab::apiserver::ApiServer::local();
    server.put(json!({"metadata": {"name": "a"}}));
    let dir = tempfile::tempdir().unwrap();
    let timing = Timing { silence: Duration::from_millis(50), ..hurried() };
    let config =
        Config { kubeconfig: None, servers: vec![server.url()], state_dir: dir.path().to_owned(), timing };
    let mut feed = api::run(config);
    feed.objects.wait_for(Option::is_some).await.unwrap();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while server.requests().len() < 3 {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", feed.state.borrow());
        // The pause between two looks.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(server.requests().iter().filter(|r| r.query.contains_key("sendInitialEvents")).count(), 1);
    assert_eq!(feed.state.borrow().restarts, [].into());
    assert!(feed.state.borrow().is_connected);
}
