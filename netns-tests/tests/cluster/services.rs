//! Services on a cluster, with real packets: by manifests and by the API, changed, broken, under load.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use lab::apiserver::{ApiServer, Kind};
use lab::cluster::{Families, Joined, METRICS, Shape};
use lab::daemon::http;
use lab::load::Load;
use lab::traffic::{Server, UdpClient, ask_tcp, is_silent_tcp};
use lab::wait::until;
use lab::{Cluster, Daemon, Space, daemon};
use serde_json::{Value, json};

/// Routed: the shortest way for a packet.
const FLAGS: &[&str] = &[
    "--mode=routed",
    "--proxy-mode=nftables",
    "--proxy-node-port-addresses=all",
    "--cluster-cidr=10.244.0.0/16,fd00:244::/32",
    "--service-cidr=10.96.0.0/16,fd00:96::/112",
];
const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
const PORT: u16 = 80;
const NODE_PORT: u16 = 30080;
const TARGET: u16 = 8080;

/// Who tells the daemons what there is.
enum Source {
    Manifests,
    Api(ApiServer),
}

/// Two nodes, a client, and servers on both nodes.
struct Stage {
    // In this order they end.
    daemons: Vec<Daemon>,
    mode: &'static str,
    flags: Vec<String>,
    _servers: Vec<Server>,
    pods: Vec<Joined>,
    client: Joined,
    source: Source,
    cluster: Cluster,
}

impl Stage {
    /// With `pods` servers, every other one on each node, of which the first two are endpoints.
    fn new(by_api: bool, pods: usize) -> Stage {
        Stage::in_mode("nftables", by_api, pods)
    }

    fn in_mode(mode: &'static str, by_api: bool, pods: usize) -> Stage {
        let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).unwrap();
        let (source, flags) = match by_api {
            true => {
                let (server, flags) = cluster.serve();
                (Source::Api(server), flags)
            }
            false => (Source::Manifests, cluster.source()),
        };
        put(&cluster, &source, service("web", CLUSTER_IPS, Some(NODE_PORT)));
        let mode_flag = format!("--proxy-mode={mode}");
        let daemons = cluster.start_all_with(&flags, &in_mode(&mode_flag));
        let client = cluster.pod(0, "client");
        let pods: Vec<Joined> = (0..pods).map(|at| cluster.pod(at % 2, &format!("s{at}"))).collect();
        let any: IpAddr = "::".parse().unwrap();
        let servers = pods.iter().enumerate().flat_map(|(at, joined)| {
            let (space, name) = (&joined.pod, format!("s{at}"));
            [Server::tcp(space, (any, TARGET), &name), Server::udp(space, (any, TARGET), &name)]
        });
        let servers = servers.collect();
        let stage = Stage { daemons, mode, flags, _servers: servers, pods, client, source, cluster };
        stage.endpoints(&[(0, State::Ready), (1, State::Ready)]);
        stage
    }

    /// Makes these pods the endpoints of `web`.
    fn endpoints(&self, of: &[(usize, State)]) {
        for family in ["IPv4", "IPv6"] {
            let endpoints: Vec<Value> =
                of.iter().map(|(at, state)| self.endpoint(*at, *state, family)).collect();
            put(&self.cluster, &self.source, slice("web", family, endpoints));
        }
    }

    fn endpoint(&self, at: usize, state: State, family: &str) -> Value {
        let ips = self.pods[at].ips();
        let ip = ips.iter().find(|ip| ip.is_ipv4() == (family == "IPv4")).unwrap();
        let is_leaving = state == State::Terminating;
        json!({
            "addresses": [ip],
            "conditions": {"ready": !is_leaving, "serving": true, "terminating": is_leaving},
            "nodeName": self.cluster.node(at % 2).entry().name,
        })
    }

    /// The servers that answer at `to`, until all of `expected` and none else has.
    fn answers(&self, from: &Space, to: SocketAddr, expected: &[&str]) {
        let mut seen = std::collections::BTreeSet::new();
        until(&format!("{expected:?} and no other to answer at {to}"), || {
            let mut now = std::collections::BTreeSet::new();
            for _ in 0..24 {
                let answer = ask_tcp(from, to).unwrap_or_default();
                now.insert(answer.split(' ').next().unwrap_or_default().to_owned());
            }
            seen = now;
            seen.iter().eq(expected.iter()).then_some(())
        });
    }

    fn cluster_ips(&self) -> [SocketAddr; 2] {
        CLUSTER_IPS.map(|ip| SocketAddr::new(ip.parse().unwrap(), PORT))
    }

    fn node_ports(&self, node: usize) -> Vec<SocketAddr> {
        self.cluster.node(node).entry().ips.iter().map(|ip| SocketAddr::new(*ip, NODE_PORT)).collect()
    }

    /// Everybody gets `expected`: a pod, this node, another node, and somebody outside by NodePort.
    fn all_get(&self, expected: &[&str]) {
        for to in self.cluster_ips() {
            for from in [&*self.client.pod, self.cluster.node(0), self.cluster.node(1)] {
                self.answers(from, to, expected);
            }
        }
        for to in self.node_ports(0).into_iter().chain(self.node_ports(1)) {
            self.answers(self.cluster.outside(), to, expected);
        }
    }

    fn restart(&mut self, node: usize) {
        self.restart_in(node, self.mode);
    }

    fn restart_in(&mut self, node: usize, mode: &str) {
        self.daemons.remove(node).kill();
        let mode = format!("--proxy-mode={mode}");
        self.daemons.insert(node, self.cluster.start_with(node, &self.flags, &in_mode(&mode)));
    }
}

/// The flags, with another mode's.
fn in_mode(mode: &str) -> Vec<&str> {
    FLAGS.iter().map(|flag| if flag.starts_with("--proxy-mode=") { mode } else { *flag }).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Terminating,
}

fn put(cluster: &Cluster, source: &Source, object: Value) {
    match source {
        Source::Api(server) => server.put(object),
        Source::Manifests => {
            let name = object["metadata"]["name"].as_str().unwrap();
            let file = format!("{}-{name}.json", object["kind"].as_str().unwrap());
            cluster.manifests().write_text(&file, &object.to_string());
        }
    }
}

fn service(name: &str, ips: [&str; 2], node_port: Option<u16>) -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": PORT, "targetPort": TARGET, "nodePort": node_port.unwrap_or(0)});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "type": if node_port.is_some() { "NodePort" } else { "ClusterIP" },
            "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": ["IPv4", "IPv6"],
            "ports": [port("http", "TCP"), port("ask", "UDP")],
        },
    })
}

fn slice(service: &str, family: &str, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": format!("{service}-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": service},
            // Later than any daemon's start, so that it is measured from.
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2099-01-01T00:00:00Z"},
        },
        "addressType": family,
        "ports": [
            {"name": "http", "protocol": "TCP", "port": TARGET},
            {"name": "ask", "protocol": "UDP", "port": TARGET},
        ],
        "endpoints": endpoints,
    })
}

/// The whole life of a Service.
fn life(by_api: bool) {
    let mut stage = Stage::new(by_api, 2);
    stage.all_get(&["s0", "s1"]);
    stage.endpoints(&[(1, State::Ready)]);
    stage.all_get(&["s1"]);
    // Somebody flushes everything; nobody tells the daemon but the kernel.
    for family in ["ip", "ip6"] {
        stage.cluster.node(0).sh(&format!("nft delete table {family} bowline_proxy"));
    }
    stage.all_get(&["s1"]);
    until("the repair to be counted", || {
        let repaired = stage.cluster.node(0).metric("bowline_proxy_drift_repaired_total", "")?;
        (repaired > 0.0).then_some(())
    });
    // Nothing to do, and nothing is done.
    stage.restart(0);
    stage.cluster.node(0).until_ready(&stage.daemons[0]);
    stage.all_get(&["s1"]);
    stage.endpoints(&[]);
    let refused =
        |to: SocketAddr| stage.client.pod.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)));
    for to in stage.cluster_ips() {
        until("the Service without endpoints to be refused", || {
            (refused(to).err()?.kind() == std::io::ErrorKind::ConnectionRefused).then_some(())
        });
        let other = SocketAddr::new(to.ip(), 81);
        assert_eq!(refused(other).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "{other}");
    }
    match &stage.source {
        Source::Api(server) => assert!(server.delete_of(Kind::Service, "default/web")),
        Source::Manifests => {
            std::fs::remove_file(stage.cluster.manifests().path().join("Service-web.json")).unwrap();
        }
    }
    // What nobody has any more is nobody's.
    until("the Service to be gone", || {
        is_silent_tcp(&stage.client.pod, stage.cluster_ips()[0]).then_some(())
    });
    let (_, metrics) = http(stage.cluster.node(1), METRICS, "/metrics").unwrap();
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_bucket",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_bucket",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_bucket",
        "bowline_proxy_service_ports",
        "bowline_ready",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name}\n{metrics}");
    }
    // Manifests don't say when what they follow from has changed.
    assert_eq!(metrics.contains("kubeproxy_network_programming_duration_seconds_bucket{"), by_api);
}

#[test]
fn a_service_lives_by_manifests() {
    life(false);
}

#[test]
fn a_service_lives_by_the_api() {
    life(true);
}

/// UDP clients keep their port, and move on with the endpoints.
#[test]
fn a_udp_client_moves_to_a_live_endpoint() {
    let stage = Stage::new(true, 2);
    stage.endpoints(&[(0, State::Ready)]);
    for to in stage.cluster_ips() {
        stage.answers(&stage.client.pod, to, &["s0"]);
        let client = UdpClient::new(&stage.client.pod, to);
        let named =
            |name: &str| until(&format!("{name} to answer"), || client.ask().filter(|a| a.starts_with(name)));
        named("s0 ");
        stage.endpoints(&[(1, State::Ready)]);
        named("s1 ");
        stage.endpoints(&[(0, State::Ready)]);
        named("s0 ");
    }
}

/// All endpoints are replaced, gracefully, again and again; the proxy is killed and comes back meanwhile.
#[test]
fn rolling_replacement_and_restarts_cost_no_connection() {
    let rounds = roll("nftables", 20_000);
    assert!(rounds > 8, "{rounds} rounds");
}

/// The same by IPVS through the whole daemon, with as many connections as an emulated machine makes in half a minute; and
/// what everybody gets before, and that nothing is left.
pub fn by_ipvs() {
    roll("ipvs", 600);
    let mut stage = Stage::in_mode("ipvs", false, 2);
    stage.all_get(&["s0", "s1"]);
    stage.endpoints(&[(1, State::Ready)]);
    stage.all_get(&["s1"]);
    assert_eq!(stage.daemons.remove(0).terminate(), 0);
    let node = stage.cluster.node(0);
    stage.answers(node, stage.cluster_ips()[0], &["s1"]);
    let bowline = daemon::program("bowline");
    let said = node.sh(&format!("{} cleanup", bowline.display()));
    assert!(said.contains("removed IPv4 Services of mode ipvs"), "{said}");
    assert!(!node.sh("ip -o link show type dummy").contains("kube-ipvs0"));
    assert_eq!(node.read("/proc/net/ip_vs").lines().count(), 3, "no virtual server is left");
}

/// The rounds that so many connections took.
fn roll(mode: &'static str, connections: u64) -> u32 {
    let mut stage = Stage::in_mode(mode, true, 4);
    for to in stage.cluster_ips() {
        stage.answers(&stage.client.pod, to, &["s0", "s1"]);
    }
    let load = Load::start(&stage.client.pod, &stage.cluster_ips());
    let (mut old, mut new) = ([0, 1], [2, 3]);
    let mut rounds = 0;
    while load.made() < connections {
        use State::{Ready, Terminating};
        stage.endpoints(&[(old[0], Ready), (old[1], Ready), (new[0], Ready)]);
        load.goes_on(50);
        stage.endpoints(&[(old[0], Terminating), (old[1], Ready), (new[0], Ready), (new[1], Ready)]);
        load.goes_on(50);
        if rounds % 8 == 1 {
            stage.restart(0);
        }
        stage.endpoints(&[(old[0], Terminating), (old[1], Terminating), (new[0], Ready), (new[1], Ready)]);
        load.goes_on(50);
        stage.endpoints(&[(new[0], Ready), (new[1], Ready)]);
        load.goes_on(50);
        std::mem::swap(&mut old, &mut new);
        rounds += 1;
    }
    let (made, failures) = load.end();
    assert_eq!(failures, [""; 0], "of {made} connections in {rounds} rounds");
    assert!(made >= connections, "{made} connections in {rounds} rounds");
    eprintln!("{made} connections, {rounds} replacements of all endpoints, none refused or reset");
    rounds
}

/// From one mode to another and back: at every moment somebody's rules are there.
#[test]
fn switching_modes_leaves_no_gap_and_no_rule() {
    let mut stage = Stage::new(true, 2);
    for to in stage.cluster_ips() {
        stage.answers(&stage.client.pod, to, &["s0", "s1"]);
    }
    let load = Load::start(&stage.client.pod, &stage.cluster_ips());
    let has = |stage: &Stage, what: &str| stage.cluster.node(0).sh("nft list ruleset").contains(what);
    let (table, chain) = ("table ip bowline_proxy", "KUBE-SVC-");
    for (mode, comes, goes) in [("iptables", chain, table), ("nftables", table, chain)] {
        load.goes_on(200);
        stage.restart_in(0, mode);
        until(&format!("`{comes}` to come and `{goes}` to go"), || {
            (has(&stage, comes) && !has(&stage, goes)).then_some(())
        });
        load.goes_on(200);
        stage.all_get(&["s0", "s1"]);
    }
    let (made, failures) = load.end();
    assert_eq!(failures, [""; 0], "of {made} connections");
}

/// Objects that nobody should write, through the whole daemon: named once, and nobody else suffers.
#[test]
fn hostile_objects_are_named_and_hurt_nobody() {
    let stage = Stage::new(true, 2);
    let Source::Api(server) = &stage.source else { unreachable!() };
    let many: Vec<Value> =
        (1..=3000).map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"})).collect();
    let hostile = |name: &str, spec: Value| {
        let metadata = json!({"namespace": "default", "name": name, "labels": {"huge": "x".repeat(200_000)}});
        server.put(json!({"kind": "Service", "metadata": metadata, "spec": spec}));
    };
    hostile("many-ports", json!({"clusterIP": "10.96.1.1", "ports": many}));
    hostile("unparsable", json!({"clusterIP": "10.96.1.999", "ports": [{"port": 80}]}));
    hostile(
        "no-port",
        json!({"clusterIP": "10.96.1.2", "ports": [{"port": 99_999}, {"port": -1}, {"protocol": "ICMP"}]}),
    );
    hostile("another-type", json!({"clusterIP": "10.96.1.3", "ports": "http"}));
    hostile("zz-thief", json!({"clusterIP": CLUSTER_IPS[0], "ports": [{"port": PORT}]}));
    hostile("multicast", json!({"clusterIP": "224.0.0.1", "ports": [{"port": 80}]}));
    hostile(
        "loopback",
        json!({"clusterIP": "10.96.1.4", "externalIPs": ["127.0.0.1"], "ports": [{"port": 80}]}),
    );
    let endpoints = vec![
        json!({"addresses": ["127.0.0.1"]}),
        json!({"addresses": ["169.254.169.254"]}),
        json!({"addresses": []}),
    ];
    server.put(slice("many-ports", "IPv4", endpoints));
    let log = || stage.daemons[0].log();
    for said in [
        "Service default/unparsable: spec.clusterIP: `10.96.1.999` is no IP address",
        "Service default/no-port: spec.ports[0].port: 99999 is no port",
        "spec.ports[2].protocol: `ICMP` is none of TCP, UDP, SCTP",
        "Service default/another-type: the object:",
        "default/zz-thief: ClusterIP 10.96.0.10 port 80 is not its own: default/web:http has it",
        "default/multicast: clusterIPs: 224.0.0.1 can't be a Service's address",
        "default/loopback: externalIPs: 127.0.0.1 can't be a Service's address",
        "default/many-ports: endpoints: 169.254.169.254 can't be an endpoint's address",
        "endpoints[2].addresses: is empty",
    ] {
        until(&format!("`{said}` in the log"), || log().contains(said).then_some(()));
    }
    stage.endpoints(&[(1, State::Ready)]);
    stage.all_get(&["s1"]);
    let told = log().matches("`10.96.1.999` is no IP address").count();
    assert_eq!(told, 1, "each is named once");
    assert!(stage.daemons.iter().all(Daemon::is_running));
}

/// What another proxy has left goes when that is asked for, and never otherwise.
#[test]
fn kube_proxys_rules_go_only_when_told_to() {
    let mut stage = Stage::new(false, 2);
    stage.all_get(&["s0", "s1"]);
    let leave = |stage: &Stage| {
        let node = stage.cluster.node(0);
        for line in [
            "nft add table ip kube-proxy",
            "iptables -t nat -N KUBE-SERVICES",
            "iptables -t nat -A PREROUTING -j KUBE-SERVICES",
        ] {
            node.sh(line);
        }
    };
    let is_there = |stage: &Stage| {
        let node = stage.cluster.node(0);
        (
            node.sh("nft list tables").contains("kube-proxy"),
            node.sh("iptables-save").contains("KUBE-SERVICES"),
        )
    };
    leave(&stage);
    stage.restart(0);
    stage.cluster.node(0).until_ready(&stage.daemons[0]);
    assert_eq!(is_there(&stage), (true, true), "nobody has said that they are nobody's");
    stage.daemons.remove(0).kill();
    let flags = [FLAGS, &["--proxy-replace-kube-proxy=true"]].concat();
    stage.daemons.insert(0, stage.cluster.start_with(0, &stage.flags, &flags));
    until("the other proxy's rules to go", || (is_there(&stage) == (false, false)).then_some(()));
    stage.all_get(&["s0", "s1"]);
    assert_eq!(stage.daemons.remove(0).terminate(), 0);
    leave(&stage);
    let bowline = daemon::program("bowline");
    stage.cluster.node(0).sh(&format!("{} cleanup", bowline.display()));
    assert_eq!(is_there(&stage), (true, true), "they are not ours");
    let said = stage.cluster.node(0).sh(&format!("{} cleanup --kube-proxy", bowline.display()));
    assert!(said.contains("table of kube-proxy"), "{said}");
    assert_eq!(is_there(&stage), (false, false), "{said}");
}

/// Whatever the proxy has made goes, and nothing else.
#[test]
fn cleanup_leaves_no_rule() {
    let mut stage = Stage::new(false, 2);
    stage.all_get(&["s0", "s1"]);
    assert_eq!(stage.daemons.remove(0).terminate(), 0);
    let node = stage.cluster.node(0);
    stage.answers(node, stage.cluster_ips()[0], &["s0", "s1"]);
    assert!(node.sh("nft list tables").contains("bowline_proxy"));
    let bowline = daemon::program("bowline");
    let said = node.sh(&format!("{} cleanup", bowline.display()));
    assert!(said.contains("removed IPv4 Services of mode nftables"), "{said}");
    assert!(!node.sh("nft list tables").contains("bowline_proxy"));
    let again = node.sh(&format!("{} cleanup", bowline.display()));
    assert!(!again.contains("Services"), "{again}");
}
