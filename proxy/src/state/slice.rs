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
    /// `hints`, one of which is usually that of many endpoints.
    pub hints: Option<Arc<Hints>>,
}

/// Who shall use an endpoint, if all of them say so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Hints {
    /// `forZones`.
    pub zones: Vec<Arc<str>>,
    /// `forNodes`.
    pub nodes: Vec<Arc<str>>,
}

impl Hints {
    /// Only zones.
    pub fn of_zones<'a>(zones: impl IntoIterator<Item = &'a str>) -> Self {
        Hints { zones: zones.into_iter().map(Into::into).collect(), nodes: Vec::new() }
    }

    /// Only nodes.
    pub fn of_nodes<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Self {
        Hints { zones: Vec::new(), nodes: nodes.into_iter().map(Into::into).collect() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty() && self.nodes.is_empty()
    }
}

impl Endpoint {
    /// A ready endpoint of no known node.
    pub fn new(ip: IpAddr) -> Self {
        Endpoint { ip, ready: true, serving: true, terminating: false, node: None, hints: None }
    }

    /// The same with hints.
    #[must_use]
    pub fn hinted(mut self, hints: Hints) -> Self {
        self.hints = (!hints.is_empty()).then(|| Arc::new(hints));
        self
    }

    /// `hints.forZones`.
    pub fn zone_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.zones)
    }

    /// `hints.forNodes`.
    pub fn node_hints(&self) -> &[Arc<str>] {
        self.hints.as_ref().map_or(&[], |hints| &hints.nodes)
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
