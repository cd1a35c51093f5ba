//! One Service port: its frontends, its endpoints, and what everybody gets.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use kernel::ipvs::Scheduler;

use super::HealthCheck;
use super::access::{Access, Action, Scope};
use super::choice::{self, Needs, Target};
use super::claims::{Frontend, FrontendKind};
use super::settings::{Site, outermost};
use crate::Family;
use crate::state::{
    IngressMode, Policy, Protocol, SCHEDULER_ANNOTATION, Service, ServiceKind, ServiceName, ServicePort,
    ServicePortName, Snapshot,
};

/// A frontend that another Service port has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What was wanted.
    pub frontend: Frontend,
    /// Whose it is.
    pub to: ServicePortName,
}

/// The plan of one Service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortPlan {
    /// Its name.
    pub name: ServicePortName,
    /// Where clients connect, sorted.
    pub frontends: Vec<Frontend>,
    /// Where they would, if it were not another's.
    pub lost: Vec<Lost>,
    /// What is given through the ClusterIP.
    pub internal: Access,
    /// What is given through any other frontend.
    pub external: Access,
    /// The endpoints of [`Scope::Cluster`], sorted; empty where no sender gets them.
    pub cluster: Vec<Target>,
    /// The endpoints of [`Scope::Local`], sorted; empty where no sender gets them.
    pub local: Vec<Target>,
    /// How long a client stays with its endpoint after its last new connection.
    pub affinity: Option<Duration>,
    /// Who may use the load balancer's IPs, none within another; none is everybody. Others are dropped, whatever
    /// else the plan says.
    pub sources: Option<Vec<IpNetwork>>,
    /// Every endpoint that serves, sorted: flows to others are stale. Empty for TCP, whose connections end by themselves.
    pub serving: Vec<SocketAddr>,
    /// By what IPVS chooses; none is the administrator's choice. Other dataplanes take no notice.
    pub scheduler: Option<Scheduler>,
}

impl PortPlan {
    /// Every frontend, won or lost.
    pub fn wanted(&self) -> impl Iterator<Item = Frontend> + use<'_> {
        self.frontends.iter().copied().chain(self.lost.iter().map(|lost| lost.frontend))
    }

    /// The endpoints of a scope.
    pub fn targets(&self, scope: Scope) -> &[Target] {
        match scope {
            Scope::Cluster => &self.cluster,
            Scope::Local => &self.local,
        }
    }

    /// What is given through a kind of frontend.
    pub fn access(&self, kind: FrontendKind) -> &Access {
        if kind == FrontendKind::ClusterIp { &self.internal } else { &self.external }
    }

    /// The actions of all senders through all frontends that there are.
    pub fn actions(&self) -> impl Iterator<Item = Action> + use<'_> {
        let accesses = self.frontends.iter().map(|frontend| self.access(frontend.kind));
        accesses.flat_map(|access| [access.pod, access.node, access.outside])
    }
}

/// The ports of one Service before their frontends are compared with those of others.
pub(super) struct Drafts {
    pub(super) ports: Vec<PortPlan>,
    pub(super) health: Option<HealthCheck>,
    pub(super) problems: Vec<String>,
}

/// What a Service asks for; none when there is nothing for a proxy in this family.
pub(super) fn drafts(snapshot: &Snapshot, site: &Site, name: &ServiceName) -> Option<Drafts> {
    let service = snapshot.service(name).filter(|service| service.is_ours())?;
    let cluster_ip = (*service.cluster_ips.of(site.family))?;
    let mut drafts = Drafts { ports: Vec::new(), health: None, problems: Vec::new() };
    if !is_frontend(cluster_ip) {
        drafts.problems.push(format!("{name}: clusterIPs: {cluster_ip} can't be a Service's address"));
        return Some(drafts);
    }
    let shape = Shape::of(service, site, cluster_ip, &mut drafts.problems);
    let mut names = BTreeSet::new();
    let mut local_ips = BTreeSet::new();
    for port in &service.ports {
        let name =
            ServicePortName { service: name.clone(), port: port.name.clone(), protocol: port.protocol };
        if port.port == 0 || !names.insert(name.clone()) {
            drafts
                .problems
                .push(format!("{name}: ports: {} is no port, or its name is there twice", port.port));
            continue;
        }
        let endpoints =
            choice::gather(snapshot.slices_of(&name.service), &port.name, port.protocol, site.family);
        let is_here = |node: &Option<_>| node.as_ref() == Some(&site.node);
        local_ips.extend(endpoints.iter().filter(|(_, e)| e.ready && is_here(&e.node)).map(|(a, _)| a.ip()));
        drafts.ports.push(draft(service, port, (name, &shape, site), &endpoints));
    }
    report_unusable(snapshot, site.family, name, &mut drafts.problems);
    drafts.health = health_check(service, local_ips.len(), &mut drafts.problems);
    Some(drafts)
}

fn report_unusable(snapshot: &Snapshot, family: Family, name: &ServiceName, problems: &mut Vec<String>) {
    let slices = snapshot.slices_of(name).filter(|slice| slice.family == family && !slice.is_headless);
    let ips: BTreeSet<IpAddr> = slices.flat_map(|slice| slice.endpoints.iter().map(|e| e.ip)).collect();
    let unusable = ips.into_iter().filter(|ip| !choice::is_usable(*ip, family));
    problems.extend(unusable.map(|ip| format!("{name}: endpoints: {ip} can't be an endpoint's address")));
}

fn health_check(service: &Service, endpoints: usize, problems: &mut Vec<String>) -> Option<HealthCheck> {
    if service.kind != ServiceKind::LoadBalancer || service.external_policy != Policy::Local {
        return None;
    }
    if service.health_check_node_port == 0 {
        problems.push(format!(
            "{}: healthCheckNodePort: is 0, so its load balancer can't ask which nodes have endpoints",
            service.name
        ));
        return None;
    }
    Some(HealthCheck { port: service.health_check_node_port, endpoints })
}

/// What all ports of a Service share in one family.
struct Shape {
    cluster_ip: IpAddr,
    external_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    external_policy: Policy,
    sources: Option<Vec<IpNetwork>>,
    scheduler: Option<Scheduler>,
}

impl Shape {
    fn of(service: &Service, site: &Site, cluster_ip: IpAddr, problems: &mut Vec<String>) -> Self {
        let mut usable = |key: &str, ips: Vec<IpAddr>| {
            let mut kept: Vec<IpAddr> = Vec::new();
            for ip in ips.into_iter().filter(|ip| Family::of(*ip) == site.family) {
                if !is_frontend(ip) {
                    problems.push(format!("{}: {key}: {ip} can't be a Service's address", service.name));
                } else if !kept.contains(&ip) {
                    kept.push(ip);
                }
            }
            kept
        };
        let wanted = if site.serves_external_ips { service.external_ips.clone() } else { Vec::new() };
        let external_ips = usable("externalIPs", wanted);
        let ingress = service.ingress.iter().filter(|ingress| ingress.mode == IngressMode::Vip);
        let load_balancer_ips = usable("status.loadBalancer", ingress.map(|ingress| ingress.ip).collect());
        let is_external = match service.kind {
            ServiceKind::NodePort | ServiceKind::LoadBalancer => true,
            _ => !service.external_ips.is_empty(),
        };
        let external_policy = if is_external { service.external_policy } else { Policy::Cluster };
        let sources = sources(service, site, &load_balancer_ips);
        let scheduler = scheduler(service, problems);
        Shape { cluster_ip, external_ips, load_balancer_ips, external_policy, sources, scheduler }
    }

    fn frontends(&self, port: &ServicePort) -> Vec<Frontend> {
        let mut frontends: Vec<Frontend> = Vec::new();
        let mut add = |kind, ip: Option<IpAddr>, port| {
            if !frontends.iter().any(|other| (other.ip, other.port) == (ip, port)) {
                frontends.push(Frontend { kind, ip, port });
            }
        };
        add(FrontendKind::ClusterIp, Some(self.cluster_ip), port.port);
        if port.node_port != 0 {
            add(FrontendKind::NodePort, None, port.node_port);
        }
        self.load_balancer_ips.iter().for_each(|ip| add(FrontendKind::LoadBalancerIp, Some(*ip), port.port));
        self.external_ips.iter().for_each(|ip| add(FrontendKind::ExternalIp, Some(*ip), port.port));
        frontends.shrink_to_fit();
        frontends
    }
}

/// Who may use the load balancer's IPs. Where this node may, its connections come from those IPs themselves if they
/// are addresses of the node, so these may too.
fn sources(service: &Service, site: &Site, load_balancer_ips: &[IpAddr]) -> Option<Vec<IpNetwork>> {
    let ranges = outermost(service.source_ranges.iter().copied(), site.family);
    if ranges.is_empty() || ranges.iter().any(|range| range.prefix() == 0) {
        return None;
    }
    let node_may = site.node_ip.is_some_and(|ip| ranges.iter().any(|range| range.contains(ip)));
    let own = load_balancer_ips.iter().filter(|_| node_may).map(|ip| IpNetwork::from(*ip));
    Some(outermost(ranges.into_iter().chain(own), site.family))
}

fn draft(
    service: &Service,
    port: &ServicePort,
    (name, shape, site): (ServicePortName, &Shape, &Site),
    endpoints: &std::collections::BTreeMap<SocketAddr, &crate::state::Endpoint>,
) -> PortPlan {
    let frontends = shape.frontends(port);
    let is_external = frontends.len() > 1;
    let needs = Needs {
        cluster: service.internal_policy == Policy::Cluster || is_external,
        local: service.internal_policy == Policy::Local
            || (shape.external_policy == Policy::Local && is_external),
    };
    let choice = choice::choose(endpoints, site, needs);
    PortPlan {
        name,
        frontends,
        lost: Vec::new(),
        internal: Access::internal(site, service.internal_policy, &choice),
        external: Access::external(site, shape.external_policy, &choice),
        cluster: choice.cluster,
        local: choice.local,
        affinity: service.affinity.filter(|timeout| !timeout.is_zero()),
        sources: shape.sources.clone(),
        serving: if port.protocol == Protocol::Tcp { Vec::new() } else { choice.serving },
        scheduler: shape.scheduler,
    }
}

fn scheduler(service: &Service, problems: &mut Vec<String>) -> Option<Scheduler> {
    let name = &*service.scheduler;
    let known = Scheduler::named(name);
    if known.is_none() && !name.is_empty() {
        problems.push(format!(
            "{}: annotation {SCHEDULER_ANNOTATION}: `{}` is no scheduler of IPVS, so the default is used",
            service.name,
            name.chars().take(32).collect::<String>()
        ));
    }
    known
}

/// Whether an address can be a frontend: capturing these would cut off the node itself.
fn is_frontend(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
}
