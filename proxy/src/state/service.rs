//! Services.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::{Protocol, ServiceName};
use crate::DualStack;

/// `spec.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the API's words")]
pub enum ServiceKind {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// `internalTrafficPolicy` or `externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Any endpoint.
    #[default]
    Cluster,
    /// Endpoints on this node alone.
    Local,
}

/// How a load balancer sends: `status.loadBalancer.ingress[].ipMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IngressMode {
    /// With its own address as the destination: the node must know that address.
    #[default]
    Vip,
    /// As a client of a node port or a pod: its address is none of ours.
    Proxy,
}

/// One address of a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingress {
    /// The address.
    pub ip: IpAddr,
    /// How it sends.
    pub mode: IngressMode,
}

/// One entry of `spec.ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty when it has none; slices name their ports the same.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// On ClusterIP, external IPs and load balancer IPs.
    pub port: u16,
    /// On the node's addresses; 0 is none.
    pub node_port: u16,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// `spec.type`.
    pub kind: ServiceKind,
    /// `spec.clusterIPs`; none of either family for a headless Service.
    pub cluster_ips: DualStack<Option<IpAddr>>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress` with an address.
    pub ingress: Vec<Ingress>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNetwork>,
    /// `sessionAffinity: ClientIP` with its timeout.
    pub affinity: Option<Duration>,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: Policy,
    /// `spec.externalTrafficPolicy`.
    pub external_policy: Policy,
    /// `spec.healthCheckNodePort`; 0 is none.
    pub health_check_node_port: u16,
    /// Whether the label `service.kubernetes.io/service-proxy-name` gives it to another proxy.
    pub is_foreign: bool,
    /// The annotation [`SCHEDULER_ANNOTATION`], empty when absent: the name of an IPVS scheduler.
    pub scheduler: Arc<str>,
}

/// By which IPVS scheduler a Service's endpoints are chosen; other dataplanes take no notice.
pub const SCHEDULER_ANNOTATION: &str = "bowline.dev/ipvs-scheduler";

impl Service {
    /// A Service of type ClusterIP with nothing in it yet.
    pub fn new(name: ServiceName) -> Self {
        Service {
            name,
            kind: ServiceKind::default(),
            cluster_ips: DualStack::default(),
            ports: Vec::new(),
            external_ips: Vec::new(),
            ingress: Vec::new(),
            source_ranges: Vec::new(),
            affinity: None,
            internal_policy: Policy::Cluster,
            external_policy: Policy::Cluster,
            health_check_node_port: 0,
            is_foreign: false,
            scheduler: "".into(),
        }
    }

    /// Whether a proxy has anything to do with it in any family.
    pub fn is_ours(&self) -> bool {
        !self.is_foreign && self.kind != ServiceKind::ExternalName && !self.cluster_ips.is_empty()
    }
}
