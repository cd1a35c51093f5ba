//! Forwarding for pods where a host firewall drops it.
//!
//! nf_tables asks every chain on the forward hook, and one drop is enough: an accept in a table of ours would not do.
//! So the pod CIDRs of this node are accepted in each chain that may drop, first of all its rules:
//!
//! * **iptables** (nf_tables' or legacy): a chain `BOWLINE-FORWARD` and a jump to it at the top of FORWARD, but behind
//!   the jumps of a Service proxy, which says what is rejected and dropped before anybody accepts;
//! * **any other table**, firewalld's included: two rules for each pod CIDR, marked by their comment.
//!
//! A chain without drops (policy accept, only counting) is let be. Firewalls that are reloaded take our rules with
//! them; the daemon hears of it and puts them back. Accepted is what comes from or goes to a pod of this node: that a
//! packet for it arrives is for routes and Services to decide.

use ipnetwork::IpNetwork;
use kernel::Result;
use kernel::iptables::{
    self, Family as Iptables4or6, Iptables, Ruleset, Script, Table as IptablesTable, Variant, legacy_table,
};
use kernel::netlink::Socket;
use kernel::nft::dialect::{self, ForwardChain};
use kernel::nft::{self, Batch, Chain, Field, Rule, Table};

use super::Outcome;
use crate::log::chain_of;

/// iptables' chain of ours.
const OURS: &str = "BOWLINE-FORWARD";
const FORWARD: &str = "FORWARD";
/// How the comment of each rule of ours begins.
const OWNER: &str = "bowlined: ";
const WHY: &str = "bowlined: pods of this node";
/// How the chains of a Service proxy begin, ours or kube-proxy's.
const OF_SERVICES: &str = "KUBE-";

/// Accepts `pods`, the pod CIDRs of this node, wherever forwarded packets may be dropped. Each chain is for itself: one
/// that can't be changed is a problem, the others are done all the same. With no pods, what is ours goes.
///
/// # Errors
/// Only when the kernel can't be asked at all.
pub fn sync(socket: &mut Socket, pods: &[IpNetwork]) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for family in Iptables4or6::BOTH {
        let of_family: Vec<IpNetwork> =
            pods.iter().copied().filter(|pods| Iptables4or6::of_ip(pods.ip()) == family).collect();
        outcome.extend(in_iptables(socket, family, &of_family));
        outcome.extend(in_legacy(family, &of_family));
    }
    for chain in dialect::list_other_forward_chains(socket, &[])? {
        outcome.extend(in_other(socket, &chain, pods));
    }
    Ok(outcome)
}

/// Where rules of ours are, in words.
///
/// # Errors
/// As [`sync`].
pub fn find(socket: &mut Socket) -> Result<Vec<String>> {
    let mut places = Vec::new();
    for family in Iptables4or6::BOTH {
        let table = iptables::nft_table(family, IptablesTable::Filter);
        if nft::chain_exists(socket, &table, OURS)? {
            places.push(format!("{table} {OURS}"));
        }
        let legacy = Iptables { family, variant: Variant::Legacy };
        if legacy_table(family, IptablesTable::Filter)
            && legacy.observe(IptablesTable::Filter)?.has_chain(OURS)
        {
            places.push(format!("legacy iptables' {OURS}"));
        }
    }
    for ForwardChain { family, table, chain, .. } in dialect::list_other_forward_chains(socket, &[])? {
        let rules = nft::list_rules(socket, &Table::new(family, &table), Some(&chain))?;
        if rules.iter().any(|rule| rule.comment.starts_with(OWNER)) {
            places.push(format!("table {family} {table}, chain {chain}"));
        }
    }
    Ok(places)
}

/// Removes every rule of ours.
///
/// # Errors
/// As [`sync`].
pub fn cleanup(socket: &mut Socket) -> Result<Outcome> {
    sync(socket, &[])
}

fn committed(socket: &mut Socket, place: &str, plan: impl Fn(&mut Socket) -> Result<Batch>) -> Outcome {
    let mut changed = false;
    let done = nft::converge(socket, |socket| {
        let batch = plan(socket)?;
        changed = !batch.is_empty();
        Ok(batch)
    });
    match done {
        Ok(()) if changed => {
            Outcome { changes: vec![format!("rewrote our rules in {place}")], ..Outcome::default() }
        }
        Ok(()) => Outcome::default(),
        Err(error) => Outcome {
            problems: vec![format!(
                "{place} may drop packets of pods and can't be changed ({}): accept the pod CIDRs there",
                chain_of(&error)
            )],
            ..Outcome::default()
        },
    }
}

fn in_iptables(socket: &mut Socket, family: Iptables4or6, pods: &[IpNetwork]) -> Outcome {
    let table = iptables::nft_table(family, IptablesTable::Filter);
    committed(socket, &format!("{table} {FORWARD}"), |socket| plan_iptables(socket, &table, pods))
}

fn plan_iptables(socket: &mut Socket, table: &Table<'_>, pods: &[IpNetwork]) -> Result<Batch> {
    let mut batch = Batch::new();
    let exists = nft::chain_exists(socket, table, OURS)?;
    let forward = dialect::forward_chain(socket, table, FORWARD)?;
    let may_drop = forward.map(|chain| chain.may_drop(socket)).transpose()?.unwrap_or(false);
    let rules = dialect::read_rules(socket, table, FORWARD)?;
    let last = rules.iter().rposition(|rule| rule.target().is_some_and(|name| name.starts_with(OF_SERVICES)));
    let ours = rules.iter().enumerate().filter(|(_, rule)| rule.jumps_to(OURS));
    let jumps: Vec<(usize, u64)> = ours.map(|(at, rule)| (at, rule.handle)).collect();
    if pods.is_empty() {
        for (_, handle) in jumps {
            batch.delete_rule(table, FORWARD, handle);
        }
        if exists {
            batch.delete_chain(table, OURS);
        }
        return Ok(batch);
    }
    if !exists && !may_drop {
        return Ok(batch);
    }
    if !exists {
        batch.create_chain(table, &Chain::regular(OURS));
    }
    let wanted: Vec<(String, Rule)> = pods
        .iter()
        .flat_map(|pods| {
            [
                (from(*pods), dialect::accept_from_network(*pods, &from(*pods))),
                (to(*pods), dialect::accept_to_network(*pods, &to(*pods))),
            ]
        })
        .collect();
    let present = nft::list_rules(socket, table, Some(OURS))?;
    if !present.iter().map(|rule| &rule.comment).eq(wanted.iter().map(|(comment, _)| comment)) {
        if !present.is_empty() {
            batch.flush_chain(table, OURS);
        }
        for (_, rule) in &wanted {
            batch.add_rule(table, OURS, rule);
        }
    }
    let is_placed = jumps.iter().any(|(at, _)| last.is_none_or(|last| *at > last));
    if !is_placed {
        let jump = dialect::jump(OURS, WHY);
        match last {
            Some(last) => batch.add_rule_behind(table, FORWARD, rules[last].handle, &jump),
            None => batch.insert_rule(table, FORWARD, &jump),
        };
        for (_, handle) in jumps {
            batch.delete_rule(table, FORWARD, handle);
        }
    }
    Ok(batch)
}

fn in_legacy(family: Iptables4or6, pods: &[IpNetwork]) -> Outcome {
    if !legacy_table(family, IptablesTable::Filter) {
        return Outcome::default();
    }
    let iptables = Iptables { family, variant: Variant::Legacy };
    let place = format!("legacy iptables' {FORWARD}");
    match iptables.converge(IptablesTable::Filter, |observed| plan_legacy(observed, pods)) {
        Ok(true) => Outcome { changes: vec![format!("rewrote our rules in {place}")], ..Outcome::default() },
        Ok(false) => Outcome::default(),
        Err(error) => Outcome {
            problems: vec![format!(
                "{place} may drop packets of pods and can't be changed ({}): accept the pod CIDRs there",
                chain_of(&error)
            )],
            ..Outcome::default()
        },
    }
}

fn plan_legacy(observed: &Ruleset, pods: &[IpNetwork]) -> Script {
    let mut script = Script::new(IptablesTable::Filter);
    let exists = observed.has_chain(OURS);
    let jumps: Vec<&str> = observed.rules_to(FORWARD, OURS).collect();
    if pods.is_empty() {
        jumps.iter().for_each(|rule| {
            script.delete(FORWARD, rule);
        });
        if exists {
            script.delete_chain(OURS);
        }
        return script;
    }
    if !exists && observed.policy(FORWARD) != Some("DROP") {
        return script;
    }
    let rule = |flag: &str, pods: &IpNetwork, comment: String| {
        format!("{flag} {pods} -m comment --comment {} -j ACCEPT", iptables::quoted(&comment))
    };
    let wanted: Vec<String> =
        pods.iter().flat_map(|pods| [rule("-s", pods, from(*pods)), rule("-d", pods, to(*pods))]).collect();
    let is_same =
        observed.rules(OURS).len() == wanted.len() && wanted.iter().all(|rule| observed.has_rule(OURS, rule));
    if !is_same {
        script.rewrite_chain(OURS);
        wanted.iter().for_each(|rule| {
            script.append(OURS, rule);
        });
    }
    let target = |rule: &String| iptables::target_of(rule).unwrap_or_default();
    let targets: Vec<String> = observed.rules(FORWARD).iter().map(target).collect();
    let behind = targets.iter().rposition(|name| name.starts_with(OF_SERVICES));
    let nth = behind.map_or(0, |at| at + 1);
    if !targets.iter().skip(nth).any(|name| name == OURS) {
        let jump = format!("-m comment --comment {} -j {OURS}", iptables::quoted(WHY));
        script.insert_as(FORWARD, nth + 1, &jump);
        jumps.iter().for_each(|rule| {
            script.delete(FORWARD, rule);
        });
    }
    script
}

fn in_other(socket: &mut Socket, chain: &ForwardChain, pods: &[IpNetwork]) -> Outcome {
    let ForwardChain { family, table, chain: name, .. } = chain;
    committed(socket, &format!("table {family} {table}, chain {name}"), |socket| {
        let table = Table::new(*family, table);
        let present = nft::list_rules(socket, &table, Some(name))?;
        let ours: Vec<_> = present.iter().filter(|rule| rule.comment.starts_with(OWNER)).collect();
        let wanted = match ours.is_empty() && !chain.may_drop(socket)? {
            true => Vec::new(),
            false => native_rules(*family, pods),
        };
        let mut batch = Batch::new();
        if ours.iter().map(|rule| &rule.comment).eq(wanted.iter().map(|rule| &rule.comment)) {
            return Ok(batch);
        }
        for rule in ours {
            batch.delete_rule(&table, name, rule.handle);
        }
        for rule in wanted.iter().rev() {
            batch.insert_rule(&table, name, rule);
        }
        Ok(batch)
    })
}

fn native_rules(table: nft::Family, pods: &[IpNetwork]) -> Vec<Rule> {
    let fits = |pods: &&IpNetwork| table == nft::Family::Inet || table == nft::Family::of_ip(pods.ip());
    let rules = |pods: &IpNetwork| {
        let family = nft::Family::of_ip(pods.ip());
        let rule = || if table == nft::Family::Inet { Rule::new() } else { Rule::in_family(family) };
        [
            rule().within(Field::Saddr(family), *pods).accept().comment(from(*pods)),
            rule().within(Field::Daddr(family), *pods).accept().comment(to(*pods)),
        ]
    };
    pods.iter().filter(fits).flat_map(rules).collect()
}

fn from(pods: IpNetwork) -> String {
    format!("{OWNER}from pods {pods}")
}

fn to(pods: IpNetwork) -> String {
    format!("{OWNER}to pods {pods}")
}
