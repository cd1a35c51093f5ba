//! firewall with the reference's iptables rules: the same chains, rules, order and comments.
//!
//! ```text
//! FORWARD --> CNI-FORWARD --> CNI-ADMIN          (the administrator's own rules come first)
//!                          -> -d pod, answers: ACCEPT; -s pod: ACCEPT
//! FORWARD --> CNI-ISOLATION-STAGE-1 --> CNI-ISOLATION-STAGE-2   (ingressPolicy; in front of CNI-FORWARD)
//! ```
//! These rules say nothing of who they are for; that is kept in the sets of [`super::nftables`].
//!
//! The rules of a bridge's ingress policy go with the last pod of the bridge: when CNI-FORWARD accepts no other
//! address of the pod's subnet.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::Result;
use kernel::iptables::{self, Family, Iptables, Ruleset, Script, Table, comment_of, quoted};

use super::config::{ADMIN_CHAIN, Config, IngressPolicy, Pod};

/// The chain that accepts.
pub(super) const CNI_FORWARD: &str = "CNI-FORWARD";
/// The comment on the rule that leads to it.
pub(super) const COMMENT: &str = "CNI firewall plugin rules";
/// The comment on the rule that leads to the administrator's chain.
pub(super) const ADMIN_COMMENT: &str = "CNI firewall plugin admin overrides";
/// The chain that an ingress policy begins with.
pub(super) const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";
const FORWARD: &str = "FORWARD";

fn accept_rules(ip: IpAddr) -> [String; 2] {
    let whole = format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
    [
        format!("-d {whole} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        format!("-s {whole} -j ACCEPT"),
    ]
}

fn jump(comment: &str, chain: &str) -> String {
    format!("-m comment --comment {} -j {chain}", quoted(comment))
}

/// Adds the rules for every address of the pod; repeatable. Only the families that the pod has are touched.
pub(super) fn ensure(iptables: Iptables, config: &Config, pod: &Pod) -> Result<()> {
    iptables.converge(Table::Filter, |seen| plan_ensure(seen, iptables.family, config, pod)).map(|_| ())
}

/// What is missing of what [`ensure`] adds.
pub(super) fn find_missing(seen: &Ruleset, family: Family, config: &Config, pod: &Pod) -> Option<String> {
    let script = plan_ensure(seen, family, config, pod);
    let missing =
        script.text().lines().find(|line| line.starts_with("-A") || line.starts_with("-I"))?.to_owned();
    Some(format!("iptables lacks `{missing}`"))
}

/// Removes the rules for `ips`, and what nobody needs then.
pub(super) fn remove(iptables: Iptables, ips: &[IpAddr], pod: &Pod) -> Result<()> {
    iptables.converge(Table::Filter, |seen| plan_remove(seen, ips, pod)).map(|_| ())
}

/// The families that `ips` have.
pub(super) fn families(ips: &[IpAddr]) -> impl Iterator<Item = Family> {
    let of = |family: &Family| ips.iter().any(|ip| Family::of_ip(*ip) == *family);
    Family::BOTH.into_iter().filter(of).collect::<Vec<_>>().into_iter()
}

fn plan_ensure(seen: &Ruleset, family: Family, config: &Config, pod: &Pod) -> Script {
    let mut script = Script::new(Table::Filter);
    for chain in [CNI_FORWARD, &config.admin_chain] {
        if !seen.has_chain(chain) {
            script.create_chain(chain);
        }
    }
    let (entry, admin) = (jump(COMMENT, CNI_FORWARD), jump(ADMIN_COMMENT, &config.admin_chain));
    if !seen.has_rule(FORWARD, &entry) {
        script.insert(FORWARD, &entry);
    }
    if !seen.has_rule(CNI_FORWARD, &admin) {
        script.insert(CNI_FORWARD, &admin);
    }
    for ip in pod.ips().into_iter().filter(|ip| Family::of_ip(*ip) == family) {
        for rule in accept_rules(ip).iter().filter(|rule| !seen.has_rule(CNI_FORWARD, rule)) {
            script.append(CNI_FORWARD, rule);
        }
    }
    plan_policy(&mut script, seen, config.policy, &pod.bridge);
    script
}

/// What the reference's rules say, whatever their comments, which differ between its versions.
fn has_rule(seen: &Ruleset, chain: &str, rule: &str) -> bool {
    let bare = |rule: &str| {
        let mut words = iptables::words(rule);
        if let Some(at) = words.iter().position(|word| word == "--comment") {
            words.drain(at.saturating_sub(2)..=at + 1);
        }
        words
    };
    let wanted = bare(rule);
    seen.rules(chain).iter().any(|rule| bare(rule) == wanted)
}

fn plan_policy(script: &mut Script, seen: &Ruleset, policy: IngressPolicy, bridge: &str) {
    if policy == IngressPolicy::Open {
        return;
    }
    let comment = quoted(&format!("{COMMENT} (ingressPolicy: {})", policy.name()));
    let comment = format!("-m comment --comment {comment}");
    for chain in [STAGE_1, STAGE_2] {
        if !seen.has_chain(chain) {
            script.create_chain(chain);
        }
    }
    let mut first = vec![
        (FORWARD, format!("{comment} -j {STAGE_1}")),
        (STAGE_1, format!("-i {bridge} ! -o {bridge} {comment} -j {STAGE_2}")),
        (STAGE_2, format!("-o {bridge} {comment} -j DROP")),
    ];
    if policy == IngressPolicy::Isolated {
        first.push((STAGE_1, format!("-i {bridge} -o {bridge} {comment} -j DROP")));
    }
    for (chain, rule) in first.iter().filter(|(chain, rule)| !has_rule(seen, chain, rule)) {
        script.insert(chain, rule);
    }
    for chain in [STAGE_1, STAGE_2] {
        let returns = format!("{comment} -j RETURN");
        if !has_rule(seen, chain, &returns) {
            script.append(chain, &returns);
        }
    }
}

fn plan_remove(seen: &Ruleset, ips: &[IpAddr], pod: &Pod) -> Script {
    let mut script = Script::new(Table::Filter);
    let gone: Vec<String> = ips.iter().flat_map(|ip| accept_rules(*ip)).collect();
    let is_gone = |rule: &String| gone.iter().any(|other| iptables::words(other) == iptables::words(rule));
    let (removed, left): (Vec<&String>, Vec<&String>) =
        seen.rules(CNI_FORWARD).iter().partition(|rule| is_gone(rule));
    for rule in &removed {
        script.delete(CNI_FORWARD, rule);
    }
    if left.iter().all(|rule| leads_to_admin(rule)) {
        plan_remove_chain(&mut script, seen, &left);
        plan_remove_policy(&mut script, seen, |_| true);
        return script;
    }
    let neighbours = left.iter().any(|rule| pod.addresses.iter().any(|own| is_neighbour(rule, *own)));
    if !pod.bridge.is_empty() && !pod.addresses.is_empty() && !neighbours {
        plan_remove_policy(&mut script, seen, |word| word == pod.bridge);
    }
    script
}

fn leads_to_admin(rule: &str) -> bool {
    comment_of(rule).as_deref() == Some(ADMIN_COMMENT)
}

/// Whether `rule` accepts another address of the subnet of `own`.
fn is_neighbour(rule: &str, own: IpNetwork) -> bool {
    let words = iptables::words(rule);
    let source = words.iter().position(|word| word == "-s").and_then(|at| words.get(at + 1));
    let source = source.and_then(|source| source.parse::<IpNetwork>().ok());
    source.is_some_and(|source| source.ip() != own.ip() && own.contains(source.ip()))
}

/// The chain goes with its last pod, and the administrator's chain if it is ours by name and empty.
fn plan_remove_chain(script: &mut Script, seen: &Ruleset, left: &[&String]) {
    if !seen.has_chain(CNI_FORWARD) {
        return;
    }
    let admin_in_use =
        left.iter().filter_map(|rule| iptables::target_of(rule)).any(|chain| !seen.rules(&chain).is_empty());
    if admin_in_use {
        return;
    }
    for rule in seen.rules_to(FORWARD, CNI_FORWARD) {
        script.delete(FORWARD, rule);
    }
    script.delete_chain(CNI_FORWARD);
    let leads_elsewhere =
        |chain: &str| chain != CNI_FORWARD && seen.rules_to(chain, ADMIN_CHAIN).next().is_some();
    if seen.has_chain(ADMIN_CHAIN)
        && seen.rules(ADMIN_CHAIN).is_empty()
        && !seen.chains().any(leads_elsewhere)
    {
        script.delete_chain(ADMIN_CHAIN);
    }
}

/// The rules of the bridges that `is_gone` accepts by name, and the chains with the last bridge.
fn plan_remove_policy(script: &mut Script, seen: &Ruleset, is_gone: impl Fn(&str) -> bool) {
    let mut bridges_left = false;
    for chain in [STAGE_1, STAGE_2] {
        for rule in seen.rules(chain) {
            let words = iptables::words(rule);
            let bridge = words.iter().position(|word| word == "-o").and_then(|at| words.get(at + 1));
            match bridge {
                Some(bridge) if is_gone(bridge) => {
                    script.delete(chain, rule);
                }
                Some(_) => bridges_left = true,
                None => {}
            }
        }
    }
    if bridges_left || !seen.has_chain(STAGE_1) {
        return;
    }
    for rule in seen.rules_to(FORWARD, STAGE_1) {
        script.delete(FORWARD, rule);
    }
    for chain in [STAGE_1, STAGE_2].into_iter().filter(|chain| seen.has_chain(chain)) {
        script.delete_chain(chain);
    }
}

#[cfg(test)]
#[path = "iptables_test.rs"]
mod tests;
