//! From the plan of a Service port to virtual servers and elements. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;
use kernel::ipvs::{Destination, Forward, Key, Persistence, Scheduler, Service};
use kernel::nft::{Element, Value};

use super::layout::{At, Elements, Map, entry};
use crate::IpvsOptions;
use crate::plan::{
    Access, Action, Frontend, FrontendKind, NodePorts, PortPlan, Scope, ServicePlan, Site, outermost,
};

/// A virtual server with its destinations and their weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) service: Service,
    pub(super) destinations: BTreeMap<SocketAddr, u32>,
    /// Whether a destination that goes keeps its connections until they end.
    pub(super) drains: bool,
}

/// What a Service port needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Translation {
    pub(super) servers: BTreeMap<Key, Server>,
    pub(super) elements: Elements,
}

/// What all translations of a sync have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) site: Site,
    /// For Services that name none.
    pub(super) scheduler: Scheduler,
    /// Schedulers that this kernel lacks: the default takes their place.
    pub(super) missing: BTreeSet<Scheduler>,
    pub(super) excluded: Vec<IpNetwork>,
    /// Frontends with an address of this node: there the NodePort of the same number does not answer.
    pub(super) taken: BTreeSet<At>,
}

impl Terms {
    pub(super) fn of_plan(
        plan: &ServicePlan,
        options: &IpvsOptions,
        (scheduler, missing): (Scheduler, BTreeSet<Scheduler>),
    ) -> Self {
        let mut terms = Terms {
            site: plan.site.clone(),
            scheduler,
            missing,
            excluded: options.exclude_cidrs.clone(),
            taken: BTreeSet::new(),
        };
        terms.taken = plan.ports.values().flat_map(|port| terms.takes(port)).collect();
        terms
    }

    /// The elements that don't depend on Services.
    pub(super) fn of_site(&self) -> Elements {
        let excluded = outermost(self.excluded.iter().copied(), self.site.family);
        excluded.into_iter().map(|network| entry(Map::Excluded, Element::prefix(network))).collect()
    }

    /// Whether an address is somebody else's to serve.
    pub(super) fn excludes(&self, ip: IpAddr) -> bool {
        self.excluded.iter().any(|network| network.contains(ip))
    }

    /// Where NodePorts answer.
    fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let ips = match &self.site.node_ports {
            NodePorts::Everywhere => &self.site.addresses,
            NodePorts::On(ips) => ips,
        };
        let is_link_local = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        ips.iter().copied().filter(move |ip| !is_link_local(ip))
    }

    /// The frontends of `port` that have an address of this node.
    pub(super) fn takes(&self, port: &PortPlan) -> Vec<At> {
        let own = |frontend: &Frontend| frontend.ip.filter(|ip| self.site.addresses.contains(ip));
        let found = port.frontends.iter().filter_map(|f| Some((own(f)?, f.port)));
        found
            .map(|(ip, number)| At { address: SocketAddr::new(ip, number), protocol: port.name.protocol })
            .collect()
    }

    /// Whether `ip` belongs on our link: not an address that another one has.
    fn is_virtual(&self, ip: IpAddr) -> bool {
        !self.site.addresses.contains(&ip)
    }
}

/// The health check node ports.
pub(super) fn of_health(plan: &ServicePlan) -> Elements {
    let ports = plan.health.values().map(|health| Element::new(&[Value::Port(health.port)]));
    ports.map(|element| entry(Map::HealthChecks, element)).collect()
}

/// What one Service port needs.
pub(super) fn translate(port: &PortPlan, terms: &Terms) -> Translation {
    let mut translation = Translation::default();
    for frontend in &port.frontends {
        for at in terms.places(port, frontend) {
            translation.add_frontend(port, terms, (frontend.kind, at));
        }
    }
    if !translation.elements.is_empty() {
        translation.add_hairpins(port);
    }
    translation
}

impl Terms {
    /// Where a frontend is: a NodePort on each address that answers.
    fn places(&self, port: &PortPlan, frontend: &Frontend) -> Vec<At> {
        let at = |ip| At { address: SocketAddr::new(ip, frontend.port), protocol: port.name.protocol };
        let places: Vec<At> = match frontend.ip {
            Some(ip) => vec![at(ip)],
            None => self.node_addresses().map(at).filter(|at| !self.taken.contains(at)).collect(),
        };
        places.into_iter().filter(|at| !self.excludes(at.ip())).collect()
    }

    /// Where the virtual server of the ClusterIP is.
    fn cluster_ip(&self, port: &PortPlan) -> Option<At> {
        let frontend = port.frontends.iter().find(|frontend| frontend.kind == FrontendKind::ClusterIp)?;
        self.places(port, frontend).pop()
    }
}

/// Which endpoints a virtual server has, and who is sent to the one of the ClusterIP instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    None(Scope),
    Inside(Scope, At),
    Outside(Scope, At),
}

impl Translation {
    fn add_frontend(&mut self, port: &PortPlan, terms: &Terms, (kind, at): (FrontendKind, At)) {
        let access = port.access(kind);
        let comment = format!("{} {kind}", port.name);
        let mut add = |map, element: Element| self.elements.extend([entry(map, element)]);
        add(Map::Frontends, Element::new(&at.values()).comment(comment));
        if terms.is_virtual(at.ip()) {
            add(Map::Addresses, Element::new(&[at.ip().into()]));
        }
        for map in filters(access) {
            add(map, Element::new(&at.values()));
        }
        if let Some(sources) = port.sources.as_ref().filter(|_| kind == FrontendKind::LoadBalancerIp) {
            add(Map::Ranged, Element::new(&at.values()));
            let [ip, proto, number] = at.values();
            for range in sources {
                let with = |client: IpAddr| [ip, proto, number, client.into()];
                add(Map::Allowed, Element::interval(&with(range.network()), &with(range.broadcast())));
            }
        }
        let (scope, other) = match split(port, terms, access) {
            None => return,
            Some(Split::None(scope)) => (scope, None),
            Some(Split::Inside(scope, cluster_ip)) => (scope, Some((Map::Inside, cluster_ip))),
            Some(Split::Outside(scope, cluster_ip)) => (scope, Some((Map::Outside, cluster_ip))),
        };
        if let Some((map, cluster_ip)) = other {
            let to = [cluster_ip.ip().into(), Value::Port(cluster_ip.address.port())];
            add(map, Element::new(&at.values()).to(&to));
        }
        self.servers.insert(at.key(), server(port, terms, at, scope));
    }

    /// Endpoints of this node that may get what they sent themselves.
    fn add_hairpins(&mut self, port: &PortPlan) {
        let targets = port.cluster.iter().chain(&port.local).filter(|target| target.is_local);
        for ip in targets.map(|target| target.address.ip()) {
            self.elements.extend([entry(Map::Hairpins, Element::new(&[ip.into(), ip.into()]))]);
        }
    }
}

/// What is decided before IPVS sees the packet.
fn filters(access: &Access) -> Vec<Map> {
    let Access { pod, node, outside } = *access;
    if pod == node && node == outside && scope_of(pod).is_none() {
        return vec![if pod == Action::Drop { Map::Drop } else { Map::Reject }];
    }
    let is_masqueraded = |action| matches!(action, Action::Balance { masquerade: true, .. });
    let masquerade = match (is_masqueraded(pod), is_masqueraded(outside), is_masqueraded(node)) {
        (true, ..) => Some(Map::Masquerade),
        (_, true, _) => Some(Map::MasqueradeOthers),
        (.., true) => Some(Map::MasqueradeNode),
        _ => None,
    };
    let dropped = scope_of(outside).is_none().then_some(Map::DropOutside);
    masquerade.into_iter().chain(dropped).collect()
}

fn scope_of(action: Action) -> Option<Scope> {
    match action {
        Action::Balance { scope, .. } => Some(scope),
        Action::Reject | Action::Drop => None,
    }
}

/// None when nobody gets anything.
///
/// A virtual server has one list of destinations, but with external traffic policy Local those inside the cluster get
/// others than those outside. One of both always gets what the ClusterIP has: it is sent there.
fn split(port: &PortPlan, terms: &Terms, access: &Access) -> Option<Split> {
    let (inside, outside) = (scope_of(access.node), scope_of(access.outside));
    let (inside, outside) = match (inside, outside) {
        (Some(inside), Some(outside)) if inside != outside => (inside, outside),
        (one, other) => return one.or(other).map(Split::None),
    };
    let there = scope_of(port.internal.node);
    Some(match terms.cluster_ip(port) {
        Some(cluster_ip) if there == Some(inside) => Split::Inside(outside, cluster_ip),
        Some(cluster_ip) if there == Some(outside) => Split::Outside(inside, cluster_ip),
        // Another Service, or somebody excluded, has the ClusterIP: policy Local holds for everybody.
        _ => Split::None(outside),
    })
}

fn server(port: &PortPlan, terms: &Terms, at: At, scope: Scope) -> Server {
    let wanted = port.scheduler.filter(|scheduler| !terms.missing.contains(scheduler));
    let scheduler = wanted.unwrap_or(terms.scheduler);
    let persistence = port.affinity.map(|timeout| Persistence {
        timeout: Duration::from_secs(timeout.as_secs().clamp(1, u32::MAX.into())),
        prefix: terms.site.family.bits(),
    });
    let service = Service {
        key: at.key(),
        scheduler: scheduler.name().to_owned(),
        scheduler_flags: flags(scheduler),
        persistence,
        one_packet: false,
    };
    let weight = weight(scheduler);
    let destinations = port.targets(scope).iter().map(|target| (target.address, weight)).collect();
    // Clients whose hash leads to a destination of weight 0 would be refused until it has drained.
    let refuses = scheduler == Scheduler::DestinationHashing;
    let drains = at.protocol != crate::state::Protocol::Udp && !refuses;
    Server { service, destinations, drains }
}

/// A draining destination must not cost the clients that hash to it their connections. Maglev hashes the client's port
/// too, as with kube-proxy.
fn flags(scheduler: Scheduler) -> u32 {
    match scheduler {
        Scheduler::SourceHashing => Scheduler::FALLBACK,
        Scheduler::MaglevHashing => Scheduler::FALLBACK | Scheduler::PORT,
        _ => 0,
    }
}

/// All the same. To `ovf` it is how many connections a destination takes before others get some.
fn weight(scheduler: Scheduler) -> u32 {
    if scheduler == Scheduler::OverFlow { u32::from(u16::MAX) } else { 1 }
}

/// The destination that carries a weight.
pub(super) fn destination(address: SocketAddr, weight: u32) -> Destination {
    Destination { address, forward: Forward::Masquerade, weight, upper: 0, lower: 0 }
}
