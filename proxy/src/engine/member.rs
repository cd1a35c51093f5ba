//! One family: its plan, its dataplane, and what the kernel does not have yet.

use std::collections::BTreeSet;
use std::time::Instant;

use kernel::Result;
use kernel::netlink::{Protocol, Socket};

use super::{Depth, Synced};
use crate::conntrack::forget;
use crate::plan::{Former, Settings, Site};
use crate::state::{ServiceName, ServicePortName, Snapshot};
use crate::{Dataplane, Family, ServicePlan};

#[derive(Debug)]
pub(super) struct Member {
    family: Family,
    pub(super) dataplane: Box<dyn Dataplane>,
    /// Other modes' rules, to be removed once ours are in place.
    pub(super) leftovers: Vec<Box<dyn Dataplane>>,
    conntrack: Socket,
    pub(super) plan: Option<ServicePlan>,
    /// Services to be planned again.
    unplanned: BTreeSet<ServiceName>,
    /// Whether the site must be looked at again.
    is_site_open: bool,
    owed: Owed,
    former: Former,
}

/// What the kernel lacks of the plan.
#[derive(Debug, PartialEq, Eq)]
enum Owed {
    Parts(BTreeSet<ServicePortName>),
    Everything,
}

impl Member {
    pub(super) fn new(family: Family, dataplane: Box<dyn Dataplane>) -> Result<Self> {
        Ok(Member {
            family,
            dataplane,
            leftovers: Vec::new(),
            conntrack: Socket::open(Protocol::Netfilter)?,
            plan: None,
            unplanned: BTreeSet::new(),
            is_site_open: true,
            owed: Owed::Everything,
            former: Former::default(),
        })
    }

    /// Notes what is to be planned again.
    pub(super) fn mark(&mut self, services: &BTreeSet<ServiceName>, site: bool) {
        self.is_site_open |= site;
        // What there is no plan for is planned whole.
        if self.plan.is_some() {
            self.unplanned.extend(services.iter().cloned());
        }
    }

    pub(super) fn is_due(&self) -> bool {
        let nothing = Owed::Parts(BTreeSet::new());
        self.is_site_open || !self.unplanned.is_empty() || self.owed != nothing
    }

    pub(super) fn sync(&mut self, snapshot: &Snapshot, settings: &Settings, depth: Depth) -> Result<Synced> {
        let started = Instant::now();
        let plan = self.planned(snapshot, settings);
        let planning = started.elapsed();
        // Until it has succeeded everything is owed.
        let owed = std::mem::replace(&mut self.owed, Owed::Everything);
        let is_audit = depth == Depth::Everything && owed == Owed::Parts(BTreeSet::new());
        let outcome = match (&owed, depth) {
            (Owed::Parts(changed), Depth::Changes) => self.dataplane.sync(&plan, Some(changed)),
            _ => self.dataplane.sync(&plan, None),
        };
        let stale = self.former.stale(&plan);
        self.plan = Some(plan);
        let report = outcome?;
        self.owed = Owed::Parts(BTreeSet::new());
        self.former = Former::default();
        let started = Instant::now();
        let forgotten = (!stale.is_empty()).then(|| forget(&mut self.conntrack, self.family, &stale));
        let forgetting = started.elapsed();
        let repaired = if is_audit { report.elements } else { 0 };
        let removed = self.leftovers.drain(..).map(|mut other| (other.mode(), other.cleanup())).collect();
        Ok(Synced { report, planning, repaired, forgotten, forgetting, removed })
    }

    /// The plan as it should be now.
    fn planned(&mut self, snapshot: &Snapshot, settings: &Settings) -> ServicePlan {
        let unplanned = std::mem::take(&mut self.unplanned);
        let is_site_open = std::mem::take(&mut self.is_site_open);
        match self.plan.take() {
            Some(old) if is_site_open && old.site != Site::new(snapshot, settings, self.family) => {
                let new = ServicePlan::new(snapshot, settings, self.family);
                self.former.add_plan(&old, &new);
                self.owed = Owed::Everything;
                new
            }
            Some(mut plan) => {
                let before = plan.update_and_tell(snapshot, &unplanned);
                if let Owed::Parts(changed) = &mut self.owed {
                    changed.extend(before.keys().cloned());
                }
                self.former.add(&plan.site, before);
                plan
            }
            None => {
                let new = ServicePlan::new(snapshot, settings, self.family);
                self.former = Former::unknown(&new);
                self.owed = Owed::Everything;
                new
            }
        }
    }
}
