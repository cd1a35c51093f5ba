//! From the plan of a Service port to elements.

use std::net::IpAddr;
use std::sync::Arc;

use kernel::nft::{Element, Value};

use super::layout::{Entry, Map};
use super::pool::{Pool, STICKY_MOST};
use super::spread::{BY_SOURCE, DROP, Masquerade, REJECT, Spread, Ways};
use crate::plan::{Access, Action, FrontendKind, NodePorts, PortPlan, Scope, Site, Target};

/// A Service port as it is programmed.
#[derive(Debug, Clone)]
pub(super) struct Programmed {
    pub(super) plan: Arc<PortPlan>,
    pub(super) cluster: Option<Pool>,
    pub(super) local: Option<Pool>,
}

/// What a frontend's way is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Fixed(u32),
    Spread(Scope, Spread),
    BySource,
}

/// Whether clients of the port are remembered.
pub(super) fn is_sticky(plan: &PortPlan) -> bool {
    plan.affinity.is_some() && plan.cluster.len().max(plan.local.len()) <= STICKY_MOST
}

/// Whether any frontend leads to this scope.
pub(super) fn uses(plan: &PortPlan, scope: Scope) -> bool {
    plan.actions().any(|action| matches!(action, Action::Balance { scope: of, .. } if of == scope))
}

impl Programmed {
    /// Every spread that its frontends lead to.
    pub(super) fn spreads(&self) -> Vec<Spread> {
        let mut found = Vec::new();
        for access in self.accesses() {
            match self.way(access) {
                Way::Spread(_, spread) => found.push(spread),
                Way::BySource => found.extend(
                    [Scope::Cluster, Scope::Local].map(|scope| self.spread(scope, Masquerade::Nobody)),
                ),
                Way::Fixed(_) => {}
            }
        }
        found.retain(|spread| spread.size > 0);
        found
    }

    /// Every element, in no particular order. Needs the ways of [`Programmed::spreads`].
    pub(super) fn entries(&self, ways: &Ways) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.add_frontends(ways, &mut entries);
        self.add_sources(&mut entries);
        for pool in [&self.cluster, &self.local].into_iter().flatten() {
            add_pool(pool, is_sticky(&self.plan), &mut entries);
        }
        let targets = self.plan.cluster.iter().chain(&self.plan.local);
        let mut local: Vec<IpAddr> = targets.filter(|t| t.is_local).map(|t| t.address.ip()).collect();
        local.sort_unstable();
        local.dedup();
        entries
            .extend(local.into_iter().map(|ip| entry(Map::Hairpins, Element::new(&[ip.into(), ip.into()]))));
        entries
    }

    fn add_frontends(&self, ways: &Ways, entries: &mut Vec<Entry>) {
        let proto = Value::Proto(self.plan.name.protocol.number());
        let mut split = false;
        for frontend in &self.plan.frontends {
            let way = self.way(self.plan.access(frontend.kind));
            split |= way == Way::BySource;
            let number = [Value::ClassId(self.number(way, ways))];
            let port = Value::Port(frontend.port);
            let comment = format!("{} {}", self.plan.name, frontend.kind);
            let (map, element) = match frontend.ip {
                Some(ip) => (Map::Frontends, Element::new(&[ip.into(), proto, port])),
                None => (Map::NodePorts, Element::new(&[proto, port])),
            };
            entries.push(entry(map, element.to(&number).comment(comment)));
            if let (FrontendKind::ClusterIp, Some(ip)) = (frontend.kind, frontend.ip) {
                entries.push(entry(Map::ClusterIps, Element::new(&[ip.into()])));
            }
        }
        if split {
            let access = &self.plan.external;
            let key = [Value::ClassId(self.base(Scope::Cluster))];
            for (map, action) in [(Map::Inside, access.node), (Map::Outside, access.outside)] {
                let way = self.plain(action);
                let to = [Value::ClassId(self.number(way, ways))];
                entries.push(entry(map, Element::new(&key).to(&to).comment(self.plan.name.to_string())));
            }
        }
    }

    fn add_sources(&self, entries: &mut Vec<Entry>) {
        let Some(sources) = &self.plan.sources else { return };
        let proto = Value::Proto(self.plan.name.protocol.number());
        for frontend in self.plan.frontends.iter().filter(|f| f.kind == FrontendKind::LoadBalancerIp) {
            let Some(ip) = frontend.ip else { continue };
            let key = [ip.into(), proto, Value::Port(frontend.port)];
            entries.push(entry(Map::Ranged, Element::new(&key)));
            for range in sources {
                let with = |client: IpAddr| [key[0], key[1], key[2], client.into()];
                let interval = Element::interval(&with(range.network()), &with(range.broadcast()));
                entries.push(entry(Map::Allowed, interval));
            }
        }
    }

    fn accesses(&self) -> impl Iterator<Item = &Access> {
        self.plan.frontends.iter().map(|frontend| self.plan.access(frontend.kind))
    }

    fn way(&self, access: &Access) -> Way {
        let Access { pod, node, outside } = *access;
        if pod == node && node == outside {
            return match pod {
                Action::Balance { scope, masquerade: true } => {
                    Way::Spread(scope, self.spread(scope, Masquerade::Everybody))
                }
                other => self.plain(other),
            };
        }
        match (pod, node, outside) {
            (
                Action::Balance { scope, masquerade: false },
                Action::Balance { scope: of_node, masquerade: true },
                Action::Balance { scope: of_others, masquerade: true },
            ) if scope == of_node && scope == of_others => {
                Way::Spread(scope, self.spread(scope, Masquerade::AllButPods))
            }
            _ => Way::BySource,
        }
    }

    /// An action whose masquerading has been decided before.
    fn plain(&self, action: Action) -> Way {
        match action {
            Action::Reject => Way::Fixed(REJECT),
            Action::Drop => Way::Fixed(DROP),
            Action::Balance { scope, .. } => Way::Spread(scope, self.spread(scope, Masquerade::Nobody)),
        }
    }

    fn spread(&self, scope: Scope, masquerade: Masquerade) -> Spread {
        let size = u32::try_from(self.plan.targets(scope).len()).unwrap_or(u32::MAX);
        let seconds = self.plan.affinity.filter(|_| is_sticky(&self.plan)).map_or(0, |t| t.as_secs().max(1));
        Spread { masquerade, size, timeout: u32::try_from(seconds).unwrap_or(u32::MAX) }
    }

    fn base(&self, scope: Scope) -> u32 {
        let pool = match scope {
            Scope::Cluster => &self.cluster,
            Scope::Local => &self.local,
        };
        pool.as_ref().map_or(0, Pool::base)
    }

    fn number(&self, way: Way, ways: &Ways) -> u32 {
        match way {
            Way::Fixed(way) => way,
            Way::BySource => self.base(Scope::Cluster) | BY_SOURCE,
            Way::Spread(scope, spread) => self.base(scope) | ways.find(&spread).unwrap_or(REJECT),
        }
    }
}

/// The elements that follow from the site.
pub(super) fn of_site(site: &Site) -> Vec<Entry> {
    match &site.node_ports {
        NodePorts::Everywhere => Vec::new(),
        NodePorts::On(ips) => {
            ips.iter().map(|ip| entry(Map::NodePortAddresses, Element::new(&[(*ip).into()]))).collect()
        }
    }
}

fn add_pool(pool: &Pool, is_sticky: bool, entries: &mut Vec<Entry>) {
    let base = pool.base();
    for (slot, address) in (0..).zip(&pool.slots) {
        let key = [Value::ClassId(base), Value::Mark(slot)];
        let endpoint = [address.ip().into(), Value::Port(address.port())];
        if !is_sticky {
            entries.push(entry(Map::Endpoints, Element::new(&key).to(&endpoint)));
            continue;
        }
        let number = [Value::ClassId(base | pool.numbers.get(address).copied().unwrap_or(0))];
        entries.push(entry(Map::Slots, Element::new(&key).to(&number)));
        entries.push(entry(Map::Numbers, Element::new(&number).to(&endpoint)));
    }
}

fn entry(map: Map, element: Element) -> Entry {
    Entry { map, element }
}

/// The targets of a scope, if anybody gets them.
pub(super) fn wanted(plan: &PortPlan, scope: Scope) -> Option<&[Target]> {
    uses(plan, scope).then(|| plan.targets(scope))
}
