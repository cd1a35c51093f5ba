//! From changes to the kernel: what sources tell, planned for both families and synced by their dataplanes.
//!
//! Synchronous, and without a clock of its own: whoever runs it says when. The families know nothing of each other, so
//! that one the kernel refuses leaves the other at work. After a failure the next sync of that family is full.

mod change;
mod member;
mod open;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::plan::{ServicePlan, Settings};
use crate::state::{EndpointSlice, Node, Service, ServiceName, Snapshot};
use crate::{Dataplane, DualStack, Family, Mode, Report, RuleCount};

pub use change::{Change, Changes, OwnNode, SliceName};
use member::Member;
pub use open::{available, open};

/// What the last changes came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Services that are not what they were.
    pub services: usize,
    /// Services whose endpoints are not what they were.
    pub endpoints: usize,
    /// The moments of what caused the latter, by Service.
    pub triggers: Vec<(ServiceName, SystemTime)>,
    /// Whether everything has to be planned anew: this node or the service CIDRs are others now.
    pub site: bool,
}

impl Applied {
    /// Whether nothing that a proxy acts upon has changed.
    pub fn is_nothing(&self) -> bool {
        self.services == 0 && self.endpoints == 0 && !self.site
    }
}

/// What a sync of one family did.
#[derive(Debug)]
pub struct Synced {
    /// What the dataplane says of it.
    pub report: Report,
    /// How long planning took.
    pub planning: Duration,
    /// Objects that were not as this engine had left them.
    pub repaired: usize,
    /// Flows forgotten; none when no endpoint of a protocol without connections changed.
    pub forgotten: Option<kernel::Result<usize>>,
    /// How long that took.
    pub forgetting: Duration,
    /// What was left of other modes and is gone now, or can't be removed.
    pub removed: Vec<(Mode, kernel::Result<()>)>,
}

/// How thorough a sync is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What is known to have changed. Everything, where a failure or another site has made that necessary.
    Changes,
    /// Everything is read from the kernel and compared.
    Everything,
}

/// The proxy without the world around it.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    snapshot: Snapshot,
    /// To which Service each slice belongs: a slice may change hands, and when it goes only its name is told.
    owners: BTreeMap<SliceName, ServiceName>,
    has_services: bool,
    has_slices: bool,
    own_node: Option<Option<OwnNode>>,
    /// Counts whatever the Node says.
    node_ip: Option<std::net::IpAddr>,
    members: DualStack<Option<Member>>,
}

impl Engine {
    /// One for the node called `node`, with a dataplane for each family that is served. The dataplanes' namespace must be
    /// that of the calling thread.
    ///
    /// # Errors
    /// When the kernel gives no socket for conntrack.
    pub fn new(
        node: &str,
        settings: Settings,
        mut dataplanes: DualStack<Option<Box<dyn Dataplane>>>,
    ) -> kernel::Result<Self> {
        let mut members = DualStack::default();
        for family in Family::BOTH {
            if let Some(dataplane) = dataplanes.of_mut(family).take() {
                *members.of_mut(family) = Some(Member::new(family, dataplane)?);
            }
        }
        let mut snapshot = Snapshot::default();
        snapshot.node = Arc::new(Node { name: node.to_lowercase().into(), ..Node::default() });
        Ok(Engine {
            settings,
            snapshot,
            owners: BTreeMap::new(),
            has_services: false,
            has_slices: false,
            own_node: None,
            node_ip: None,
            members,
        })
    }

    /// What of other modes goes after the first successful sync of its family, so that no moment is without rules.
    pub fn remove_afterwards(&mut self, family: Family, leftovers: Vec<Box<dyn Dataplane>>) {
        if let Some(member) = self.members.of_mut(family) {
            member.leftovers = leftovers;
        }
    }

    /// This node's address for others, whatever its Node says.
    pub fn insist_on_ip(&mut self, ip: std::net::IpAddr) {
        self.node_ip = Some(ip);
        let mut node = (*self.snapshot.node).clone();
        *node.ips.of_mut(Family::of(ip)) = Some(ip);
        self.snapshot.node = Arc::new(node);
    }

    /// Takes changes. Nothing reaches the kernel before [`Engine::sync`].
    pub fn apply(&mut self, changes: Changes) -> Applied {
        let mut services = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        if let Some(all) = changes.all_services {
            self.replace_services(all, &mut services);
        }
        for (name, service) in changes.services {
            self.put_service(name, service, &mut services);
        }
        if let Some(all) = changes.all_slices {
            self.replace_slices(all, &mut endpoints);
        }
        for (name, slice) in changes.slices {
            self.put_slice(name, slice, &mut endpoints);
        }
        let site = self.put_site(changes.service_cidrs, changes.node, changes.addresses);
        let triggers = changes.triggers.into_iter().filter(|(name, _)| endpoints.contains(name)).collect();
        let applied = Applied { services: services.len(), endpoints: endpoints.len(), triggers, site };
        services.append(&mut endpoints);
        for member in [&mut self.members.v4, &mut self.members.v6].into_iter().flatten() {
            member.mark(&services, site);
        }
        applied
    }

    fn replace_services(&mut self, all: Vec<Service>, changed: &mut BTreeSet<ServiceName>) {
        self.has_services = true;
        let there: BTreeSet<ServiceName> = all.iter().map(|service| service.name.clone()).collect();
        let gone = self.snapshot.services().map(|service| &service.name).filter(|name| !there.contains(name));
        let gone: Vec<ServiceName> = gone.cloned().collect();
        gone.into_iter().for_each(|name| self.put_service(name, None, changed));
        all.into_iter().for_each(|service| self.put_service(service.name.clone(), Some(service), changed));
    }

    fn put_service(
        &mut self,
        name: ServiceName,
        service: Option<Service>,
        changed: &mut BTreeSet<ServiceName>,
    ) {
        let differs = match service {
            Some(service) => self.snapshot.set_service(service),
            None => self.snapshot.remove_service(&name),
        };
        if differs {
            changed.insert(name);
        }
    }

    fn replace_slices(&mut self, all: Vec<(SliceName, EndpointSlice)>, changed: &mut BTreeSet<ServiceName>) {
        self.has_slices = true;
        let there: BTreeSet<&SliceName> = all.iter().map(|(name, _)| name).collect();
        let gone: Vec<SliceName> = self.owners.keys().filter(|name| !there.contains(name)).cloned().collect();
        gone.into_iter().for_each(|name| self.put_slice(name, None, changed));
        all.into_iter().for_each(|(name, slice)| self.put_slice(name, Some(slice), changed));
    }

    fn put_slice(
        &mut self,
        name: SliceName,
        slice: Option<EndpointSlice>,
        changed: &mut BTreeSet<ServiceName>,
    ) {
        // The name as the Service itself has it, where that is known: one of them is enough.
        let named = |name: &ServiceName| self.snapshot.service(name).map(|known| known.name.clone());
        let service = slice.as_ref().map(|slice| named(&slice.service).unwrap_or(slice.service.clone()));
        let former = match &service {
            Some(service) => self.owners.insert(name.clone(), service.clone()),
            None => self.owners.remove(&name),
        };
        if let Some(former) = former.filter(|former| Some(former) != service.as_ref())
            && self.snapshot.remove_slice(&former, &name.name)
        {
            changed.insert(former);
        }
        if let (Some(service), Some(slice)) = (service, slice)
            && self.snapshot.put_slice(&name.name, slice)
        {
            changed.insert(service);
        }
    }

    /// What is told of this node and of service CIDRs; whether anything is another than before.
    fn put_site(
        &mut self,
        service_cidrs: Option<Vec<ipnetwork::IpNetwork>>,
        own: Option<Option<OwnNode>>,
        addresses: Option<Vec<std::net::IpAddr>>,
    ) -> bool {
        let mut node = (*self.snapshot.node).clone();
        if let Some(own) = own {
            // A Node that is gone leaves what was known of it: its pods go on.
            if let Some(own) = &own {
                (node.ips, node.pod_cidrs) = (own.ips, own.pod_cidrs);
                node.zone = Arc::clone(&own.zone);
                if let Some(ip) = self.node_ip {
                    *node.ips.of_mut(Family::of(ip)) = Some(ip);
                }
            }
            self.own_node = Some(own);
        }
        if let Some(mut addresses) = addresses {
            addresses.sort_unstable();
            addresses.dedup();
            node.addresses = addresses;
        }
        let mut differs = node != *self.snapshot.node;
        if differs {
            self.snapshot.node = Arc::new(node);
        }
        if let Some(networks) = service_cidrs
            && *self.snapshot.service_cidrs != networks[..]
        {
            self.snapshot.service_cidrs = networks.into();
            differs = true;
        }
        differs
    }

    /// Whether Services and endpoints were told whole once. Before that nothing is programmed: every Service would lose
    /// what it has in the kernel from an earlier run.
    pub fn is_ready(&self) -> bool {
        self.has_services && self.has_slices
    }

    /// Whether a family has anything to be synced: changes, or what a failure has left undone.
    pub fn is_due(&self, family: Family) -> bool {
        self.is_ready() && self.members.of(family).as_ref().is_some_and(Member::is_due)
    }

    /// Plans what has changed and brings a family's kernel to it. Nothing where the family is not served, or
    /// [`Engine::is_ready`] not yet.
    ///
    /// # Errors
    /// The kernel's refusal; the next sync will be full.
    pub fn sync(&mut self, family: Family, depth: Depth) -> kernel::Result<Option<Synced>> {
        if !self.is_ready() {
            return Ok(None);
        }
        let Some(member) = self.members.of_mut(family) else { return Ok(None) };
        member.sync(&self.snapshot, &self.settings, depth).map(Some)
    }

    /// The families that are served.
    pub fn families(&self) -> impl Iterator<Item = (Family, Mode)> + use<'_> {
        self.members.present().map(|(family, member)| (family, member.dataplane.mode()))
    }

    /// The plan of a family, once there is one.
    pub fn plan(&self, family: Family) -> Option<&ServicePlan> {
        self.members.of(family).as_ref().and_then(|member| member.plan.as_ref())
    }

    /// The dataplane and the plan of a family, to compare them.
    pub fn parts(&mut self, family: Family) -> Option<(&mut dyn Dataplane, &ServicePlan)> {
        let member = self.members.of_mut(family).as_mut()?;
        Some((&mut *member.dataplane, member.plan.as_ref()?))
    }

    /// How many rules a family has in which table, where that is counted.
    pub fn rule_counts(&self, family: Family) -> Vec<RuleCount> {
        self.members.of(family).as_ref().map(|member| member.dataplane.rule_counts()).unwrap_or_default()
    }

    /// Whether somebody has removed a family's rules wholesale; no when it is not served.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn is_flushed(&mut self, family: Family) -> kernel::Result<bool> {
        self.members.of_mut(family).as_mut().map_or(Ok(false), |member| member.dataplane.is_flushed())
    }

    /// This node as it was last told; the outer none until it was.
    #[allow(clippy::option_option, reason = "not told yet is not the same as told that there is none")]
    pub fn own_node(&self) -> Option<Option<&OwnNode>> {
        self.own_node.as_ref().map(Option::as_ref)
    }

    /// Everything that is known.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}
