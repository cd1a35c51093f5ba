//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Protocol, ServiceName};
use crate::Family;

/// One entry of a slice's `ports`. Entries without a name or number are no ports to a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Joins it to the Service port of the same name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the endpoints.
    pub port: u16,
}

/// One entry of a slice's `endpoints`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its first address; the others mean nothing.
    pub ip: IpAddr,
    /// `conditions.ready`, which is true when absent.
    pub ready: bool,
    /// `conditions.serving`, which is true when absent.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `hints.forZones`.
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub node_hints: Vec<Arc<str>>,
}

impl Endpoint {
    /// A ready endpoint of no known node.
    pub fn new(ip: IpAddr) -> Self {
        Endpoint {
            ip,
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
        }
    }
}

/// An EndpointSlice of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The label `kubernetes.io/service-name`.
    pub service: ServiceName,
    /// `addressType`; a slice of names (FQDN) is no slice to a proxy.
    pub family: Family,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<Endpoint>,
    /// Whether it bears the label `service.kubernetes.io/headless`: its endpoints are not for proxies.
    pub is_headless: bool,
}

impl EndpointSlice {
    /// A slice with nothing in it yet.
    pub fn new(service: ServiceName, family: Family) -> Self {
        EndpointSlice { service, family, ports: Vec::new(), endpoints: Vec::new(), is_headless: false }
    }
}
