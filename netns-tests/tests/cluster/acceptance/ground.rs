//! Where the stories happen: nodes with daemons that read a stand-in for the API, a client, and pods that serve.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use lab::apiserver::{ApiServer, Kind};
use lab::cluster::{Families, Joined, Shape};
use lab::traffic::{Server, UdpClient, ask_tcp};
use lab::wait::until;
use lab::{Cluster, Daemon, Space};
use serde_json::{Value, json};

/// Where pods serve; those on the second number answer with `-b` behind their name.
pub const TARGETS: [u16; 2] = [8080, 8081];

/// Nodes, daemons, pods.
pub struct Ground {
    // In this order they end.
    pub daemons: Vec<Daemon>,
    mode: &'static str,
    flags: Vec<String>,
    servers: Vec<Server>,
    pub pods: Vec<Joined>,
    /// A pod of the first node.
    pub client: Joined,
    pub api: ApiServer,
    pub cluster: Cluster,
}

/// An endpoint of a Service.
#[derive(Debug, Clone, Copy)]
pub struct Endpoint<'a> {
    /// The pod of that number; none is the node `node` itself.
    pub pod: Option<usize>,
    pub node: usize,
    pub conditions: Conditions,
    /// Zones that it is for.
    pub zones: &'a [&'a str],
    /// Numbers of nodes that it is for.
    pub nodes: &'a [usize],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conditions {
    Ready,
    /// Terminating, and still serving.
    Leaving,
    /// Terminating, and serving no more.
    Gone,
    /// Neither ready nor serving.
    Unready,
}

/// Those pods of a ground of `nodes` nodes, ready.
pub fn ready<const N: usize>(nodes: usize, pods: [usize; N]) -> [Endpoint<'static>; N] {
    with(nodes, pods, Conditions::Ready)
}

/// Those pods, all in one state.
pub fn with<const N: usize>(
    nodes: usize,
    pods: [usize; N],
    conditions: Conditions,
) -> [Endpoint<'static>; N] {
    pods.map(|pod| Endpoint { pod: Some(pod), node: pod % nodes, conditions, zones: &[], nodes: &[] })
}

/// A port of a Service: name, protocol, number and NodePort.
pub type Port<'a> = (&'a str, &'a str, u16, u16);

/// A Service of both families whose ClusterIPs end in `number`.
pub fn service(name: &str, number: u8, ports: &[Port<'_>]) -> Value {
    let has_node_port = ports.iter().any(|(_, _, _, node_port)| *node_port > 0);
    let ports: Vec<Value> = ports
        .iter()
        .map(|(name, protocol, port, node_port)| {
            json!({"name": name, "protocol": protocol, "port": port, "targetPort": name, "nodePort": node_port})
        })
        .collect();
    let ips = cluster_ips(number);
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "type": if has_node_port { "NodePort" } else { "ClusterIP" },
            "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": ["IPv4", "IPv6"], "ports": ports,
        },
    })
}

/// The same with other words in its `spec`.
pub fn but(mut service: Value, words: &Value) -> Value {
    for (key, value) in words.as_object().expect("words are an object") {
        service["spec"][key] = value.clone();
    }
    service
}

/// The ClusterIPs that end in `number`.
pub fn cluster_ips(number: u8) -> [IpAddr; 2] {
    [format!("10.96.0.{number}"), format!("fd00:96::{number:x}")].map(|ip| ip.parse().expect("an address"))
}

impl Ground {
    /// `nodes` nodes in a mode, and `pods` pods that serve, node by node in turn.
    pub fn new(mode: &'static str, nodes: u8, pods: usize) -> Ground {
        let cluster = Cluster::new(&Shape::flat(nodes, Families::Dual)).unwrap();
        let (api, mut flags) = cluster.serve();
        flags.push(format!("--proxy-mode={mode}"));
        flags.push("--mode=routed".to_owned());
        flags.push("--proxy-node-port-addresses=all".to_owned());
        flags.push("--cluster-cidr=10.244.0.0/16,fd00:244::/32".to_owned());
        api.put(service_cidr("kubernetes", ["10.96.0.0/24", "fd00:96::/120"]));
        for node in cluster.nodes() {
            // One rejection per second is what the kernel allows otherwise.
            node.write("/proc/sys/net/ipv4/icmp_ratelimit", "0");
            node.write("/proc/sys/net/ipv6/icmp/ratelimit", "0");
        }
        let daemons = cluster.start_all_with(&flags, &[]);
        let client = cluster.pod(0, "client");
        let on = |pod: usize| pod % usize::from(nodes);
        let pods: Vec<Joined> = (0..pods).map(|pod| cluster.pod(on(pod), &format!("s{pod}"))).collect();
        let mut ground = Ground { daemons, mode, flags, servers: Vec::new(), pods, client, api, cluster };
        for pod in 0..ground.pods.len() {
            let space = Space::clone(&ground.pods[pod].pod);
            ground.serve(&space, &format!("s{pod}"));
        }
        ground
    }

    /// Both protocols on both numbers.
    pub fn serve(&mut self, space: &Space, name: &str) {
        let any: IpAddr = "::".parse().expect("an address");
        for (target, name) in TARGETS.into_iter().zip([name.to_owned(), format!("{name}-b")]) {
            self.servers.push(Server::tcp(space, (any, target), &name));
            self.servers.push(Server::udp(space, (any, target), &name));
        }
    }

    pub fn put(&self, object: Value) {
        self.api.put(object);
    }

    pub fn delete(&self, service: &str) {
        assert!(self.api.delete_of(Kind::Service, &format!("default/{service}")), "{service} is there");
    }

    /// A slice for each family, called `<service>-<part>-<family>`: ports by name, protocol and number.
    pub fn slice(&self, service: &str, part: &str, ports: &[(&str, &str, u16)], endpoints: &[Endpoint<'_>]) {
        for family in ["IPv4", "IPv6"] {
            self.put(self.slice_object((service, part), family, ports, endpoints));
        }
    }

    pub fn slice_object(
        &self,
        (service, part): (&str, &str),
        family: &str,
        ports: &[(&str, &str, u16)],
        endpoints: &[Endpoint<'_>],
    ) -> Value {
        let ports: Vec<Value> = ports
            .iter()
            .map(|(name, protocol, port)| json!({"name": name, "protocol": protocol, "port": port}))
            .collect();
        let endpoints: Vec<Value> = endpoints.iter().map(|of| self.endpoint(of, family)).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": format!("{service}-{part}-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": family, "ports": ports, "endpoints": endpoints,
        })
    }

    fn endpoint(&self, of: &Endpoint<'_>, family: &str) -> Value {
        let ips = match of.pod {
            Some(pod) => self.pods[pod].ips(),
            None => self.node_ips(of.node),
        };
        let ip = ips.iter().find(|ip| ip.is_ipv4() == (family == "IPv4")).expect("both families");
        let (ready, serving, terminating) = match of.conditions {
            Conditions::Ready => (true, true, false),
            Conditions::Leaving => (false, true, true),
            Conditions::Gone => (false, false, true),
            Conditions::Unready => (false, false, false),
        };
        let zones: Vec<Value> = of.zones.iter().map(|zone| json!({"name": zone})).collect();
        let nodes: Vec<Value> = of.nodes.iter().map(|node| json!({"name": self.node_name(*node)})).collect();
        json!({
            "addresses": [ip],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "nodeName": self.node_name(of.node),
            "hints": {"forZones": zones, "forNodes": nodes},
        })
    }

    pub fn node_name(&self, node: usize) -> &str {
        &self.cluster.node(node).entry().name
    }

    pub fn node_ips(&self, node: usize) -> Vec<IpAddr> {
        self.cluster.node(node).entry().ips.clone()
    }

    /// Kills a node's daemon and starts it again.
    pub fn restart(&mut self, node: usize) {
        self.daemons.remove(node).kill();
        self.daemons.insert(node, self.cluster.start_with(node, &self.flags, &[]));
        self.cluster.node(node).until_ready(&self.daemons[node]);
    }

    /// Packets from outside to these addresses, which no link has, go to a node.
    pub fn route_to(&self, ips: &[IpAddr], node: usize) {
        let (gateways, nodes) = (["203.0.113.254", "2001:db8:113::fe"], self.node_ips(node));
        for ip in ips {
            let of_family = |of: &&IpAddr| of.is_ipv4() == ip.is_ipv4();
            let via = nodes.iter().find(of_family).expect("both families");
            self.cluster
                .outside()
                .sh(&format!("ip route replace {ip} via {}", gateways[usize::from(ip.is_ipv6())]));
            self.cluster.router().sh(&format!("ip route replace {ip} via {via}"));
        }
    }

    pub fn is_iptables(&self) -> bool {
        self.mode == "iptables"
    }
}

/// The addresses that a load balancer gives.
pub fn balancer_ips() -> [IpAddr; 2] {
    ["192.0.2.10", "2001:db8:ffff::10"].map(|ip| ip.parse().expect("an address"))
}

/// A Service of type LoadBalancer that has its addresses.
pub fn balanced(service: Value, words: &Value) -> Value {
    let mut service = but(but(service, &json!({"type": "LoadBalancer"})), words);
    let ingress: Vec<Value> = balancer_ips().iter().map(|ip| json!({"ip": ip})).collect();
    service["status"] = json!({"loadBalancer": {"ingress": ingress}});
    service
}

/// A ServiceCIDR.
pub fn service_cidr(name: &str, networks: [&str; 2]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": name}, "spec": {"cidrs": networks},
    })
}

/// Those ports of both addresses.
pub fn at(ips: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect()
}

/// Asks by TCP or UDP, a new flow each time, until all of `expected` and none else has answered lately, at every address.
#[track_caller]
pub fn answers(protocol: &str, from: &Space, to: &[SocketAddr], expected: &[&str]) {
    for to in to {
        let mut seen = BTreeSet::new();
        until(&format!("{expected:?} and no other to answer {protocol} at {to}"), || {
            seen = (0..8 * expected.len()).map(|_| ask(protocol, from, *to)).collect();
            seen.iter().eq(expected.iter()).then_some(())
        });
    }
}

/// Who answers a new flow; nobody is no text.
pub fn ask(protocol: &str, from: &Space, to: SocketAddr) -> String {
    let answer = match protocol {
        // A packet that came before the Service has made a flow of its own: the next try is another flow.
        "TCP" => ask_tcp_once(from, to),
        _ => UdpClient::new(from, to).ask(),
    };
    answer.unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}

fn ask_tcp_once(from: &Space, to: SocketAddr) -> Option<String> {
    let mut answer = String::new();
    let stream = from.run(|| TcpStream::connect_timeout(&to, TWO_TRIES));
    stream.and_then(|mut stream| stream.read_to_string(&mut answer)).ok().map(|_| answer)
}

/// Whom an answering pod takes the sender for.
pub fn seen_as(from: &Space, to: SocketAddr) -> IpAddr {
    let answer = ask_tcp(from, to).unwrap_or_default();
    let peer = answer.split(' ').nth(1).and_then(|peer| peer.parse().ok());
    peer.unwrap_or_else(|| panic!("{to} answers {answer:?}"))
}

/// Less time than a packet is repeated after.
const ONE_TRY: Duration = Duration::from_millis(400);
/// Time enough for a packet to be repeated: a rejection that comes back within the call is seen only then.
const TWO_TRIES: Duration = Duration::from_millis(2500);

/// What a connection comes to within `limit`; `Other` when there is one.
fn tried(from: &Space, to: SocketAddr, limit: Duration) -> ErrorKind {
    let outcome = from.run(|| TcpStream::connect_timeout(&to, limit));
    outcome.map_or_else(|error| error.kind(), |_| ErrorKind::Other)
}

/// Waits until connections are refused at every address.
#[track_caller]
pub fn refused(from: &Space, to: &[SocketAddr]) {
    for to in to {
        until(&format!("{to} to refuse"), || {
            (tried(from, *to, TWO_TRIES) == ErrorKind::ConnectionRefused).then_some(())
        });
    }
}

/// Waits until nobody takes a connection at any address, whether it is refused or nothing is heard.
#[track_caller]
pub fn unanswered(from: &Space, to: &[SocketAddr]) {
    for to in to {
        until(&format!("nobody to answer at {to}"), || {
            (tried(from, *to, ONE_TRY) != ErrorKind::Other).then_some(())
        });
    }
}

/// Waits until nothing is heard at any address: packets are dropped.
#[track_caller]
pub fn silent(from: &Space, to: &[SocketAddr]) {
    for to in to {
        until(&format!("nothing to be heard of {to}"), || {
            matches!(tried(from, *to, ONE_TRY), ErrorKind::TimedOut | ErrorKind::WouldBlock).then_some(())
        });
    }
}
