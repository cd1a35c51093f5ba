//! What can be counted and complained of in a plan. A walk through all of it, so it is made when things have calmed down.

use proxy::ServicePlan;
use proxy::plan::{Action, PortPlan};

/// That many Services with problems are named.
const NAMED: usize = 20;

/// Numbers and problems of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Service ports.
    pub ports: usize,
    /// Those with internal policy Local that drop, although there are endpoints elsewhere.
    pub no_local_internal: usize,
    /// The same for the external policy.
    pub no_local_external: usize,
    /// What is wrong with Services, one sentence each.
    pub problems: Vec<String>,
}

impl Census {
    /// Counts.
    pub fn of(plan: &ServicePlan) -> Self {
        let mut census = Census { ports: plan.ports.len(), ..Census::default() };
        let mut problems: Vec<String> = plan.problems.values().flatten().cloned().collect();
        for port in plan.ports.values() {
            census.no_local_internal += usize::from(port.internal.outside == Action::Drop);
            census.no_local_external +=
                usize::from(has_external(port) && port.external.outside == Action::Drop);
            problems.extend(
                port.lost.iter().map(|lost| {
                    format!("{}: {} is not its own: {} has it", port.name, lost.frontend, lost.to)
                }),
            );
        }
        let more = problems.len().saturating_sub(NAMED);
        problems.truncate(NAMED);
        if more > 0 {
            problems.push(format!("{more} more {} problems of Services", plan.site.family));
        }
        census.problems = problems;
        census
    }
}

fn has_external(port: &PortPlan) -> bool {
    port.wanted().count() > 1
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proxy::state::{
        Endpoint, EndpointSlice, Policy, Protocol, Service, ServiceKind, ServiceName, ServicePort, SlicePort,
    };
    use proxy::{DualStack, Family, Settings, Snapshot};

    use super::*;

    fn counted(internal: Policy, external: Policy, node_port: u16, at: Option<&str>) -> (usize, usize) {
        let name = ServiceName::new("default", "web");
        let mut snapshot = Snapshot::default();
        let port = ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port };
        snapshot.set_service(Service {
            kind: ServiceKind::NodePort,
            cluster_ips: DualStack { v4: Some(IpAddr::from([10, 96, 0, 10])), v6: None },
            ports: vec![port],
            internal_policy: internal,
            external_policy: external,
            ..Service::new(name.clone())
        });
        let port = SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 };
        let endpoint =
            |node: &str| Endpoint { node: Some(node.into()), ..Endpoint::new(IpAddr::from([10, 244, 1, 2])) };
        let endpoints = at.map(endpoint).into_iter().collect();
        let slice = EndpointSlice { ports: vec![port], endpoints, ..EndpointSlice::new(name, Family::V4) };
        snapshot.set_slice("web-1", slice);
        let census = Census::of(&ServicePlan::new(&snapshot, &Settings::default(), Family::V4));
        (census.no_local_internal, census.no_local_external)
    }

    #[test]
    fn ports_without_an_endpoint_here_are_counted() {
        use Policy::{Cluster, Local};
        let there = Some("there");
        assert_eq!(counted(Local, Local, 30080, there), (1, 1));
        assert_eq!(counted(Cluster, Local, 30080, there), (0, 1));
        assert_eq!(counted(Local, Cluster, 30080, there), (1, 0));
        assert_eq!(counted(Cluster, Cluster, 30080, there), (0, 0));
        assert_eq!(counted(Local, Local, 0, there), (1, 0), "nobody outside can ask");
        assert_eq!(counted(Local, Local, 30080, None), (0, 0), "no endpoint anywhere is another matter");
        assert_eq!(counted(Local, Local, 30080, Some("")), (0, 0), "here");
    }
}
