//! portmap on nf_tables: one table per family, static rules, one map element per mapped port.
//!
//! ```text
//! table ip bowline_hostport {
//!     map ports {
//!         type inet_proto . inet_service : ipv4_addr . inet_service
//!         elements = { tcp . 8080 comment "<owner>" : 10.1.0.5 . 80 }
//!     }
//!     map addresses { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!     set masquerade-10.1.0.0/24 {
//!         type ipv4_addr . inet_proto . inet_service . inet_service
//!         elements = { 10.1.0.5 . tcp . 80 . 8080 comment "<owner>" }
//!     }
//!     chain prerouting  { type nat hook prerouting priority dstnat; fib daddr type local jump hostports }
//!     chain output      { type nat hook output priority dstnat; fib daddr type local jump hostports }
//!     chain hostports   { dnat ip to ip daddr . meta l4proto . th dport map @addresses
//!                         dnat ip to meta l4proto . th dport map @ports }
//!     chain postrouting { type nat hook postrouting priority srcnat;
//!                         ct status dnat ip saddr 10.1.0.0/24 ... @masquerade-10.1.0.0/24 masquerade
//!                         ct status dnat ip saddr 127.0.0.0/8 ... @masquerade-10.1.0.0/24 masquerade }
//!     chain loopback    { type filter hook prerouting priority raw;
//!                         iifname != "lo" ip daddr 127.0.0.0/8 drop }
//! }
//! ```
//! **Who is masqueraded.** Connections from the pod's own subnet, the pod itself included: its neighbours' answers
//! would otherwise go straight back and not be recognised. Connections from the host's loopback address, which is not
//! routed. With `masqAll`, all. The key holds the port before and after translation, and the rule asks for `ct status
//! dnat`, so that what reaches the pod by another way (directly, or through a Service) keeps its source.
//!
//! **Loopback.** `[::1]` is never translated: Linux routes it nowhere, whatever the rules say. For `127.0.0.1:8080` to
//! work the link to the pod has `route_localnet` on; chain `loopback` keeps the pods from reaching the host's loopback
//! addresses by it.
//!
//! **Conditions** have maps and a chain of their own, `hostports-<hash>`, entered by a rule that asks for them, so
//! that one configuration's conditions don't touch another's ports.
//!
//! **Taking over.** A key belongs to who came last: ADD puts its element in the place of another's, which waits until
//! that one goes, see [`super::waiting`]. DEL removes an element only if its comment carries the own tag, and both are
//! guarded by the ruleset's generation.

use ipnetwork::IpNetwork;
use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{self, Batch, Chain, Element, Family, Field, Ports, Rule, RuleInfo, Set, Type, Value};

use super::conditions::Condition;
use super::config::{Conditions, Config, Mapping, PodAddresses};
use super::layout::{
    ADDRESSES, HOSTPORTS, LOOPBACK, OUTPUT, PORTS, POSTROUTING, PREROUTING, WHEN, ip_type, ports_map,
    table_of,
};
use super::sources::{Sources, loopback_addresses};
use crate::owner::{Owner, digest};
use crate::tagged;

/// The mappings under one condition.
#[derive(Debug, Clone, Copy)]
struct Group<'a> {
    family: Family,
    condition: Option<&'a Condition>,
}

impl<'a> Group<'a> {
    fn of(config: &'a Config, family: Family) -> Self {
        let conditions = if family == Family::Ip { &config.conditions_v4 } else { &config.conditions_v6 };
        let condition = match conditions {
            Conditions::Nftables(condition) => Some(condition),
            _ => None,
        };
        Group { family, condition }
    }

    fn named(self, what: &str) -> String {
        match self.condition {
            None => what.to_owned(),
            Some(condition) => format!("{what}-{}", digest(condition.text(), 8)),
        }
    }

    /// The map that holds `mapping`, and its key.
    fn place(self, mapping: &Mapping) -> (String, Element) {
        let port = [Value::Proto(mapping.protocol.number()), Value::Port(mapping.host_port)];
        match mapping.only_at() {
            None => (self.named(PORTS), Element::new(&port)),
            Some(host) => (self.named(ADDRESSES), Element::new(&[host.into(), port[0], port[1]])),
        }
    }

    /// Its maps and chain, and the rules that lead there.
    fn declare(self, batch: &mut Batch) {
        let table = table_of(self.family);
        let address = ip_type(self.family);
        let (ports, addresses) = (self.named(PORTS), self.named(ADDRESSES));
        let data = [address, Type::Port];
        batch.create_set(&table, &Set::map(&ports, &[Type::Proto, Type::Port], &data));
        batch.create_set(&table, &Set::map(&addresses, &[address, Type::Proto, Type::Port], &data));
        let when = self.named(WHEN);
        for listed in self.condition.map(|condition| condition.listed(&when)).unwrap_or_default() {
            batch.create_set(&table, &listed.set()).create_elements(&table, &listed.name, &listed.elements);
        }
        let comment = self.condition.map_or("", Condition::text);
        batch.create_chain(&table, &Chain::regular(&self.named(HOSTPORTS)).comment(comment));
        self.declare_rules(batch);
    }

    /// The rules of its chain, and those that lead there.
    fn declare_rules(self, batch: &mut Batch) {
        let (table, family, when) = (table_of(self.family), self.family, self.named(WHEN));
        let (ports, addresses, chain) = (self.named(PORTS), self.named(ADDRESSES), self.named(HOSTPORTS));
        let by_address = [Field::Daddr(family), Field::L4proto, Field::Dport];
        let rule = || Rule::in_family(family);
        batch.add_rule(&table, &chain, &rule().dnat_by_map(family, &by_address, &addresses, Ports::Mapped));
        batch.add_rule(&table, &chain, &rule().dnat_by_map(family, &by_address[1..], &ports, Ports::Mapped));
        for base in [PREROUTING, OUTPUT] {
            let asked = match self.condition {
                Some(condition) => condition.add_to(rule(), &when),
                None => rule(),
            };
            batch.add_rule(&table, base.name, &asked.to_this_host().jump(&chain).comment(&chain));
        }
    }

    /// What of its rules is missing from the table's `rules`; none when all are there.
    fn lost(self, rules: &[RuleInfo]) -> Option<String> {
        let (table, chain) = (table_of(self.family), self.named(HOSTPORTS));
        for base in [PREROUTING.name, OUTPUT.name] {
            if !rules.iter().any(|rule| rule.chain == base && rule.comment == chain) {
                return Some(format!("no rule of chain {table} {base} leads to chain {chain}"));
            }
        }
        let own = rules.iter().filter(|rule| rule.chain == chain).count();
        (own < 2).then(|| format!("chain {table} {chain} lacks a rule"))
    }
}

fn declare_table(family: Family, batch: &mut Batch) {
    let table = table_of(family);
    batch.add_table(&table);
    for chain in [PREROUTING, OUTPUT, POSTROUTING] {
        batch.create_chain(&table, &chain);
    }
    if family == Family::Ip {
        batch.create_chain(&table, &LOOPBACK).add_rule(&table, LOOPBACK.name, &loopback_guard());
    }
}

fn loopback_guard() -> Rule {
    Rule::in_family(Family::Ip)
        .is_not(Field::Iifname, Value::IfName("lo"))
        .within(Field::Daddr(Family::Ip), loopback_addresses())
        .drop()
}

/// What one pod address wants: elements by set.
pub(super) fn wanted(config: &Config, pod: IpNetwork, comment: &str) -> Vec<(String, Element)> {
    let group = Group::of(config, Family::of_ip(pod.ip()));
    let mut wanted: Vec<(String, Element)> = Vec::new();
    for mapping in config.mappings.iter().filter(|mapping| mapping.is_for(pod.ip())) {
        let (map, place) = group.place(mapping);
        // Of two mappings of the same port the first counts.
        if wanted.iter().any(|(set, element)| *set == map && element.key == place.key) {
            continue;
        }
        wanted
            .push((map, place.to(&[pod.ip().into(), Value::Port(mapping.container_port)]).comment(comment)));
        if let Some(sources) = Sources::of(config, pod) {
            for element in sources.elements(mapping, pod.ip()) {
                let set = sources.set();
                if !wanted.iter().any(|(other, present)| *other == set && present.key == element.key) {
                    wanted.push((set, element.comment(comment)));
                }
            }
        }
    }
    wanted
}

/// Adds the elements, and whatever of the tables is missing, in one transaction for both families.
pub(super) fn ensure(host: &mut Socket, owner: &Owner, config: &Config, pods: PodAddresses) -> Result<()> {
    let comment = owner.comment();
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        for pod in pods.iter() {
            let wanted = wanted(config, pod, &comment);
            if wanted.is_empty() {
                continue;
            }
            declare_missing(host, &mut batch, config, pod)?;
            let table = table_of(Family::of_ip(pod.ip()));
            for (set, element) in wanted {
                match ports_map(&table, &set) {
                    Some(map) => map.claim(host, &mut batch, owner, element)?,
                    None => tagged::claim(host, &mut batch, &table, &set, element)?,
                }
            }
        }
        Ok(batch)
    })
}

/// Adds what is missing of the tables, and rewrites the rules that somebody has flushed or cut. A rule that is there has
/// the set that it asks, so as a rule one listing tells that nothing is to be done.
fn declare_missing(host: &mut Socket, batch: &mut Batch, config: &Config, pod: IpNetwork) -> Result<()> {
    let family = Family::of_ip(pod.ip());
    let table = table_of(family);
    let rules = nft::list_rules(host, &table, None)?;
    let group = Some(Group::of(config, family)).filter(|group| group.lost(&rules).is_some());
    let sources = Sources::of(config, pod).filter(|sources| sources.lost(family, &rules).is_some());
    let lacks_guard = family == Family::Ip && lost_guard(&rules);
    if group.is_none() && sources.is_none() && !lacks_guard {
        return Ok(());
    }
    let drop_rules = |batch: &mut Batch, comment: &str| {
        for rule in rules.iter().filter(|rule| rule.comment == comment) {
            batch.delete_rule(&table, &rule.chain, rule.handle);
        }
    };
    if !nft::chain_exists(host, &table, PREROUTING.name)? {
        declare_table(family, batch);
    } else if lacks_guard {
        batch.add_chain(&table, &LOOPBACK).flush_chain(&table, LOOPBACK.name);
        batch.add_rule(&table, LOOPBACK.name, &loopback_guard());
    }
    if let Some(group) = group {
        let chain = group.named(HOSTPORTS);
        if nft::set_exists(host, &table, &group.named(PORTS))? {
            batch.flush_chain(&table, &chain);
            drop_rules(batch, &chain);
            group.declare_rules(batch);
        } else {
            group.declare(batch);
        }
    }
    if let Some(sources) = sources {
        if nft::set_exists(host, &table, &sources.set())? {
            drop_rules(batch, &sources.set());
            sources.declare_rules(family, batch);
        } else {
            sources.declare(family, batch);
        }
    }
    Ok(())
}

/// Whether pods can reach the host's loopback addresses.
fn lost_guard(rules: &[RuleInfo]) -> bool {
    !rules.iter().any(|rule| rule.chain == LOOPBACK.name)
}

/// What is missing for the ports to lead to `pods` on behalf of `owner`; none when all is there.
pub(super) fn check(
    host: &mut Socket,
    owner: &Owner,
    config: &Config,
    pods: PodAddresses,
) -> Result<Option<String>> {
    for pod in pods.iter() {
        let family = Family::of_ip(pod.ip());
        let (table, group) = (table_of(family), Group::of(config, family));
        let wanted = wanted(config, pod, "");
        if wanted.is_empty() {
            continue;
        }
        let rules = nft::list_rules(host, &table, None)?;
        let guard =
            || (family == Family::Ip && lost_guard(&rules)).then(|| "the loopback guard is gone".into());
        let masquerade = || Sources::of(config, pod).and_then(|sources| sources.lost(family, &rules));
        if let Some(why) = group.lost(&rules).or_else(masquerade).or_else(guard) {
            return Ok(Some(why));
        }
        for (set, element) in wanted {
            let present = nft::get_element(host, &table, &set, &element)?;
            if let Some(why) = compare(owner, &element, present) {
                return Ok(Some(format!("{}: set {table} {set}: {why}", pod.ip())));
            }
        }
    }
    Ok(None)
}

fn compare(owner: &Owner, wanted: &Element, present: Option<Element>) -> Option<String> {
    match present {
        None => Some("an element is missing".into()),
        Some(present) if !owner.owns(&present.comment) => {
            Some(format!("an element belongs to {:?}", present.comment))
        }
        Some(present) if present.data != wanted.data => Some("a port leads elsewhere".into()),
        Some(_) => None,
    }
}
