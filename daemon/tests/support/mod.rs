//! A source with the stand-in behind it.

use std::time::Duration;

use daemon::source::api::{self, Config, Timing};
use daemon::source::{Feed, SourceState};
use lab::apiserver::ApiServer;
use serde_json::json;

/// Long enough for a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A server, and a source that follows it.
pub struct Cluster {
    pub server: ApiServer,
    pub feed: Feed,
    _state_dir: tempfile::TempDir,
}

/// Everything as quick as a test likes it.
pub fn hurried() -> Timing {
    Timing {
        connect: Duration::from_secs(1),
        answer: Duration::from_millis(500),
        silence: Duration::from_secs(30),
        settled: Duration::from_millis(300),
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(100),
        ..Timing::default()
    }
}

impl Cluster {
    /// One with a new server.
    pub fn stand_in() -> Self {
        Cluster::of(ApiServer::local())
    }

    /// One with this server.
    pub fn of(server: ApiServer) -> Self {
        let state_dir = tempfile::tempdir().unwrap();
        let config = Config {
            kubeconfig: None,
            servers: vec![server.url()],
            state_dir: state_dir.path().to_owned(),
            timing: hurried(),
        };
        let feed = api::run(config);
        Cluster { server, feed, _state_dir: state_dir }
    }

    /// Creates or replaces a node.
    pub fn put(&self, name: &str, pod_cidr: &str) {
        let address = json!({"type": "InternalIP", "address": "192.0.2.1"});
        self.server.put(json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
            "status": {"addresses": [address]},
        }));
    }

    /// Deletes a node.
    pub fn delete(&self, name: &str) {
        assert!(self.server.delete(name));
    }

    /// Waits until the nodes are these, as `name=cidr`.
    pub async fn nodes_are(&mut self, expected: &[&str]) {
        let arrived = self.feed.objects.wait_for(|objects| {
            let nodes = objects.iter().flat_map(|objects| objects.nodes.values());
            let seen: Vec<String> = nodes.map(|n| format!("{}={}", n.name, n.pod_cidrs[0])).collect();
            objects.is_some() && seen == expected
        });
        let arrived = tokio::time::timeout(DEADLINE, arrived).await.map(|found| found.is_ok());
        let have = self.feed.objects.borrow().as_ref().map(|objects| objects.nodes.clone());
        assert_eq!(
            arrived,
            Ok(true),
            "waited for {expected:?}, have {have:?}; {:?}",
            self.feed.state.borrow()
        );
    }

    /// Waits for a state.
    pub async fn state_is(&mut self, what: &str, is: impl FnMut(&SourceState) -> bool) -> SourceState {
        let waited = tokio::time::timeout(DEADLINE, self.feed.state.wait_for(is)).await;
        let found = waited.map(|state| state.expect("the source lives").clone());
        found.unwrap_or_else(|_| panic!("waited for {what}: {:?}", self.feed.state.borrow()))
    }

    /// Waits until the source is connected, without a problem, and its watch is served.
    pub async fn is_well(&mut self) {
        self.state_is("no problem", |state| state.is_connected && state.problems.is_empty()).await;
        self.wait("a watch", |cluster| cluster.server.watches() > 0).await;
    }

    /// Waits until a watch has lasted long enough to count as a good one.
    pub async fn settle(&self) {
        // Time itself is what is waited for.
        tokio::time::sleep(hurried().settled * 2).await;
    }

    /// Waits for anything else.
    pub async fn wait(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !is(self) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "waited for {what}: {:?}",
                self.feed.state.borrow()
            );
            // The pause between two looks.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
