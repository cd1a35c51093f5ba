//! The IPVS dataplane: a virtual server for each address and port where clients connect, a dummy link with the addresses,
//! and a table of nf_tables for what IPVS can't decide.
//!
//! README.md of this crate goes through it hook by hook. In short: IPVS chooses endpoints; who may connect, who is
//! masqueraded, what is rejected, and whom traffic policy Local sends to which of two virtual servers is in sets that a
//! flow's first packet passes before.

mod layout;
mod list;
mod observe;
mod rehearse;
mod skeleton;
mod state;
mod steps;
mod sync;
mod sysctls;
mod translate;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use kernel::ipvs::{Family as KernelIpvs, Scheduler};
use kernel::netlink::{Protocol, Socket};
use kernel::nft::{self, Batch, Element};
use kernel::{Error, Netns, Result, link};

use crate::dataplane::{Dataplane, Mode, Report, Served};
use crate::plan::ServicePlan;
use crate::state::ServicePortName;
use crate::{Family, IpvsOptions};
use layout::Map;
pub use layout::TABLE;
use observe::{Filter, Link};
pub use rehearse::rehearse;
use state::State;

/// The dummy link that has the addresses of Services: kube-proxy's name for it, since network plug-ins and load balancers
/// know to leave that alone. Its addresses are none of the node's.
pub const LINK: &str = "kube-ipvs0";

/// Virtual servers, addresses and the table of one family.
#[derive(Debug)]
pub struct Ipvs {
    family: Family,
    options: IpvsOptions,
    /// For Services that name none.
    scheduler: Scheduler,
    netns: Netns,
    ipvs: KernelIpvs,
    generic: Socket,
    netfilter: Socket,
    route: Socket,
    /// What is programmed; none when that is not known: at first and after a failure.
    state: Option<State>,
}

impl Ipvs {
    /// Opens the dataplane in the calling thread's network namespace. Loads IPVS' module where the process may, and
    /// touches nothing else. No scheduler's name at all is `rr`.
    ///
    /// # Errors
    /// When the kernel has no IPVS or no nf_tables, when the process lacks CAP_NET_ADMIN, and when the options name an
    /// unknown scheduler.
    pub fn open(family: Family, options: &IpvsOptions) -> Result<Self> {
        let named = Some(options.scheduler.as_str()).filter(|name| !name.is_empty());
        let Some(scheduler) = named.map_or(Some(Scheduler::default()), Scheduler::named) else {
            let what = format!("ipvs.scheduler: `{}` is no scheduler of IPVS", options.scheduler);
            return Err(Error::Invalid { what });
        };
        let mut generic = Socket::open(Protocol::Generic)?;
        let ipvs = KernelIpvs::find(&mut generic)?
            .ok_or_else(|| Error::NotFound { what: "IPVS in this kernel (module ip_vs)".into() })?;
        let mut netfilter = Socket::open(Protocol::Netfilter)?;
        nft::probe(&mut netfilter)?;
        Ok(Ipvs {
            family,
            options: options.clone(),
            scheduler,
            netns: Netns::current()?,
            ipvs,
            generic,
            netfilter,
            route: Socket::open(Protocol::Route)?,
            state: None,
        })
    }

    /// Whether this namespace has our link or our table: without, there is nothing to clean up, and no reason to load
    /// IPVS' module for it.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn has_traces(family: Family) -> Result<bool> {
        let is_there = link::find(&mut Socket::open(Protocol::Route)?, LINK)?.is_some();
        let mut netfilter = Socket::open(Protocol::Netfilter)?;
        Ok(is_there || nft::table_exists(&mut netfilter, &layout::table(family))?)
    }

    fn excludes(&self, ip: IpAddr) -> bool {
        self.options.exclude_cidrs.iter().any(|network| network.contains(ip))
    }

    /// Runs `work` where this dataplane's sysctls are.
    fn at_home<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        if Netns::current()?.id()? == self.netns.id()? { work() } else { self.netns.run(work)? }
    }

    /// Also what the table says of those whom a former run has left alone: who cleans up may not have its options.
    fn remove_servers(&mut self, excluded: &[Element]) -> Result<()> {
        let mut ops = Vec::new();
        for (service, _) in self.ipvs.list_services(&mut self.generic)? {
            let at = layout::At::of(service.key).filter(|at| Family::of(at.ip()) == self.family);
            let is_others =
                |ip| self.excludes(ip) || excluded.iter().any(|element| layout::covers(element, ip));
            if at.is_some_and(|at| !is_others(at.ip())) {
                ops.push(self.ipvs.delete_service(service.key).or_absent());
            }
        }
        self.generic.apply(&ops)
    }

    /// The link goes with the last address of both families.
    fn remove_addresses(&mut self) -> Result<()> {
        let Some(found) = Link::read(&mut self.route, self.family)? else { return Ok(()) };
        let (others, ours): (Vec<IpAddr>, Vec<IpAddr>) =
            found.addresses.iter().partition(|ip| self.excludes(**ip));
        if found.is_shared || !others.is_empty() {
            let ops: Vec<_> = ours.iter().map(|ip| sync::delete_address(&found.id, *ip)).collect();
            return self.route.apply(&ops);
        }
        self.route.apply(&[link::delete(&found.id).or_absent()])?;
        self.at_home(|| sysctls::restore(&found.alias))
    }
}

impl Dataplane for Ipvs {
    fn mode(&self) -> Mode {
        Mode::Ipvs
    }

    /// What is new first, then the filter in one batch, then what goes: see README.md.
    ///
    /// A destination that goes keeps its connections until they have ended; this is looked after for changed Service
    /// ports, and for all by a full sync.
    fn sync(&mut self, plan: &ServicePlan, changed: Option<&BTreeSet<ServicePortName>>) -> Result<Report> {
        let started = Instant::now();
        let state = self.state.take().filter(|state| state.terms.site == plan.site);
        let changes = match (state, changed) {
            (Some(mut state), Some(changed)) => state.update(plan, changed).map(|changes| (state, changes)),
            _ => None,
        };
        let (state, mut report) = match changes {
            Some((state, changes)) => self.sync_changes(state, changes)?,
            None => self.sync_everything(plan)?,
        };
        self.state = Some(state);
        report.took = started.elapsed();
        Ok(report)
    }

    fn drift(&mut self, plan: &ServicePlan) -> Result<Vec<String>> {
        self.differences(plan)
    }

    fn list(&mut self) -> Result<Vec<Served>> {
        let servers = self.observe_servers()?;
        let filter = Filter::read(&mut self.netfilter, &layout::table(self.family))?;
        Ok(list::served(&servers, &filter, self.family))
    }

    /// Virtual servers by mark, and those within `exclude_cidrs`, stay, and all of them where neither our link nor our
    /// table is. Connections of the others end.
    fn cleanup(&mut self) -> Result<()> {
        self.state = None;
        let table = layout::table(self.family);
        let has_table = nft::table_exists(&mut self.netfilter, &table)?;
        if !has_table && link::find(&mut self.route, LINK)?.is_none() {
            return Ok(());
        }
        let excluded = nft::list_intervals(&mut self.netfilter, &table, Map::Excluded.name())?;
        let servers = self.remove_servers(&excluded);
        let mut outcome = Ok(());
        if has_table {
            outcome = Batch::new().delete_table(&table).commit(&mut self.netfilter);
        }
        outcome.and(servers).and(self.remove_addresses())
    }
}
