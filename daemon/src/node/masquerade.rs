//! Masquerade: what leaves the cluster carries the node's address, and only that.
//!
//! ```text
//! table inet bowline_node {
//!     set local_pods_ipv4 { type ipv4_addr; flags interval; elements = { 10.244.1.0/24 } }
//!     set inside_ipv4     { type ipv4_addr; flags interval; elements = { 10.244.0.0/16, 192.0.2.0/24, ... } }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat
//!         ip saddr @local_pods_ipv4 ip daddr != @inside_ipv4 counter masquerade
//!     }
//! }
//! ```
//! The rules stay as they are for good; nodes and pod CIDRs are elements, of which only differences are written. What
//! is encapsulated carries the node's own address and thus never matches.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{self, Base, Batch, Chain, ChainKind, Element, Field, Hook, Rule, Set, Table, Type};
use overlay::{DualStack, Family};

use super::{nft_family, without_overlaps};

/// The table, all ours.
pub const TABLE: Table<'static> = Table::new(nft::Family::Inet, "bowline_node");
const CHAIN: &str = "postrouting";
const COMMENT: [(Family, &str); 2] = [
    (Family::V4, "IPv4 of pods that leaves the cluster"),
    (Family::V6, "IPv6 of pods that leaves the cluster"),
];

/// Which packets are to be masqueraded, in one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Masquerade {
    /// From here.
    pub pods: Vec<IpNetwork>,
    /// To anywhere but here.
    pub inside: Vec<IpNetwork>,
}

/// What no pod's packet to must ever be masqueraded: multicast, broadcast, link-local.
pub fn always_inside(family: Family) -> Vec<IpNetwork> {
    let networks: &[&str] = match family {
        Family::V4 => &["169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"],
        Family::V6 => &["fe80::/10", "ff00::/8"],
    };
    networks.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Makes the table what `wanted` says; a family that is `None` has no rule. Returns a sentence for each change.
///
/// # Errors
/// What the kernel refuses; nothing was changed then.
pub fn sync(socket: &mut Socket, wanted: &DualStack<Option<Masquerade>>) -> Result<Vec<String>> {
    let mut changes = Vec::new();
    nft::converge(socket, |socket| {
        let batch = plan(socket, wanted)?;
        changes = batch.sentences().map(str::to_owned).collect();
        Ok(batch)
    })?;
    Ok(changes)
}

/// Removes the table, whether or not it is there.
///
/// # Errors
/// What the kernel refuses.
pub fn cleanup(socket: &mut Socket) -> Result<Vec<String>> {
    sync(socket, &DualStack::default())
}

fn plan(socket: &mut Socket, wanted: &DualStack<Option<Masquerade>>) -> Result<Batch> {
    let mut batch = Batch::new();
    let exists = nft::table_exists(socket, &TABLE)?;
    if wanted.is_empty() {
        if exists {
            batch.delete_table(&TABLE);
        }
        return Ok(batch);
    }
    if !exists || !is_whole(socket, wanted)? {
        if exists {
            batch.delete_table(&TABLE);
        }
        declare(&mut batch, wanted);
        return Ok(batch);
    }
    for (family, masquerade) in wanted.present() {
        for (set, networks) in elements_of(family, masquerade) {
            let present = nft::list_intervals(socket, &TABLE, &set)?;
            difference(&mut batch, &set, &present, &networks);
        }
    }
    Ok(batch)
}

/// Whether the rules and sets are those of [`declare`], by the rules' comments and the sets' names.
fn is_whole(socket: &mut Socket, wanted: &DualStack<Option<Masquerade>>) -> Result<bool> {
    let rules = nft::list_rules(socket, &TABLE, None)?;
    let sets = nft::list_sets(socket, &TABLE)?;
    let comments: Vec<&str> = wanted.present().map(|(family, _)| comment(family)).collect();
    let has_sets = |family| [local_pods(family), inside(family)].iter().all(|set| sets.contains(set));
    Ok(rules.iter().map(|rule| rule.comment.as_str()).eq(comments)
        && rules.iter().all(|rule| rule.chain == CHAIN)
        && wanted.present().all(|(family, _)| has_sets(family)))
}

fn declare(batch: &mut Batch, wanted: &DualStack<Option<Masquerade>>) {
    batch.add_table(&TABLE);
    let base = Base::new(ChainKind::Nat, Hook::Postrouting, 100);
    batch.add_chain(&TABLE, &Chain::base(CHAIN, base));
    for (family, masquerade) in wanted.present() {
        let key = [match family {
            Family::V4 => Type::Ipv4,
            Family::V6 => Type::Ipv6,
        }];
        for (set, networks) in elements_of(family, masquerade) {
            batch.add_set(&TABLE, &Set::new(&set, &key).intervals());
            let elements: Vec<Element> = networks.into_iter().map(Element::prefix).collect();
            batch.add_elements(&TABLE, &set, &elements);
        }
        let rule = Rule::new()
            .in_set(&[Field::Saddr(nft_family(family))], &local_pods(family))
            .not_in_set(&[Field::Daddr(nft_family(family))], &inside(family))
            .counter()
            .masquerade()
            .comment(comment(family));
        batch.add_rule(&TABLE, CHAIN, &rule);
    }
}

fn difference(batch: &mut Batch, set: &str, present: &[Element], networks: &[IpNetwork]) {
    let key = |element: &Element| (element.key.clone(), format!("{:?}", element.end));
    let wanted: Vec<Element> = networks.iter().copied().map(Element::prefix).collect();
    let has: BTreeSet<_> = present.iter().map(key).collect();
    let wants: BTreeSet<_> = wanted.iter().map(key).collect();
    let gone: Vec<Element> =
        present.iter().filter(|element| !wants.contains(&key(element))).cloned().collect();
    let new: Vec<Element> = wanted.into_iter().filter(|element| !has.contains(&key(element))).collect();
    // An interval that comes may overlap one that goes.
    if !gone.is_empty() {
        batch.delete_elements(&TABLE, set, &gone);
    }
    if !new.is_empty() {
        batch.add_elements(&TABLE, set, &new);
    }
}

fn elements_of(family: Family, masquerade: &Masquerade) -> [(String, Vec<IpNetwork>); 2] {
    let inside_of = masquerade.inside.iter().copied().chain(always_inside(family));
    let of_family = |network: &IpNetwork| Family::of_network(*network) == family;
    [
        (local_pods(family), without_overlaps(masquerade.pods.iter().copied().filter(of_family))),
        (inside(family), without_overlaps(inside_of.filter(of_family))),
    ]
}

fn comment(family: Family) -> &'static str {
    COMMENT.iter().find(|(of, _)| *of == family).map_or("", |(_, comment)| comment)
}

fn local_pods(family: Family) -> String {
    format!("local_pods_{}", suffix(family))
}

fn inside(family: Family) -> String {
    format!("inside_{}", suffix(family))
}

fn suffix(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}
