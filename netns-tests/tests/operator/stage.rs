//! A cluster whose first node runs what the manifests say; the second is run by a daemon of the lab.

use std::net::{IpAddr, SocketAddr};

use lab::apiserver::ApiServer;
use lab::cluster::{Families, Joined, Shape};
use lab::kubelet::Kubelet;
use lab::load::Load;
use lab::rendered::Rendered;
use lab::traffic::{Server, ask_tcp};
use lab::wait::until;
use lab::{Cluster, Conversation, Daemon, Node};
use serde_json::{Value, json};

/// Where `web` answers.
pub const CLUSTER_IPS: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
/// Where a single conversation is held.
pub const TALK: &str = "10.96.0.11";
const PORT: u16 = 80;
pub const TARGET: u16 = 8080;
const TALKING: u16 = 9090;

/// Two nodes and an API.
pub struct Stage {
    // In this order they end.
    pub daemons: Vec<Daemon>,
    pub server: ApiServer,
    /// The flags by which a daemon reads the API.
    pub source: Vec<String>,
    pub cluster: Cluster,
}

impl Stage {
    /// No daemon runs yet.
    pub fn new() -> Stage {
        let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).unwrap();
        let (server, source) = cluster.serve();
        server.put(service("web", &CLUSTER_IPS, TARGET));
        server.put(service("talk", &[TALK], TALKING));
        Stage { daemons: Vec::new(), server, source, cluster }
    }

    /// The node that is played upon.
    pub fn node(&self) -> &Node {
        self.cluster.node(0)
    }

    /// Its kubelet.
    pub fn kubelet(&self) -> Kubelet {
        Kubelet::start(self.node(), &self.cluster.node(0).entry().name)
    }

    /// A rendered manifest with the one thing that an operator without kube-proxy must say: where the API is.
    pub fn manifest(&self, name: &str) -> Rendered {
        let mut manifest = Rendered::read(name);
        manifest.set("apiServer", &format!("[\"{}\"]", self.server.url()));
        manifest
    }

    /// Runs the daemon of the other node.
    pub fn start_other(&mut self, flags: &[&str]) {
        self.daemons.push(self.cluster.start_with(1, &self.source, flags));
        self.cluster.node(1).until_ready(&self.daemons[0]);
    }

    /// Servers on both nodes behind `web`, a client on the node that is played upon, which connects again and again, and a
    /// conversation through `talk` that shall never end. Both nodes carry pods.
    pub fn load(&self) -> Traffic {
        let client = self.cluster.pod(0, "client");
        let pods = [self.cluster.pod(0, "s0"), self.cluster.pod(1, "s1")];
        let servers = self.serve(&[&pods[0], &pods[1]]);
        let ip = pods[1].ips().into_iter().find(IpAddr::is_ipv4).unwrap();
        self.server.put(slice(
            "talk",
            "IPv4",
            vec![json!({
                "addresses": [ip], "conditions": {"ready": true, "serving": true},
            })],
        ));
        Traffic { client, pods, servers, running: None }
    }

    /// Makes these the endpoints of a Service.
    pub fn endpoints(&self, name: &str, ips: &[IpAddr]) {
        for family in ["IPv4", "IPv6"] {
            let of_family = ips.iter().filter(|ip| ip.is_ipv4() == (family == "IPv4"));
            let endpoints: Vec<Value> = of_family
                .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true, "serving": true}}))
                .collect();
            self.server.put(slice(name, family, endpoints));
        }
    }

    /// Servers in these pods, endpoints of `web`.
    pub fn serve(&self, pods: &[&Joined]) -> Vec<Server> {
        let ips: Vec<IpAddr> = pods.iter().flat_map(|pod| pod.ips()).collect();
        self.endpoints("web", &ips);
        let any: IpAddr = "::".parse().unwrap();
        pods.iter().map(|pod| Server::tcp(&pod.pod, (any, TARGET), &name_of(pod))).collect()
    }
}

/// What a node has to bear.
pub struct Traffic {
    // In this order they end.
    running: Option<(Conversation, Load)>,
    #[allow(dead_code)] // Kept while they serve.
    servers: Vec<Server>,
    pub pods: [Joined; 2],
    pub client: Joined,
}

impl Traffic {
    /// The endpoints, as kube-proxy would know them.
    pub fn ips(&self) -> Vec<IpAddr> {
        self.pods.iter().flat_map(|pod| pod.ips()).collect()
    }

    /// Begins once somebody serves.
    pub fn begin(&mut self) {
        for to in frontends() {
            until("the Service to answer", || ask_tcp(&self.client.pod, to));
        }
        let ip = self.pods[1].ips().into_iter().find(IpAddr::is_ipv4).unwrap();
        let (client, server) = (&self.client.pod, &self.pods[1].pod);
        // The endpoint's server comes with the conversation: until the Service is there, connections are refused.
        let talk = Conversation::through(client, frontend(TALK), server, SocketAddr::new(ip, TALKING));
        self.running = Some((talk, Load::start(client, &frontends())));
    }

    fn running(&self) -> &(Conversation, Load) {
        self.running.as_ref().expect("it has begun")
    }

    /// Connections made so far.
    pub fn made(&self) -> u64 {
        self.running().1.made()
    }

    /// Both go on.
    pub fn goes_on(&self, more: u64) {
        self.running().1.goes_on(more);
        self.running().0.goes_on();
    }

    /// Ends it: at least `least` connections were made and none was lost, and the one that lasts has lasted.
    pub fn end(mut self, least: u64) {
        let (talk, load) = self.running.take().expect("it has begun");
        let (made, failures) = load.end();
        assert_eq!(failures, [""; 0], "of {made} connections");
        assert!(made >= least, "{made} connections");
        talk.end();
    }
}

/// Where clients connect.
pub fn frontends() -> Vec<SocketAddr> {
    CLUSTER_IPS.iter().map(|ip| frontend(ip)).collect()
}

pub fn frontend(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), PORT)
}

fn service(name: &str, ips: &[&str], target: u16) -> Value {
    let families: Vec<&str> = ips.iter().map(|ip| if ip.contains(':') { "IPv6" } else { "IPv4" }).collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families,
            "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": target}],
        },
    })
}

fn slice(service: &str, family: &str, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": format!("{service}-{}", family.to_lowercase()),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": [{"name": "http", "protocol": "TCP", "port": if service == "talk" { TALKING } else { TARGET }}],
        "endpoints": endpoints,
    })
}

/// A pod's name: that of its sandbox.
fn name_of(pod: &Joined) -> String {
    pod.pod.netns_path().file_name().unwrap_or_default().to_string_lossy().into_owned()
}
