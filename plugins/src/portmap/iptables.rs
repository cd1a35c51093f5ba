//! portmap with the reference's iptables rules: the same chains, names, comments and order, so that either's pods can
//! be checked and deleted by the other.
//!
//! ```text
//! PREROUTING, OUTPUT --dst-type LOCAL--> CNI-HOSTPORT-DNAT --ports--> CNI-DN-<hash> --+--> CNI-HOSTPORT-SETMARK
//! POSTROUTING ------> CNI-HOSTPORT-MASQ --mark--> MASQUERADE                          +--> DNAT
//! ```
//! One `iptables-save` and at most one `iptables-restore` per family; a table that changed in between is planned for
//! again (see [`kernel::iptables::Iptables::converge`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni::{Attachment, Error, Result};
use ipnetwork::IpNetwork;
use kernel::iptables::{self, Family, Iptables, Ruleset, Script, Table, quoted};
use kernel::netlink::Socket;

use super::config::{Conditions, Config, Mapping, PodAddresses, Protocol, SetMark};
use crate::error::gather;
use crate::iptables::iptables_error;
use crate::owner::digest;

const SETMARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQ: &str = "CNI-HOSTPORT-MASQ";
const DNAT: &str = "CNI-HOSTPORT-DNAT";
const DN_PREFIX: &str = "CNI-DN-";
const SN_PREFIX: &str = "CNI-SN-";
const MASQ_JUMP: &str = r#"-m comment --comment "CNI portfwd requiring masquerade" -j CNI-HOSTPORT-MASQ"#;
const DNAT_JUMP: &str = "-m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT";
/// iptables' multiport match takes no more ports than this.
const PORTS_PER_RULE: usize = 15;
/// The kernel's comment match holds no more bytes than this.
const COMMENT_MAX: usize = 255;

/// The chain of one container on one network.
pub(super) fn dnat_chain(network: &str, container_id: &str) -> String {
    format!("{DN_PREFIX}{}", digest(&format!("{network}{container_id}"), 28 - DN_PREFIX.len()))
}

fn snat_chain(network: &str, container_id: &str) -> String {
    format!("{SN_PREFIX}{}", digest(&format!("{network}{container_id}"), 28 - SN_PREFIX.len()))
}

/// What one attachment wants of one family.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intent<'a> {
    pub(super) network: &'a str,
    pub(super) container_id: &'a str,
    pub(super) config: &'a Config,
    pub(super) pod: IpNetwork,
}

/// Adds the rules for every address of the pod; repeatable.
pub(super) fn ensure(network: &str, who: &Attachment, config: &Config, pods: PodAddresses) -> Result<()> {
    for pod in pods.iter() {
        let intent = Intent { network, container_id: who.container_id.as_str(), config, pod };
        let iptables = Iptables::host(Family::of_ip(pod.ip()));
        iptables.converge(Table::Nat, |seen| plan_ensure(seen, intent)).map_err(failed)?;
    }
    Ok(())
}

/// Whether some iptables may hold the container's chain, for all families of `pods`.
pub(super) fn may_hold(
    host: &mut Socket,
    network: &str,
    container_id: &str,
    pods: PodAddresses,
) -> Result<bool> {
    let chain = dnat_chain(network, container_id);
    for pod in pods.iter() {
        let family = Family::of_ip(pod.ip());
        if iptables::holders(host, family, Table::Nat, &chain).map_err(failed)?.is_empty() {
            return Ok(false);
        }
    }
    Ok(pods != PodAddresses::default())
}

/// Says which rule is missing, if one is.
pub(super) fn check(network: &str, who: &Attachment, config: &Config, pods: PodAddresses) -> Result<()> {
    for pod in pods.iter() {
        let intent = Intent { network, container_id: who.container_id.as_str(), config, pod };
        let seen = Iptables::host(Family::of_ip(pod.ip())).observe(Table::Nat).map_err(failed)?;
        if let Some(missing) = find_missing(&seen, intent) {
            return Err(Error::internal(format!("portmap: {}: {missing}", pod.ip())));
        }
    }
    Ok(())
}

/// Removes what the container has on the network, by whichever iptables; starts a program only where its chain is,
/// or where legacy iptables has a nat table.
pub(super) fn remove(host: &mut Socket, network: &str, container_id: &str) -> Result<()> {
    let (dn, sn) = (dnat_chain(network, container_id), snat_chain(network, container_id));
    gather(Family::BOTH.map(|family| {
        let mut holders = iptables::holders(host, family, Table::Nat, &dn).map_err(failed)?;
        for holder in iptables::holders(host, family, Table::Nat, &sn).map_err(failed)? {
            if !holders.contains(&holder) {
                holders.push(holder);
            }
        }
        gather(
            holders
                .into_iter()
                .map(|iptables| remove_chains(iptables, |_| BTreeSet::from([dn.clone(), sn.clone()]))),
        )
    }))
}

/// Removes the chains of the network's containers that have no valid attachment.
pub(super) fn gc(host: &mut Socket, network: &str, valid: &[Attachment]) -> Result<()> {
    let keep: BTreeSet<String> =
        valid.iter().map(|who| dnat_chain(network, who.container_id.as_str())).collect();
    gather(Family::BOTH.map(|family| {
        gather(
            iptables::holders(host, family, Table::Nat, DNAT)
                .map_err(failed)?
                .into_iter()
                .map(|iptables| remove_chains(iptables, |seen| stale(seen, network, &keep))),
        )
    }))
}

/// Two that remove the last two containers at once each see the other's chain: so look again for what nobody needs.
fn remove_chains(iptables: Iptables, chains: impl Fn(&Ruleset) -> BTreeSet<String>) -> Result<()> {
    let plan = |seen: &Ruleset| plan_remove(seen, &chains(seen));
    if iptables.converge(Table::Nat, plan).map_err(failed)? {
        iptables.converge(Table::Nat, plan_unused).map_err(failed)?;
    }
    Ok(())
}

/// Whether iptables can be used.
pub(super) fn status() -> Result<()> {
    Family::BOTH.iter().try_for_each(|family| {
        let outcome = Iptables::host(*family).observe(Table::Nat);
        outcome.map(|_| ()).map_err(failed)
    })
}

#[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(error: kernel::Error) -> Error {
    iptables_error(&error).context("portmap")
}

/// The script that makes the table hold what `intent` says.
pub(super) fn plan_ensure(seen: &Ruleset, intent: Intent<'_>) -> Script {
    let mut script = Script::new(Table::Nat);
    plan_shared(&mut script, seen, intent.config);
    let chain = dnat_chain(intent.network, intent.container_id);
    let rules = container_rules(intent);
    if !seen.has_chain(&chain) || !same_rules(seen.rules(&chain), &rules) {
        script.rewrite_chain(&chain);
        for rule in &rules {
            script.append(&chain, rule);
        }
    }
    let entries = entry_rules(intent);
    let present: Vec<String> = seen.rules_to(DNAT, &chain).map(str::to_owned).collect();
    if !same_rules(&present, &entries) {
        for rule in &present {
            script.delete(DNAT, rule);
        }
        for rule in &entries {
            script.append(DNAT, rule);
        }
    }
    script
}

fn same_rules(present: &[String], wanted: &[String]) -> bool {
    let words = |rules: &[String]| rules.iter().map(|rule| iptables::words(rule)).collect::<Vec<_>>();
    words(present) == words(wanted)
}

/// The chains that all containers share.
fn plan_shared(script: &mut Script, seen: &Ruleset, config: &Config) {
    if let (true, SetMark::Bit(bit)) = (config.snat, &config.set_mark) {
        let mark = format!("{:#x}/{:#x}", 1u32 << bit, 1u32 << bit);
        let set = format!("-m comment --comment \"CNI portfwd masquerade mark\" -j MARK --set-xmark {mark}");
        plan_chain(script, seen, SETMARK, &[set]);
        plan_chain(script, seen, MASQ, &[format!("-m mark --mark {mark} -j MASQUERADE")]);
        if !seen.has_rule("POSTROUTING", MASQ_JUMP) {
            script.insert("POSTROUTING", MASQ_JUMP);
        }
    }
    plan_chain(script, seen, DNAT, &[]);
    for chain in ["PREROUTING", "OUTPUT"] {
        if !seen.has_rule(chain, DNAT_JUMP) {
            script.append(chain, DNAT_JUMP);
        }
    }
}

fn plan_chain(script: &mut Script, seen: &Ruleset, chain: &str, rules: &[String]) {
    if !seen.has_chain(chain) {
        script.create_chain(chain);
    }
    for rule in rules.iter().filter(|rule| !seen.has_rule(chain, rule)) {
        script.append(chain, rule);
    }
}

/// The rules that lead into the container's chain: per protocol, fifteen ports each.
fn entry_rules(intent: Intent<'_>) -> Vec<String> {
    let comment = quoted(&cut(format!("dnat name: \"{}\" id: \"{}\"", intent.network, intent.container_id)));
    let chain = dnat_chain(intent.network, intent.container_id);
    let conditions = match intent.config.conditions(intent.pod.ip()) {
        Conditions::Iptables(words) => {
            format!(" {}", words.iter().map(|w| plain(w)).collect::<Vec<_>>().join(" "))
        }
        _ => String::new(),
    };
    let mut rules = Vec::new();
    for protocol in Protocol::ALL {
        let of_protocol = intent.config.mappings.iter().filter(|mapping| mapping.protocol == protocol);
        let ports: Vec<String> = of_protocol.map(|mapping| mapping.host_port.to_string()).collect();
        for ports in ports.chunks(PORTS_PER_RULE) {
            rules.push(format!(
                "-p {protocol} -m comment --comment {comment} -m multiport --dports {}{conditions} -j {chain}",
                ports.join(",")
            ));
        }
    }
    rules
}

/// A word as iptables-save writes it: quoted only where it must be.
fn plain(word: &str) -> String {
    let simple = !word.is_empty() && !word.contains([' ', '"', '\\', '\'']);
    if simple { word.to_owned() } else { quoted(word) }
}

fn cut(mut comment: String) -> String {
    let mut end = comment.len().min(COMMENT_MAX);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    comment.truncate(end);
    comment
}

/// The rules of the container's chain, per mapping: mark what must be masqueraded, then DNAT.
fn container_rules(intent: Intent<'_>) -> Vec<String> {
    let pod = intent.pod.ip();
    let mut rules = Vec::new();
    for mapping in intent.config.mappings.iter().filter(|mapping| mapping.is_for(pod)) {
        let at = match mapping.only_at() {
            Some(host) => format!("-d {} ", whole(host)),
            None => String::new(),
        };
        let ports = format!("-p {0} -m {0} --dport {1}", mapping.protocol, mapping.host_port);
        for from in marked_sources(intent) {
            rules.push(format!("{from}{at}{ports} -j {}", set_mark_chain(intent.config)));
        }
        rules.push(format!("{at}{ports} -j DNAT --to-destination {}", destination(pod, mapping)));
    }
    rules
}

/// From where a connection must be masqueraded: from the pod's own subnet, whose answers would otherwise not pass the
/// host, and from the host's loopback address, which is not routed; or from anywhere.
fn marked_sources(intent: Intent<'_>) -> Vec<String> {
    if !intent.config.snat {
        return Vec::new();
    }
    if intent.config.masq_all {
        return vec![String::new()];
    }
    let mut sources = vec![format!("-s {}/{} ", intent.pod.network(), intent.pod.prefix())];
    if intent.pod.is_ipv4() {
        sources.push("-s 127.0.0.1/32 ".to_owned());
    }
    sources
}

fn set_mark_chain(config: &Config) -> &str {
    match &config.set_mark {
        SetMark::Bit(_) => SETMARK,
        SetMark::Chain(chain) => chain,
    }
}

fn whole(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}

fn destination(pod: IpAddr, mapping: &Mapping) -> String {
    match pod {
        IpAddr::V4(ip) => format!("{ip}:{}", mapping.container_port),
        IpAddr::V6(ip) => format!("[{ip}]:{}", mapping.container_port),
    }
}

/// What of `intent` the table lacks.
fn find_missing(seen: &Ruleset, intent: Intent<'_>) -> Option<String> {
    let chain = dnat_chain(intent.network, intent.container_id);
    if !seen.has_chain(&chain) {
        return Some(format!("chain {chain} is missing"));
    }
    let missing_in = |chain: &str, rules: &[String]| {
        let missing = rules.iter().find(|rule| !seen.has_rule(chain, rule))?;
        Some(format!("chain {chain} lacks `{missing}`"))
    };
    let jumps = [DNAT_JUMP.to_owned()];
    let missing = missing_in(&chain, &container_rules(intent))
        .or_else(|| missing_in("PREROUTING", &jumps))
        .or_else(|| missing_in("OUTPUT", &jumps));
    let masquerade = || match (&intent.config.set_mark, intent.config.snat) {
        (SetMark::Bit(_), true) => missing_in("POSTROUTING", &[MASQ_JUMP.to_owned()]),
        _ => None,
    };
    // iptables words conditions in its own order, so entries are counted rather than compared.
    let entries = entry_rules(intent).len();
    let entered = || {
        let present = seen.rules_to(DNAT, &chain).count();
        (present < entries).then(|| format!("chain {DNAT} has {present} of {entries} rules to {chain}"))
    };
    missing.or_else(masquerade).or_else(entered)
}

/// The script that removes `chains`, the rules that lead to them, and with the last of them what they share.
pub(super) fn plan_remove(seen: &Ruleset, chains: &BTreeSet<String>) -> Script {
    let mut script = Script::new(Table::Nat);
    let gone: Vec<&String> = chains.iter().filter(|chain| seen.has_chain(chain)).collect();
    for chain in &gone {
        for parent in [DNAT, "POSTROUTING"] {
            for rule in seen.rules_to(parent, chain) {
                script.delete(parent, rule);
            }
        }
    }
    for chain in &gone {
        script.delete_chain(chain);
    }
    let led_to = |rule: &String| iptables::target_of(rule).is_some_and(|target| chains.contains(&target));
    if !gone.is_empty() && seen.has_chain(DNAT) && seen.rules(DNAT).iter().all(led_to) {
        plan_remove_shared(&mut script, seen);
    }
    script
}

/// The script that removes the shared chains if no container uses them.
fn plan_unused(seen: &Ruleset) -> Script {
    let mut script = Script::new(Table::Nat);
    if seen.has_chain(DNAT) && seen.rules(DNAT).is_empty() {
        plan_remove_shared(&mut script, seen);
    }
    script
}

fn plan_remove_shared(script: &mut Script, seen: &Ruleset) {
    for (parent, target) in [("PREROUTING", DNAT), ("OUTPUT", DNAT), ("POSTROUTING", MASQ)] {
        for rule in seen.rules_to(parent, target) {
            script.delete(parent, rule);
        }
    }
    for chain in [DNAT, MASQ, SETMARK].into_iter().filter(|chain| seen.has_chain(chain)) {
        script.delete_chain(chain);
    }
}

/// The chains of the network's containers that aren't in `keep`, known by the comments on the rules to them.
fn stale(seen: &Ruleset, network: &str, keep: &BTreeSet<String>) -> BTreeSet<String> {
    let prefix = cut(format!("dnat name: \"{network}\" id: \""));
    let of_network = |rule: &&String| iptables::comment_of(rule).is_some_and(|c| c.starts_with(&prefix));
    let targets = seen.rules(DNAT).iter().filter(of_network).filter_map(|rule| iptables::target_of(rule));
    targets.filter(|chain| chain.starts_with(DN_PREFIX) && !keep.contains(chain)).collect()
}

#[cfg(test)]
#[path = "iptables_test.rs"]
mod tests;
