//! Syncs: what is compared, and in which order it is told.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use kernel::ipvs::{Key, Scheduler, Service, Timeouts};
use kernel::link::{self, Kind, LinkId, NewEnd};
use kernel::netlink::{Op, Socket};
use kernel::nft::{Batch, Chain, Element};
use kernel::{Errno, Error, Result, addr};

use super::layout::{At, Diff, Elements, Map, entry, table};
use super::observe::{self, Filter, Link, Servers};
use super::state::{Changes, State, addresses};
use super::steps::{Desired, Steps};
use super::translate::Terms;
use super::{Ipvs, LINK, skeleton, sysctls};
use crate::Family;
use crate::dataplane::Report;
use crate::nftables::{EDITION, edition};
use crate::plan::ServicePlan;

/// EINVAL.
const UNFIT: i32 = 22;

/// What a sync has found out before it changes anything.
#[derive(Debug)]
struct Work {
    desired: Desired,
    servers: Servers,
    /// Addresses to add to the link.
    come: Vec<IpAddr>,
    /// Addresses that may go.
    may_go: BTreeSet<IpAddr>,
    batch: Batch,
    /// Elements that the batch touches.
    touched: usize,
    /// Writes the whole table anew, for one that refuses the batch.
    anew: Option<Batch>,
}

/// What the kernel has.
#[derive(Debug)]
struct Survey {
    servers: Servers,
    filter: Filter,
    link: Option<Link>,
}

/// Counts what is told.
#[derive(Debug, Default)]
struct Tally {
    elements: usize,
    requests: usize,
    took: Duration,
}

impl Tally {
    fn tell(&mut self, socket: &mut Socket, ops: &[Op]) -> Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        socket.apply(ops)?;
        self.took += started.elapsed();
        self.elements += ops.len();
        self.requests += ops.len();
        Ok(())
    }

    /// The same, but what the kernel finds unfit (EINVAL) does not stop the rest: an endpoint with the broadcast address of
    /// one of this host's networks, for instance.
    fn offer(&mut self, socket: &mut Socket, ops: &[Op]) -> Result<()> {
        let started = Instant::now();
        let is_unfit = |error: &Error| error.errno() == Some(Errno(UNFIT));
        let outcomes = if ops.is_empty() { Vec::new() } else { socket.apply_each(ops)? };
        let failed = outcomes.into_iter().filter_map(Result::err).find(|error| !is_unfit(error));
        failed.map_or(Ok(()), Err)?;
        self.took += started.elapsed();
        self.elements += ops.len();
        self.requests += ops.len();
        Ok(())
    }

    fn commit(&mut self, socket: &mut Socket, (batch, touched): (&Batch, usize)) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        batch.commit(socket)?;
        self.took += started.elapsed();
        self.elements += touched;
        self.requests += batch.sentences().count();
        Ok(())
    }
}

impl Ipvs {
    pub(super) fn sync_changes(&mut self, mut state: State, changes: Changes) -> Result<(State, Report)> {
        let keys: BTreeSet<Key> = changes.desired.keys().copied().collect();
        let servers = observe::servers_at(&mut self.generic, self.ipvs, &keys)?;
        let come: Vec<IpAddr> =
            addresses(Map::Addresses, &changes.new).filter(|ip| !state.present.contains(ip)).collect();
        let of_keys = keys.iter().filter_map(|key| At::of(*key)).map(|at| at.ip());
        let may_go = of_keys.chain(addresses(Map::Addresses, &changes.old)).collect();
        let diff = Diff::new(&changes.old, &changes.new);
        let mut batch = Batch::new();
        diff.write(&mut batch, &table(self.family));
        let touched = diff.touched();
        let work = Work { desired: changes.desired, servers, come, may_go, batch, touched, anew: None };
        let report = self.carry_out(&mut state, work)?;
        Ok((state, report))
    }

    pub(super) fn sync_everything(&mut self, plan: &ServicePlan) -> Result<(State, Report)> {
        let (link, mut tally) = self.ensure_ground()?;
        let survey = Survey { link: Some(link), ..self.survey()? };
        let known = self.probe(plan, &survey.servers)?;
        let (mut state, work) = self.compare(plan, known, survey);
        let report = self.carry_out(&mut state, work)?;
        tally.elements += report.elements;
        tally.requests += report.requests;
        tally.took += report.committing;
        let (elements, requests) = (tally.elements, tally.requests);
        Ok((state, Report { elements, requests, is_full: true, committing: tally.took, ..report }))
    }

    /// What a full sync would do, in words.
    pub(super) fn differences(&mut self, plan: &ServicePlan) -> Result<Vec<String>> {
        let survey = Survey { link: Link::read(&mut self.route, self.family)?, ..self.survey()? };
        let mut said = Vec::new();
        if survey.link.is_none() {
            said.push(format!("create dummy {LINK}"));
        }
        // Schedulers that the kernel lacks were found by the last sync.
        let known = self.state.as_ref().map(|state| (state.known.clone(), state.terms.missing.clone()));
        let (state, work) = self.compare(plan, known.unwrap_or_default(), survey);
        let steps = Steps::new(self.ipvs, &work.desired, &work.servers);
        let ops = steps.raise.iter().chain(&steps.lower).map(|op| op.doing.clone());
        said.extend(ops);
        said.extend(work.come.iter().map(|ip| add_address(&state.link, *ip).doing));
        said.extend(work.batch.sentences().map(str::to_owned));
        let mut state = state;
        state.lingering = steps.lingering;
        let leaving = state.should_leave();
        let goes = work.may_go.iter().filter(|ip| !state.needs(**ip) && !leaving.contains(ip));
        said.extend(goes.map(|ip| delete_address(&state.link, *ip).doing));
        Ok(said)
    }

    pub(super) fn observe_servers(&mut self) -> Result<Servers> {
        let excluded = self.options.exclude_cidrs.clone();
        let excludes = |ip| excluded.iter().any(|network| network.contains(ip));
        observe::servers(&mut self.generic, self.ipvs, self.family, excludes)
    }

    fn survey(&mut self) -> Result<Survey> {
        let servers = self.observe_servers()?;
        let filter = Filter::read(&mut self.netfilter, &table(self.family))?;
        Ok(Survey { servers, filter, link: None })
    }

    /// What must be there before any virtual server: sysctls, time-outs and the link.
    fn ensure_ground(&mut self) -> Result<(Link, Tally)> {
        let mut tally = Tally::default();
        let (family, options) = (self.family, self.options.clone());
        if Link::read(&mut self.route, family)?.is_none() {
            let before = self.at_home(|| sysctls::before(&options))?;
            let end = NewEnd { name: LINK, ..NewEnd::default() };
            tally.tell(&mut self.route, &[link::create(&end, &Kind::Dummy).or_present()])?;
            self.route.apply(&[link::set_alias_named(LINK, &before)])?;
        }
        tally.requests += self.at_home(|| sysctls::ensure(&options, family))?;
        let wanted =
            Timeouts { tcp: options.tcp_timeout, tcp_fin: options.tcp_fin_timeout, udp: options.udp_timeout };
        if wanted != Timeouts::default() {
            let now = self.ipvs.timeouts(&mut self.generic)?;
            let is_so = |wanted: Option<Duration>, now| wanted.is_none() || wanted == now;
            if !is_so(wanted.tcp, now.tcp)
                || !is_so(wanted.tcp_fin, now.tcp_fin)
                || !is_so(wanted.udp, now.udp)
            {
                tally.tell(&mut self.generic, &[self.ipvs.set_timeouts(wanted)])?;
            }
        }
        let link = Link::read(&mut self.route, family)?;
        link.map(|link| (link, tally)).ok_or_else(|| Error::NotFound { what: format!("link {LINK}") })
    }

    /// Which schedulers of those that are asked for the kernel has, and which it lacks.
    fn probe(
        &mut self,
        plan: &ServicePlan,
        servers: &Servers,
    ) -> Result<(BTreeSet<Scheduler>, BTreeSet<Scheduler>)> {
        let mut wanted: BTreeSet<Scheduler> = plan.ports.values().filter_map(|port| port.scheduler).collect();
        wanted.insert(self.scheduler);
        let in_use: BTreeSet<Scheduler> =
            servers.values().filter_map(|(service, _)| Scheduler::named(&service.scheduler)).collect();
        let (mut known, mut missing) = (BTreeSet::new(), BTreeSet::new());
        for scheduler in wanted {
            let is_there = in_use.contains(&scheduler) || self.has(scheduler)?;
            if is_there { &mut known } else { &mut missing }.insert(scheduler);
        }
        Ok((known, missing))
    }

    /// Whether the kernel has a scheduler: a virtual server that nobody reaches is made with it, and deleted.
    fn has(&mut self, scheduler: Scheduler) -> Result<bool> {
        let address = ([198, 51, 100, 0], 20000).into();
        let key = Key::Address { address, protocol: 6 };
        let service = Service {
            key,
            scheduler: scheduler.name().to_owned(),
            scheduler_flags: 0,
            persistence: None,
            one_packet: false,
        };
        match self.generic.apply(&[self.ipvs.add_service(&service)]) {
            Ok(()) => self.generic.apply(&[self.ipvs.delete_service(key).or_absent()]).map(|()| true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn compare(
        &mut self,
        plan: &ServicePlan,
        (known, missing): (BTreeSet<Scheduler>, BTreeSet<Scheduler>),
        survey: Survey,
    ) -> (State, Work) {
        let Survey { servers, filter, link } = survey;
        let scheduler = if missing.contains(&self.scheduler) { Scheduler::default() } else { self.scheduler };
        let terms = Terms::of_plan(plan, &self.options, (scheduler, missing));
        let id = link.as_ref().map_or(LinkId { index: 0, name: LINK.into() }, |link| link.id.clone());
        let (mut state, mut desired, mut elements) = State::full(plan, terms, (known, id));
        desired.extend(
            servers
                .keys()
                .filter(|key| !desired.contains_key(key))
                .map(|key| (*key, None))
                .collect::<Vec<_>>(),
        );
        let on_link = link.map(|link| link.addresses).unwrap_or_default();
        state.leaving = addresses(Map::Leaving, &filter.elements).collect();
        let leaving = filter.elements.iter().filter(|(which, _)| which.0 == Map::Leaving);
        elements.extend(leaving.map(|(which, element)| (which.clone(), element.clone())));
        let come = addresses(Map::Addresses, &elements).filter(|ip| !on_link.contains(ip)).collect();
        let may_go: BTreeSet<IpAddr> = on_link.into_iter().filter(|ip| !self.excludes(*ip)).collect();
        state.present.clone_from(&may_go);
        let diff = Diff::new(&filter.elements, &elements);
        let mut batch = Batch::new();
        self.write_skeleton(&mut batch, plan, &filter);
        diff.write(&mut batch, &table(self.family));
        let touched = diff.touched();
        let anew = filter.exists.then(|| self.write_anew(plan, &elements));
        (state, Work { desired, servers, come, may_go, batch, touched, anew })
    }

    fn write_skeleton(&self, batch: &mut Batch, plan: &ServicePlan, filter: &Filter) {
        let sections = skeleton::sections(&plan.site);
        let edition = edition(&sections);
        let intact = |chain: &str, rules: usize| filter.chains.get(chain) == Some(&rules);
        let is_intact = intact(&edition, 0)
            && sections.iter().all(|section| intact(section.chain.name, section.rules.len()));
        if is_intact {
            return;
        }
        let table = table(self.family);
        skeleton::write(batch, &table, (self.family, &sections));
        for old in filter.chains.keys().filter(|chain| chain.starts_with(EDITION) && **chain != edition) {
            batch.delete_chain(&table, old);
        }
        let marker =
            Chain::regular(&edition).comment("no rules: its name tells which edition the others have");
        batch.add_chain(&table, &marker);
    }

    fn write_anew(&self, plan: &ServicePlan, elements: &Elements) -> Batch {
        let mut batch = Batch::new();
        batch.destroy_table(&table(self.family));
        self.write_skeleton(&mut batch, plan, &Filter::default());
        Diff::new(&Elements::new(), elements).write(&mut batch, &table(self.family));
        batch
    }

    fn carry_out(&mut self, state: &mut State, work: Work) -> Result<Report> {
        let mut tally = Tally::default();
        let steps = Steps::new(self.ipvs, &work.desired, &work.servers);
        tally.offer(&mut self.generic, &steps.raise)?;
        let come: Vec<Op> = work.come.iter().map(|ip| add_address(&state.link, *ip)).collect();
        tally.offer(&mut self.route, &come)?;
        let committed = tally.commit(&mut self.netfilter, (&work.batch, work.touched));
        match (committed, &work.anew) {
            // A table that does not fit ours, another version's: replaced whole, in one step.
            (Err(_), Some(anew)) => tally.commit(&mut self.netfilter, (anew, work.touched))?,
            (committed, _) => committed?,
        }
        state.present.extend(&work.come);
        tally.tell(&mut self.generic, &[steps.lower.as_slice(), &steps.sweep].concat())?;
        let rest = self.finish(&work.desired, &steps)?;
        tally.tell(&mut self.generic, &[rest.lower, rest.sweep].concat())?;
        state.lingering.retain(|key| !work.desired.contains_key(key));
        state.lingering.extend(steps.lingering.difference(&steps.drained));
        state.lingering.extend(rest.lingering);
        self.settle_addresses(state, &work.may_go, &mut tally)?;
        let Tally { elements, requests, took } = tally;
        Ok(Report { elements, requests, is_full: false, committing: took, took: Duration::ZERO })
    }

    /// Looks again at those that take no new connections any more: many never had one, and can be deleted.
    fn finish(&mut self, desired: &Desired, steps: &Steps) -> Result<Steps> {
        if steps.drained.is_empty() {
            return Ok(Steps::default());
        }
        let now = observe::servers_at(&mut self.generic, self.ipvs, &steps.drained)?;
        let those = desired.iter().filter(|(key, _)| steps.drained.contains(key));
        let those = those.map(|(key, server)| (*key, server.clone())).collect();
        Ok(Steps::finish(self.ipvs, &those, &now))
    }

    /// Takes addresses off the link that neither a plan nor a connection needs.
    fn settle_addresses(
        &mut self,
        state: &mut State,
        may_go: &BTreeSet<IpAddr>,
        tally: &mut Tally,
    ) -> Result<()> {
        let leaving = state.should_leave();
        let elements = |ips: &BTreeSet<IpAddr>| -> Elements {
            ips.iter().map(|ip| entry(Map::Leaving, Element::new(&[(*ip).into()]))).collect()
        };
        let diff = Diff::new(&elements(&state.leaving), &elements(&leaving));
        let mut batch = Batch::new();
        diff.write(&mut batch, &table(self.family));
        tally.commit(&mut self.netfilter, (&batch, diff.touched()))?;
        let may_go = may_go.iter().chain(&state.leaving).filter(|ip| state.present.contains(ip));
        let goes: BTreeSet<IpAddr> =
            may_go.filter(|ip| !state.needs(**ip) && !leaving.contains(ip)).copied().collect();
        let ops: Vec<Op> = goes.iter().map(|ip| delete_address(&state.link, *ip)).collect();
        tally.tell(&mut self.route, &ops)?;
        goes.iter().for_each(|ip| {
            state.present.remove(ip);
        });
        state.leaving = leaving;
        Ok(())
    }
}

fn add_address(link: &LinkId, ip: IpAddr) -> Op {
    addr::add_unpreferred(link, whole(ip)).or_present()
}

pub(super) fn delete_address(link: &LinkId, ip: IpAddr) -> Op {
    addr::delete(link, whole(ip)).or_absent()
}

/// The network of one address.
fn whole(ip: IpAddr) -> IpNetwork {
    IpNetwork::new(ip, Family::of(ip).bits()).unwrap_or_else(|_| ip.into())
}
