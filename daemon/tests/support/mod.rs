//! A source with an API server behind it: the stand-in, or kube-apiserver where KUBEBUILDER_ASSETS names its directory.

#![allow(dead_code)] // Each test binary uses a part of it.

pub mod real;

use std::path::Path;
use std::time::Duration;

use daemon::objects::Node;
use daemon::source::api::{self, Config, Timing};
use daemon::source::{Feed, SourceState};
use futures::StreamExt;
use lab::apiserver::{ApiServer, Kind, Misbehaviour, Recorded, Streaming, Target};
use serde_json::{Value, json};

use real::KubeApiserver;

/// Long enough for a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Who serves the API.
pub enum Server {
    /// The stand-in.
    StandIn(ApiServer),
    /// kube-apiserver and etcd, with the rights of conf/base/account.yaml.
    Real(Box<KubeApiserver>),
}

/// A server, and a source that follows it.
pub struct Cluster {
    pub server: Server,
    pub feed: Feed,
    pub config: Config,
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
    /// One for cases that every API server must pass.
    pub async fn any() -> Self {
        Cluster::any_with(Streaming::Served, hurried()).await
    }

    /// One that serves lists by watch, or not.
    pub async fn any_with(streaming: Streaming, timing: Timing) -> Self {
        match std::env::var_os("KUBEBUILDER_ASSETS") {
            Some(assets) => {
                let gate = format!("--feature-gates=WatchList={}", streaming == Streaming::Served);
                let server = KubeApiserver::start(assets.as_ref(), &[&gate]).await;
                // A real server takes its time.
                let timing = Timing { answer: Duration::from_secs(10), ..timing };
                Cluster::follow(Server::Real(Box::new(server)), timing)
            }
            None => {
                let server = ApiServer::local();
                server.stream(streaming);
                Cluster::follow(Server::StandIn(server), timing)
            }
        }
    }

    /// One that misbehaves on command.
    pub fn stand_in() -> Self {
        Cluster::of(ApiServer::local())
    }

    /// One with this stand-in.
    pub fn of(server: ApiServer) -> Self {
        Cluster::follow(Server::StandIn(server), hurried())
    }

    fn follow(server: Server, timing: Timing) -> Self {
        let state_dir = tempfile::tempdir().unwrap();
        let kubeconfig = match &server {
            Server::StandIn(server) => {
                let path = state_dir.path().join("kubeconfig");
                write_kubeconfig(&path, server, "first");
                path
            }
            Server::Real(server) => server.kubeconfig(),
        };
        let config = Config {
            kubeconfig: Some(kubeconfig),
            servers: vec![],
            state_dir: state_dir.path().to_owned(),
            timing,
        };
        let feed = api::run(config.clone());
        Cluster { server, feed, config, _state_dir: state_dir }
    }

    /// The stand-in, to command.
    pub fn puppet(&self) -> &ApiServer {
        match &self.server {
            Server::StandIn(server) => server,
            Server::Real(_) => panic!("a real server obeys no test"),
        }
    }

    /// Creates a node, or changes its status where there is one: other than the stand-in, a real server never changes
    /// pod CIDRs.
    pub async fn put(&self, name: &str, pod_cidr: &str) {
        let address = json!({"type": "InternalIP", "address": "192.0.2.1"});
        self.put_object(json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
            "status": {"addresses": [address]},
        }))
        .await;
    }

    /// Creates or changes an object of any content; one that does not name its kind is a Node.
    pub async fn put_object(&self, mut object: Value) {
        if object["kind"].is_null() {
            object["kind"] = json!("Node");
        }
        match &self.server {
            Server::StandIn(server) => server.put(object),
            Server::Real(server) => server.put(object).await,
        }
    }

    /// Deletes a node.
    pub async fn delete(&self, name: &str) {
        self.delete_object(&json!({"kind": "Node", "metadata": {"name": name}})).await;
    }

    /// Deletes the object of this kind, namespace and name.
    pub async fn delete_object(&self, object: &Value) {
        match &self.server {
            Server::StandIn(server) => assert!(server.delete_of(Kind::of(object), &key_of(object))),
            Server::Real(server) => server.delete(object).await,
        }
    }

    /// Creates nodes, many at a time.
    pub async fn put_all(&self, names: &[String]) {
        let put = |name: String| async move { self.put(&name, "10.1.0.0/24").await };
        futures::stream::iter(names.to_vec()).map(put).buffer_unordered(16).collect::<Vec<()>>().await;
    }

    /// Answers the source with 429, and 1 s to wait.
    pub async fn throttle(&mut self) {
        match &mut self.server {
            Server::StandIn(server) => {
                server.misbehave(Target::Any, Misbehaviour::Status(429, Some(1)), usize::MAX);
            }
            Server::Real(server) => server.throttle().await,
        }
    }

    /// Takes [`Cluster::throttle`] back.
    pub async fn relent(&mut self) {
        match &mut self.server {
            Server::StandIn(server) => server.behave(),
            Server::Real(server) => server.relent().await,
        }
    }

    /// Ends what the source's credentials are worth.
    pub async fn revoke(&self) {
        match &self.server {
            Server::StandIn(server) => server.require_token("second"),
            Server::Real(server) => server.revoke().await,
        }
    }

    /// Writes new credentials where the source finds them.
    pub async fn grant(&self) {
        match &self.server {
            Server::StandIn(server) => {
                write_kubeconfig(self.config.kubeconfig.as_deref().unwrap(), server, "second");
            }
            Server::Real(server) => server.grant().await,
        }
    }

    /// Takes a node away behind the source's back: its watch ends, and what happened since is not kept.
    pub async fn lose_history(&mut self, name: &str) {
        match &mut self.server {
            Server::StandIn(server) => {
                server.stop();
                assert!(server.delete(name));
                server.compact();
                server.resume(std::net::TcpListener::bind(server.address()).unwrap());
            }
            Server::Real(server) => server.lose_history(name).await,
        }
    }

    /// What the source asked for so far, as `verb resource`; streaming lists as `stream`, of a real server refusals
    /// with their code.
    pub fn requests(&self) -> Vec<String> {
        let shown = |request: &Recorded| {
            let is_stream = request.query.contains_key("sendInitialEvents");
            let verb = if is_stream { "stream" } else { &request.verb };
            let slash = if request.subresource.is_empty() { "" } else { "/" };
            format!("{verb} {}{slash}{}", request.resource, request.subresource)
        };
        match &self.server {
            Server::StandIn(server) => server.requests().iter().map(shown).collect(),
            Server::Real(server) => server.requests(),
        }
    }

    /// The node as the server has it.
    pub async fn object(&self, name: &str) -> Value {
        match &self.server {
            Server::StandIn(server) => server.node(name).expect("there is such a node"),
            Server::Real(server) => server.get(name).await,
        }
    }

    /// Ends the server as an update of it would, watches first, or as a power cut would.
    pub fn stop(&mut self, is_gentle: bool) {
        match &mut self.server {
            Server::StandIn(server) if is_gentle => {
                server.close_watches();
                server.stop();
            }
            Server::StandIn(server) => server.stop(),
            Server::Real(server) => server.stop(is_gentle),
        }
    }

    /// Starts it again, at its address and with what it had.
    pub async fn resume(&mut self) {
        match &mut self.server {
            Server::StandIn(server) => {
                server.resume(std::net::TcpListener::bind(server.address()).unwrap());
            }
            Server::Real(server) => server.resume().await,
        }
    }

    /// Waits until the nodes are these, as `name=cidr`.
    pub async fn nodes_are(&mut self, expected: &[&str]) {
        let shown = |node: &Node| {
            let cidr = node.pod_cidrs.first().map_or("none".to_owned(), ToString::to_string);
            format!("{}={cidr}", node.name)
        };
        let arrived = self.feed.objects.wait_for(|objects| {
            let nodes = objects.iter().flat_map(|objects| objects.nodes.values());
            objects.is_some() && nodes.map(|node| shown(node)).eq(expected.iter().copied())
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

    /// Waits until the node called `name` is as `is` says.
    pub async fn node_is(&mut self, name: &str, what: &str, is: impl Fn(&Node) -> bool) {
        let arrived = self.feed.objects.wait_for(|objects| {
            objects.as_ref().and_then(|objects| objects.nodes.get(name)).is_some_and(|node| is(node))
        });
        let arrived = tokio::time::timeout(DEADLINE, arrived).await.map(|found| found.is_ok());
        assert_eq!(arrived, Ok(true), "waited for {name} {what}; {:?}", self.feed.state.borrow());
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
        if let Server::StandIn(_) = self.server {
            self.wait("a watch", |cluster| cluster.puppet().watches() > 0).await;
        }
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

pub fn write_kubeconfig(path: &Path, server: &ApiServer, token: &str) {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": server.url()}}],
        "users": [{"name": "bowline", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "bowline"}}],
    });
    std::fs::write(path, kubeconfig.to_string()).unwrap();
}

fn key_of(object: &Value) -> String {
    let text = |key: &str| object["metadata"][key].as_str();
    let name = text("name").expect("an object has a name");
    text("namespace").map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}
