//! What the kernel has: left by a former run, or by the last sync.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kernel::Result;
use kernel::addr;
use kernel::ipvs::{Family as Ipvs, Key, Served, Service};
use kernel::link::{self, LinkId};
use kernel::netlink::Socket;
use kernel::nft::{self, Table};

use super::LINK;
use super::layout::{Elements, Map, entry};
use crate::Family;

/// Virtual servers with their destinations.
pub(super) type Servers = BTreeMap<Key, (Service, Vec<Served>)>;

/// The table as it is.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// Whether there is one at all.
    pub(super) exists: bool,
    pub(super) elements: Elements,
    /// How many rules each chain has.
    pub(super) chains: BTreeMap<String, usize>,
}

/// The link as it is.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) alias: String,
    /// Its addresses of one family.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Whether it has any of the other.
    pub(super) is_shared: bool,
}

/// Every virtual server by address of a family, but those that `excluded` names.
pub(super) fn servers(
    socket: &mut Socket,
    ipvs: Ipvs,
    family: Family,
    excludes: impl Fn(IpAddr) -> bool,
) -> Result<Servers> {
    let mut servers = Servers::new();
    for (service, _) in ipvs.list_services(socket)? {
        match service.key {
            Key::Address { address, .. } if Family::of(address.ip()) == family && !excludes(address.ip()) => {
                let destinations = ipvs.list_destinations(socket, service.key)?;
                servers.insert(service.key, (service, destinations));
            }
            _ => {}
        }
    }
    Ok(servers)
}

/// The virtual servers with these keys.
pub(super) fn servers_at(socket: &mut Socket, ipvs: Ipvs, keys: &BTreeSet<Key>) -> Result<Servers> {
    let mut servers = Servers::new();
    for key in keys {
        if let Some((service, _)) = ipvs.get_service(socket, *key)? {
            servers.insert(*key, (service, ipvs.list_destinations(socket, *key)?));
        }
    }
    Ok(servers)
}

impl Filter {
    pub(super) fn read(socket: &mut Socket, table: &Table<'_>) -> Result<Self> {
        let mut filter = Filter { exists: nft::table_exists(socket, table)?, ..Filter::default() };
        if !filter.exists {
            return Ok(filter);
        }
        for map in Map::ALL {
            let elements = match map {
                Map::Excluded => nft::list_intervals(socket, table, map.name())?,
                _ => nft::list_elements(socket, table, map.name())?,
            };
            filter.elements.extend(elements.into_iter().map(|element| entry(map, element)));
        }
        for chain in nft::list_chains(socket, table)? {
            filter.chains.insert(chain, 0);
        }
        for rule in nft::list_rules(socket, table, None)? {
            *filter.chains.entry(rule.chain).or_default() += 1;
        }
        Ok(filter)
    }
}

impl Link {
    pub(super) fn read(socket: &mut Socket, family: Family) -> Result<Option<Self>> {
        let Some(found) = link::find(socket, LINK)? else { return Ok(None) };
        let is_link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let mut addresses = BTreeSet::new();
        let mut is_shared = false;
        for address in addr::list(socket, Some(found.id.index))? {
            let ip = address.ip.ip();
            if Family::of(ip) != family {
                is_shared |= !is_link_local(ip);
            } else if !is_link_local(ip) {
                addresses.insert(ip);
            }
        }
        Ok(Some(Link { id: found.id, alias: found.alias, addresses, is_shared }))
    }
}
