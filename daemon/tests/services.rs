//! What the Service proxy reads, from the API and from manifests: what the engine knows in the end, whatever happens on
//! the way.

mod support;

use std::path::Path;
use std::time::Duration;

use daemon::proxy::Feeds;
use daemon::source::api::Config;
use daemon::source::{SourceState, manifests, services};
use lab::apiserver::{ApiServer, Kind, Misbehaviour, Streaming, Target};
use proxy::engine::{Engine, OwnNode};
use proxy::state::{EndpointSlice, Service, ServiceName};
use proxy::{DualStack, Settings};
use serde_json::{Value, json};
use support::{DEADLINE, hurried};

/// A server, what follows it, and an engine without a kernel.
struct Stage {
    server: ApiServer,
    feeds: Feeds,
    engine: Engine,
    /// Changes that mattered so far.
    changes: usize,
    config: Config,
    _state_dir: tempfile::TempDir,
}

fn engine() -> Engine {
    Engine::new("a", Settings::default(), DualStack::default()).unwrap()
}

impl Stage {
    fn new(server: ApiServer) -> Stage {
        let state_dir = tempfile::tempdir().unwrap();
        let servers = vec![server.url()];
        let config =
            Config { kubeconfig: None, servers, state_dir: state_dir.path().to_owned(), timing: hurried() };
        let feeds = services::from_api(&config, "a", &["10.96.0.0/12".parse().unwrap()]);
        Stage { server, feeds, engine: engine(), changes: 0, config, _state_dir: state_dir }
    }

    async fn until(&mut self, what: &str, is: impl FnMut(&Engine) -> bool) {
        self.changes += until(&self.feeds, &mut self.engine, what, is).await;
    }

    /// Waits until the Services are these, of them with endpoints those with `+N`.
    async fn services_are(&mut self, expected: &[&str]) {
        self.until(&format!("{expected:?}"), |engine| shown(engine) == expected).await;
    }

    async fn state_is(&mut self, what: &str, is: impl Fn(&SourceState) -> bool) {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while !self.feeds.states.iter().any(|state| is(&state.borrow())) {
            assert!(tokio::time::Instant::now() < deadline, "waited for {what}: {:?}", self.feeds.states);
            // The pause between two looks.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Feeds the engine until it is as `is` says; how many changes mattered.
async fn until(feeds: &Feeds, engine: &mut Engine, what: &str, mut is: impl FnMut(&Engine) -> bool) -> usize {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut changes = 0;
    loop {
        let (taken, _) = feeds.inbox.take();
        let applied = engine.apply(taken);
        changes += applied.services + applied.endpoints;
        if engine.is_ready() && is(engine) {
            return changes;
        }
        let arrived = tokio::time::timeout_at(deadline, feeds.inbox.arrived()).await;
        let problems: Vec<String> = feeds.states.iter().flat_map(|s| s.borrow().problems.clone()).collect();
        assert!(arrived.is_ok(), "waited for {what}, have {:?}; {problems:?}", shown(engine));
    }
}

fn shown(engine: &Engine) -> Vec<String> {
    let count = |service: &Service| {
        let slices = engine.snapshot().slices_of(&service.name);
        slices.map(|slice: &std::sync::Arc<EndpointSlice>| slice.endpoints.len()).sum::<usize>()
    };
    let describe = |service: &std::sync::Arc<Service>| match count(service) {
        0 => service.name.to_string(),
        endpoints => format!("{}+{endpoints}", service.name),
    };
    engine.snapshot().services().map(describe).collect()
}

fn service(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "ns", "name": name},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80}]},
    })
}

fn slice(service: &str, ips: &[&str]) -> Value {
    let endpoints: Vec<Value> = ips.iter().map(|ip| json!({"addresses": [ip]})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "ns", "name": format!("{service}-1"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    })
}

fn labelled(mut object: Value, label: &str) -> Value {
    object["metadata"]["labels"][label] = json!("");
    object
}

#[tokio::test]
async fn services_and_slices_come_change_and_go() {
    for streaming in [Streaming::Served, Streaming::Refused] {
        let server = ApiServer::local();
        server.stream(streaming);
        server.put(service("a", "10.96.0.1"));
        server.put(slice("b", &["10.1.0.1", "10.1.0.2"]));
        let mut stage = Stage::new(server);
        stage.services_are(&["ns/a"]).await;
        stage.server.put(service("b", "10.96.0.2"));
        stage.services_are(&["ns/a", "ns/b+2"]).await;
        stage.server.put(slice("b", &["10.1.0.1"]));
        stage.server.put(slice("a", &["10.1.0.3", "10.1.0.4", "10.1.0.5"]));
        stage.services_are(&["ns/a+3", "ns/b+1"]).await;
        // Labels that give an object to somebody else take it away, and back.
        stage.server.put(labelled(service("a", "10.96.0.1"), "service.kubernetes.io/service-proxy-name"));
        stage.server.put(labelled(slice("b", &["10.1.0.1"]), "service.kubernetes.io/headless"));
        stage.services_are(&["ns/b"]).await;
        stage.server.put(service("a", "10.96.0.1"));
        stage.server.put(slice("b", &["10.1.0.1"]));
        stage.services_are(&["ns/a+3", "ns/b+1"]).await;
        assert!(stage.server.delete_of(Kind::Service, "ns/a"));
        assert!(stage.server.delete_of(Kind::EndpointSlice, "ns/b-1"));
        stage.services_are(&["ns/b"]).await;
        // Headless Services never come at all.
        stage.server.put(service("none", "None"));
        stage.server.put(service("last", "10.96.0.9"));
        stage.services_are(&["ns/b", "ns/last"]).await;
        let asked = stage.server.requests();
        let of = |resource: &'static str| asked.iter().filter(move |request| request.resource == resource);
        assert!(
            of("services").all(|r| r.query["labelSelector"] == "!service.kubernetes.io/service-proxy-name")
        );
        assert!(of("services").all(|r| r.query["fieldSelector"] == "spec.clusterIP!=None"));
        assert!(of("endpointslices").all(|r| r.query["labelSelector"] == "!service.kubernetes.io/headless"));
        assert!(of("nodes").all(|r| r.query["fieldSelector"] == "metadata.name=a"));
    }
}

#[tokio::test]
async fn the_own_node_and_service_cidrs_are_followed_and_may_be_absent() {
    let server = ApiServer::local();
    server.forget_kind(Kind::ServiceCidr);
    let mut stage = Stage::new(server);
    let configured =
        |engine: &Engine| engine.snapshot().service_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>();
    stage.until("the configured service CIDR", |engine| configured(engine) == ["10.96.0.0/12"]).await;
    stage.until("no Node", |engine| engine.own_node() == Some(None)).await;
    let node = |zone: &str, taint: &str| {
        json!({
            "metadata": {"name": "a", "labels": {"topology.kubernetes.io/zone": zone}},
            "spec": {"podCIDRs": ["10.1.0.0/24"], "taints": [{"key": taint, "effect": "NoSchedule"}]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "a"},
                {"type": "ExternalIP", "address": "2001:db8::1"},
                {"type": "InternalIP", "address": "192.0.2.1"},
            ]},
        })
    };
    stage.server.put(json!({"metadata": {"name": "b"}}));
    stage.server.put(node("z", "other"));
    let is = |engine: &Engine, wanted: fn(&OwnNode) -> bool| engine.own_node().flatten().is_some_and(wanted);
    stage.until("the own Node", |engine| is(engine, |node| &*node.zone == "z" && !node.is_leaving)).await;
    let node_of = stage.engine.snapshot().node.clone();
    assert_eq!(node_of.ips.v4, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(node_of.ips.v6, Some("2001:db8::1".parse().unwrap()), "an ExternalIP where there is no other");
    assert_eq!(node_of.pod_cidrs.v4, Some("10.1.0.0/24".parse().unwrap()));
    stage.server.put(node("z", "ToBeDeletedByClusterAutoscaler"));
    stage.until("the taint", |engine| is(engine, |node| node.is_leaving)).await;
    let server = ApiServer::local();
    server.put(json!({"kind": "ServiceCIDR", "metadata": {"name": "k"}, "spec": {"cidrs": ["10.97.0.0/16", "fd00::/108"]}}));
    let mut stage = Stage::new(server);
    stage.until("its service CIDRs", |engine| configured(engine) == ["10.97.0.0/16", "fd00::/108"]).await;
}

#[tokio::test]
async fn trouble_of_every_kind_ends_with_what_the_server_has() {
    type Trouble = (&'static str, fn(&ApiServer));
    let troubles: [Trouble; 5] = [
        ("410", |server| {
            server.compact();
            server.expire_watches();
        }),
        ("500", |server| {
            server.misbehave(Target::Any, Misbehaviour::Status(500, None), 6);
            server.close_watches();
        }),
        ("decode", |server| {
            server.misbehave(Target::Watch, Misbehaviour::GarbageLine, 4);
            server.close_watches();
        }),
        ("connect", ApiServer::tear_watches),
        ("connect", |server| {
            server.misbehave(Target::List, Misbehaviour::Half, 4);
            server.stream(Streaming::Refused);
            server.compact();
            server.tear_watches();
        }),
    ];
    for (cause, trouble) in troubles {
        let server = ApiServer::local();
        for (name, ip) in [("a", "10.96.0.1"), ("gone", "10.96.0.2")] {
            server.put(service(name, ip));
            server.put(slice(name, &["10.1.0.1"]));
        }
        let mut stage = Stage::new(server);
        stage.services_are(&["ns/a+1", "ns/gone+1"]).await;
        let before = stage.changes;
        trouble(&stage.server);
        stage.server.delete_of(Kind::Service, "ns/gone");
        stage.server.delete_of(Kind::EndpointSlice, "ns/gone-1");
        stage.server.put(service("new", "10.96.0.3"));
        stage.state_is(cause, |state| state.restarts.contains_key(cause)).await;
        stage.services_are(&["ns/a+1", "ns/new"]).await;
        assert!(stage.changes - before <= 3, "{cause}: what stays is no change: {}", stage.changes - before);
    }
}

#[tokio::test]
async fn a_restart_of_the_server_changes_nothing() {
    let server = ApiServer::local();
    server.put(service("a", "10.96.0.1"));
    let mut stage = Stage::new(server);
    stage.services_are(&["ns/a"]).await;
    stage.server.stop();
    stage.state_is("no connection", |state| !state.is_connected).await;
    let listener = std::net::TcpListener::bind(stage.server.address()).unwrap();
    stage.server.resume(listener);
    stage.server.put(service("b", "10.96.0.2"));
    stage.services_are(&["ns/a", "ns/b"]).await;
    assert_eq!(stage.changes, 2);
    assert_eq!(stage.config.servers.len(), 1);
}

#[tokio::test]
async fn what_makes_no_sense_is_named_and_keeps_nobody_away() {
    let mut broken = service("broken", "10.96.0.300");
    broken["spec"]["ports"] =
        json!([{"port": 0}, {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 70_000}]);
    broken["spec"]["sessionAffinity"] = json!("ClientIP");
    broken["spec"]["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 0}});
    broken["spec"]["loadBalancerSourceRanges"] = json!(["10.0.0.0/33"]);
    for streaming in [Streaming::Served, Streaming::Refused] {
        let server = ApiServer::local();
        server.stream(streaming);
        server.put(service("good", "010.96.0.01"));
        server.put(broken.clone());
        server.put(json!({"kind": "Service", "metadata": {"namespace": "ns", "name": "type"}, "spec": {"clusterIP": "10.96.0.5", "ports": "http"}}));
        let mut stage = Stage::new(server);
        stage.services_are(&["ns/broken", "ns/good"]).await;
        let of = |name| stage.engine.snapshot().service(&ServiceName::new("ns", name)).unwrap().clone();
        assert_eq!(of("good").cluster_ips.v4, Some("10.96.0.1".parse().unwrap()));
        assert_eq!(of("broken").ports.len(), 1);
        assert!(!of("broken").source_ranges.is_empty(), "ranges that can't be read let nobody in");
        for said in [
            "Service ns/broken: spec.clusterIPs[0]: `10.96.0.300` is no IP address",
            "spec.ports[0].port: is missing",
            "spec.ports[1].nodePort: 70000 is no port",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is no number of seconds from 1 to 86400",
            "spec.loadBalancerSourceRanges[0]: `10.0.0.0/33` is no network",
            "Service ns/type: the object: invalid type",
        ] {
            stage.state_is(said, |state| state.problems.iter().any(|problem| problem.contains(said))).await;
        }
        stage.server.put(service("broken", "10.96.0.3"));
        stage.server.delete_of(Kind::Service, "ns/type");
        stage
            .state_is("no problems", |state| {
                state.what.contains("(Services)") && state.is_connected && state.problems.is_empty()
            })
            .await;
    }
}

fn write(dir: &Path, file: &str, objects: &[Value]) {
    let text: Vec<String> = objects.iter().map(ToString::to_string).collect();
    let fresh = dir.join(format!(".{file}"));
    std::fs::write(&fresh, text.join("\n---\n")).unwrap();
    std::fs::rename(fresh, dir.join(file)).unwrap();
}

#[tokio::test]
async fn manifests_say_the_same_and_a_broken_file_keeps_what_was_good() {
    let dir = tempfile::tempdir().unwrap();
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "a", "labels": {"topology.kubernetes.io/zone": "z"}},
    });
    write(dir.path(), "node.yaml", &[node]);
    write(
        dir.path(),
        "a.yaml",
        &[service("a", "10.96.0.1"), slice("a", &["10.1.0.1"]), service("b", "10.96.0.2")],
    );
    let (feed, feeds) =
        manifests::run_with_services(dir.path().to_owned(), "a", &["10.96.0.0/12".parse().unwrap()]);
    let mut engine = engine();
    let is = |expected: &'static [&'static str]| move |engine: &Engine| shown(engine) == expected;
    until(&feeds, &mut engine, "both Services", is(&["ns/a+1", "ns/b"])).await;
    assert_eq!(&*engine.snapshot().node.zone, "z");
    assert_eq!(feed.objects.borrow().as_ref().unwrap().nodes.len(), 1);
    write(dir.path(), "b.yaml", &[slice("b", &["10.1.0.2", "10.1.0.3"])]);
    let changes = until(&feeds, &mut engine, "endpoints of b", is(&["ns/a+1", "ns/b+2"])).await;
    assert_eq!(changes, 1, "what has not changed is not told again");
    let mut state = feeds.states[0].clone();
    let mut has = async |said: &str| {
        let is = |state: &SourceState| state.problems.iter().any(|problem| problem.contains(said));
        let waited = tokio::time::timeout(DEADLINE, state.wait_for(is)).await.map(|found| found.is_ok());
        assert_eq!(waited, Ok(true), "{said}");
    };
    // No manifest at all: file and line, and the last good objects stay.
    std::fs::write(dir.path().join("a.yaml"), "apiVersion: v1\nkind: Service\nmetadata: {name: a\n").unwrap();
    has("a.yaml:3:").await;
    // A field that makes no sense: file, line and field; the rest of the file counts.
    let mut wrong = service("c", "10.96.0.3");
    wrong["spec"]["externalIPs"] = json!(["198.51.100"]);
    write(dir.path(), "c.yaml", &[wrong, service("d", "10.96.0.4")]);
    has("spec.externalIPs[0]: `198.51.100` is no IP address").await;
    until(&feeds, &mut engine, "c and d", is(&["ns/a+1", "ns/b+2", "ns/c", "ns/d"])).await;
    // Twice: the first file counts.
    write(dir.path(), "e.yaml", &[service("d", "10.96.0.99")]);
    has("e.yaml:1:1: metadata.name: Service `ns/d` is in another place already, which counts").await;
    std::fs::remove_file(dir.path().join("c.yaml")).unwrap();
    let other: std::net::IpAddr = "10.96.0.99".parse().unwrap();
    until(&feeds, &mut engine, "d as the other file has it", |engine| {
        let d = engine.snapshot().service(&ServiceName::new("ns", "d"));
        shown(engine) == ["ns/a+1", "ns/b+2", "ns/d"] && d.is_some_and(|d| d.cluster_ips.v4 == Some(other))
    })
    .await;
}
