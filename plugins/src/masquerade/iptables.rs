//! ipMasq with the reference's iptables rules: the same chain, rules, order and comments, so that either's pods can
//! be checked and deleted by the other.
//!
//! ```text
//! -A POSTROUTING -s 10.1.0.5/32 -m comment --comment "<who>" -j CNI-<hash>
//! -A CNI-<hash> -d 10.1.0.0/24 -m comment --comment "<who>" -j ACCEPT
//! -A CNI-<hash> ! -d 224.0.0.0/4 -m comment --comment "<who>" -j MASQUERADE
//! ```
//! The chain is named after network and container only: two interfaces of a container on one network share it, and
//! it goes with the last rule that leads to it.

use std::collections::BTreeSet;

use cni::{Attachment, Error, IpConfig, Result};
use ipnetwork::IpNetwork;
use kernel::iptables::{self, Family, Iptables, Ruleset, Script, Table, quoted};
use kernel::netlink::Socket;

use crate::error::gather;
use crate::iptables::{iptables_error, users};
use crate::owner::{Owner, digest};

const POSTROUTING: &str = "POSTROUTING";
const PREFIX: &str = "CNI-";
const HASH_DIGITS: usize = 24;

fn chain_of(network: &str, container_id: &str) -> String {
    format!("{PREFIX}{}", digest(&format!("{network}{container_id}"), HASH_DIGITS))
}

fn chain_of_owner(owner: &Owner) -> String {
    chain_of(&owner.network, owner.attachment.container_id.as_str())
}

/// Adds the rules for `ips`; repeatable.
pub(super) fn ensure(owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    for (family, addresses) in by_family(ips) {
        let plan = |seen: &Ruleset| plan_ensure(seen, owner, &addresses);
        Iptables::host(family).converge(Table::Nat, plan).map_err(failed)?;
    }
    Ok(())
}

/// Removes the rules for `ips`, and the chain unless rules for other addresses lead to it; without `ips`, all of them.
/// Starts a program only if the chain is there, or legacy iptables has a nat table.
pub(super) fn remove(host: &mut Socket, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    let chain = chain_of_owner(owner);
    gather(Family::BOTH.map(|family| {
        let holders = iptables::holders(host, family, Table::Nat, &chain).map_err(failed)?;
        let addresses = (!ips.is_empty()).then(|| ips.iter().map(|ip| ip.address).collect::<Vec<_>>());
        gather(holders.into_iter().map(|iptables| {
            let plan = |seen: &Ruleset| plan_remove(seen, &chain, addresses.as_deref());
            iptables.converge(Table::Nat, plan).map(|_| ()).map_err(failed)
        }))
    }))
}

/// Whether all rules for `ips` are there; starts a program only if the owner's chain may be there.
pub(super) fn check(host: &mut Socket, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    let chain = chain_of_owner(owner);
    for (family, addresses) in by_family(ips) {
        let holders = iptables::holders(host, family, Table::Nat, &chain).map_err(failed)?;
        let mut missing = Some(format!("iptables chain {chain} is missing"));
        for iptables in holders {
            let seen = iptables.observe(Table::Nat).map_err(failed)?;
            missing = find_missing(&seen, owner, &addresses);
            if missing.is_none() {
                break;
            }
        }
        if let Some(missing) = missing {
            return Err(Error::internal(format!("masquerade: {missing}")));
        }
    }
    Ok(())
}

/// Removes chains of `network` that belong to none of `valid`; starts a program only if iptables has a nat table.
pub(super) fn gc(host: &mut Socket, network: &str, valid: &[Attachment]) -> Result<()> {
    let keep: BTreeSet<String> =
        valid.iter().map(|who| chain_of(network, who.container_id.as_str())).collect();
    gather(Family::BOTH.map(|family| {
        let users = users(host, family, Table::Nat).map_err(failed)?;
        gather(users.into_iter().map(|iptables| {
            iptables.converge(Table::Nat, |seen| plan_gc(seen, network, &keep)).map(|_| ()).map_err(failed)
        }))
    }))
}

#[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(error: kernel::Error) -> Error {
    iptables_error(&error).context("masquerade")
}

fn by_family(ips: &[IpConfig]) -> Vec<(Family, Vec<IpNetwork>)> {
    let of = |family| -> Vec<IpNetwork> {
        ips.iter().map(|ip| ip.address).filter(|a| Family::of_ip(a.ip()) == family).collect()
    };
    Family::BOTH.map(|family| (family, of(family))).into_iter().filter(|(_, of)| !of.is_empty()).collect()
}

fn comment(owner: &Owner) -> String {
    let text = format!("name: \"{}\" id: \"{}\"", owner.network, owner.attachment.container_id);
    format!("-m comment --comment {}", quoted(&text))
}

/// The rules of the owner's chain, in order.
fn chain_rules(owner: &Owner, addresses: &[IpNetwork]) -> Vec<String> {
    let comment = comment(owner);
    let mut rules: Vec<String> = Vec::new();
    for address in addresses {
        let accept = format!("-d {}/{} {comment} -j ACCEPT", address.network(), address.prefix());
        if !rules.contains(&accept) {
            rules.push(accept);
        }
    }
    let groups = if addresses.iter().any(IpNetwork::is_ipv4) { "224.0.0.0/4" } else { "ff00::/8" };
    rules.push(format!("! -d {groups} {comment} -j MASQUERADE"));
    rules
}

fn entry_rule(owner: &Owner, address: IpNetwork) -> String {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    format!("-s {}/{bits} {} -j {}", address.ip(), comment(owner), chain_of_owner(owner))
}

/// What is missing for `addresses` is appended; subnets go in front of the rule that masquerades.
fn plan_ensure(seen: &Ruleset, owner: &Owner, addresses: &[IpNetwork]) -> Script {
    let mut script = Script::new(Table::Nat);
    let chain = chain_of_owner(owner);
    let rules = chain_rules(owner, addresses);
    if !seen.has_chain(&chain) {
        script.create_chain(&chain);
        for rule in &rules {
            script.append(&chain, rule);
        }
    } else if let Some((masquerade, accepts)) = rules.split_last() {
        for rule in accepts.iter().filter(|rule| !seen.has_rule(&chain, rule)) {
            script.insert(&chain, rule);
        }
        if !seen.has_rule(&chain, masquerade) {
            script.append(&chain, masquerade);
        }
    }
    for address in addresses {
        let rule = entry_rule(owner, *address);
        if !seen.has_rule(POSTROUTING, &rule) {
            script.append(POSTROUTING, &rule);
        }
    }
    script
}

fn find_missing(seen: &Ruleset, owner: &Owner, addresses: &[IpNetwork]) -> Option<String> {
    let chain = chain_of_owner(owner);
    let rules = chain_rules(owner, addresses);
    if let Some(rule) = rules.iter().find(|rule| !seen.has_rule(&chain, rule)) {
        return Some(format!("iptables chain {chain} lacks `{rule}`"));
    }
    let missing = addresses.iter().find(|address| !seen.has_rule(POSTROUTING, &entry_rule(owner, **address)));
    missing.map(|address| format!("{}: no rule leads to iptables chain {chain}", address.ip()))
}

/// `addresses` are host addresses with any prefix length; none means all. The reference once wrote the subnet where it
/// now writes the address, so both are recognised.
fn plan_remove(seen: &Ruleset, chain: &str, addresses: Option<&[IpNetwork]>) -> Script {
    let mut script = Script::new(Table::Nat);
    let mut left = false;
    for rule in seen.rules_to(POSTROUTING, chain) {
        if addresses.is_none_or(|addresses| is_from(rule, addresses)) {
            script.delete(POSTROUTING, rule);
        } else {
            left = true;
        }
    }
    if !left && seen.has_chain(chain) {
        script.delete_chain(chain);
    }
    script
}

fn is_from(rule: &str, addresses: &[IpNetwork]) -> bool {
    let words = iptables::words(rule);
    let source = words.iter().position(|word| word == "-s").and_then(|at| words.get(at + 1));
    let Some(source) = source.and_then(|source| source.parse::<IpNetwork>().ok()) else { return false };
    addresses.iter().any(|address| {
        source.ip() == address.ip() && source.prefix() >= address.prefix()
            || (source.ip(), source.prefix()) == (address.network(), address.prefix())
    })
}

/// Chains of the network are known by the comment on the rules that lead to them.
fn plan_gc(seen: &Ruleset, network: &str, keep: &BTreeSet<String>) -> Script {
    let mut script = Script::new(Table::Nat);
    let prefix = format!("name: \"{network}\" id: \"");
    let of_network = |rule: &String| iptables::comment_of(rule).is_some_and(|c| c.starts_with(&prefix));
    let is_chain = |name: &str| name.starts_with(PREFIX) && name.len() == PREFIX.len() + HASH_DIGITS;
    let mut gone = BTreeSet::new();
    for rule in seen.rules(POSTROUTING).iter().filter(|rule| of_network(rule)) {
        if let Some(chain) =
            iptables::target_of(rule).filter(|chain| is_chain(chain) && !keep.contains(chain))
        {
            script.delete(POSTROUTING, rule);
            gone.insert(chain);
        }
    }
    // A DEL that was killed half-way may have left a chain that nothing leads to any more.
    for chain in seen.chains().filter(|chain| is_chain(chain) && !keep.contains(*chain)) {
        if seen.rules(chain).iter().any(of_network) {
            gone.insert(chain.to_owned());
        }
    }
    for chain in gone.iter().filter(|chain| seen.has_chain(chain)) {
        script.delete_chain(chain);
    }
    script
}

#[cfg(test)]
#[path = "iptables_test.rs"]
mod tests;
