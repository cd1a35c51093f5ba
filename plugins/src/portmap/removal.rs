//! Giving host ports back, see [`super::nftables`].

use std::collections::BTreeSet;
use std::net::IpAddr;

use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{self, Batch, Data, Element, Family, Table, Value};

use super::config::{Config, PodAddresses};
use super::layout::{ADDRESSES, FAMILIES, HOSTPORTS, PORTS, WHEN, is_called, ports_map, table_of};
use super::nftables::wanted;
use super::sources::MASQUERADE;
use super::waiting::{Map, WAITING};
use crate::owner::{Keep, Owner};

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
                let map = ports_map(&table, &set);
                let Some(present) = nft::get_element(host, &table, &set, &element)? else {
                    whole = false;
                    continue;
                };
                let is_own = owner.owns(&present.comment);
                if is_own {
                    batch.delete_elements(&table, &set, std::slice::from_ref(&present));
                }
                if let Some(map) = map {
                    released.extend(read_released(map, &present).filter(|_| is_own));
                    let waited = match is_own {
                        true => map.give_back(host, &mut batch, &present, |_| false)?,
                        false => map.forget(host, &mut batch, owner, &element)?,
                    };
                    touched.extend(waited.then(|| (family, map.waiting())));
                }
                if is_own {
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
                batch.delete_elements(&table, &set, &elements);
                let Some(map) = ports_map(&table, &set) else { continue };
                for element in &elements {
                    released.extend(read_released(map, element));
                    map.give_back(host, &mut batch, element, &is_gone)?;
                }
            }
        }
        Ok(batch)
    })?;
    sweep(host)?;
    Ok(released)
}

/// What an element of `map` stood for.
fn read_released(map: Map<'_>, element: &Element) -> Option<Released> {
    let Some(Data::Value(data)) = &element.data else { return None };
    let key = nft::fields(map.key, &element.key).ok()?;
    let to = nft::fields(map.data, data).ok()?;
    match (&key[key.len() - 2..], to.first()) {
        ([Value::Proto(protocol), Value::Port(port)], Some(Value::Ip(pod))) => {
            Some(Released { protocol: *protocol, port: *port, pod: *pod })
        }
        _ => None,
    }
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
        if set.starts_with(WAITING) {
            batch.delete_set(table, set);
        } else if set.starts_with(MASQUERADE) {
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
pub(super) fn gc(host: &mut Socket, keep: &Keep) -> Result<Vec<Released>> {
    remove_tagged(host, |comment| keep.is_stale(comment))
}
