//! The own Node, as the proxy sees it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use proxy::engine::OwnNode;
use proxy::{Change, DualStack, Family};
use serde::Deserialize;

use super::delta::Small;
use super::metadata::{Metadata, ip, network};
use crate::source::api::mirror::{Asked, Identified, Identity};
use crate::source::fault::Fault;

const ZONE: &str = "topology.kubernetes.io/zone";
/// With this taint, whatever its effect, an autoscaler says that the node will go.
const LEAVING: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node of `v1`, as far as the proxy reads it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct OwnNodeObject {
    metadata: Metadata,
    spec: Option<Spec>,
    status: Option<Status>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
    taints: Option<Vec<Taint>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Taint {
    key: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Status {
    addresses: Option<Vec<Address>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Address {
    #[serde(rename = "type")]
    kind: Option<String>,
    address: Option<String>,
}

impl Identified for OwnNodeObject {
    fn identity(&self) -> Identity {
        self.metadata.identity()
    }
}

impl OwnNodeObject {
    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.metadata.name()
    }
}

/// What the proxy keeps of `object`. What is wrong with it goes to `faults`.
pub fn decode(object: &OwnNodeObject, faults: &mut Vec<Fault>) -> OwnNode {
    let nothing = Spec::default();
    let spec = object.spec.as_ref().unwrap_or(&nothing);
    let taints = spec.taints.iter().flatten().filter_map(|taint| taint.key.as_deref());
    let single = spec.pod_cidr.iter().filter(|_| spec.pod_cidrs.as_ref().is_none_or(Vec::is_empty));
    let cidrs = spec.pod_cidrs.iter().flatten().chain(single).filter(|text| !text.is_empty());
    let cidrs: Vec<_> = cidrs.filter_map(|text| network("spec.podCIDRs", text, faults)).collect();
    OwnNode {
        ips: ips(object, faults),
        pod_cidrs: DualStack::first_network_of(cidrs),
        zone: object.metadata.label(ZONE).unwrap_or_default().into(),
        is_leaving: object.metadata.is_deleted() || taints.into_iter().any(|key| key == LEAVING),
    }
}

/// Of each family the first InternalIP, else the first ExternalIP.
fn ips(object: &OwnNodeObject, faults: &mut Vec<Fault>) -> DualStack<Option<IpAddr>> {
    let addresses = object.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let mut of_kind = |wanted: &str| {
        let of_kind = addresses.iter().filter(|address| address.kind.as_deref() == Some(wanted));
        let texts = of_kind.filter_map(|address| address.address.as_deref());
        let ips = texts.filter_map(|text| ip("status.addresses", text, faults));
        DualStack::first_of(ips.collect::<Vec<_>>())
    };
    let (internal, external) = (of_kind("InternalIP"), of_kind("ExternalIP"));
    DualStack::from_fn(|family: Family| internal.of(family).or(*external.of(family)))
}

/// The Node of one name.
pub(super) struct OwnNodes {
    name: String,
}

impl OwnNodes {
    /// The one called `name`.
    pub(super) fn new(name: &str) -> Self {
        OwnNodes { name: name.to_owned() }
    }
}

impl Small for OwnNodes {
    type Object = OwnNodeObject;
    type Kept = OwnNode;
    const NOUN: &'static str = "Node";

    fn asked(&self) -> Asked {
        Asked {
            path: "/api/v1/nodes",
            list: "NodeList",
            labels: None,
            fields: Some(format!("metadata.name={}", self.name)),
            page: 1,
            may_be_absent: false,
            quiet: Duration::ZERO,
        }
    }

    fn decode(&self, object: &OwnNodeObject, faults: &mut Vec<Fault>) -> OwnNode {
        decode(object, faults)
    }

    fn all(&self, nodes: &BTreeMap<String, OwnNode>) -> Change {
        Change::Node(nodes.get(&self.name).cloned())
    }
}
