//! What people ask a running proxy, and what it answers: from its plan and from the kernel, side by side.

use std::net::{IpAddr, SocketAddr};

use proxy::state::{Protocol, ServiceName};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// A question to the proxy. Who drops the receiver of an answer is not waited for.
#[derive(Debug)]
pub enum Question {
    /// What is planned for Services, and what the kernel does for them.
    Services(Filter, oneshot::Sender<ServicesAnswer>),
    /// What becomes of packets. The answer is a sentence where that can't be said.
    Trace(Asked, oneshot::Sender<Result<TracesAnswer, String>>),
}

/// Which Services. Nothing set is all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    /// Their namespace.
    pub namespace: Option<String>,
    /// Their name.
    pub name: Option<String>,
}

impl Filter {
    /// Whether it lets a Service through.
    pub fn includes(&self, namespace: &str, name: &str) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        fits(&self.namespace, namespace) && fits(&self.name, name)
    }
}

/// First packets of flows: one in each family and to each port that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Who sends.
    pub from: Origin,
    /// Where to.
    pub to: Goal,
    /// By which protocol; none is TCP towards an address, and every one that a Service has.
    pub protocol: Option<Protocol>,
}

/// Who sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A process of this node, with the node's address.
    Node,
    /// Somebody with this address, by this interface where that is known.
    Address(IpAddr, Option<String>),
    /// Somebody behind this interface, whatever the address.
    Interface(String),
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// An address and a port.
    Address(SocketAddr),
    /// The ClusterIPs of a Service, one port by name or number, else all.
    Service(ServiceName, Option<String>),
}

impl Origin {
    /// `node`, an address, `ADDRESS%INTERFACE`, or an interface.
    ///
    /// # Errors
    /// A sentence that names the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "node" {
            return Ok(Origin::Node);
        }
        let (ip, interface) = match text.split_once('%') {
            Some((ip, interface)) => (ip, Some(interface)),
            None => (text, None),
        };
        let is_link = |name: &str| !name.is_empty() && name.len() < 16 && !name.contains(['/', ':', ' ']);
        match (ip.parse(), interface) {
            (Ok(ip), None) => Ok(Origin::Address(ip, None)),
            (Ok(ip), Some(interface)) if is_link(interface) => {
                Ok(Origin::Address(ip, Some(interface.to_owned())))
            }
            (Err(_), None) if is_link(text) && !text.starts_with(|c: char| c.is_ascii_digit()) => {
                Ok(Origin::Interface(text.to_owned()))
            }
            _ => Err(format!("from: `{text}` is neither `node` nor an address nor an interface")),
        }
    }
}

impl Goal {
    /// `ADDRESS:PORT`, or `NAMESPACE/NAME` with `:PORT` by name or number behind it.
    ///
    /// # Errors
    /// A sentence that names the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Goal::Address(address));
        }
        let wrong =
            || format!("to: `{text}` is neither ADDRESS:PORT nor NAMESPACE/NAME with or without :PORT");
        let (namespace, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (rest, None),
        };
        let is_empty = namespace.is_empty() || name.is_empty() || port.as_deref() == Some("");
        if is_empty || rest.contains('/') {
            Err(wrong())
        } else {
            Ok(Goal::Service(ServiceName::new(namespace, name), port))
        }
    }
}

/// An answer about Services.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesAnswer {
    /// Name of the node.
    pub node: String,
    /// How each family that is served is.
    pub families: Vec<FamilyAnswer>,
    /// The Services, by name.
    pub services: Vec<ServiceAnswer>,
}

/// A family.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyAnswer {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// `nftables`, `iptables` or `ipvs`.
    pub mode: String,
    /// Everything in the kernel that is not as planned, or not yet, one sentence each; empty when all is well.
    pub drift: Vec<String>,
    /// Why the kernel can't be read, if it can't.
    pub failure: Option<String>,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAnswer {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.type`.
    pub kind: String,
    /// Why no proxy has anything to do with it; none where one has.
    pub not_served: Option<String>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: String,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: String,
    /// `spec.healthCheckNodePort` where it is served, with the ready endpoints here that it tells.
    pub health_check: Option<HealthAnswer>,
    /// Its ports, in each family.
    pub ports: Vec<PortAnswer>,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// A Service port in one family.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortAnswer {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Its name, empty when it has none.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Where clients connect.
    pub frontends: Vec<FrontendAnswer>,
    /// What pods, this node and others get through the ClusterIP, in words.
    pub internal: String,
    /// The same through every other frontend.
    pub external: String,
    /// Every endpoint that there is, whether or not it may be chosen.
    pub endpoints: Vec<EndpointAnswer>,
    /// For how many seconds a client stays with its endpoint.
    pub affinity_seconds: Option<u64>,
    /// Who may use the load balancer's IPs; none is everybody.
    pub source_ranges: Option<Vec<String>>,
}

/// A frontend.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendAnswer {
    /// `ClusterIP`, `NodePort`, `load balancer IP`, `external IP`.
    pub kind: String,
    /// Its address; none for a NodePort.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Another Service port that has it.
    pub lost_to: Option<String>,
    /// What the kernel does for it, in the dataplane's words; none where it has nothing.
    pub kernel: Option<String>,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAnswer {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it is on this node.
    pub local: bool,
    /// Its node, where it says so.
    pub node: Option<String>,
    /// Its conditions.
    pub ready: bool,
    /// As above.
    pub serving: bool,
    /// As above.
    pub terminating: bool,
    /// The zones that shall use it.
    pub zone_hints: Vec<String>,
    /// The nodes that shall use it.
    pub node_hints: Vec<String>,
    /// Whether it may be chosen where the traffic policy is Cluster.
    pub for_cluster: bool,
    /// Whether it may be chosen where the traffic policy is Local.
    pub for_local: bool,
}

/// What a health check node port tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthAnswer {
    /// The port.
    pub port: u16,
    /// Ready endpoints on this node.
    pub endpoints: usize,
}

/// What becomes of packets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TracesAnswer {
    /// Name of the node.
    pub node: String,
    /// One for each packet.
    pub traces: Vec<TraceAnswer>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceAnswer {
    /// `10.1.0.5`, or what was asked for where no address is known.
    pub from: String,
    /// Where to.
    pub to: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// `nftables`, `iptables` or `ipvs`.
    pub mode: String,
    /// `endpoints`, `reject`, `drop` or `not a Service`.
    pub verdict: String,
    /// Which may be chosen, with what probability.
    pub endpoints: Vec<(SocketAddr, f64)>,
    /// Whether every endpoint sees this node as the source.
    pub masquerade: bool,
    /// Of which Service port.
    pub service: Option<String>,
    /// For how many seconds the choice is remembered.
    pub affinity_seconds: Option<u64>,
    /// Why, step by step.
    pub reasons: Vec<String>,
    /// What the kernel does for this frontend, in the dataplane's words; none where it has nothing.
    pub kernel: Option<String>,
    /// Where the kernel does otherwise than planned, for this packet.
    pub differences: Vec<String>,
    /// What else in the kernel is not as planned.
    pub drift: Vec<String>,
}
