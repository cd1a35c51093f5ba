//! The iptables dataplane: kube-proxy's chains, names and comments, written by iptables-restore.
//!
//! README.md of this crate has the picture. In short: every Service port has chains of its own whose names are hashes, and
//! a rule for each of its frontends in a chain of all. What a port's chains hold is a pure function of its plan, so the
//! plans of the last sync are all that is remembered: a change renders a port as it was and as it will be, and sends the
//! difference. A full sync reads `iptables-save` and does the same with what is really there, whoever has made it.

mod compare;
mod list;
mod names;
mod removal;
mod render;
mod rule;
mod script;
mod skeleton;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::iptables::{Family as ProgramFamily, Iptables as Program, Table, Variant, Version, nft_table};
use kernel::netlink::{Protocol, Socket};
use kernel::netns::Netns;
use kernel::{Result, acct, nft, sysctl};

use crate::Family;
use crate::dataplane::{Dataplane, Mode, Report, RuleCount, Served};
use crate::options::IptablesOptions;
use crate::plan::{PortPlan, ServicePlan, Site};
use crate::state::{ServiceName, ServicePortName};
use compare::{Observed, SharedChanges, Totals};
use render::{Shared, Style};
use script::Script;
use skeleton::Features;

const TABLES: [Table; 3] = [Table::Filter, Table::Nat, Table::Mangle];
/// Since this version MASQUERADE knows `--random-fully`.
const RANDOM_FULLY: [u16; 3] = [1, 6, 2];

/// The chains of one family.
#[derive(Debug)]
pub struct Iptables {
    program: Program,
    /// None when it is not installed: rules of nf_tables can be removed all the same.
    version: Option<Version>,
    netns: Netns,
    socket: Socket,
    features: Features,
    /// What is programmed; none when that is not known: at first and after a failure.
    state: Option<State>,
}

/// What the last sync has left.
#[derive(Debug)]
struct State {
    site: Site,
    style: Style,
    ports: BTreeMap<ServicePortName, Arc<PortPlan>>,
    health: BTreeMap<ServiceName, u16>,
    totals: Totals,
    /// Rules written by the last sync, in the order of [`Totals::TABLES`].
    written: [usize; 2],
}

/// What the kernel counts for the chains of both families. None where it does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets dropped because conntrack could not make sense of them: kube-proxy's metric
    /// `iptables_ct_state_invalid_dropped_packets_total`.
    pub invalid_dropped: Option<u64>,
    /// Connections to node ports on loopback: `iptables_localhost_nodeports_accepted_packets_total`.
    pub localhost_accepted: Option<u64>,
}

impl Counters {
    /// Reads them. `socket` is a netfilter socket.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn read(socket: &mut Socket) -> Result<Self> {
        Ok(Counters {
            invalid_dropped: acct::packets(socket, skeleton::INVALID_COUNTER)?,
            localhost_accepted: acct::packets(socket, render::LOCALHOST_COUNTER)?,
        })
    }
}

impl Iptables {
    /// Opens the dataplane in the calling thread's network namespace, with the variant of iptables that the kubelet uses,
    /// or that has more rules. Changes nothing. Where the kernel has rules of nf_tables to remove this succeeds without
    /// any program; a sync would then say what is not installed.
    ///
    /// # Errors
    /// When iptables is not installed, the kernel lacks it, or the process lacks CAP_NET_ADMIN.
    pub fn open(family: Family, options: &IptablesOptions) -> Result<Self> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        let program = Program::in_use(&mut socket, program_family(family))?;
        Self::open_program(program, socket, options)
    }

    /// The same with a variant of one's own choice.
    ///
    /// # Errors
    /// As [`Iptables::open`].
    pub fn open_variant(family: Family, variant: Variant, options: &IptablesOptions) -> Result<Self> {
        let socket = Socket::open(Protocol::Netfilter)?;
        Self::open_program(Program { family: program_family(family), variant }, socket, options)
    }

    fn open_program(program: Program, mut socket: Socket, options: &IptablesOptions) -> Result<Self> {
        let version = match program.version() {
            Ok(version) => Some(version),
            Err(_) if removal::is_in_nft(&mut socket, program.family)? => None,
            Err(error) => return Err(error),
        };
        let is_liberal =
            sysctl::read("net/netfilter/nf_conntrack_tcp_be_liberal").is_ok_and(|value| value != "0");
        let counts = acct::packets(&mut socket, skeleton::INVALID_COUNTER).is_ok();
        let features = Features {
            random_fully: version.is_some_and(|version| version.number >= RANDOM_FULLY),
            drops_invalid: !is_liberal,
            counts,
            localhost_node_ports: options.localhost_node_ports,
        };
        Ok(Iptables { program, version, netns: Netns::current()?, socket, features, state: None })
    }

    /// Whether the program keeps its rules in nf_tables.
    fn is_nft(&self) -> Result<bool> {
        match self.version {
            Some(version) => Ok(version.is_nft),
            None => Ok(self.program.version()?.is_nft),
        }
    }

    fn sync_changes(
        &mut self,
        mut state: State,
        plan: &ServicePlan,
        changed: &BTreeSet<ServicePortName>,
    ) -> Result<(State, Report)> {
        let health = compare::health(plan);
        let mut concerned: BTreeSet<ServicePortName> = changed.clone();
        let services = health.keys().chain(state.health.keys());
        for service in services.filter(|service| health.get(service) != state.health.get(service)) {
            concerned.extend(plan.port_names(service));
        }
        let mut script = Script::default();
        let mut shared = SharedChanges::new();
        for name in concerned {
            let old = state.ports.remove(&name);
            let render = |port: Option<&Arc<PortPlan>>, health: &BTreeMap<ServiceName, u16>| {
                port.map(|port| render::port(&state.style, port, health.get(&name.service).copied()))
                    .unwrap_or_default()
            };
            let new = plan.ports.get(&name);
            let (before, after) = (render(old.as_ref(), &state.health), render(new, &health));
            state.totals.replace(&before, &after);
            compare::port(&mut script, &mut shared, before, after);
            if let Some(new) = new {
                state.ports.insert(name, Arc::clone(new));
            }
        }
        state.health = health;
        for (chain, changes) in shared {
            self.change_shared(&mut script, chain, &changes, (plan, &state.style));
        }
        let report = self.commit(&script, false)?;
        state.written = Totals::TABLES.map(|table| script.written(table));
        Ok((state, report))
    }

    fn change_shared(
        &self,
        script: &mut Script,
        chain: Shared,
        changes: &(Vec<String>, Vec<String>),
        (plan, style): (&ServicePlan, &Style),
    ) {
        if compare::is_rewritten(changes) {
            let rules = compare::whole(plan, style, &self.features, chain);
            return script.rewrite(chain.table(), chain.chain(), rules);
        }
        let (gone, new) = changes;
        compare::edit_shared(script, chain, gone.iter().map(String::as_str), new.iter().map(String::as_str));
    }

    fn sync_everything(&mut self, plan: &ServicePlan) -> Result<(State, Report)> {
        for counter in [skeleton::INVALID_COUNTER, render::LOCALHOST_COUNTER] {
            self.features.counts = self.features.counts && acct::ensure(&mut self.socket, counter).is_ok();
        }
        let (mut script, mut totals) = self.compare(plan)?;
        let report = match self.commit(&script, true) {
            Ok(report) => report,
            // A kernel may have the counters and not the match that counts.
            Err(_) if self.features.counts && !self.is_counting()? => {
                self.features.counts = false;
                (script, totals) = self.compare(plan)?;
                self.commit(&script, true)?
            }
            Err(error) => return Err(error),
        };
        let state = State {
            site: plan.site.clone(),
            style: compare::style(plan, &self.features),
            ports: plan.ports.clone(),
            health: compare::health(plan),
            totals,
            written: Totals::TABLES.map(|table| script.written(table)),
        };
        Ok((state, report))
    }

    /// Whether a rule counts already.
    fn is_counting(&self) -> Result<bool> {
        let saved = self.inside(|| self.program.save_table(Table::Filter))?;
        Ok(saved.contains("--nfacct-name"))
    }

    /// What keeps the kernel from being what `plan` says.
    fn compare(&self, plan: &ServicePlan) -> Result<(Script, Totals)> {
        let saved = self.inside(|| self.program.save())?;
        let style = compare::style(plan, &self.features);
        Ok(compare::everything(plan, &style, &self.features, Observed::parse(&saved)))
    }

    fn commit(&self, script: &Script, is_full: bool) -> Result<Report> {
        let started = Instant::now();
        if !script.is_empty() {
            // The legacy variant replaces a whole table with every block, so a second one would cost as much as all.
            let text = script.text(self.is_nft()?);
            self.inside(|| self.program.restore_text(&text))?;
        }
        let lines = script.lines();
        let committing = started.elapsed();
        Ok(Report { elements: lines, requests: lines, is_full, committing, took: Duration::ZERO })
    }

    /// Runs programs where the dataplane was opened.
    fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        // Entering takes a privilege that is not needed by whoever is there already.
        if Netns::current()?.id()? == self.netns.id()? { work() } else { self.netns.run(work)? }
    }
}

impl Dataplane for Iptables {
    fn mode(&self) -> Mode {
        Mode::Iptables
    }

    /// Per table all or nothing, but for a long script of the nf_tables variant: there no frontend leads anywhere before
    /// what it leads to is complete.
    fn sync(&mut self, plan: &ServicePlan, changed: Option<&BTreeSet<ServicePortName>>) -> Result<Report> {
        let started = Instant::now();
        let state = self.state.take().filter(|state| state.site == plan.site);
        let (state, mut report) = match (state, changed) {
            (Some(state), Some(changed)) => self.sync_changes(state, plan, changed)?,
            _ => self.sync_everything(plan)?,
        };
        self.state = Some(state);
        report.took = started.elapsed();
        Ok(report)
    }

    fn drift(&mut self, plan: &ServicePlan) -> Result<Vec<String>> {
        Ok(self.compare(plan)?.0.sentences())
    }

    fn list(&mut self) -> Result<Vec<Served>> {
        let saved = self.inside(|| self.program.save())?;
        Ok(list::served(&Observed::parse(&saved)))
    }

    /// By an empty chain in each table: whoever flushes tables removes that too. Of the legacy variant only table mangle,
    /// which is small, is looked at.
    fn is_flushed(&mut self) -> Result<bool> {
        if self.state.is_none() {
            return Ok(false);
        }
        if !self.is_nft()? {
            let saved = self.inside(|| self.program.save_table(Table::Mangle))?;
            return Ok(Observed::parse(&saved).chain(Table::Mangle, names::CANARY).is_none());
        }
        for table in TABLES {
            if !nft::chain_exists(&mut self.socket, &nft_table(self.program.family, table), names::CANARY)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn rule_counts(&self) -> Vec<RuleCount> {
        let Some(state) = &self.state else { return Vec::new() };
        let tables = Totals::TABLES.into_iter().zip(state.written);
        tables
            .map(|(table, last)| RuleCount { table: table.name(), total: state.totals.of(table), last })
            .collect()
    }

    /// Of both variants. KUBE-FIREWALL stays, because the kubelet has it too, and so does what somebody else's rules lead
    /// to.
    fn cleanup(&mut self) -> Result<()> {
        self.state = None;
        removal::remove(self)
    }
}

fn program_family(family: Family) -> ProgramFamily {
    match family {
        Family::V4 => ProgramFamily::V4,
        Family::V6 => ProgramFamily::V6,
    }
}
