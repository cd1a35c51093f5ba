//! Which recorded flows are stale: a UDP flow never ends while packets come, so it would keep an endpoint that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::claims::FrontendKind;
use super::port::PortPlan;
use super::{NodePorts, ServicePlan, Site};
use crate::state::{Protocol, ServicePortName};

/// Where a flow was first sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// The frontend's address; for a NodePort one of the node's.
    pub ip: IpAddr,
    /// The frontend's port.
    pub port: u16,
}

/// Flows to forget: those of `protocol` sent to any of `destinations` and answered by none of `serving`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// UDP or SCTP.
    pub protocol: Protocol,
    /// Sorted.
    pub destinations: Vec<Destination>,
    /// Who may go on answering; empty for a Service port that is gone.
    pub serving: BTreeSet<SocketAddr>,
}

/// What the kernel may still act by: the plans of Service ports as they were when it was last as planned. Gathered over
/// as many changes as it takes until a sync succeeds.
#[derive(Debug, Clone, Default)]
pub struct Former {
    sites: Vec<Site>,
    ports: BTreeMap<ServicePortName, Option<Arc<PortPlan>>>,
}

impl Former {
    /// That nothing is known: what a predecessor has recorded, or packets have before there were rules.
    pub fn unknown(new: &ServicePlan) -> Self {
        let names = new.ports.keys().filter(|name| name.protocol != Protocol::Tcp);
        Former { sites: Vec::new(), ports: names.map(|name| (name.clone(), None)).collect() }
    }

    /// Adds what [`ServicePlan::update_and_tell`] tells of a plan for `site`. What is known already is older, and stays.
    pub fn add(&mut self, site: &Site, before: BTreeMap<ServicePortName, Option<Arc<PortPlan>>>) {
        if before.keys().all(|name| name.protocol == Protocol::Tcp) {
            return;
        }
        if self.sites.last() != Some(site) {
            self.sites.push(site.clone());
        }
        for (name, port) in before.into_iter().filter(|(name, _)| name.protocol != Protocol::Tcp) {
            self.ports.entry(name).or_insert(port);
        }
    }

    /// Adds a whole plan whose place another one takes.
    pub fn add_plan(&mut self, old: &ServicePlan, new: &ServicePlan) {
        let mut before: BTreeMap<_, _> =
            old.ports.iter().map(|(name, port)| (name.clone(), Some(Arc::clone(port)))).collect();
        new.ports.keys().for_each(|name| {
            before.entry(name.clone()).or_insert(None);
        });
        self.add(&old.site, before);
    }

    /// What to forget once the kernel does what `new` says.
    pub fn stale(&self, new: &ServicePlan) -> Vec<Stale> {
        self.ports.iter().filter_map(|(name, before)| self.stale_of(name, before.as_deref(), new)).collect()
    }

    fn stale_of(
        &self,
        name: &ServicePortName,
        before: Option<&PortPlan>,
        new: &ServicePlan,
    ) -> Option<Stale> {
        let after = new.ports.get(name).map(Arc::as_ref);
        let serving = |port: Option<&PortPlan>| port.map(|p| p.serving.clone()).unwrap_or_default();
        let same =
            serving(before) == serving(after) && before.map(|p| &p.frontends) == after.map(|p| &p.frontends);
        if name.protocol == Protocol::Tcp || same {
            return None;
        }
        let old = self.sites.iter().flat_map(|site| before.map(|port| destinations(site, port)));
        let now = after.map(|port| destinations(&new.site, port));
        let mut destinations: Vec<Destination> = old.chain(now).flatten().collect();
        destinations.sort_unstable();
        destinations.dedup();
        let serving = serving(after).into_iter().collect();
        (!destinations.is_empty()).then_some(Stale { protocol: name.protocol, destinations, serving })
    }
}

/// What to forget once `new` is in place of `old`, for the Service ports in `changed`. TCP is left alone: to cut
/// connections is the endpoint's own business. Flows recorded before a Service port had rules are answered by its
/// frontend itself, which serves nobody, and so are forgotten too.
pub fn stale(old: &ServicePlan, new: &ServicePlan, changed: &BTreeSet<ServicePortName>) -> Vec<Stale> {
    let mut former = Former::default();
    former.add(&old.site, changed.iter().map(|name| (name.clone(), old.ports.get(name).cloned())).collect());
    former.stale(new)
}

impl Stale {
    /// Whether it is about a flow to `destination` that `server` answers.
    pub fn includes(&self, destination: SocketAddr, server: SocketAddr) -> bool {
        let destination = Destination { ip: destination.ip(), port: destination.port() };
        self.destinations.binary_search(&destination).is_ok() && !self.serving.contains(&server)
    }
}

fn destinations(site: &Site, port: &PortPlan) -> Vec<Destination> {
    let mut found = Vec::new();
    for frontend in &port.frontends {
        let ips: &[IpAddr] = match (&frontend.ip, frontend.kind, &site.node_ports) {
            (Some(ip), ..) => std::slice::from_ref(ip),
            (None, FrontendKind::NodePort, NodePorts::On(ips)) => ips,
            _ => &site.addresses,
        };
        found.extend(ips.iter().map(|ip| Destination { ip: *ip, port: frontend.port }));
    }
    found
}
