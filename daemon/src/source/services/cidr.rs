//! ServiceCIDRs.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnetwork::IpNetwork;
use proxy::Change;
use serde::Deserialize;

use super::delta::Small;
use super::metadata::{Metadata, network};
use crate::source::api::mirror::{Asked, Identified, Identity};
use crate::source::fault::Fault;

/// A ServiceCIDR of `networking.k8s.io/v1`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ServiceCidrObject {
    metadata: Metadata,
    spec: Option<Spec>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Spec {
    cidrs: Option<Vec<String>>,
}

impl Identified for ServiceCidrObject {
    fn identity(&self) -> Identity {
        self.metadata.identity()
    }
}

impl ServiceCidrObject {
    /// Its networks. What is wrong with them goes to `faults`.
    pub fn networks(&self, faults: &mut Vec<Fault>) -> Vec<IpNetwork> {
        let texts = self.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
        let each = texts.iter().enumerate();
        each.filter_map(|(index, text)| network(format!("spec.cidrs[{index}]"), text, faults)).collect()
    }
}

/// All of them; where there are none, what is configured.
pub(super) struct ServiceCidrs {
    configured: Vec<IpNetwork>,
}

impl ServiceCidrs {
    /// With what is configured.
    pub(super) fn new(configured: &[IpNetwork]) -> Self {
        ServiceCidrs { configured: configured.to_vec() }
    }
}

impl Small for ServiceCidrs {
    type Object = ServiceCidrObject;
    type Kept = Vec<IpNetwork>;
    const NOUN: &'static str = "ServiceCIDR";

    fn asked(&self) -> Asked {
        Asked {
            path: "/apis/networking.k8s.io/v1/servicecidrs",
            list: "ServiceCIDRList",
            labels: None,
            fields: None,
            page: 500,
            // Before Kubernetes 1.33.
            may_be_absent: true,
            quiet: Duration::ZERO,
        }
    }

    fn decode(&self, object: &ServiceCidrObject, faults: &mut Vec<Fault>) -> Vec<IpNetwork> {
        object.networks(faults)
    }

    fn all(&self, known: &BTreeMap<String, Vec<IpNetwork>>) -> Change {
        let mut networks: Vec<IpNetwork> = known.values().flatten().copied().collect();
        if networks.is_empty() {
            networks.clone_from(&self.configured);
        }
        networks.sort_unstable();
        networks.dedup();
        Change::ServiceCidrs(networks)
    }
}
