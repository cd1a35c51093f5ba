//! What the API says, slimmed to what a proxy acts upon.
//!
//! A [`Snapshot`] holds every object behind an `Arc`: a new version of one Service leaves all others where they are.
//! Endpoints may come before their Service, and stay when it goes; they are joined when a plan is made.

mod name;
mod node;
mod parse;
mod service;
mod slice;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnetwork::IpNetwork;

pub use name::{Protocol, ServiceName, ServicePortName};
pub use node::Node;
pub use parse::{ip, network};
pub use service::{Ingress, IngressMode, Policy, SCHEDULER_ANNOTATION, Service, ServiceKind, ServicePort};
pub use slice::{Endpoint, EndpointSlice, Hints, SlicePort};

/// The slices of one Service, sorted by their names. Most have one, which a tree would give room for eleven.
type Slices = Vec<(Arc<str>, Arc<EndpointSlice>)>;

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    services: BTreeMap<ServiceName, Arc<Service>>,
    slices: BTreeMap<ServiceName, Slices>,
    /// This node.
    pub node: Arc<Node>,
    /// Where ClusterIPs come from, of both families.
    pub service_cidrs: Arc<[IpNetwork]>,
}

impl Snapshot {
    /// Adds or replaces a Service. True when that changes anything a proxy acts upon.
    pub fn set_service(&mut self, mut service: Service) -> bool {
        if self.services.get(&service.name).is_some_and(|old| **old == service) {
            return false;
        }
        if let Some((known, _)) = self.slices.get_key_value(&service.name) {
            service.name = known.clone();
        }
        self.services.insert(service.name.clone(), Arc::new(service));
        true
    }

    /// Forgets a Service; true when it was there.
    pub fn remove_service(&mut self, name: &ServiceName) -> bool {
        self.services.remove(name).is_some()
    }

    /// Adds or replaces an EndpointSlice, known by the names of its Service and its own. True when that changes
    /// anything a proxy acts upon.
    pub fn set_slice(&mut self, name: &str, slice: EndpointSlice) -> bool {
        self.put_slice(&name.into(), slice)
    }

    /// The same, sharing both names with whoever has them already: they are most of what there is to remember.
    pub(crate) fn put_slice(&mut self, name: &Arc<str>, mut slice: EndpointSlice) -> bool {
        if let Some((known, _)) = self.services.get_key_value(&slice.service) {
            slice.service = known.clone();
        }
        let of_service = self.slices.entry(slice.service.clone()).or_insert_with(|| Vec::with_capacity(1));
        match place_of(of_service, name) {
            Ok(at) if *of_service[at].1 == slice => return false,
            Ok(at) => of_service[at].1 = Arc::new(slice),
            Err(at) => of_service.insert(at, (Arc::clone(name), Arc::new(slice))),
        }
        true
    }

    /// Forgets an EndpointSlice; true when it was there.
    pub fn remove_slice(&mut self, service: &ServiceName, name: &str) -> bool {
        let Some(of_service) = self.slices.get_mut(service) else { return false };
        let Ok(at) = place_of(of_service, name) else { return false };
        of_service.remove(at);
        if of_service.is_empty() {
            self.slices.remove(service);
        }
        true
    }

    /// A Service.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The slices of a Service, by name.
    pub fn slices_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.get(service).into_iter().flatten().map(|(_, slice)| slice)
    }
}

fn place_of(slices: &Slices, name: &str) -> Result<usize, usize> {
    slices.binary_search_by(|(other, _)| (**other).cmp(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_twice_changes_nothing() {
        let mut snapshot = Snapshot::default();
        let service = || Service::new(ServiceName::new("default", "web"));
        assert!(snapshot.set_service(service()));
        assert!(!snapshot.set_service(service()));
        let before = snapshot.clone();
        let slice = || EndpointSlice::new(ServiceName::new("default", "web"), crate::Family::V4);
        assert!(snapshot.set_slice("web-1", slice()));
        assert!(!snapshot.set_slice("web-1", slice()));
        assert!(snapshot.remove_slice(&service().name, "web-1"));
        assert!(!snapshot.remove_slice(&service().name, "web-1"));
        assert_eq!(snapshot, before, "nothing is left of a removed slice");
        assert!(snapshot.remove_service(&service().name));
        assert!(!snapshot.remove_service(&service().name));
    }
}
