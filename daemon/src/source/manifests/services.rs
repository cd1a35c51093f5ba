//! What manifests say to the Service proxy.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use proxy::Change;
use proxy::engine::{OwnNode, SliceName};
use proxy::state::{EndpointSlice, Service, ServiceName};

use super::document::{Fault, Mark, Tree};
use crate::proxy::Inbox;
use crate::source::fault;
use crate::source::services::{
    EndpointSliceObject, OwnNodeObject, ServiceCidrObject, ServiceObject, Shared, decode_own, decode_service,
    decode_slice,
};

/// The objects of a file that the proxy reads.
///
/// A wrong value counts as absent and is named, as in the API: the other Services of a file are not to suffer for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    services: Vec<(Mark, Arc<Service>)>,
    slices: Vec<(Mark, SliceName, Arc<EndpointSlice>)>,
    service_cidrs: Vec<IpNetwork>,
    nodes: Vec<(String, OwnNode)>,
    /// What is wrong with single values.
    pub faults: Vec<Fault>,
}

impl Contents {
    /// Takes the object in `tree`, if it is of a kind that the proxy reads. A Node is read for its zone and taints too.
    ///
    /// # Errors
    /// Where it is no such object at all.
    pub fn add(&mut self, tree: &Tree, api_version: &str, kind: &str) -> Result<(), Fault> {
        let mut faults = Vec::new();
        match (api_version, kind) {
            ("v1", "Service") => {
                let object = tree.decode::<ServiceObject>()?;
                let service = decode_service(&object, &mut Shared::default(), &mut faults);
                self.services.extend(service.map(|service| (tree.mark, Arc::new(service))));
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                let object = tree.decode::<EndpointSliceObject>()?;
                let slice = decode_slice(&object, &mut Shared::default(), &mut faults);
                self.slices.extend(slice.map(|(name, slice)| (tree.mark, name, Arc::new(slice))));
            }
            ("networking.k8s.io/v1", "ServiceCIDR") => {
                self.service_cidrs.extend(tree.decode::<ServiceCidrObject>()?.networks(&mut faults));
            }
            ("v1", "Node") => {
                let object = tree.decode::<OwnNodeObject>()?;
                // What is wrong with it is said by who reads it as a Node.
                self.nodes.push((object.name().to_owned(), decode_own(&object, &mut Vec::new())));
            }
            _ => {}
        }
        self.faults.extend(faults.into_iter().map(|fault| placed(tree, fault)));
        Ok(())
    }
}

fn placed(tree: &Tree, fault: fault::Fault) -> Fault {
    Fault { mark: tree.locate(&fault.field), field: fault.field, what: fault.what }
}

/// Tells the proxy what has changed in a directory.
pub struct Teller {
    inbox: Arc<Inbox>,
    node: String,
    configured_cidrs: Vec<IpNetwork>,
    told: Option<Told>,
}

/// Everything that was told.
#[derive(Default)]
struct Told {
    services: BTreeMap<ServiceName, Arc<Service>>,
    slices: BTreeMap<SliceName, Arc<EndpointSlice>>,
    service_cidrs: Vec<IpNetwork>,
    node: Option<OwnNode>,
}

impl Teller {
    /// To the proxy of the node called `node`; `configured_cidrs` are where ClusterIPs come from if no manifest says.
    pub fn new(inbox: Arc<Inbox>, node: &str, configured_cidrs: &[IpNetwork]) -> Self {
        Teller { inbox, node: node.to_owned(), configured_cidrs: configured_cidrs.to_vec(), told: None }
    }

    /// Tells what differs from last time, of the files in their order. An object twice counts where it is first; the
    /// sentences name the others by the place that `place` makes of file and mark.
    pub fn tell<'a, F: Copy>(
        &mut self,
        files: impl Iterator<Item = (F, &'a Contents)>,
        place: impl Fn(F, Mark) -> String,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let mut now = Told::default();
        let mut twice = |kind: &str, name: String, at: String| {
            problems.push(format!(
                "{at}: metadata.name: {kind} `{name}` is in another place already, which counts"
            ));
        };
        for (file, contents) in files {
            for (mark, service) in &contents.services {
                if now.services.contains_key(&service.name) {
                    twice("Service", service.name.to_string(), place(file, *mark));
                } else {
                    now.services.insert(service.name.clone(), Arc::clone(service));
                }
            }
            for (mark, name, slice) in &contents.slices {
                if now.slices.contains_key(name) {
                    twice("EndpointSlice", name.to_string(), place(file, *mark));
                } else {
                    now.slices.insert(name.clone(), Arc::clone(slice));
                }
            }
            now.service_cidrs.extend(&contents.service_cidrs);
            let own = contents.nodes.iter().find(|(name, _)| *name == self.node);
            now.node = now.node.or_else(|| own.map(|(_, node)| node.clone()));
        }
        if now.service_cidrs.is_empty() {
            now.service_cidrs.clone_from(&self.configured_cidrs);
        }
        self.inbox.put(changes(self.told.as_ref(), &now));
        self.told = Some(now);
        problems
    }
}

fn changes(old: Option<&Told>, new: &Told) -> Vec<Change> {
    let Some(old) = old else {
        let slices = new.slices.iter().map(|(name, slice)| (name.clone(), EndpointSlice::clone(slice)));
        return vec![
            Change::ServiceCidrs(new.service_cidrs.clone()),
            Change::Node(new.node.clone()),
            Change::Services(new.services.values().map(|service| Service::clone(service)).collect()),
            Change::Slices(slices.collect()),
        ];
    };
    let mut changes = Vec::new();
    for (name, service) in &new.services {
        if old.services.get(name).is_none_or(|old| !Arc::ptr_eq(old, service) && old != service) {
            changes.push(Change::Service(Service::clone(service)));
        }
    }
    for (name, slice) in &new.slices {
        if old.slices.get(name).is_none_or(|old| !Arc::ptr_eq(old, slice) && old != slice) {
            changes.push(Change::Slice(name.clone(), EndpointSlice::clone(slice), None));
        }
    }
    let gone = old.services.keys().filter(|name| !new.services.contains_key(*name));
    changes.extend(gone.map(|name| Change::ServiceGone(name.clone())));
    let gone = old.slices.keys().filter(|name| !new.slices.contains_key(*name));
    changes.extend(gone.map(|name| Change::SliceGone(name.clone())));
    if old.service_cidrs != new.service_cidrs {
        changes.push(Change::ServiceCidrs(new.service_cidrs.clone()));
    }
    if old.node != new.node {
        changes.push(Change::Node(new.node.clone()));
    }
    changes
}
