//! firewall on nf_tables: who is on the node, and the ingress policies.
//!
//! ```text
//! table inet bowline_firewall {
//!     set pods-ipv4 { type ipv4_addr; elements = { 10.1.0.5 comment "<owner>" } }
//!     set pods-ipv6 { type ipv6_addr }
//!     set bridges { type ifname; elements = { "cni0" } }
//!     set same-bridge-cni0-ipv4 { type ipv4_addr; elements = { 10.1.0.5 comment "<owner>" } }
//!     chain forward { type filter hook forward priority filter; policy accept;
//!         ip daddr @same-bridge-cni0-ipv4 iifname @bridges iifname != "cni0" drop comment "same-bridge-cni0-ipv4"
//!         ct state established,related ip daddr @pods-ipv4 accept
//!         ip saddr @pods-ipv4 accept
//!         ..
//!     }
//! }
//! table bridge bowline_firewall {
//!     set isolated-ipv4 { .. }
//!     chain forward { type filter hook forward priority filter; policy accept; ip daddr @isolated-ipv4 drop }
//! }
//! ```
//! **The sets of pods** are also the record of whose an address is, for all backends: iptables' and firewalld's rules
//! carry no owner. Without the result of ADD, DEL and GC find an attachment's addresses here, and an address that
//! another attachment has since got is left alone.
//!
//! **Accept is not enough.** An accept here ends this table's chain only; a chain of somebody else that drops by
//! policy still drops. [`super::forward`] puts the accept there too.
//!
//! **Ingress policies.** A bridge is in `bridges` as long as it has a pod with a policy. Pods of such bridges can't
//! reach pods of others (`same-bridge`), or any pod (`isolated`). Neighbours on one bridge talk past the IP hooks
//! unless br_netfilter is on, so isolation has a second table that sees frames; unlike the reference's it works
//! without br_netfilter.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{
    self, Base, Batch, Chain, ChainKind, Cmp, Element, Expr, Family, Field, Header, Hook, Reg, Rule, Set,
    Table, Type, Value, fields,
};

use super::config::{IngressPolicy, Pod};
use crate::owner::{Keep, Owner};
use crate::tagged;

const TABLE: Table<'_> = Table::new(Family::Inet, "bowline_firewall");
const FRAMES: Table<'_> = Table::new(Family::Bridge, "bowline_firewall");
const FORWARD: Chain<'_> = Chain::base("forward", Base::new(ChainKind::Filter, Hook::Forward, 0));
const BRIDGES: &str = "bridges";
const SAME_BRIDGE: &str = "same-bridge-";
const ISOLATED: &str = "isolated-";
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// Whether the accept rules are wanted, or only the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// This is the backend.
    Accept,
    /// Another backend accepts; this one remembers for whom.
    Record,
}

fn suffix(family: Family) -> &'static str {
    if family == Family::Ip6 { "ipv6" } else { "ipv4" }
}

fn pods_set(family: Family) -> String {
    format!("pods-{}", suffix(family))
}

/// The set of pods under a policy; each bridge has its own.
#[derive(Debug, Clone, Copy)]
struct Guarded<'a> {
    policy: IngressPolicy,
    bridge: &'a str,
    family: Family,
}

impl<'a> Guarded<'a> {
    fn of(policy: IngressPolicy, pod: &'a Pod, ip: IpAddr) -> Option<Self> {
        let guarded = Guarded { policy, bridge: &pod.bridge, family: Family::of_ip(ip) };
        (policy != IngressPolicy::Open).then_some(guarded)
    }

    fn set(self) -> String {
        let prefix = if self.policy == IngressPolicy::Isolated { ISOLATED } else { SAME_BRIDGE };
        format!("{prefix}{}-{}", self.bridge, suffix(self.family))
    }

    fn declare(self, batch: &mut Batch) {
        let set = self.set();
        let rule = Rule::new().in_set(&[Field::Daddr(self.family)], &set).in_set(&[Field::Iifname], BRIDGES);
        let rule = match self.policy {
            IngressPolicy::Isolated => rule,
            _ => rule.is_not(Field::Iifname, Value::IfName(self.bridge)),
        };
        batch.create_set(&TABLE, &Set::new(&set, &[ip_type(self.family)]));
        batch.insert_rule(&TABLE, FORWARD.name, &rule.drop().comment(&set));
    }
}

fn ip_type(family: Family) -> Type {
    if family == Family::Ip6 { Type::Ipv6 } else { Type::Ipv4 }
}

/// The bridge that a set of guarded pods is for.
fn bridge_of(set: &str) -> Option<&str> {
    let rest = set.strip_prefix(SAME_BRIDGE).or_else(|| set.strip_prefix(ISOLATED))?;
    rest.strip_suffix("-ipv4").or_else(|| rest.strip_suffix("-ipv6"))
}

/// Adds the pod's elements, and whatever of the tables is missing, in one transaction.
pub(super) fn ensure(
    host: &mut Socket,
    owner: &Owner,
    pod: &Pod,
    policy: IngressPolicy,
    purpose: Purpose,
) -> Result<()> {
    let comment = owner.comment();
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        declare_missing(host, &mut batch, pod, policy, purpose)?;
        for ip in pod.ips() {
            let element = || Element::new(&[ip.into()]).comment(&comment);
            tagged::claim(host, &mut batch, &TABLE, &pods_set(Family::of_ip(ip)), element())?;
            if let Some(guarded) = Guarded::of(policy, pod, ip) {
                tagged::claim(host, &mut batch, &TABLE, &guarded.set(), element())?;
            }
            if policy == IngressPolicy::Isolated {
                tagged::claim(host, &mut batch, &FRAMES, &frames_set(Family::of_ip(ip)), element())?;
            }
        }
        Ok(batch)
    })
}

fn frames_set(family: Family) -> String {
    format!("{ISOLATED}{}", suffix(family))
}

fn declare_missing(
    host: &mut Socket,
    batch: &mut Batch,
    pod: &Pod,
    policy: IngressPolicy,
    purpose: Purpose,
) -> Result<()> {
    if !nft::set_exists(host, &TABLE, BRIDGES)? {
        batch.add_table(&TABLE).create_set(&TABLE, &Set::new(BRIDGES, &[Type::IfName]));
        for family in FAMILIES {
            batch.create_set(&TABLE, &Set::new(&pods_set(family), &[ip_type(family)]));
        }
    }
    let rules = nft::list_rules(host, &TABLE, Some(FORWARD.name))?;
    let accepts = purpose == Purpose::Accept && !rules.iter().any(|rule| rule.comment == ACCEPTS);
    if accepts || policy != IngressPolicy::Open {
        batch.add_chain(&TABLE, &FORWARD);
    }
    for family in FAMILIES.into_iter().filter(|_| accepts) {
        let (set, rule) = (pods_set(family), || Rule::new().comment(ACCEPTS));
        let answers = rule().ct_established_or_related().in_set(&[Field::Daddr(family)], &set).accept();
        batch.add_rule(&TABLE, FORWARD.name, &answers);
        batch.add_rule(&TABLE, FORWARD.name, &rule().in_set(&[Field::Saddr(family)], &set).accept());
    }
    let mut declared = BTreeSet::new();
    for guarded in pod.ips().into_iter().filter_map(|ip| Guarded::of(policy, pod, ip)) {
        if declared.insert(guarded.set()) && !nft::set_exists(host, &TABLE, &guarded.set())? {
            guarded.declare(batch);
        }
    }
    if policy != IngressPolicy::Open {
        let bridge = Element::new(&[Value::IfName(&pod.bridge)]);
        tagged::claim(host, batch, &TABLE, BRIDGES, bridge)?;
    }
    if policy == IngressPolicy::Isolated && !nft::chain_exists(host, &FRAMES, FORWARD.name)? {
        batch.add_table(&FRAMES).create_chain(&FRAMES, &FORWARD);
        for family in FAMILIES {
            let set = frames_set(family);
            batch.create_set(&FRAMES, &Set::new(&set, &[ip_type(family)]));
            batch.add_rule(
                &FRAMES,
                FORWARD.name,
                &of_ether_type(family).in_set(&[Field::Daddr(family)], &set).drop(),
            );
        }
    }
    Ok(())
}

/// The comment on the rules that accept.
const ACCEPTS: &str = "pods";

/// Frames are of no address family; what they carry is in their header.
fn of_ether_type(family: Family) -> Rule {
    let number: u16 = if family == Family::Ip6 { 0x86dd } else { 0x0800 };
    let load = Expr::Payload { header: Header::Link, offset: 12, length: 2, to: Reg(0) };
    let is = Expr::Compare { reg: Reg(0), op: Cmp::Equal, with: number.to_be_bytes().to_vec() };
    Rule::in_family(family).expr(load).expr(is)
}

/// Removes the owner's elements. Answers the addresses whose rules elsewhere may go: the owner's by the record, and
/// those of `pod` that the record doesn't give to somebody else.
pub(super) fn remove(host: &mut Socket, owner: &Owner, pod: &Pod) -> Result<Vec<IpAddr>> {
    let mut found = BTreeSet::new();
    let mut whole = false;
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        found.clear();
        whole = !pod.addresses.is_empty();
        let sets = nft::list_sets(host, &TABLE)?;
        for ip in pod.ips() {
            let (family, wanted) = (Family::of_ip(ip), Element::new(&[ip.into()]));
            let present = nft::get_element(host, &TABLE, &pods_set(family), &wanted)?;
            whole &= present.is_some();
            if present.is_some_and(|present| !owner.owns(&present.comment)) {
                continue;
            }
            found.insert(ip);
            for set in sets.iter().filter(|set| set.ends_with(suffix(family))) {
                tagged::release(host, &mut batch, (&TABLE, set), &wanted, owner)?;
            }
            tagged::release(host, &mut batch, (&FRAMES, &frames_set(family)), &wanted, owner)?;
        }
        Ok(batch)
    })?;
    if !whole {
        found.extend(release_tagged(host, |comment| owner.owns(comment))?);
    }
    sweep(host)?;
    Ok(found.into_iter().collect())
}

/// Removes the elements of this network that belong to no valid attachment, and answers their addresses.
pub(super) fn gc(host: &mut Socket, keep: &Keep) -> Result<Vec<IpAddr>> {
    let released = release_tagged(host, |comment| keep.is_stale(comment))?;
    sweep(host)?;
    Ok(released)
}

fn release_tagged(host: &mut Socket, is_gone: impl Fn(&str) -> bool) -> Result<Vec<IpAddr>> {
    let mut released = BTreeSet::new();
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        released.clear();
        for table in [TABLE, FRAMES] {
            for set in nft::list_sets(host, &table)? {
                let mut elements = nft::list_elements(host, &table, &set)?;
                elements.retain(|element| is_gone(&element.comment));
                released.extend(elements.iter().filter_map(read_ip));
                batch.delete_elements(&table, &set, &elements);
            }
        }
        Ok(batch)
    })?;
    Ok(released.into_iter().collect())
}

fn read_ip(element: &Element) -> Option<IpAddr> {
    let kind = if element.key.len() == 4 { Type::Ipv4 } else { Type::Ipv6 };
    match fields(&[kind], &element.key).ok()?.first() {
        Some(Value::Ip(ip)) => Some(*ip),
        _ => None,
    }
}

/// Removes what no pod needs any more: sets of guarded pods with their rules, bridges without any, and the tables
/// with the last pod.
fn sweep(host: &mut Socket) -> Result<()> {
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        let sets = nft::list_sets(host, &TABLE)?;
        let (mut empty, mut used) = (BTreeSet::new(), BTreeSet::new());
        for set in sets.iter().filter(|set| *set != BRIDGES) {
            let kind = if nft::is_empty(host, &TABLE, set)? { &mut empty } else { &mut used };
            kind.insert(set.as_str());
        }
        if used.is_empty() {
            if nft::table_exists(host, &TABLE)? {
                batch.delete_table(&TABLE);
            }
            return Ok(batch);
        }
        let unguarded: Vec<&str> = empty.iter().copied().filter(|set| bridge_of(set).is_some()).collect();
        let rules = if unguarded.is_empty() {
            Vec::new()
        } else {
            nft::list_rules(host, &TABLE, Some(FORWARD.name))?
        };
        for set in &unguarded {
            for rule in rules.iter().filter(|rule| rule.comment == *set) {
                batch.delete_rule(&TABLE, FORWARD.name, rule.handle);
            }
            batch.delete_set(&TABLE, set);
        }
        let freed: BTreeSet<&str> = unguarded.iter().copied().filter_map(bridge_of).collect();
        let left: BTreeSet<&str> = used.iter().copied().filter_map(bridge_of).collect();
        for bridge in freed.difference(&left) {
            let element = Element::new(&[Value::IfName(bridge)]);
            if nft::get_element(host, &TABLE, BRIDGES, &element)?.is_some() {
                batch.delete_elements(&TABLE, BRIDGES, &[element]);
            }
        }
        Ok(batch)
    })?;
    tagged::drop_unused_table(host, &FRAMES)
}

/// What is missing of what [`ensure`] adds.
pub(super) fn check(
    host: &mut Socket,
    owner: &Owner,
    pod: &Pod,
    policy: IngressPolicy,
    purpose: Purpose,
) -> Result<Option<String>> {
    let rules = nft::list_rules(host, &TABLE, Some(FORWARD.name))?;
    let accepts = rules.iter().filter(|rule| rule.comment == ACCEPTS).count();
    if purpose == Purpose::Accept && accepts < 2 * FAMILIES.len() {
        return Ok(Some(format!("chain {TABLE} {} lacks a rule", FORWARD.name)));
    }
    for ip in pod.ips() {
        let family = Family::of_ip(ip);
        let mut sets = vec![(TABLE, pods_set(family))];
        if let Some(guarded) = Guarded::of(policy, pod, ip) {
            let set = guarded.set();
            if !rules.iter().any(|rule| rule.comment == set) {
                return Ok(Some(format!("chain {TABLE} {} has no rule for set {set}", FORWARD.name)));
            }
            sets.push((TABLE, set));
        }
        if policy == IngressPolicy::Isolated {
            sets.push((FRAMES, frames_set(family)));
        }
        for (table, set) in sets {
            match nft::get_element(host, &table, &set, &Element::new(&[ip.into()]))? {
                Some(element) if owner.owns(&element.comment) => {}
                Some(element) => {
                    return Ok(Some(format!(
                        "{ip}: in set {table} {set} it belongs to {:?}",
                        element.comment
                    )));
                }
                None => return Ok(Some(format!("{ip}: not in set {table} {set}"))),
            }
        }
    }
    let bridge = Element::new(&[Value::IfName(&pod.bridge)]);
    if policy != IngressPolicy::Open && nft::get_element(host, &TABLE, BRIDGES, &bridge)?.is_none() {
        return Ok(Some(format!("bridge {} is not in set {TABLE} {BRIDGES}", pod.bridge)));
    }
    Ok(None)
}
