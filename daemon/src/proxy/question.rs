//! What people ask a running proxy, and what it answers: from its plan and from the kernel, side by side.

use std::net::{IpAddr, SocketAddr};

use proxy::state::Protocol;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

/// A question to the proxy. Who drops the receiver of an answer is not waited for.
#[derive(Debug)]
pub enum Question {
    /// What is planned for Services, and what the kernel does for them.
    Services(Filter, oneshot::Sender<ServicesAnswer>),
    /// What becomes of a packet.
    Trace(Asked, oneshot::Sender<Result<TraceAnswer, String>>),
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

/// The first packet of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its source.
    pub source: IpAddr,
    /// The interface it comes in by; none when a process of this node sends it.
    pub interface: Option<String>,
    /// Where to.
    pub destination: SocketAddr,
    /// By which protocol.
    pub protocol: Protocol,
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
    /// Endpoints for traffic policy Cluster.
    pub cluster: Vec<EndpointAnswer>,
    /// Endpoints for traffic policy Local, where one asks for it.
    pub local: Vec<EndpointAnswer>,
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

/// An endpoint that may be chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAnswer {
    /// Address and port.
    pub address: SocketAddr,
    /// Whether it is on this node.
    pub local: bool,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TraceAnswer {
    /// Name of the node.
    pub node: String,
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
    /// What in the kernel is not as planned.
    pub drift: Vec<String>,
}
