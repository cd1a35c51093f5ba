//! What sources tell the engine, merged until it has time.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnetwork::IpNetwork;

use crate::DualStack;
use crate::state::{EndpointSlice, Service, ServiceName};

/// Namespace and name of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl SliceName {
    /// From its two parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        SliceName { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// This node as the API has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OwnNode {
    /// From `status.addresses`: the first InternalIP of a family, else the first ExternalIP.
    pub ips: DualStack<Option<IpAddr>>,
    /// Its pods' addresses.
    pub pod_cidrs: DualStack<Option<IpNetwork>>,
    /// The label `topology.kubernetes.io/zone`, empty when there is none.
    pub zone: Arc<str>,
    /// Whether it is about to go: deleted already, or tainted by the autoscaler. Load balancers shall forget it.
    pub is_leaving: bool,
}

/// One thing that a source tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// All Services that there are: the beginning, and after a source has lost its place.
    Services(Vec<Service>),
    /// A Service came or changed.
    Service(Service),
    /// A Service is gone.
    ServiceGone(ServiceName),
    /// All EndpointSlices that there are.
    Slices(Vec<(SliceName, EndpointSlice)>),
    /// An EndpointSlice came or changed; with the moment of what caused it, if it says so.
    Slice(SliceName, EndpointSlice, Option<SystemTime>),
    /// An EndpointSlice is gone.
    SliceGone(SliceName),
    /// Where ClusterIPs come from, all of it.
    ServiceCidrs(Vec<IpNetwork>),
    /// This node; none when the API has no such Node.
    Node(Option<OwnNode>),
    /// Every address that this node's links have.
    Addresses(Vec<IpAddr>),
}

/// Several, of which the last about one thing counts. However long the engine is busy, there are never more of them than
/// there are objects.
#[derive(Debug, Default)]
pub struct Changes {
    pub(super) all_services: Option<Vec<Service>>,
    pub(super) services: BTreeMap<ServiceName, Option<Service>>,
    pub(super) all_slices: Option<Vec<(SliceName, EndpointSlice)>>,
    pub(super) slices: BTreeMap<SliceName, Option<EndpointSlice>>,
    pub(super) service_cidrs: Option<Vec<IpNetwork>>,
    pub(super) node: Option<Option<OwnNode>>,
    pub(super) addresses: Option<Vec<IpAddr>>,
    pub(super) triggers: Vec<(ServiceName, SystemTime)>,
}

impl Changes {
    /// None.
    pub fn new() -> Self {
        Changes::default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all_services.is_none()
            && self.services.is_empty()
            && self.all_slices.is_none()
            && self.slices.is_empty()
            && self.service_cidrs.is_none()
            && self.node.is_none()
            && self.addresses.is_none()
    }

    /// How many Services are in it.
    pub fn services(&self) -> usize {
        self.services.len() + self.all_services.as_ref().map_or(0, Vec::len)
    }

    /// How many EndpointSlices are in it.
    pub fn slices(&self) -> usize {
        self.slices.len() + self.all_slices.as_ref().map_or(0, Vec::len)
    }

    /// Adds one, in place of what it makes void.
    pub fn put(&mut self, change: Change) {
        match change {
            Change::Services(all) => {
                self.services.clear();
                self.all_services = Some(all);
            }
            Change::Service(service) => {
                self.services.insert(service.name.clone(), Some(service));
            }
            Change::ServiceGone(name) => {
                self.services.insert(name, None);
            }
            Change::Slices(all) => {
                self.slices.clear();
                self.all_slices = Some(all);
            }
            Change::Slice(name, slice, trigger) => {
                self.triggers.extend(trigger.map(|at| (slice.service.clone(), at)));
                self.slices.insert(name, Some(slice));
            }
            Change::SliceGone(name) => {
                self.slices.insert(name, None);
            }
            Change::ServiceCidrs(networks) => self.service_cidrs = Some(networks),
            Change::Node(node) => self.node = Some(node),
            Change::Addresses(addresses) => self.addresses = Some(addresses),
        }
    }
}

impl FromIterator<Change> for Changes {
    fn from_iter<I: IntoIterator<Item = Change>>(all: I) -> Self {
        let mut changes = Changes::new();
        all.into_iter().for_each(|change| changes.put(change));
        changes
    }
}
