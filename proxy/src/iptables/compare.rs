//! From what is there and what should be to a script.

use std::collections::{BTreeMap, HashMap};

use kernel::iptables::Table;

use super::names;
use super::render::{self, Rendered, Shared, Style};
use super::rule;
use super::script::Script;
use super::skeleton::{self, Features};
use crate::plan::{PortPlan, ServicePlan};
use crate::state::ServiceName;

/// Rules of a shared chain deleted one by one; for more of them it is rewritten. Each deletion is a walk through the chain
/// that takes a tenth of the time of rewriting it.
const SINGLY: usize = 10;
/// Endpoints from which on rules about single ones have no comments.
const MANY: usize = 1000;

/// Rules by chain, in order, as they are saved.
type Chains<'a> = HashMap<&'a str, Vec<&'a str>>;

/// How many rules there are in the tables that have some.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    filter: usize,
    nat: usize,
}

impl Totals {
    pub(super) const TABLES: [Table; 2] = [Table::Filter, Table::Nat];

    pub(super) fn of(&self, table: Table) -> usize {
        if table == Table::Nat { self.nat } else { self.filter }
    }

    fn place(&mut self, table: Table) -> &mut usize {
        if table == Table::Nat { &mut self.nat } else { &mut self.filter }
    }

    fn add(&mut self, table: Table, rules: usize) {
        *self.place(table) += rules;
    }

    /// One Service port's rules are others now.
    pub(super) fn replace(&mut self, old: &Rendered, new: &Rendered) {
        for (rendered, is_new) in [(new, true), (old, false)] {
            let of_chains = rendered.chains.iter().map(|(_, rules)| (Table::Nat, rules.len()));
            let shared = rendered.shared.iter().map(|(chain, _)| (chain.table(), 1));
            for (table, rules) in of_chains.chain(shared) {
                let place = self.place(table);
                *place = if is_new { *place + rules } else { place.saturating_sub(rules) };
            }
        }
    }
}

/// What `iptables-save` has printed.
#[derive(Debug, Default)]
pub(super) struct Observed<'a> {
    tables: HashMap<&'a str, Chains<'a>>,
}

impl<'a> Observed<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let mut observed = Observed::default();
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name.trim();
            } else if let Some(declaration) = line.strip_prefix(':') {
                let chain = declaration.split(' ').next().unwrap_or_default();
                observed.tables.entry(table).or_default().entry(chain).or_default();
            } else if let Some(rest) = line.strip_prefix("-A ") {
                let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
                observed.tables.entry(table).or_default().entry(chain).or_default().push(rule);
            }
        }
        observed
    }

    pub(super) fn chain(&self, table: Table, chain: &str) -> Option<&[&'a str]> {
        self.tables.get(table.name())?.get(chain).map(Vec::as_slice)
    }

    pub(super) fn chains(&self, table: Table) -> impl Iterator<Item = (&'a str, &[&'a str])> {
        let chains = self.tables.get(table.name()).into_iter().flatten();
        chains.map(|(name, rules)| (*name, rules.as_slice()))
    }

    /// Takes a chain out, so that what is left at last is what nobody wants.
    fn take(&mut self, table: Table, chain: &str) -> Option<Vec<&'a str>> {
        self.tables.get_mut(table.name())?.remove(chain)
    }
}

/// How a plan is rendered.
pub(super) fn style(plan: &ServicePlan, features: &Features) -> Style {
    let endpoints = |port: &PortPlan| port.cluster.len().max(port.local.len());
    Style {
        family: plan.site.family,
        detect: plan.site.detect.clone(),
        is_wordy: plan.ports.values().map(|port| endpoints(port)).sum::<usize>() <= MANY,
        localhost: skeleton::localhost(&plan.site, features),
    }
}

/// The health check node ports of a plan.
pub(super) fn health(plan: &ServicePlan) -> BTreeMap<ServiceName, u16> {
    plan.health.iter().map(|(name, health)| (name.clone(), health.port)).collect()
}

/// Everything that keeps the kernel from being what `plan` says; and how many rules that is in all.
pub(super) fn everything(
    plan: &ServicePlan,
    style: &Style,
    features: &Features,
    mut observed: Observed<'_>,
) -> (Script, Totals) {
    let mut script = Script::default();
    let mut totals = Totals::default();
    let mut shared: BTreeMap<Shared, Vec<String>> = BTreeMap::new();
    let health = health(plan);
    for (name, port) in &plan.ports {
        let Rendered { chains, shared: rules } =
            render::port(style, port, health.get(&name.service).copied());
        for (chain, rules) in chains {
            totals.add(Table::Nat, rules.len());
            let is_there = observed.take(Table::Nat, &chain).is_some_and(|found| is_same(&found, &rules));
            if !is_there {
                script.rewrite(Table::Nat, &chain, rules);
            }
        }
        rules.into_iter().for_each(|(chain, rule)| shared.entry(chain).or_default().push(rule));
    }
    for chain in Shared::ALL {
        let wanted = shared.remove(&chain).unwrap_or_default();
        let last = if chain == Shared::Services {
            skeleton::to_node_ports(&plan.site, features)
        } else {
            Vec::new()
        };
        totals.add(chain.table(), wanted.len() + last.len());
        let found = observed.chain(chain.table(), chain.chain());
        compare_shared(&mut script, chain, found, (wanted, last));
    }
    compare_skeleton(&mut script, plan, features, &observed);
    skeleton::chains(&plan.site, features)
        .iter()
        .for_each(|(table, _, rules)| totals.add(*table, rules.len()));
    skeleton::jumps().iter().for_each(|jump| totals.add(jump.table, 1));
    totals.add(Table::Filter, usize::from(skeleton::guards_localhost(plan.site.family, features)));
    let mut stale: Vec<&str> = observed
        .chains(Table::Nat)
        .map(|(chain, _)| chain)
        .filter(|chain| names::is_of_port(chain))
        .collect();
    stale.sort_unstable();
    stale.into_iter().for_each(|chain| script.remove(Table::Nat, chain));
    (script, totals)
}

fn is_same(found: &[&str], wanted: &[String]) -> bool {
    found.len() == wanted.len() && found.iter().zip(wanted).all(|(a, b)| rule::is_same(a, b))
}

/// The rules of a shared chain may be in any order, but for those that must be last.
fn compare_shared(
    script: &mut Script,
    chain: Shared,
    found: Option<&[&str]>,
    (mut wanted, last): (Vec<String>, Vec<String>),
) {
    let (table, name) = (chain.table(), chain.chain());
    let rest = found.and_then(|found| {
        let (rest, end) = found.split_at_checked(found.len().checked_sub(last.len())?)?;
        is_same(end, &last).then_some(rest)
    });
    let Some(rest) = rest else {
        wanted.extend(last);
        return script.rewrite(table, name, wanted);
    };
    let mut missing: HashMap<&str, usize> = HashMap::new();
    wanted.iter().for_each(|rule| *missing.entry(rule).or_default() += 1);
    let mut superfluous = Vec::new();
    for rule in rest {
        match missing.get_mut(rule) {
            Some(count) if *count > 0 => *count -= 1,
            _ => superfluous.push(*rule),
        }
    }
    let missing: Vec<&String> = wanted.iter().filter(|rule| take_one(&mut missing, rule)).collect();
    let (missing, superfluous) = without_respelled(missing, superfluous);
    if superfluous.len() > SINGLY || missing.len() > wanted.len() / 2 && missing.len() > SINGLY {
        wanted.extend(last);
        return script.rewrite(table, name, wanted);
    }
    edit_shared(script, chain, superfluous.into_iter(), missing.into_iter().map(String::as_str));
}

fn take_one(counts: &mut HashMap<&str, usize>, rule: &str) -> bool {
    match counts.get_mut(rule) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    }
}

/// Leaves out rules that are there in other words: another version of iptables quotes or spaces them otherwise.
fn without_respelled<'a, 'b>(
    missing: Vec<&'a String>,
    superfluous: Vec<&'b str>,
) -> (Vec<&'a String>, Vec<&'b str>) {
    if missing.is_empty() || superfluous.is_empty() {
        return (missing, superfluous);
    }
    let mut spelled: HashMap<Vec<String>, usize> = HashMap::new();
    superfluous.iter().for_each(|rule| *spelled.entry(kernel::iptables::words(rule)).or_default() += 1);
    let mut respelled: HashMap<Vec<String>, usize> = HashMap::new();
    let is_missing = |rule: &&String| {
        let words = kernel::iptables::words(rule);
        match spelled.get_mut(&words) {
            Some(count) if *count > 0 => {
                *count -= 1;
                *respelled.entry(words).or_default() += 1;
                false
            }
            _ => true,
        }
    };
    let missing = missing.into_iter().filter(is_missing).collect();
    let is_superfluous = |rule: &&str| match respelled.get_mut(&kernel::iptables::words(rule)) {
        Some(count) if *count > 0 => {
            *count -= 1;
            false
        }
        _ => true,
    };
    (missing, superfluous.into_iter().filter(is_superfluous).collect())
}

/// Deletes and inserts rules of a shared chain. New ones come to the top, where iptables-nft need not read the chain, and
/// in their order.
pub(super) fn edit_shared<'a>(
    script: &mut Script,
    chain: Shared,
    gone: impl Iterator<Item = &'a str>,
    new: impl DoubleEndedIterator<Item = &'a str>,
) {
    gone.for_each(|rule| script.delete(chain.table(), chain.chain(), rule));
    new.rev().for_each(|rule| script.insert(chain.table(), chain.chain(), rule));
}

fn compare_skeleton(script: &mut Script, plan: &ServicePlan, features: &Features, observed: &Observed<'_>) {
    for (table, chain, rules) in skeleton::chains(&plan.site, features) {
        if !observed.chain(table, chain).is_some_and(|found| is_same(found, &rules)) {
            script.rewrite(table, chain, rules);
        }
    }
    let contains = |table, chain: &str, wanted: &str| {
        observed.chain(table, chain).is_some_and(|found| found.iter().any(|rule| rule::is_same(rule, wanted)))
    };
    let guard = skeleton::guards_localhost(plan.site.family, features).then(skeleton::localhost_guard);
    if observed.chain(Table::Filter, names::FIREWALL).is_none() {
        script.rewrite(Table::Filter, names::FIREWALL, guard.into_iter().collect());
    } else if let Some(guard) = guard.filter(|guard| !contains(Table::Filter, names::FIREWALL, guard)) {
        script.append(Table::Filter, names::FIREWALL, &guard);
    }
    for jump in skeleton::jumps() {
        if !contains(jump.table, jump.hook, &jump.rule) {
            script.insert(jump.table, jump.hook, &jump.rule);
        }
    }
}

/// What brings the Service port that was `old` to `new`, both as rendered.
pub(super) fn port(script: &mut Script, shared: &mut SharedChanges, old: Rendered, new: Rendered) {
    let mut former: HashMap<String, Vec<String>> = old.chains.into_iter().collect();
    for (chain, rules) in new.chains {
        if former.remove(&chain).is_none_or(|old| old != rules) {
            script.rewrite(Table::Nat, &chain, rules);
        }
    }
    let mut stale: Vec<String> = former.into_keys().collect();
    stale.sort_unstable();
    stale.iter().for_each(|chain| script.remove(Table::Nat, chain));
    let is_kept = |rule: &(Shared, String), others: &[(Shared, String)]| others.contains(rule);
    for (chain, rule) in old.shared.iter().filter(|rule| !is_kept(rule, &new.shared)) {
        shared.entry(*chain).or_default().0.push(rule.clone());
    }
    for (chain, rule) in new.shared.iter().filter(|rule| !is_kept(rule, &old.shared)) {
        shared.entry(*chain).or_default().1.push(rule.clone());
    }
}

/// Rules that go and that come, by shared chain.
pub(super) type SharedChanges = BTreeMap<Shared, (Vec<String>, Vec<String>)>;

/// Whether a shared chain is better rewritten than edited.
pub(super) fn is_rewritten((gone, _): &(Vec<String>, Vec<String>)) -> bool {
    gone.len() > SINGLY
}

/// The whole of a shared chain.
pub(super) fn whole(plan: &ServicePlan, style: &Style, features: &Features, chain: Shared) -> Vec<String> {
    let health = health(plan);
    let mut rules = Vec::new();
    for (name, port) in &plan.ports {
        let rendered = render::port(style, port, health.get(&name.service).copied());
        rules.extend(rendered.shared.into_iter().filter(|(of, _)| *of == chain).map(|(_, rule)| rule));
    }
    if chain == Shared::Services {
        rules.extend(skeleton::to_node_ports(&plan.site, features));
    }
    rules
}
