//! The nftables dataplane: one table per family, static rules, elements that follow the plan.
//!
//! README.md of this crate shows the table and gives the reasons. In short: a frontend is looked up once and gives a
//! number of 32 bits, a pool and a way; the way is a chain for pools of that size; the chain draws a slot and looks up
//! (pool, slot). One endpoint more is a slot, and the frontend's way.

mod diff;
mod elements;
mod layout;
mod list;
mod observe;
mod pool;
mod programmed;
mod render;
mod skeleton;
mod spread;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use kernel::Result;
use kernel::netlink::{Protocol, Socket};
use kernel::nft::{self, Batch, Chain, Element, Table, Value, Verdict};

use crate::Family;
use crate::dataplane::{Dataplane, Mode, Report, Served};
use crate::plan::{ServicePlan, Settings, Site};
use crate::state::{ServicePortName, Snapshot};
use diff::Diff;
use elements::Elements;
use layout::{WAYS, WAYS_BY_SOURCE};
use observe::Observed;
use programmed::State;
use spread::Spread;

pub(crate) use layout::nft_family;
pub(crate) use skeleton::{Section, from_pods, hook, masquerading, reject, write as write_sections};

/// The name of our table in either family.
pub const TABLE: &str = "bowline_proxy";

/// A chain without rules whose name tells which rules the others have.
pub(crate) const EDITION: &str = "edition-";

/// Removes the table that kube-proxy has made in its nftables mode; whether there was one.
///
/// # Errors
/// The kernel's refusal.
pub fn remove_kube_proxy(family: Family) -> Result<bool> {
    let table = Table { name: "kube-proxy", ..layout::table(family) };
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let exists = nft::table_exists(&mut socket, &table)?;
    if exists {
        Batch::new().delete_table(&table).commit(&mut socket)?;
    }
    Ok(exists)
}

/// The table of one family.
#[derive(Debug)]
pub struct Nftables {
    family: Family,
    socket: Socket,
    /// What is programmed; none when that is not known: at first and after a failure.
    state: Option<State>,
}

impl Nftables {
    /// Opens the dataplane in the calling thread's network namespace. Touches nothing.
    ///
    /// # Errors
    /// When the kernel has no nf_tables or the process lacks CAP_NET_ADMIN.
    pub fn open(family: Family) -> Result<Self> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        nft::probe(&mut socket)?;
        Ok(Nftables { family, socket, state: None })
    }

    /// Whether there is a table of ours, with or without Services.
    ///
    /// # Errors
    /// The kernel can't be asked.
    pub fn has_traces(family: Family) -> Result<bool> {
        nft::table_exists(&mut Socket::open(Protocol::Netfilter)?, &layout::table(family))
    }

    /// Whether this kernel takes everything that the table is made of. Tries it in a table of another name, without
    /// Services, which is gone when this returns.
    ///
    /// # Errors
    /// What the kernel lacks.
    pub fn rehearse(&mut self) -> Result<()> {
        let table = layout::rehearsal(self.family);
        let plan = ServicePlan::new(&Snapshot::default(), &Settings::default(), self.family);
        let nothing = Observed::default();
        let (state, desired) = State::full(&plan, None, &nothing)?;
        let mut batch = Batch::new();
        batch.destroy_table(&table);
        write_chains(&mut batch, &table, &plan.site, (&state, &nothing));
        Diff::new(Elements::default(), desired).write(&mut batch, &table);
        let outcome = batch.commit(&mut self.socket);
        let mut batch = Batch::new();
        batch.destroy_table(&table);
        batch.commit(&mut self.socket)?;
        outcome
    }

    fn sync_changes(
        &mut self,
        mut state: State,
        plan: &ServicePlan,
        changed: &BTreeSet<ServicePortName>,
    ) -> Result<(State, Report)> {
        let table = layout::table(self.family);
        let mut batch = Batch::new();
        let Some(changes) = state.update(plan, changed) else { return self.sync_everything(None, plan) };
        add_spreads(&mut batch, &table, &plan.site, &changes.spreads);
        changes.diff.write(&mut batch, &table);
        let report = self.commit(&batch, &changes.diff, false)?;
        Ok((state, report))
    }

    fn sync_everything(&mut self, state: Option<State>, plan: &ServicePlan) -> Result<(State, Report)> {
        let table = layout::table(self.family);
        let Comparison { state, exists, diff, batch, rewritten } = self.compare(state, plan, Unused::Goes)?;
        match self.commit(&batch, &diff, true) {
            Ok(report) => Ok((state, Report { elements: report.elements + rewritten, ..report })),
            // A table that does not fit ours, another version's: replaced whole, still in one step.
            Err(_) if exists => {
                let fresh = Observed::default();
                let (state, desired) = State::full(plan, None, &fresh)?;
                let diff = Diff::new(Elements::default(), desired);
                let mut batch = Batch::new();
                batch.destroy_table(&table);
                write_chains(&mut batch, &table, &plan.site, (&state, &fresh));
                diff.write(&mut batch, &table);
                Ok((state, self.commit(&batch, &diff, true)?))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads the table and finds out what keeps it from being what `plan` says.
    fn compare(&mut self, state: Option<State>, plan: &ServicePlan, unused: Unused) -> Result<Comparison> {
        let table = layout::table(self.family);
        let mut observed = Observed::read(&mut self.socket, &table)?;
        let (state, desired) = State::full(plan, state, &observed)?;
        let diff = Diff::new(std::mem::take(&mut observed.elements), desired);
        let mut batch = Batch::new();
        write_chains(&mut batch, &table, &plan.site, (&state, &observed));
        let rewritten = batch.sentences().count();
        if unused == Unused::Goes {
            remove_unused(&mut batch, &table, &state, &observed);
        }
        diff.write(&mut batch, &table);
        Ok(Comparison { state, exists: observed.exists, diff, batch, rewritten })
    }

    fn commit(&mut self, batch: &Batch, diff: &Diff, is_full: bool) -> Result<Report> {
        let started = Instant::now();
        if !batch.is_empty() {
            batch.commit(&mut self.socket)?;
        }
        let committing = started.elapsed();
        let requests = batch.sentences().count();
        Ok(Report { elements: diff.touched(), requests, is_full, committing, took: Duration::ZERO })
    }
}

impl Dataplane for Nftables {
    fn mode(&self) -> Mode {
        Mode::Nftables
    }

    /// In one batch, chains and rules too when everything is compared.
    fn sync(&mut self, plan: &ServicePlan, changed: Option<&BTreeSet<ServicePortName>>) -> Result<Report> {
        let started = Instant::now();
        let state = self.state.take().filter(|state| *state.site() == plan.site);
        let (state, mut report) = match (state, changed) {
            (Some(state), Some(changed)) => self.sync_changes(state, plan, changed)?,
            (state, _) => self.sync_everything(state, plan)?,
        };
        self.state = Some(state);
        report.took = started.elapsed();
        Ok(report)
    }

    fn drift(&mut self, plan: &ServicePlan) -> Result<Vec<String>> {
        let batch = self.compare(None, plan, Unused::Stays)?.batch;
        Ok(batch.sentences().map(str::to_owned).collect())
    }

    fn list(&mut self) -> Result<Vec<Served>> {
        let observed = Observed::read(&mut self.socket, &layout::table(self.family))?;
        Ok(list::served(&observed, self.family))
    }

    fn cleanup(&mut self) -> Result<()> {
        self.state = None;
        let table = layout::table(self.family);
        if nft::table_exists(&mut self.socket, &table)? {
            Batch::new().delete_table(&table).commit(&mut self.socket)?;
        }
        Ok(())
    }
}

/// What becomes of chains for pool sizes that there are no more. A partial sync leaves them, and they do no harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unused {
    Goes,
    Stays,
}

/// What a table lacks of a plan, and how it would be brought there.
#[derive(Debug)]
struct Comparison {
    state: State,
    /// Whether there is a table.
    exists: bool,
    diff: Diff,
    batch: Batch,
    /// Changes of chains, rules and ways.
    rewritten: usize,
}

/// Writes whatever of sets, chains, rules and ways is not as it should be.
fn write_chains(batch: &mut Batch, table: &Table<'_>, site: &Site, (state, observed): (&State, &Observed)) {
    let sections = skeleton::sections(site);
    let edition = edition(&sections);
    let intact = |chain: &str, rules: usize| {
        observed.chains.iter().any(|c| c == chain) && observed.rules.get(chain).copied().unwrap_or(0) == rules
    };
    let skeleton_is_intact =
        intact(&edition, 0) && sections.iter().all(|section| intact(section.chain.name, section.rules.len()));
    if !skeleton_is_intact {
        skeleton::declare(batch, table, site.family);
        skeleton::write(batch, table, &sections);
        for old in observed.chains.iter().filter(|chain| chain.starts_with(EDITION) && **chain != edition) {
            batch.delete_chain(table, old);
        }
        let marker =
            Chain::regular(&edition).comment("no rules: its name tells which edition the others have");
        batch.add_chain(table, &marker);
    }
    for (map, element) in skeleton::fixed_ways() {
        let is_there = observed.ways.keys().any(|(m, way)| *m == map && element.key == way.to_ne_bytes());
        if !is_there {
            batch.add_elements(table, map, &[element]);
        }
    }
    for (spread, way) in state.ways() {
        let chain = spread.chain();
        let rules = spread.rules(site);
        if !skeleton_is_intact || !intact(&chain, rules.len()) {
            batch.add_chain(table, &Chain::regular(&chain)).flush_chain(table, &chain);
            rules.iter().for_each(|rule| {
                batch.add_rule(table, &chain, rule);
            });
        }
        for map in [WAYS.name, WAYS_BY_SOURCE.name] {
            if observed.ways.get(&(map, way)) != Some(&chain) {
                batch.add_elements(table, map, &[way_element(way, &chain)]);
            }
        }
    }
}

/// Removes the chains of pool sizes that there are no more.
fn remove_unused(batch: &mut Batch, table: &Table<'_>, state: &State, observed: &Observed) {
    let used: BTreeMap<u32, String> = state.ways().map(|(spread, way)| (way, spread.chain())).collect();
    for ((map, way), chain) in &observed.ways {
        if *way >= spread::FIRST && used.get(way) != Some(chain) {
            batch.delete_elements(table, map, &[Element::new(&[Value::ClassId(*way)])]);
        }
    }
    let is_used = |chain: &String| used.values().any(|other| other == chain);
    for chain in observed.chains.iter().filter(|c| Spread::of_chain(c).is_some() && !is_used(c)) {
        batch.delete_chain(table, chain);
    }
}

fn add_spreads(batch: &mut Batch, table: &Table<'_>, site: &Site, spreads: &[(Spread, u32)]) {
    for (spread, way) in spreads {
        let chain = spread.chain();
        batch.add_chain(table, &Chain::regular(&chain));
        spread.rules(site).iter().for_each(|rule| {
            batch.add_rule(table, &chain, rule);
        });
        for map in [WAYS.name, WAYS_BY_SOURCE.name] {
            batch.add_elements(table, map, &[way_element(*way, &chain)]);
        }
    }
}

fn way_element(way: u32, chain: &str) -> Element {
    Element::new(&[Value::ClassId(way)]).verdict(Verdict::Goto(chain.to_owned()))
}

/// A chain's name that differs whenever rules do.
pub(crate) fn edition(sections: &[Section]) -> String {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    for section in sections {
        section.chain.hash(&mut hasher);
        section.rules.hash(&mut hasher);
    }
    format!("{EDITION}{:016x}", hasher.finish())
}

/// FNV-1a: the same in every build, unlike the standard library's.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
