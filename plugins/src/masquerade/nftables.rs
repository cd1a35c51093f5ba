//! ipMasq on nf_tables: one table, one static rule per subnet, one set element per pod address.
//!
//! ```text
//! table inet bowline_masquerade {
//!     set pods-10.1.0.0/24 {
//!         type ipv4_addr
//!         elements = { 10.1.0.5 comment "<owner>" }
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip daddr 224.0.0.0/4 return
//!         ip6 daddr ff00::/8 return
//!         ip saddr @pods-10.1.0.0/24 ip daddr != 10.1.0.0/24 masquerade comment "10.1.0.0/24"
//!     }
//! }
//! ```
//! The set says which pods, the rule what for; ADD and DEL of a pod are one element, in constant time. (A verdict map
//! from address to a chain per subnet would need no rule per subnet, but the kernel walks the whole map after every
//! new element that jumps.) The table goes with its last element.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni::IpConfig;
use ipnetwork::IpNetwork;
use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{
    self, Base, Batch, Chain, ChainKind, Element, Family, Field, Hook, Rule, RuleInfo, Set, Table, Type,
    Verdict,
};

use crate::owner::{Keep, Owner};
use crate::tagged;

const TABLE: Table<'_> = Table::new(Family::Inet, "bowline_masquerade");
const POSTROUTING: Chain<'_> = Chain::base("postrouting", Base::new(ChainKind::Nat, Hook::Postrouting, 100));
const SET_PREFIX: &str = "pods-";

/// The pods of one subnet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pods {
    set: String,
    subnet: IpNetwork,
}

impl Pods {
    /// Those with addresses like `address`. Addresses that are a subnet of their own share one set per family, so
    /// that rules don't grow with pods.
    fn like(address: IpNetwork) -> Self {
        let subnet = IpNetwork::new(address.network(), address.prefix()).unwrap_or(address);
        let set = if is_host(subnet) {
            format!("{SET_PREFIX}{}", if subnet.is_ipv4() { "ipv4/32" } else { "ipv6/128" })
        } else {
            format!("{SET_PREFIX}{}", subnet.to_string().replace(':', "_"))
        };
        Pods { set, subnet }
    }

    /// Those in the set called `set`; `None` for a set that is not ours.
    fn named(set: &str) -> Option<Self> {
        let subnet = match set.strip_prefix(SET_PREFIX)? {
            "ipv4/32" => IpNetwork::new(Ipv4Addr::UNSPECIFIED.into(), 32).ok()?,
            "ipv6/128" => IpNetwork::new(Ipv6Addr::UNSPECIFIED.into(), 128).ok()?,
            subnet => subnet.replace('_', ":").parse().ok()?,
        };
        Some(Pods { set: set.to_owned(), subnet })
    }

    fn rule(&self) -> Rule {
        let family = Family::of_ip(self.subnet.ip());
        let mut rule = Rule::new().in_set(&[Field::Saddr(family)], &self.set);
        if !is_host(self.subnet) {
            rule = rule.outside(Field::Daddr(family), self.subnet);
        }
        rule.masquerade().comment(rule_comment(&self.set))
    }
}

fn is_host(subnet: IpNetwork) -> bool {
    subnet.prefix() == if subnet.is_ipv4() { 32 } else { 128 }
}

/// What the rule for a set is known by.
fn rule_comment(set: &str) -> &str {
    set.strip_prefix(SET_PREFIX).unwrap_or(set)
}

/// Adds the elements, and whatever of the table is missing or damaged.
pub(super) fn ensure(host: &mut Socket, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    let comment = owner.comment();
    let wanted: BTreeMap<IpNetwork, Pods> =
        ips.iter().map(|ip| (ip.address, Pods::like(ip.address))).collect();
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        declare_missing(host, &mut batch, wanted.values())?;
        for (address, pods) in &wanted {
            let element = Element::new(&[address.ip().into()]).comment(&comment);
            tagged::claim(host, &mut batch, &TABLE, &pods.set, element)?;
        }
        Ok(batch)
    })
}

/// Adds the sets and rules of subnets that are new here, and rewrites all rules when somebody has flushed or cut the
/// chain, for their order counts. A rule that is there has its set, so as a rule one listing tells that nothing is to
/// be done.
fn declare_missing<'a>(
    host: &mut Socket,
    batch: &mut Batch,
    wanted: impl Iterator<Item = &'a Pods>,
) -> Result<()> {
    let rules = nft::list_rules(host, &TABLE, Some(POSTROUTING.name))?;
    let has_rule = |pods: &Pods| rules.iter().any(|rule| rule.comment == rule_comment(&pods.set));
    let lacking: BTreeMap<&str, &Pods> =
        wanted.filter(|pods| !has_rule(pods)).map(|pods| (pods.set.as_str(), pods)).collect();
    if lacking.is_empty() && spares_multicast(&rules) {
        return Ok(());
    }
    let present: Vec<Pods> =
        nft::list_sets(host, &TABLE)?.iter().filter_map(|set| Pods::named(set)).collect();
    if !spares_multicast(&rules) || !present.iter().all(has_rule) {
        batch.add_table(&TABLE).add_chain(&TABLE, &POSTROUTING).flush_chain(&TABLE, POSTROUTING.name);
        spare_multicast(batch);
        for pods in &present {
            batch.add_rule(&TABLE, POSTROUTING.name, &pods.rule());
        }
    }
    for pods in lacking.into_values().filter(|pods| present.iter().all(|other| other.set != pods.set)) {
        batch.create_set(&TABLE, &Set::new(&pods.set, &[Type::of_ip(pods.subnet.ip())]));
        batch.add_rule(&TABLE, POSTROUTING.name, &pods.rule());
    }
    Ok(())
}

fn spare_multicast(batch: &mut Batch) {
    for family in [Family::Ip, Family::Ip6] {
        batch.add_rule(&TABLE, POSTROUTING.name, &to_multicast(family));
    }
}

/// The rules for the families' multicast are those without a comment.
fn spares_multicast(rules: &[RuleInfo]) -> bool {
    rules.iter().filter(|rule| rule.comment.is_empty()).count() >= 2
}

fn to_multicast(family: Family) -> Rule {
    let (group, bits) = match family {
        Family::Ip6 => (IpAddr::from(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
        _ => (IpAddr::from(Ipv4Addr::new(224, 0, 0, 0)), 4),
    };
    let groups = IpNetwork::new(group, bits).expect("a multicast prefix is a prefix");
    Rule::new().within(Field::Daddr(family), groups).verdict(Verdict::Return)
}

/// Removes the owner's elements: those of `ips`, or all that carry its tag when there are none to go by.
pub(super) fn remove(host: &mut Socket, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    if ips.is_empty() {
        return remove_tagged(host, |comment| owner.owns(comment));
    }
    let sets: BTreeSet<String> = ips.iter().map(|ip| Pods::like(ip.address).set).collect();
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        for ip in ips {
            let set = Pods::like(ip.address).set;
            let wanted = Element::new(&[ip.address.ip().into()]);
            tagged::release(host, &mut batch, (&TABLE, &set), &wanted, owner)?;
        }
        Ok(batch)
    })?;
    // Also when nothing was released: an earlier DEL may have been killed at this very point.
    for set in &sets {
        if nft::is_empty(host, &TABLE, set)? {
            return sweep(host);
        }
    }
    Ok(())
}

/// Removes the elements of all sets whose comment `is_gone` accepts.
fn remove_tagged(host: &mut Socket, is_gone: impl Fn(&str) -> bool) -> Result<()> {
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        tagged::release_all(host, &mut batch, &TABLE, &is_gone)?;
        Ok(batch)
    })?;
    sweep(host)
}

/// Removes sets without elements together with their rules, and the table with its last set.
fn sweep(host: &mut Socket) -> Result<()> {
    nft::converge(host, |host| {
        let mut batch = Batch::new();
        if !nft::table_exists(host, &TABLE)? {
            return Ok(batch);
        }
        let (mut empty, mut used) = (Vec::new(), 0);
        for set in nft::list_sets(host, &TABLE)? {
            if nft::is_empty(host, &TABLE, &set)? { empty.push(set) } else { used += 1 }
        }
        if used == 0 {
            batch.delete_table(&TABLE);
            return Ok(batch);
        }
        let rules = nft::list_rules(host, &TABLE, Some(POSTROUTING.name))?;
        for set in &empty {
            for rule in rules.iter().filter(|rule| rule.comment == rule_comment(set)) {
                batch.delete_rule(&TABLE, POSTROUTING.name, rule.handle);
            }
            batch.delete_set(&TABLE, set);
        }
        Ok(batch)
    })
}

/// Removes the elements of this network that belong to no valid attachment.
pub(super) fn gc(host: &mut Socket, keep: &Keep) -> Result<()> {
    remove_tagged(host, |comment| keep.is_stale(comment))
}

/// What is missing for `ips` to be masqueraded on behalf of `owner`; none when all is there.
pub(super) fn check(host: &mut Socket, owner: &Owner, ips: &[IpConfig]) -> Result<Option<String>> {
    let rules = nft::list_rules(host, &TABLE, Some(POSTROUTING.name))?;
    for ip in ips {
        let pods = Pods::like(ip.address);
        let address = ip.address.ip();
        let set = format!("set {TABLE} {}", pods.set);
        if !rules.iter().any(|rule| rule.comment == rule_comment(&pods.set)) {
            return Ok(Some(format!("masquerade: {address}: {set} has no rule")));
        }
        match nft::get_element(host, &TABLE, &pods.set, &Element::new(&[address.into()]))? {
            Some(element) if owner.owns(&element.comment) => {}
            Some(element) => {
                return Ok(Some(format!(
                    "masquerade: {address}: in {set} it belongs to {:?}",
                    element.comment
                )));
            }
            None => return Ok(Some(format!("masquerade: {address}: not in {set}"))),
        }
    }
    let chain = POSTROUTING.name;
    let all = ips.is_empty() || spares_multicast(&rules);
    Ok((!all).then(|| format!("masquerade: chain {TABLE} {chain} does not spare multicast")))
}
