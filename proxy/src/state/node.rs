//! Facts about this node.

use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::DualStack;

/// This node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its addresses for others, from `status.addresses`: the first InternalIP of a family, else the first ExternalIP.
    pub ips: DualStack<Option<IpAddr>>,
    /// Its pods' addresses.
    pub pod_cidrs: DualStack<Option<IpNetwork>>,
    /// The label `topology.kubernetes.io/zone`, empty when there is none.
    pub zone: Arc<str>,
    /// Every address that its links have, sorted: what NodePorts answer on.
    pub addresses: Vec<IpAddr>,
}
