//! What is programmed: whose plans, and who shares which element.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use kernel::ipvs::{Key, Scheduler};
use kernel::link::LinkId;
use kernel::nft::Element;

use super::layout::{At, Elements, Map, Which, entry};
use super::steps::Desired;
use super::translate::{Terms, of_health, translate};
use crate::plan::{PortPlan, ServicePlan};
use crate::state::ServicePortName;

/// Everything as the last sync left it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) terms: Terms,
    /// Schedulers that this kernel has.
    pub(super) known: BTreeSet<Scheduler>,
    pub(super) link: LinkId,
    /// Virtual servers that no plan asks for, with connections that have not ended.
    pub(super) lingering: BTreeSet<Key>,
    /// The link's addresses.
    pub(super) present: BTreeSet<IpAddr>,
    /// Those of them that only `lingering` needs.
    pub(super) leaving: BTreeSet<IpAddr>,
    ports: BTreeMap<ServicePortName, Arc<PortPlan>>,
    /// How many Service ports ask for an element that several may ask for.
    shared: BTreeMap<Which, u32>,
    health: Elements,
}

/// What a partial sync compares.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) desired: Desired,
    pub(super) old: Elements,
    pub(super) new: Elements,
}

impl State {
    /// Everything from scratch, with all virtual servers and elements.
    pub(super) fn full(
        plan: &ServicePlan,
        terms: Terms,
        (known, link): (BTreeSet<Scheduler>, LinkId),
    ) -> (Self, Desired, Elements) {
        let mut state = State {
            terms,
            known,
            link,
            lingering: BTreeSet::new(),
            present: BTreeSet::new(),
            leaving: BTreeSet::new(),
            ports: plan.ports.clone(),
            shared: BTreeMap::new(),
            health: of_health(plan),
        };
        let mut desired = Desired::new();
        let mut elements = state.health.clone();
        elements.extend(state.terms.of_site());
        for port in plan.ports.values() {
            let translation = translate(port, &state.terms);
            desired.extend(translation.servers.into_iter().map(|(key, server)| (key, Some(server))));
            state.share(translation.elements, &mut elements);
        }
        (state, desired, elements)
    }

    /// Takes over the plans of changed Service ports. None when only a full sync will do: where who has which NodePort
    /// changes, and where a scheduler is new.
    pub(super) fn update(
        &mut self,
        plan: &ServicePlan,
        changed: &BTreeSet<ServicePortName>,
    ) -> Option<Changes> {
        let mut changes = Changes::default();
        for name in changed {
            let (old, new) = (self.ports.get(name).cloned(), plan.ports.get(name));
            let takes = |port: &Arc<PortPlan>| self.terms.takes(port);
            if old.as_ref().map(takes).unwrap_or_default() != new.map(takes).unwrap_or_default()
                || new.and_then(|port| port.scheduler).is_some_and(|s| !self.is_settled(s))
            {
                return None;
            }
        }
        let mut former = BTreeMap::new();
        for name in changed {
            if let Some(old) = self.ports.remove(name) {
                let translation = translate(&old, &self.terms);
                changes.desired.extend(translation.servers.keys().map(|key| (*key, None)));
                former.extend(translation.servers);
                self.unshare(translation.elements, &mut changes.old);
            }
        }
        for port in changed.iter().filter_map(|name| plan.ports.get(name)) {
            self.ports.insert(port.name.clone(), Arc::clone(port));
            let translation = translate(port, &self.terms);
            let servers = translation.servers.into_iter().map(|(key, server)| (key, Some(server)));
            changes.desired.extend(servers);
            self.share(translation.elements, &mut changes.new);
        }
        changes.desired.retain(|key, server| former.get(key) != server.as_ref());
        let health = of_health(plan);
        changes.old.extend(std::mem::replace(&mut self.health, health.clone()));
        changes.new.extend(health);
        Some(changes)
    }

    /// Whether any plan needs this address on the link.
    pub(super) fn needs(&self, ip: IpAddr) -> bool {
        let (which, _) = entry(Map::Addresses, Element::new(&[ip.into()]));
        self.shared.contains_key(&which)
    }

    /// What `leaving` should be.
    pub(super) fn should_leave(&self) -> BTreeSet<IpAddr> {
        let ips = self.lingering.iter().filter_map(|key| At::of(*key)).map(|at| at.ip());
        ips.filter(|ip| self.present.contains(ip) && !self.needs(*ip)).collect()
    }

    fn is_settled(&self, scheduler: Scheduler) -> bool {
        self.known.contains(&scheduler) || self.terms.missing.contains(&scheduler)
    }

    /// Adds elements; of those that are shared, the first claims.
    fn share(&mut self, elements: Elements, to: &mut Elements) {
        for (which, element) in elements {
            if !which.0.is_shared() {
                to.insert(which, element);
                continue;
            }
            let count = self.shared.entry(which.clone()).or_default();
            *count += 1;
            if *count == 1 {
                to.insert(which, element);
            }
        }
    }

    /// Adds elements that go; of those that are shared, the last claims.
    fn unshare(&mut self, elements: Elements, to: &mut Elements) {
        for (which, element) in elements {
            if which.0.is_shared() {
                let count = self.shared.get_mut(&which);
                let left = count.map_or(0, |count| {
                    *count = count.saturating_sub(1);
                    *count
                });
                if left > 0 {
                    continue;
                }
                self.shared.remove(&which);
            }
            to.insert(which, element);
        }
    }
}

/// The addresses in one of the sets that have nothing else.
pub(super) fn addresses(map: Map, elements: &Elements) -> impl Iterator<Item = IpAddr> {
    elements.keys().filter(move |which| which.0 == map).filter_map(|which| ip(&which.1))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}
