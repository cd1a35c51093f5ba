//! Masquerading for static peers: what leaves pods and peers gets this node's address, and nothing else does.
//!
//! ```text
//! table inet bowline_peers_0123456789abcdef {
//!     set pods4 { type ipv4_addr; elements = { 10.1.0.5 comment "<owner>" } }
//!     set inside4 { type ipv4_addr; flags interval; elements = { 10.1.0.0/24, 10.2.0.0/24, 192.0.2.2, 224.0.0.0/4 } }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat; policy accept;
//!         ip saddr @pods4 ip daddr != @inside4 masquerade comment "<digest of what is inside>"
//!     }
//! }
//! ```
//! One table for each network, for only its configuration knows who its peers are. The table goes with its last pod.

use std::net::IpAddr;

use cni::{Attachment, IpConfig, Result};
use ipnetwork::IpNetwork;
use kernel::netlink::{Protocol, Socket};
use kernel::nft::{
    self, Base, Batch, Chain, ChainKind, Element, Family, Field, Hook, Rule, Set, Table, Type,
};

use super::Static;
use crate::owner::{Keep, Owner, digest};
use crate::{kernel_error, tagged};

const POSTROUTING: Chain<'_> = Chain::base("postrouting", Base::new(ChainKind::Nat, Hook::Postrouting, 100));
const FAMILIES: [(Family, &str, &str); 2] =
    [(Family::Ip, "pods4", "inside4"), (Family::Ip6, "pods6", "inside6")];

fn table_name(network: &str) -> String {
    format!("bowline_peers_{}", digest(network, 16))
}

/// What pods reach with their own addresses: pods and nodes of the cluster, groups, and what is on one link only.
fn inside(cluster: &Static) -> Vec<IpNetwork> {
    let constant = ["224.0.0.0/4", "169.254.0.0/16", "255.255.255.255/32", "ff00::/8", "fe80::/10"];
    let constant = constant.iter().filter_map(|text| text.parse().ok());
    let own = cluster.pod_cidrs.present().map(|(_, network)| *network);
    let own = own.chain(cluster.node_ips.present().map(|(_, ip)| IpNetwork::from(*ip)));
    let peers = cluster.peers.iter().flat_map(|peer| {
        let ips = peer.ips.present().map(|(_, ip)| IpNetwork::from(*ip));
        peer.pod_cidrs.present().map(|(_, network)| *network).chain(ips)
    });
    let all: Vec<IpNetwork> = constant.chain(own).chain(peers).collect();
    // The kernel refuses intervals that overlap.
    let mut apart: Vec<IpNetwork> = Vec::new();
    for (at, network) in all.iter().enumerate() {
        let covered = |(other_at, other): (usize, &IpNetwork)| {
            let covers = other.is_ipv4() == network.is_ipv4()
                && other.prefix() <= network.prefix()
                && other.contains(network.ip());
            other_at != at && covers && (other != network || other_at < at)
        };
        if !all.iter().enumerate().any(covered) {
            apart.push(*network);
        }
    }
    apart.sort_by_key(|network| (network.is_ipv6(), network.ip(), network.prefix()));
    apart
}

fn fingerprint(inside: &[IpNetwork]) -> String {
    let words: Vec<String> = inside.iter().map(IpNetwork::to_string).collect();
    digest(&words.join(" "), 16)
}

fn rule(family: Family, pods: &str, inside: &str, comment: &str) -> Rule {
    Rule::new()
        .in_set(&[Field::Saddr(family)], pods)
        .not_in_set(&[Field::Daddr(family)], inside)
        .masquerade()
        .comment(comment)
}

fn set_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { FAMILIES[0].1 } else { FAMILIES[1].1 }
}

/// Masquerades `ips` on behalf of `owner`. Repeatable.
///
/// # Errors
/// The kernel's refusal.
pub fn ensure(cluster: &Static, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    let name = table_name(&owner.network);
    let table = Table::new(Family::Inet, &name);
    let (inside, comment) = (inside(cluster), owner.comment());
    let fingerprint = fingerprint(&inside);
    let converged = Socket::open(Protocol::Netfilter).and_then(|mut host| {
        nft::converge(&mut host, |host| {
            let mut batch = Batch::new();
            let rules = nft::list_rules(host, &table, Some(POSTROUTING.name))?;
            let present = nft::table_exists(host, &table)?;
            if rules.len() != FAMILIES.len() || rules.iter().any(|rule| rule.comment != fingerprint) {
                declare(&mut batch, &table, &inside, &fingerprint);
            }
            for ip in ips {
                let element = Element::new(&[ip.address.ip().into()]).comment(&comment);
                let set = set_of(ip.address.ip());
                if present {
                    tagged::claim(host, &mut batch, &table, set, element)?;
                } else {
                    batch.create_elements(&table, set, &[element]);
                }
            }
            Ok(batch)
        })
    });
    converged.map_err(failed)
}

/// The whole table but the pods that are in it.
fn declare(batch: &mut Batch, table: &Table<'_>, inside: &[IpNetwork], fingerprint: &str) {
    batch.add_table(table).add_chain(table, &POSTROUTING).flush_chain(table, POSTROUTING.name);
    for (family, pods, inside_set) in FAMILIES {
        let kind = [if family == Family::Ip { Type::Ipv4 } else { Type::Ipv6 }];
        batch.add_set(table, &Set::new(pods, &kind));
        batch.add_set(table, &Set::new(inside_set, &kind).intervals());
        batch.flush_set(table, inside_set);
        let of_family = inside.iter().filter(|network| network.is_ipv4() == (family == Family::Ip));
        let elements: Vec<Element> = of_family.map(|network| Element::prefix(*network)).collect();
        batch.add_elements(table, inside_set, &elements);
        batch.add_rule(table, POSTROUTING.name, &rule(family, pods, inside_set, fingerprint));
    }
}

/// Removes what `owner` has, and the table with its last pod. Without `ips` it is searched for; nothing there is success.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    release(&owner.network, |host, batch, table| {
        if ips.is_empty() {
            return tagged::release_all(host, batch, table, &|comment| owner.owns(comment));
        }
        for ip in ips.iter().map(|ip| ip.address.ip()) {
            tagged::release(host, batch, (table, set_of(ip)), &Element::new(&[ip.into()]), owner)?;
        }
        Ok(())
    })
}

/// Removes what belongs to `network` and to none of the `valid` attachments.
///
/// # Errors
/// The kernel's refusal.
pub fn gc(network: &str, valid: &[Attachment]) -> Result<()> {
    let keep = Keep::new(network, valid);
    release(network, |host, batch, table| {
        tagged::release_all(host, batch, table, &|comment| keep.is_stale(comment))
    })
}

fn release(
    network: &str,
    fill: impl Fn(&mut Socket, &mut Batch, &Table<'_>) -> kernel::Result<()>,
) -> Result<()> {
    let name = table_name(network);
    let table = Table::new(Family::Inet, &name);
    let released = Socket::open(Protocol::Netfilter).and_then(|mut host| {
        nft::converge(&mut host, |host| {
            let mut batch = Batch::new();
            fill(host, &mut batch, &table)?;
            Ok(batch)
        })?;
        // Also when nothing was released: an earlier DEL may have been killed at this very point.
        nft::converge(&mut host, |host| {
            let mut batch = Batch::new();
            let used = FAMILIES.iter().map(|(_, pods, _)| nft::is_empty(host, &table, pods));
            let used = used.collect::<kernel::Result<Vec<bool>>>()?.contains(&false);
            if !used && nft::table_exists(host, &table)? {
                batch.delete_table(&table);
            }
            Ok(batch)
        })
    });
    released.map_err(failed)
}

/// What is missing for `ips` to be masqueraded on behalf of `owner` as `cluster` says.
///
/// # Errors
/// The first that is missing.
pub fn check(cluster: &Static, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    let name = table_name(&owner.network);
    let table = Table::new(Family::Inet, &name);
    let mut host = Socket::open(Protocol::Netfilter).map_err(failed)?;
    let rules = nft::list_rules(&mut host, &table, Some(POSTROUTING.name)).map_err(failed)?;
    let wanted = fingerprint(&inside(cluster));
    if rules.len() != FAMILIES.len() || rules.iter().any(|rule| rule.comment != wanted) {
        let what = format!("masquerade: the rules of table {table} are not those for these peers");
        return Err(cni::Error::internal(what));
    }
    for ip in ips.iter().map(|ip| ip.address.ip()) {
        let found = nft::get_element(&mut host, &table, set_of(ip), &Element::new(&[ip.into()]));
        if !found.map_err(failed)?.is_some_and(|element| owner.owns(&element.comment)) {
            let what = format!("masquerade: {ip}: not in set {table} {}", set_of(ip));
            return Err(cni::Error::internal(what));
        }
    }
    Ok(())
}

fn failed(error: kernel::Error) -> cni::Error {
    kernel_error(error).context("masquerade")
}
