//! The plan: what every packet to a Service gets, decided once, for one family.
//!
//! Pure. A [`ServicePlan`] holds no choice that a dataplane would have to make: which frontends there are, who may use
//! them, and for each kind of sender which endpoints, with or without masquerade, or how it is refused.
//! [`ServicePlan::update`] plans changed Services alone; the result is the plan that [`ServicePlan::new`] would make.

mod access;
mod choice;
mod claims;
mod conntrack;
mod port;
mod settings;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use access::{Access, Action, Scope};
pub use choice::{Target, endpoints_of};
pub use claims::{Frontend, FrontendKind};
pub use conntrack::{Destination, Former, Stale, stale};
pub use port::{Lost, PortPlan};
pub(crate) use settings::outermost;
pub use settings::{Detect, DetectLocal, NodePortAddresses, NodePorts, Settings, Site};
pub use trace::{Fate, Packet, Sender, Verdict};

use crate::Family;
use crate::state::{Protocol, ServiceName, ServicePortName, Snapshot};
use claims::Claims;

/// What a load balancer asks a node before it sends there: whether a Service has endpoints on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`, to be served by HTTP.
    pub port: u16,
    /// Different addresses of ready endpoints on this node, over all ports of the Service.
    pub endpoints: usize,
}

/// The plan of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePlan {
    /// What does not depend on Services.
    pub site: Site,
    /// Every Service port.
    pub ports: BTreeMap<ServicePortName, Arc<PortPlan>>,
    /// Services that load balancers ask for.
    pub health: BTreeMap<ServiceName, HealthCheck>,
    /// What is wrong with a Service, one sentence each.
    pub problems: BTreeMap<ServiceName, Vec<String>>,
    claims: Claims,
}

impl ServicePlan {
    /// Plans everything.
    pub fn new(snapshot: &Snapshot, settings: &Settings, family: Family) -> Self {
        let mut plan = ServicePlan {
            site: Site::new(snapshot, settings, family),
            ports: BTreeMap::new(),
            health: BTreeMap::new(),
            problems: BTreeMap::new(),
            claims: Claims::default(),
        };
        let all: BTreeSet<ServiceName> = snapshot.services().map(|service| service.name.clone()).collect();
        plan.update(snapshot, &all);
        plan
    }

    /// Plans the Services in `changed` again, whose objects or slices are not what they were, and returns the Service
    /// ports that came, went or are planned otherwise now: those of `changed`, and those that won a frontend from
    /// them or lost one to them. The site must be unchanged: for another node, settings or service CIDRs make a new plan.
    pub fn update(
        &mut self,
        snapshot: &Snapshot,
        changed: &BTreeSet<ServiceName>,
    ) -> BTreeSet<ServicePortName> {
        self.update_and_tell(snapshot, changed).into_keys().collect()
    }

    /// As [`ServicePlan::update`], with what each of them was before: none for those that came.
    pub fn update_and_tell(
        &mut self,
        snapshot: &Snapshot,
        changed: &BTreeSet<ServiceName>,
    ) -> BTreeMap<ServicePortName, Option<Arc<PortPlan>>> {
        let mut before = BTreeMap::new();
        let mut contested = BTreeSet::new();
        for service in changed {
            self.withdraw(service, &mut before, &mut contested);
        }
        for service in changed {
            self.enter(snapshot, service, &mut before, &mut contested);
        }
        self.settle(contested, &mut before);
        before.retain(|name, old| self.is_changed(name, old.as_ref()));
        before
    }

    fn withdraw(
        &mut self,
        service: &ServiceName,
        before: &mut Before,
        contested: &mut BTreeSet<ServicePortName>,
    ) {
        for name in self.port_names(service) {
            if let Some(old) = self.ports.remove(&name) {
                for frontend in old.wanted() {
                    contested.extend(self.claims.withdraw(frontend, &name));
                }
                before.insert(name, Some(old));
            }
        }
        self.health.remove(service);
        self.problems.remove(service);
    }

    fn enter(
        &mut self,
        snapshot: &Snapshot,
        service: &ServiceName,
        before: &mut Before,
        contested: &mut BTreeSet<ServicePortName>,
    ) {
        let Some(drafts) = port::drafts(snapshot, &self.site, service) else { return };
        for draft in drafts.ports {
            for frontend in draft.wanted() {
                contested.extend(self.claims.enter(frontend, &draft.name));
            }
            contested.insert(draft.name.clone());
            before.entry(draft.name.clone()).or_insert(None);
            self.ports.insert(draft.name.clone(), Arc::new(draft));
        }
        self.health.extend(drafts.health.map(|health| (service.clone(), health)));
        if !drafts.problems.is_empty() {
            self.problems.insert(service.clone(), drafts.problems);
        }
    }

    /// Tells those whose frontends were contested what they have won and lost.
    fn settle(&mut self, contested: BTreeSet<ServicePortName>, before: &mut Before) {
        for name in contested {
            let Some(port) = self.ports.get_mut(&name) else { continue };
            if let Some(settled) = self.claims.settle(port) {
                before.entry(name).or_insert_with(|| Some(Arc::clone(port)));
                *port = Arc::new(settled);
            }
        }
    }

    /// Whether a port is planned otherwise than before. If not, the old value takes the place of its equal.
    fn is_changed(&mut self, name: &ServicePortName, old: Option<&Arc<PortPlan>>) -> bool {
        match (self.ports.get_mut(name), old) {
            (None, None) => false,
            (Some(new), Some(old)) if new == old => {
                *new = Arc::clone(old);
                false
            }
            _ => true,
        }
    }

    /// The names of a Service's ports.
    pub fn port_names(&self, service: &ServiceName) -> Vec<ServicePortName> {
        let first = ServicePortName { service: service.clone(), port: "".into(), protocol: Protocol::Tcp };
        let from = self.ports.range(first..).map(|(name, _)| name);
        from.take_while(|name| name.service == *service).cloned().collect()
    }
}

/// The plans of ports as they were, none for new ones.
type Before = BTreeMap<ServicePortName, Option<Arc<PortPlan>>>;
