//! Which recorded flows are stale: a UDP flow never ends while packets come, so it would keep an endpoint that is gone.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::claims::FrontendKind;
use super::port::PortPlan;
use super::{NodePorts, ServicePlan};
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

/// What to forget once `new` is in place of `old`, for the Service ports in `changed`. TCP is left alone: to cut
/// connections is the endpoint's own business. Flows recorded before a Service port had rules are answered by its
/// frontend itself, which serves nobody, and so are forgotten too.
pub fn stale(old: &ServicePlan, new: &ServicePlan, changed: &BTreeSet<ServicePortName>) -> Vec<Stale> {
    let of_change = |name: &ServicePortName| {
        let (before, after) = (old.ports.get(name), new.ports.get(name));
        let serving =
            |port: Option<&std::sync::Arc<PortPlan>>| port.map(|p| p.serving.clone()).unwrap_or_default();
        let mut destinations: Vec<Destination> = [(old, before), (new, after)]
            .into_iter()
            .flat_map(|(plan, port)| port.into_iter().flat_map(|port| destinations(plan, port)))
            .collect();
        destinations.sort_unstable();
        destinations.dedup();
        let same =
            serving(before) == serving(after) && before.map(|p| &p.frontends) == after.map(|p| &p.frontends);
        (!same && !destinations.is_empty()).then(|| Stale {
            protocol: name.protocol,
            destinations,
            serving: serving(after).into_iter().collect(),
        })
    };
    changed.iter().filter(|name| name.protocol != Protocol::Tcp).filter_map(of_change).collect()
}

impl Stale {
    /// Whether it is about a flow to `destination` that `server` answers.
    pub fn includes(&self, destination: SocketAddr, server: SocketAddr) -> bool {
        let destination = Destination { ip: destination.ip(), port: destination.port() };
        self.destinations.binary_search(&destination).is_ok() && !self.serving.contains(&server)
    }
}

fn destinations(plan: &ServicePlan, port: &PortPlan) -> Vec<Destination> {
    let mut found = Vec::new();
    for frontend in &port.frontends {
        let ips: &[IpAddr] = match (&frontend.ip, frontend.kind, &plan.site.node_ports) {
            (Some(ip), ..) => std::slice::from_ref(ip),
            (None, FrontendKind::NodePort, NodePorts::On(ips)) => ips,
            _ => &plan.site.addresses,
        };
        found.extend(ips.iter().map(|ip| Destination { ip: *ip, port: frontend.port }));
    }
    found
}
