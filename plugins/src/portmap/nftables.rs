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
//! **Taking over.** A key belongs to who came last: ADD puts its element in the place of another's, DEL removes an
//! element only if its comment carries the own tag, and both are guarded by the ruleset's generation.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{
    self, Base, Batch, Chain, ChainKind, Data, Element, Family, Field, Hook, Ports, Rule, RuleInfo, Set,
    Table, Type, Value,
};

use super::conditions::Condition;
use super::config::{Conditions, Config, Mapping, PodAddresses};
use crate::owner::{Keep, Owner, digest};
use crate::tagged;

const NAME: &str = "bowline_hostport";
const PREROUTING: Chain<'_> = Chain::base("prerouting", Base::new(ChainKind::Nat, Hook::Prerouting, -100));
const OUTPUT: Chain<'_> = Chain::base("output", Base::new(ChainKind::Nat, Hook::Output, -100));
const POSTROUTING: Chain<'_> = Chain::base("postrouting", Base::new(ChainKind::Nat, Hook::Postrouting, 100));
const LOOPBACK: Chain<'_> = Chain::base("loopback", Base::new(ChainKind::Filter, Hook::Prerouting, -300));
const MASQUERADE: &str = "masquerade-";
const HOSTPORTS: &str = "hostports";
const PORTS: &str = "ports";
const ADDRESSES: &str = "addresses";
const WHEN: &str = "when";
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

fn table_of(family: Family) -> Table<'static> {
    Table::new(family, NAME)
}

fn ip_type(family: Family) -> Type {
    if family == Family::Ip6 { Type::Ipv6 } else { Type::Ipv4 }
}

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

/// Whose connections to a pod are masqueraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sources {
    /// Everybody's.
    Any,
    /// Those of the pod's neighbours on its subnet, and of the host's loopback address.
    Subnet(IpNetwork),
    /// The pod's own, and those of the host's loopback address: it has no neighbours. One set serves all such pods.
    Itself(IpAddr),
}

impl Sources {
    fn of(config: &Config, pod: IpNetwork) -> Option<Self> {
        let whole = if pod.is_ipv4() { 32 } else { 128 };
        match (config.snat, config.masq_all) {
            (false, _) => None,
            (true, true) => Some(Sources::Any),
            (true, false) if pod.prefix() == whole => Some(Sources::Itself(pod.ip())),
            (true, false) => IpNetwork::new(pod.network(), pod.prefix()).ok().map(Sources::Subnet),
        }
    }

    fn set(self) -> String {
        match self {
            Sources::Any => format!("{MASQUERADE}any"),
            Sources::Subnet(subnet) => format!("{MASQUERADE}{}", subnet.to_string().replace(':', "_")),
            Sources::Itself(_) => format!("{MASQUERADE}itself"),
        }
    }

    /// The elements for `mapping` to port `to` of `pod`.
    fn elements(self, mapping: &Mapping, pod: IpAddr) -> Vec<Element> {
        let key = [
            pod.into(),
            Value::Proto(mapping.protocol.number()),
            Value::Port(mapping.container_port),
            Value::Port(mapping.host_port),
        ];
        let from = |source: IpAddr| Element::new(&[source.into(), key[0], key[1], key[2], key[3]]);
        match self {
            Sources::Any | Sources::Subnet(_) => vec![Element::new(&key)],
            Sources::Itself(own) if own.is_ipv4() => vec![from(own), from(Ipv4Addr::LOCALHOST.into())],
            Sources::Itself(own) => vec![from(own)],
        }
    }

    /// How many leading fields of the key are left out: the source is in it only where it decides.
    fn skipped(self) -> usize {
        usize::from(!matches!(self, Sources::Itself(_)))
    }

    fn declare(self, family: Family, batch: &mut Batch) {
        let address = ip_type(family);
        let kinds = [address, address, Type::Proto, Type::Port, Type::Port];
        batch.create_set(&table_of(family), &Set::new(&self.set(), &kinds[self.skipped()..]));
        for rule in self.rules(family) {
            batch.add_rule(&table_of(family), POSTROUTING.name, &rule);
        }
    }

    fn rules(self, family: Family) -> Vec<Rule> {
        let key =
            [Field::Saddr(family), Field::Daddr(family), Field::L4proto, Field::Dport, Field::OriginalDport];
        let set = self.set();
        let rule = || Rule::in_family(family).ct_dnat();
        let sources = match self {
            Sources::Subnet(subnet) if family == Family::Ip => {
                vec![rule().within(key[0], subnet), rule().within(key[0], loopback_addresses())]
            }
            Sources::Subnet(subnet) => vec![rule().within(key[0], subnet)],
            Sources::Any | Sources::Itself(_) => vec![rule()],
        };
        let masquerade =
            |source: Rule| source.in_set(&key[self.skipped()..], &set).masquerade().comment(&set);
        sources.into_iter().map(masquerade).collect()
    }

    /// What of its rules is missing from the table's `rules`; none when all are there.
    fn lost(self, family: Family, rules: &[RuleInfo]) -> Option<String> {
        let set = self.set();
        let own = rules.iter().filter(|rule| rule.chain == POSTROUTING.name && rule.comment == set).count();
        let chain = POSTROUTING.name;
        let table = table_of(family);
        (own < self.rules(family).len()).then(|| format!("chain {table} {chain} lacks a rule for set {set}"))
    }
}

fn loopback_addresses() -> IpNetwork {
    IpNetwork::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8).expect("8 is a prefix length")
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
fn wanted(config: &Config, pod: IpNetwork, comment: &str) -> Vec<(String, Element)> {
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
                tagged::claim(host, &mut batch, &table, &set, element)?;
            }
        }
        Ok(batch)
    })
}

fn declare_missing(host: &mut Socket, batch: &mut Batch, config: &Config, pod: IpNetwork) -> Result<()> {
    let family = Family::of_ip(pod.ip());
    let (table, group) = (table_of(family), Group::of(config, family));
    let has_group = nft::set_exists(host, &table, &group.named(PORTS))?;
    let sources = Sources::of(config, pod);
    let has_sources = match sources {
        Some(sources) => nft::set_exists(host, &table, &sources.set())?,
        None => true,
    };
    let has_all = has_group && has_sources;
    if !has_all && !nft::chain_exists(host, &table, PREROUTING.name)? {
        declare_table(family, batch);
    }
    if !has_group {
        group.declare(batch);
    }
    if let (Some(sources), false) = (sources, has_sources) {
        sources.declare(family, batch);
    }
    mend(host, batch, family, (has_group.then_some(group), sources.filter(|_| has_sources)))
}

/// Rewrites the rules that somebody has flushed or cut, of those parts that are there already.
fn mend(
    host: &mut Socket,
    batch: &mut Batch,
    family: Family,
    (group, sources): (Option<Group<'_>>, Option<Sources>),
) -> Result<()> {
    if group.is_none() && sources.is_none() {
        return Ok(());
    }
    let table = table_of(family);
    let rules = nft::list_rules(host, &table, None)?;
    let drop_rules = |batch: &mut Batch, comment: &str| {
        for rule in rules.iter().filter(|rule| rule.comment == comment) {
            batch.delete_rule(&table, &rule.chain, rule.handle);
        }
    };
    if family == Family::Ip && lost_guard(&rules) {
        batch.add_chain(&table, &LOOPBACK).flush_chain(&table, LOOPBACK.name);
        batch.add_rule(&table, LOOPBACK.name, &loopback_guard());
    }
    if let Some(group) = group.filter(|group| group.lost(&rules).is_some()) {
        let chain = group.named(HOSTPORTS);
        batch.flush_chain(&table, &chain);
        drop_rules(batch, &chain);
        group.declare_rules(batch);
    }
    if let Some(sources) = sources.filter(|sources| sources.lost(family, &rules).is_some()) {
        drop_rules(batch, &sources.set());
        for rule in sources.rules(family) {
            batch.add_rule(&table, POSTROUTING.name, &rule);
        }
    }
    Ok(())
}

/// Whether pods can reach the host's loopback addresses.
fn lost_guard(rules: &[RuleInfo]) -> bool {
    !rules.iter().any(|rule| rule.chain == LOOPBACK.name)
}

/// A mapped port that was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Released {
    /// IPPROTO_*.
    pub(super) protocol: u8,
    /// On the host.
    pub(super) port: u16,
    /// Where it led.
    pub(super) pod: IpAddr,
}

/// Removes the owner's elements: those that `config` and `pods` lead to, or, when that isn't all that was expected,
/// everything with its tag.
pub(super) fn remove(
    host: &mut Socket,
    owner: &Owner,
    config: &Config,
    pods: PodAddresses,
) -> Result<Vec<Released>> {
    let mut released = BTreeSet::new();
    let mut touched = BTreeSet::new();
    let mut whole = false;
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        released.clear();
        touched.clear();
        whole = !config.mappings.is_empty() && pods != PodAddresses::default();
        for pod in pods.iter() {
            let family = Family::of_ip(pod.ip());
            let table = table_of(family);
            for (set, element) in wanted(config, pod, "") {
                let present = nft::get_element(host, &table, &set, &element)?;
                whole &= present.is_some();
                if let Some(present) = present.filter(|present| owner.owns(&present.comment)) {
                    released.extend(read_released(family, &set, &present));
                    batch.delete_elements(&table, &set, &[present]);
                    touched.insert((family, set));
                }
            }
        }
        Ok(batch)
    })?;
    if !whole {
        released.extend(remove_tagged(host, |comment| owner.owns(comment))?);
        return Ok(released.into_iter().collect());
    }
    for (family, set) in &touched {
        if nft::is_empty(host, &table_of(*family), set)? {
            sweep(host)?;
            break;
        }
    }
    Ok(released.into_iter().collect())
}

/// Removes all elements whose comment `is_gone` accepts. Reads both tables.
fn remove_tagged(host: &mut Socket, is_gone: impl Fn(&str) -> bool) -> Result<Vec<Released>> {
    let mut released = Vec::new();
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        released.clear();
        for family in FAMILIES {
            let table = table_of(family);
            for set in nft::list_sets(host, &table)? {
                let mut elements = nft::list_elements(host, &table, &set)?;
                elements.retain(|element| is_gone(&element.comment));
                released.extend(elements.iter().filter_map(|element| read_released(family, &set, element)));
                batch.delete_elements(&table, &set, &elements);
            }
        }
        Ok(batch)
    })?;
    sweep(host)?;
    Ok(released)
}

/// What an element of one of the maps stood for.
fn read_released(family: Family, set: &str, element: &Element) -> Option<Released> {
    let address = ip_type(family);
    let types: &[Type] = match () {
        () if is_called(set, PORTS) => &[Type::Proto, Type::Port],
        () if is_called(set, ADDRESSES) => &[address, Type::Proto, Type::Port],
        () => return None,
    };
    let Some(Data::Value(data)) = &element.data else { return None };
    let key = nft::fields(types, &element.key).ok()?;
    let to = nft::fields(&[address, Type::Port], data).ok()?;
    match (&key[key.len() - 2..], to.first()) {
        ([Value::Proto(protocol), Value::Port(port)], Some(Value::Ip(pod))) => {
            Some(Released { protocol: *protocol, port: *port, pod: *pod })
        }
        _ => None,
    }
}

/// Whether `set` is the one called `what` of some group.
fn is_called(set: &str, what: &str) -> bool {
    set.strip_prefix(what).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Removes what no element needs any more: sets with their rules, and tables with their last set.
fn sweep(host: &mut Socket) -> Result<()> {
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        for family in FAMILIES {
            sweep_table(host, &mut batch, &table_of(family))?;
        }
        Ok(batch)
    })
}

fn sweep_table(host: &mut Socket, batch: &mut Batch, table: &Table<'_>) -> Result<()> {
    let sets = nft::list_sets(host, table)?;
    let mut empty = BTreeSet::new();
    for set in sets.iter().filter(|set| !is_called(set, WHEN)) {
        if nft::is_empty(host, table, set)? {
            empty.insert(set.as_str());
        }
    }
    let unused = sets.iter().all(|set| is_called(set, WHEN) || empty.contains(set.as_str()));
    if unused {
        if nft::table_exists(host, table)? {
            batch.delete_table(table);
        }
        return Ok(());
    }
    let rules = nft::list_rules(host, table, None)?;
    let delete_rules = |batch: &mut Batch, comment: &str| {
        for rule in rules.iter().filter(|rule| rule.comment == comment) {
            batch.delete_rule(table, &rule.chain, rule.handle);
        }
    };
    for set in &empty {
        if set.starts_with(MASQUERADE) {
            delete_rules(batch, set);
            batch.delete_set(table, set);
        } else if let Some(suffix) = set.strip_prefix(PORTS) {
            let addresses = format!("{ADDRESSES}{suffix}");
            if empty.contains(addresses.as_str()) {
                let chain = format!("{HOSTPORTS}{suffix}");
                delete_rules(batch, &chain);
                batch.delete_chain(table, &chain).delete_set(table, set).delete_set(table, &addresses);
                let when = format!("{WHEN}{suffix}-");
                for list in sets.iter().filter(|list| list.starts_with(&when)) {
                    batch.delete_set(table, list);
                }
            }
        }
    }
    Ok(())
}

/// Removes the elements of this network that belong to no valid attachment.
pub(super) fn gc(host: &mut Socket, keep: &Keep) -> Result<()> {
    remove_tagged(host, |comment| keep.is_stale(comment)).map(|_| ())
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
