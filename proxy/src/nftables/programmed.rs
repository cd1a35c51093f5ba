//! What is programmed: pools, ways, and who shares which element.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::{Error, Result};

use super::diff::Diff;
use super::elements::Elements;
use super::layout::{Entry, Map};
use super::observe::Observed;
use super::pool::{Pool, PoolIds};
use super::render::{self, Programmed};
use super::spread::{Spread, Ways};
use crate::Family;
use crate::plan::{PortPlan, Scope, ServicePlan, Site};
use crate::state::ServicePortName;

/// The table as the last sync left it.
#[derive(Debug)]
pub(super) struct State {
    site: Site,
    ports: BTreeMap<ServicePortName, Programmed>,
    ids: PoolIds,
    ways: Ways,
    /// How many Service ports ask for an element that several may ask for.
    shared: BTreeMap<(Map, Box<[u8]>), u32>,
}

/// What a partial sync has to do.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) diff: Diff,
    /// Ways that are new.
    pub(super) spreads: Vec<(Spread, u32)>,
}

impl State {
    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    pub(super) fn ways(&self) -> impl Iterator<Item = (&Spread, u32)> {
        self.ways.iter()
    }

    /// Everything from scratch, with the pools and ways that there are already: of `former`, which knows whose they
    /// are, else those that frontends in the kernel lead to. Returns all elements too.
    pub(super) fn full(
        plan: &ServicePlan,
        former: Option<State>,
        observed: &Observed,
    ) -> Result<(Self, Elements)> {
        let mut state = State {
            site: plan.site.clone(),
            ports: BTreeMap::new(),
            ids: PoolIds::default(),
            ways: Ways::default(),
            shared: BTreeMap::new(),
        };
        // Before any are given out anew.
        let mut pools = Adoptable::new(former, observed, plan.site.family);
        let found: Vec<_> = match pools.is_empty() {
            true => Vec::new(),
            false => plan.ports.values().map(|port| pools.reserve(port, &mut state.ids)).collect(),
        };
        let mut found = found.into_iter();
        observed.spreads().for_each(|(way, spread)| state.ways.adopt(way, spread));
        for (name, port) in &plan.ports {
            let old = found.next().unwrap_or_default();
            let programmed = state.program(port, old).ok_or_else(too_many)?;
            state.ports.insert(name.clone(), programmed);
        }
        let used: BTreeSet<Spread> = state.ports.values().flat_map(Programmed::spreads).collect();
        state.ways.retain(|spread| used.contains(spread));
        let mut elements = Elements::default();
        elements.extend(render::of_site(&plan.site));
        for programmed in state.ports.values() {
            let entries = programmed.entries(&state.ways);
            for entry in entries.iter().filter(|entry| entry.map.is_shared()) {
                *state.shared.entry(share_of(entry)).or_default() += 1;
            }
            elements.extend(entries);
        }
        elements.sort(0);
        Ok((state, elements))
    }

    /// Takes over the plans of changed Service ports. None when there is no room left: a full sync may find some.
    pub(super) fn update(
        &mut self,
        plan: &ServicePlan,
        changed: &BTreeSet<ServicePortName>,
    ) -> Option<Changes> {
        let mut old = Vec::new();
        let mut new = Vec::new();
        let mut changes = Changes::default();
        for name in changed {
            let former = self.ports.remove(name);
            old.extend(former.iter().flat_map(|programmed| programmed.entries(&self.ways)));
            let pools = former.map(|programmed| [programmed.cluster, programmed.local]).unwrap_or_default();
            let Some(port) = plan.ports.get(name) else {
                pools.into_iter().flatten().for_each(|pool| self.ids.release(pool.id));
                continue;
            };
            let known: BTreeSet<Spread> = self.ways.iter().map(|(spread, _)| *spread).collect();
            let programmed = self.program(port, pools)?;
            let fresh = programmed.spreads().into_iter().filter(|spread| !known.contains(spread));
            changes.spreads.extend(fresh.filter_map(|spread| Some((spread, self.ways.find(&spread)?))));
            new.extend(programmed.entries(&self.ways));
            self.ports.insert(name.clone(), programmed);
        }
        changes.spreads.sort_unstable();
        changes.spreads.dedup();
        let (old, new) = (self.unshare(old), self.share(new));
        changes.diff = Diff::new(Elements::new(old), Elements::new(new));
        Some(changes)
    }

    fn program(&mut self, plan: &Arc<PortPlan>, old: [Option<Pool>; 2]) -> Option<Programmed> {
        let [cluster, local] = old;
        let is_sticky = render::is_sticky(plan);
        let programmed = Programmed {
            plan: Arc::clone(plan),
            cluster: self.place(render::wanted(plan, Scope::Cluster), cluster, is_sticky)?,
            local: self.place(render::wanted(plan, Scope::Local), local, is_sticky)?,
        };
        for spread in programmed.spreads() {
            self.ways.ensure(spread)?;
        }
        Some(programmed)
    }

    /// The outer none: no pool is free.
    #[allow(clippy::option_option, reason = "no pool wanted is not the same as none to be had")]
    fn place(
        &mut self,
        targets: Option<&[crate::plan::Target]>,
        old: Option<Pool>,
        is_sticky: bool,
    ) -> Option<Option<Pool>> {
        let Some(targets) = targets else {
            old.into_iter().for_each(|pool| self.ids.release(pool.id));
            return Some(None);
        };
        let mut pool = match old {
            Some(pool) => pool,
            None => Pool { id: self.ids.take()?, ..Pool::default() },
        };
        pool.place(targets, is_sticky);
        Some(Some(pool))
    }

    /// Counts users down; what others still use does not go.
    fn unshare(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut leaving = Vec::new();
        for entry in entries {
            if entry.map.is_shared() {
                let key = share_of(&entry);
                let users = self.shared.get(&key).copied().unwrap_or(1).saturating_sub(1);
                if users > 0 {
                    self.shared.insert(key, users);
                    continue;
                }
                self.shared.remove(&key);
            }
            leaving.push(entry);
        }
        leaving
    }

    /// Counts users up; what others use already does not come.
    fn share(&mut self, entries: Vec<Entry>) -> Vec<Entry> {
        let mut coming = Vec::new();
        for entry in entries {
            if entry.map.is_shared() {
                let users = self.shared.entry(share_of(&entry)).or_default();
                *users += 1;
                if *users > 1 {
                    continue;
                }
            }
            coming.push(entry);
        }
        coming
    }
}

fn share_of(entry: &Entry) -> (Map, Box<[u8]>) {
    (entry.map, entry.element.key.as_slice().into())
}

fn too_many() -> Error {
    Error::Malformed {
        doing: "program Services with nftables".into(),
        why: "there are more than a million pools, or a thousand different numbers of endpoints",
    }
}

/// Pools that are there already.
struct Adoptable<'a> {
    of_former: BTreeMap<ServicePortName, Programmed>,
    of_kernel: BTreeMap<u32, Pool>,
    observed: &'a Observed,
}

impl<'a> Adoptable<'a> {
    fn new(former: Option<State>, observed: &'a Observed, family: Family) -> Self {
        let of_kernel = if former.is_none() { observed.pools(family) } else { BTreeMap::new() };
        let of_former = former.map(|state| state.ports).unwrap_or_default();
        Adoptable { of_former, of_kernel, observed }
    }

    fn is_empty(&self) -> bool {
        self.of_former.is_empty() && self.of_kernel.is_empty()
    }

    /// Finds the pools of a Service port.
    fn reserve(&mut self, port: &PortPlan, ids: &mut PoolIds) -> [Option<Pool>; 2] {
        let pools = match self.of_former.remove(&port.name) {
            Some(former) => [former.cluster, former.local],
            None => self.of_kernel(port),
        };
        pools.map(|pool| pool.filter(|pool| ids.claim(pool.id)))
    }

    /// Which of a port's pools is which is told by what is in them: the nearer the better.
    fn of_kernel(&mut self, port: &PortPlan) -> [Option<Pool>; 2] {
        if self.of_kernel.is_empty() {
            return [None, None];
        }
        let had = self.observed.pools_of(port);
        let mut left: Vec<Pool> = had.into_iter().filter_map(|id| self.of_kernel.remove(&id)).collect();
        [Scope::Cluster, Scope::Local].map(|scope| {
            let targets = render::wanted(port, scope)?;
            let strange = |pool: &Pool| {
                let known = |a: &&std::net::SocketAddr| targets.iter().any(|t| t.address == **a);
                let same = pool.slots.iter().filter(known).count();
                pool.slots.len() + targets.len() - 2 * same.min(targets.len())
            };
            let nearest = (0..left.len()).min_by_key(|index| strange(&left[*index]))?;
            Some(left.swap_remove(nearest))
        })
    }
}
