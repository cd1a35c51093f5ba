//! A small world for flow rows: two families, one Service, an endpoint here and one elsewhere.
#![allow(dead_code, reason = "every test binary compiles its own copy and uses part of it")]

pub mod backend;
pub mod changes;
pub mod flows;
pub mod lab;
pub mod row;

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use proxy::plan::{DetectLocal, NodePortAddresses};
use proxy::state::{
    Endpoint, EndpointSlice, Hints, Ingress, IngressMode, Node, Policy, Protocol, Service, ServiceKind,
    ServiceName, ServicePort, SlicePort,
};
use proxy::{DualStack, Family, Settings, Snapshot};
use row::Row;

/// An address of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Pod,
    LocalEndpoint,
    RemoteEndpoint,
    /// The node's primary address, towards outside.
    Node,
    /// The node's address towards the remote endpoint.
    NodeSecond,
    /// The node's address towards its pods.
    NodeToPods,
    Outside,
    ClusterIp,
    Nobody,
    LoadBalancer,
    External,
    Elsewhere,
}

/// The address of a place.
pub fn ip(family: Family, place: Place) -> IpAddr {
    let (v4, v6) = match place {
        Place::Pod => ("10.1.0.5", "fd00:10:1::5"),
        Place::LocalEndpoint => ("10.1.0.6", "fd00:10:1::6"),
        Place::RemoteEndpoint => ("10.2.0.6", "fd00:10:2::6"),
        Place::Node => ("192.0.2.1", "2001:db8:2::1"),
        Place::NodeSecond => ("198.51.100.1", "2001:db8:100::1"),
        Place::NodeToPods => ("10.1.0.1", "fd00:10:1::1"),
        Place::Outside => ("192.0.2.2", "2001:db8:2::2"),
        Place::ClusterIp => ("10.96.0.10", "fd00:96::10"),
        Place::Nobody => ("10.96.0.99", "fd00:96::99"),
        Place::LoadBalancer => ("203.0.113.10", "2001:db8:113::10"),
        Place::External => ("203.0.113.20", "2001:db8:113::20"),
        Place::Elsewhere => ("203.0.113.99", "2001:db8:113::99"),
    };
    let text = if family == Family::V4 { v4 } else { v6 };
    text.parse().expect("an address")
}

pub const PORT: u16 = 80;
pub const NODE_PORT: u16 = 30080;
pub const TARGET_PORT: u16 = 8080;

fn network(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

pub fn cluster_cidrs() -> DualStack<Option<IpNetwork>> {
    DualStack { v4: Some(network("10.0.0.0/12")), v6: Some(network("fd00:10::/32")) }
}

/// The node of the world.
pub fn node() -> Node {
    let places = [Place::Node, Place::NodeSecond, Place::NodeToPods];
    let mut addresses: Vec<IpAddr> =
        Family::BOTH.iter().flat_map(|family| places.map(|place| ip(*family, place))).collect();
    addresses.extend(["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().expect("an address")));
    Node {
        name: "here".into(),
        ips: DualStack::from_fn(|family| Some(ip(family, Place::Node))),
        pod_cidrs: DualStack { v4: Some(network("10.1.0.0/24")), v6: Some(network("fd00:10:1::/64")) },
        zone: "zone-here".into(),
        addresses,
    }
}

pub fn service_name() -> ServiceName {
    ServiceName::new("default", "web")
}

/// The Service that a row asks for.
pub fn service(row: &Row) -> Service {
    let both = |place| Family::BOTH.map(|family| ip(family, place)).to_vec();
    let policy = |key| if row.option(key) == Some("local") { Policy::Local } else { Policy::Cluster };
    let mode = if row.option("ingress") == Some("proxy") { IngressMode::Proxy } else { IngressMode::Vip };
    let is_cluster_ip = row.option("type") == Some("cluster-ip");
    let ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|protocol| ServicePort {
        name: protocol.to_string().to_lowercase().into(),
        protocol,
        port: PORT,
        node_port: if is_cluster_ip { 0 } else { NODE_PORT },
    });
    Service {
        kind: if is_cluster_ip { ServiceKind::ClusterIp } else { ServiceKind::LoadBalancer },
        cluster_ips: DualStack::from_fn(|family| Some(ip(family, Place::ClusterIp))),
        ports: ports.to_vec(),
        external_ips: both(Place::External),
        ingress: both(Place::LoadBalancer).into_iter().map(|ip| Ingress { ip, mode }).collect(),
        source_ranges: ranges(row),
        internal_policy: policy("itp"),
        external_policy: policy("etp"),
        health_check_node_port: 31000,
        is_foreign: row.option("label") == Some("proxy-name"),
        ..Service::new(service_name())
    }
}

fn ranges(row: &Row) -> Vec<IpNetwork> {
    let place = match row.option("ranges") {
        None => return Vec::new(),
        Some("pod") => Place::Pod,
        Some("node") => Place::Node,
        Some("outside") => Place::Outside,
        Some("everybody") => return vec![network("0.0.0.0/0"), network("::/0")],
        Some("bogus") => Place::Elsewhere,
        Some(other) => panic!("ranges={other}"),
    };
    Family::BOTH.iter().map(|family| ip(*family, place).into()).collect()
}

/// The slice of a family, with the endpoints that a row asks for.
pub fn slice(row: &Row, family: Family) -> EndpointSlice {
    let mut slice = EndpointSlice::new(service_name(), family);
    slice.is_headless = row.option("label") == Some("headless");
    slice.ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .map(|protocol| SlicePort {
            name: protocol.to_string().to_lowercase().into(),
            protocol,
            port: TARGET_PORT,
        })
        .to_vec();
    for word in row.option("eps").unwrap_or("local,remote").split(',').filter(|word| *word != "none") {
        let name = word.trim_end_matches(['!', '-', '~']);
        let is_local = name == "local";
        let place = if is_local { Place::LocalEndpoint } else { Place::RemoteEndpoint };
        let (node, zone) = if is_local { ("here", "zone-here") } else { ("there", "zone-there") };
        let mut endpoint = Endpoint::new(ip(family, place));
        endpoint.node = Some(node.into());
        (endpoint.ready, endpoint.serving, endpoint.terminating) = match word.strip_prefix(name) {
            Some("!") => (false, true, true),
            Some("-") => (false, false, false),
            Some("~") => (false, false, true),
            _ => (true, true, false),
        };
        match row.option("hint") {
            Some("zone") => endpoint.hints = Some(Hints::of_zones([zone]).into()),
            Some("node") => endpoint.hints = Some(Hints::of_nodes([node]).into()),
            Some("some") if is_local => endpoint.hints = Some(Hints::of_zones([zone]).into()),
            _ => {}
        }
        slice.endpoints.push(endpoint);
    }
    slice
}

/// Everything that a row asks for.
pub fn snapshot(row: &Row) -> Snapshot {
    let cidrs = [network("10.96.0.0/16"), network("fd00:96::/112")];
    let mut snapshot = Snapshot::default();
    snapshot.node = node().into();
    snapshot.service_cidrs = cidrs.into();
    snapshot.set_service(service(row));
    for family in Family::BOTH {
        snapshot.set_slice(&format!("web-{family}"), slice(row, family));
    }
    snapshot
}

/// The settings that a row asks for.
pub fn settings(row: &Row) -> Settings {
    let detect_local = match row.option("detect") {
        None => DetectLocal::ClusterCidr(cluster_cidrs()),
        Some("off") => DetectLocal::Off,
        Some("node-cidr") => DetectLocal::NodeCidr,
        Some("interface") => DetectLocal::Interface("cali0".into()),
        Some("prefix") => DetectLocal::InterfacePrefix("cali".into()),
        Some(other) => panic!("detect={other}"),
    };
    let node_port_addresses = match row.option("addresses") {
        None => NodePortAddresses::Primary,
        Some("all") => NodePortAddresses::Within(Vec::new()),
        Some("second") => NodePortAddresses::Within(
            Family::BOTH.iter().map(|family| ip(*family, Place::NodeSecond).into()).collect(),
        ),
        Some(other) => panic!("addresses={other}"),
    };
    let masquerade_all = row.option("all").is_some();
    let serves_external_ips = row.option("external-ips") != Some("off");
    Settings { detect_local, node_port_addresses, masquerade_all, serves_external_ips, ..Settings::default() }
}

/// Where a packet to a frontend goes.
pub fn destination(family: Family, frontend: &str) -> SocketAddr {
    let (place, port) = match frontend {
        "cluster-ip" => (Place::ClusterIp, PORT),
        "other-port" => (Place::ClusterIp, PORT + 1),
        "nobody" => (Place::Nobody, PORT),
        "elsewhere" => (Place::Elsewhere, PORT),
        "node-port" => (Place::Node, NODE_PORT),
        "second-address" => (Place::NodeSecond, NODE_PORT),
        "load-balancer" => (Place::LoadBalancer, PORT),
        "external-ip" => (Place::External, PORT),
        "loopback" => {
            let loopback = if family == Family::V4 { "127.0.0.1" } else { "::1" };
            return SocketAddr::new(loopback.parse().expect("an address"), NODE_PORT);
        }
        other => panic!("frontend {other}"),
    };
    SocketAddr::new(ip(family, place), port)
}
