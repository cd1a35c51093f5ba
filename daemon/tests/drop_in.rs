//! In the place of kube-proxy: called by its name, with the file that kubeadm writes, on a node with an API.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use daemon::status::Status;
use lab::apiserver::ApiServer;
use lab::daemon::{http, program};
use lab::traffic::{Server, ask_tcp};
use lab::wait::until;
use lab::{Daemon, Node};
use serde_json::{Value, json};

const NAME: &str = "node-a";
const CLUSTER_IP: &str = "10.96.0.10";
const NODE_PORT: u16 = 30080;
const CHECK_PORT: u16 = 32000;

/// A node with an API server on it and kube-proxy's files.
struct Stage {
    node: Node,
    server: ApiServer,
    dir: tempfile::TempDir,
    _web: Server,
}

impl Stage {
    /// With a Service for load balancers, and one endpoint: a server of the node itself.
    fn new(mode: &str) -> Stage {
        let node = Node::new(NAME).expect("a node");
        let listener = node.run(|| std::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let server = ApiServer::start(listener);
        let web = Server::tcp(&node, (IpAddr::from(Node::IP4), 8080), "web");
        let stage = Stage { node, server, dir: tempfile::tempdir().expect("a directory"), _web: web };
        stage.server.put(stage.own_node(json!([])));
        stage.server.put(service());
        stage.server.put(slice(true));
        stage.write("kubeconfig.conf", &stage.kubeconfig());
        stage.write("config.conf", &stage.config(mode));
        let program = env!("CARGO_BIN_EXE_bowlined");
        std::os::unix::fs::symlink(program, stage.path("kube-proxy")).expect("a link");
        stage
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.path(file), text).expect("written");
    }

    fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "default",
            "clusters": [{"name": "default", "cluster": {"server": self.server.url()}}],
            "contexts": [{"name": "default", "context": {"cluster": "default", "user": "default"}}],
            "users": [{"name": "default", "user": {}}],
        })
        .to_string()
    }

    /// What kubeadm writes, but for the mode and where things are.
    fn config(&self, mode: &str) -> String {
        let kubeconfig = self.path("kubeconfig.conf");
        include_str!("kube_proxy/kubeadm.conf")
            .replace("/var/lib/kube-proxy/kubeconfig.conf", &kubeconfig.display().to_string())
            .replace("mode: \"\"", &format!("mode: \"{mode}\""))
    }

    fn own_node(&self, taints: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME},
            "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"], "taints": taints},
            "status": {"addresses": [{"type": "InternalIP", "address": Node::IP4}]},
        })
    }

    fn start(&self, flags: &[&str]) -> Daemon {
        let args: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        Daemon::start(&self.node, &self.path("kube-proxy"), &args, &self.path("log"))
    }

    /// As its DaemonSet starts it.
    fn start_as_kubeadm(&self) -> Daemon {
        let config = format!("--config={}", self.path("config.conf").display());
        self.start(&[&config, "--hostname-override=NODE-A"])
    }

    /// What the node answers to a probe from outside.
    fn probe(&self, port: u16, path: &str) -> Option<(u16, String)> {
        http(self.node.outside(), SocketAddr::from((Node::IP4, port)), path)
    }

    fn until_probed(&self, port: u16, path: &str, status: u16) -> String {
        until(&format!("{path} of port {port} to answer {status}"), || {
            self.probe(port, path).filter(|(code, _)| *code == status).map(|(_, body)| body)
        })
    }

    /// Whether the kernel takes packets of others to loopback addresses.
    fn localnet(&self) -> String {
        self.node.sh("cat /proc/sys/net/ipv4/conf/all/route_localnet").trim().to_owned()
    }

    /// Chains and tables of a Service proxy.
    fn rules(&self) -> Vec<String> {
        let tables = self.node.sh("nft list tables");
        let tables = tables.lines().filter(|table| table.contains("proxy")).map(str::to_owned);
        let chains = ["iptables-save", "ip6tables-save"].map(|save| self.node.sh(save)).join("\n");
        let chains = chains.lines().filter(|line| line.starts_with(":KUBE"));
        tables.chain(chains.map(str::to_owned)).collect()
    }
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": CHECK_PORT,
            "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "nodePort": NODE_PORT}],
        },
    })
}

fn slice(is_ready: bool) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [Node::IP4], "conditions": {"ready": is_ready}, "nodeName": NAME}],
    })
}

/// From the first start to the last trace, in one mode.
fn life(mode: &str, shown: &str) {
    let stage = Stage::new(mode);
    // What the real one has left in its own tables.
    stage.node.sh("nft add table ip kube-proxy");
    let daemon = stage.start_as_kubeadm();
    let from_outside = SocketAddr::from((Node::IP4, NODE_PORT));
    let to_cluster_ip = SocketAddr::new(CLUSTER_IP.parse().expect("an address"), 80);
    until("the Service to answer", || ask_tcp(&stage.node, to_cluster_ip));
    let answer = ask_tcp(stage.node.outside(), from_outside);
    assert_eq!(answer, Some(format!("web {}", Node::OUTSIDE4)), "policy Local keeps the client's address");
    until("the other proxy's table to go", || {
        (!stage.node.sh("nft list tables").contains("kube-proxy")).then_some(())
    });

    let body: Value = serde_json::from_str(&stage.until_probed(10256, "/healthz", 200)).expect("JSON");
    assert_eq!((&body["healthy"], &body["nodeEligible"]), (&json!(true), &json!(true)), "{body}");
    let metrics = |path: &str| http(&stage.node, "127.0.0.1:10249".parse().expect("an address"), path);
    assert_eq!(metrics("/proxyMode"), Some((200, shown.to_owned())));
    assert_eq!(metrics("/healthz"), Some((200, "ok".to_owned())));
    let own = http(&stage.node, "127.0.0.1:10256".parse().expect("an address"), "/healthz");
    assert!(
        own.is_some_and(|(code, body)| code == 200 && body.contains("lastUpdated")),
        "on the node itself"
    );
    for (key, seconds) in [("established", "86400"), ("close_wait", "3600")] {
        let file = format!("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{key}");
        assert_eq!(stage.node.read(file).trim(), seconds, "{key}");
    }
    let (_, text) = metrics("/metrics").expect("answered");
    assert!(text.contains("kubeproxy_sync_proxy_rules_duration_seconds_count"), "{text}");
    assert!(text.ends_with("# EOF\n"), "an exposition has an end");
    until("the kernel's own counts", || counts(&metrics("/metrics")?.1, shown).then_some(()));
    let (_, configz) = metrics("/configz").expect("answered");
    let configz: Value = serde_json::from_str(&configz).expect("JSON");
    assert_eq!(configz["kubeproxy.config.k8s.io"]["clusterCIDR"], json!("10.244.0.0/16"));

    let told = stage.node.sh(&format!("{} status -o json", program("bowline").display()));
    let told: Status = serde_json::from_str(&told).expect("JSON");
    assert_eq!((told.node.as_str(), told.mode.as_str(), told.ready), (NAME, "kube-proxy", true), "{told:?}");
    let services = told.services.expect("it serves Services");
    assert_eq!((services.mode.as_str(), services.ports, services.is_programmed), (shown, 1, true));

    let body: Value = serde_json::from_str(&stage.until_probed(CHECK_PORT, "/", 200)).expect("JSON");
    assert_eq!(body["localEndpoints"], json!(1));
    stage.server.put(slice(false));
    stage.until_probed(CHECK_PORT, "/", 503);
    stage.server.put(slice(true));
    stage.until_probed(CHECK_PORT, "/", 200);
    stage
        .server
        .put(stage.own_node(json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}])));
    stage.until_probed(10256, "/healthz", 503);
    assert_eq!(stage.probe(10256, "/livez").map(|(code, _)| code), Some(200), "a node that leaves is alive");

    let mut second = stage.start_as_kubeadm();
    assert_eq!(second.exit_code("to see that another one is there"), 1);
    assert!(second.log().contains("another bowlined serves the Services"), "{}", second.log());
    assert_eq!(daemon.terminate(), 0);
    assert!(ask_tcp(stage.node.outside(), from_outside).is_some(), "its rules stay");
    assert_ne!(stage.rules(), Vec::<String>::new());
    assert_eq!(stage.localnet(), if shown == "iptables" { "1" } else { "0" });
    let mut cleanup = stage.start(&["--cleanup"]);
    assert_eq!(cleanup.exit_code("to clean up"), 0, "{}", cleanup.log());
    assert_eq!(stage.rules(), Vec::<String>::new());
    assert_eq!(stage.localnet(), "0", "nothing guards loopback any more");
}

/// Whether metrics that only mode iptables has are there, and say what is so; or are not there in another mode.
fn counts(metrics: &str, mode: &str) -> bool {
    let value = |name: &str, labels: &str| {
        let is_it = |line: &&str| line.starts_with(&format!("kubeproxy_{name}{{")) && line.contains(labels);
        metrics.lines().find(is_it).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
    };
    let rules = ["nat", "filter"].map(|table| {
        value("sync_proxy_rules_iptables_total", &format!("table=\"{table}\",ip_family=\"IPv4\""))
    });
    let last = value("sync_proxy_rules_iptables_last", "table=\"nat\",ip_family=\"IPv4\"");
    let packets = |name: &str| {
        let line = format!("kubeproxy_iptables_{name}_packets_total ");
        metrics.lines().any(|it| it.starts_with(&line))
    };
    let has_packets = packets("ct_state_invalid_dropped") && packets("localhost_nodeports_accepted");
    match mode {
        "iptables" => {
            rules.iter().all(|rules| rules.is_some_and(|it| it > 5.0)) && last.is_some() && has_packets
        }
        _ => rules == [None, None] && last.is_none() && !has_packets,
    }
}

#[test]
fn loopback_is_closed_again_with_another_mode() {
    let stage = Stage::new("iptables");
    let daemon = stage.start_as_kubeadm();
    until("node ports on loopback", || (stage.localnet() == "1").then_some(()));
    assert_eq!(daemon.terminate(), 0);
    stage.write("config.conf", &stage.config("nftables"));
    let _daemon = stage.start_as_kubeadm();
    until("the chains to go", || stage.rules().iter().all(|rule| !rule.contains("KUBE")).then_some(()));
    assert_eq!(stage.localnet(), "0");
}

#[test]
fn the_default_mode_serves_a_service_by_kubeadms_file() {
    life("", "iptables");
}

#[test]
fn mode_nftables_serves_a_service_by_kubeadms_file() {
    life("nftables", "nftables");
}

/// Sysctls and nothing else: serving needs less afterwards.
#[test]
fn init_only_sets_sysctls_and_ends() {
    let stage = Stage::new("iptables");
    let config = format!("--config={}", stage.path("config.conf").display());
    let mut daemon = stage.start(&[&config, "--init-only"]);
    assert_eq!(daemon.exit_code("to end by itself"), 0, "{}", daemon.log());
    assert_eq!(stage.localnet(), "1");
    let close_wait = stage.node.read("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close_wait");
    assert_eq!(close_wait.trim(), "3600");
    assert_eq!(stage.rules(), Vec::<String>::new(), "no Service is served by that");
    assert!(stage.server.requests().is_empty(), "nobody was asked for Services");
}

#[test]
fn a_changed_file_is_the_end_so_that_the_next_start_takes_it_up() {
    let stage = Stage::new("nftables");
    let mut daemon = stage.start_as_kubeadm();
    stage.until_probed(10256, "/healthz", 200);
    stage.write("config.conf", &stage.config("iptables"));
    assert_eq!(daemon.exit_code("to see the other file"), 1);
    assert!(daemon.log().contains("config.conf: has changed"), "{}", daemon.log());
}

#[test]
fn what_can_not_be_done_is_an_error_at_once() {
    let stage = Stage::new("nftables");
    let config = format!("--config={}", stage.path("config.conf").display());
    let taken = stage.node.run(|| std::net::TcpListener::bind("0.0.0.0:10256")).expect("a free port");
    stage.write("config.conf", &stage.config("nftables").replace("HardFail: false", "HardFail: true"));
    let rows: [(&[&str], &str); 4] = [
        (&[&config], "healthzBindAddress: listen on 0.0.0.0:10256: Address already in use"),
        (&["--config=/nowhere"], "kube-proxy: --config: /nowhere: No such file or directory"),
        (
            &["--proxy-mode=userspace"],
            "kube-proxy: --proxy-mode: `userspace` is none of iptables, ipvs, nftables",
        ),
        (
            &["--write-config-to=/nowhere/x"],
            "kube-proxy: --write-config-to: /nowhere/x: No such file or directory",
        ),
    ];
    for (flags, error) in rows {
        let mut daemon = stage.start(flags);
        assert_eq!(daemon.exit_code("to refuse"), 1, "{flags:?}");
        assert!(daemon.log().contains(error), "{flags:?}: {}", daemon.log());
    }
    drop(taken);
    let written = stage.path("written.conf");
    let flag = format!("--write-config-to={}", written.display());
    assert_eq!(stage.start(&[&flag, "--proxy-mode=ipvs"]).exit_code("to write"), 0);
    assert!(read(&written).contains("mode: ipvs\n"), "{}", read(&written));
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
