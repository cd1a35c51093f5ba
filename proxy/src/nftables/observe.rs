//! What a former run has left in the kernel: to be adopted, not replaced, so that no connection notices a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use kernel::Result;
use kernel::netlink::Socket;
use kernel::nft::{self, Data, Table, Type, Value, Verdict, key};

use super::elements::{Elements, Seen};
use super::layout::{Entry, Map, WAYS, WAYS_BY_SOURCE};
use super::pool::{Pool, WAY_BITS};
use super::spread::{Spread, WAY};
use crate::Family;
use crate::plan::{Frontend, PortPlan};

/// How often a map is listed at most, where each listing was disturbed.
const LISTINGS: usize = 10;

/// The table as it is.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Whether there is a table at all.
    pub(super) exists: bool,
    pub(super) elements: Elements,
    /// Way and chain of both verdict maps.
    pub(super) ways: BTreeMap<(&'static str, u32), String>,
    pub(super) chains: Vec<String>,
    /// How many rules a chain has.
    pub(super) rules: BTreeMap<String, usize>,
}

impl Observed {
    pub(super) fn read(socket: &mut Socket, table: &Table<'_>) -> Result<Self> {
        let mut observed = Observed { exists: nft::table_exists(socket, table)?, ..Observed::default() };
        if !observed.exists {
            return Ok(observed);
        }
        for map in Map::ALL {
            observed.elements.append(LISTINGS, |show| {
                nft::visit_elements(socket, table, map.name(), |element| show(Entry { map, element }))
            })?;
        }
        for map in [WAYS.name, WAYS_BY_SOURCE.name] {
            for element in nft::list_elements(socket, table, map)? {
                if let (Some(way), Some(Data::Verdict(Verdict::Goto(chain)))) =
                    (number(&element.key), element.data)
                {
                    observed.ways.insert((map, way), chain);
                }
            }
        }
        observed.chains = nft::list_chains(socket, table)?;
        for rule in nft::list_rules(socket, table, None)? {
            *observed.rules.entry(rule.chain).or_default() += 1;
        }
        Ok(observed)
    }

    /// The spreads that have chains, with their ways.
    pub(super) fn spreads(&self) -> impl Iterator<Item = (u32, Spread)> {
        let ways = self.ways.iter().filter(|((map, _), _)| *map == WAYS.name);
        ways.filter_map(|((_, way), chain)| Some((*way, Spread::of_chain(chain)?)))
    }

    /// The pools by their numbers, slots in order up to the first gap.
    pub(super) fn pools(&self, family: Family) -> BTreeMap<u32, Pool> {
        let numbers: BTreeMap<u32, SocketAddr> = self
            .elements
            .of(Map::Numbers)
            .filter_map(|element| Some((number(element.key)?, endpoint(&element, family)?)))
            .collect();
        let mut slots: Vec<(u32, u32, SocketAddr, Option<u32>)> = Vec::new();
        for element in self.elements.of(Map::Endpoints).chain(self.elements.of(Map::Slots)) {
            let Ok(&[Value::ClassId(base), Value::Mark(slot)]) =
                nft::fields(&[Type::ClassId, Type::Mark], element.key).as_deref()
            else {
                continue;
            };
            // A number is four bytes, an endpoint more.
            let by_number = || {
                let number = element.data.and_then(number)?;
                Some((*numbers.get(&number)?, Some(number & WAY)))
            };
            if let Some((address, number)) =
                endpoint(&element, family).map(|address| (address, None)).or_else(by_number)
            {
                slots.push((base >> WAY_BITS, slot, address, number));
            }
        }
        // Of a slot that both maps have, what the latter says counts.
        slots.sort_by_key(|(id, slot, ..)| (*id, *slot));
        slots.dedup_by(|later, earlier| {
            let is_same = (later.0, later.1) == (earlier.0, earlier.1);
            if is_same {
                *earlier = *later;
            }
            is_same
        });
        let mut pools: BTreeMap<u32, Pool> = BTreeMap::new();
        for (id, slot, address, number) in slots {
            let pool = pools.entry(id).or_insert_with(|| Pool { id, ..Pool::default() });
            if pool.slots.len() == slot as usize {
                pool.slots.push(address);
                pool.numbers.extend(number.map(|number| (address, number)));
            }
        }
        pools
    }

    /// Which pools a Service port had: those that its frontends lead to.
    pub(super) fn pools_of(&self, plan: &PortPlan) -> BTreeSet<u32> {
        let proto = Value::Proto(plan.name.protocol.number());
        let mut found = BTreeSet::new();
        for Frontend { ip, port, .. } in &plan.frontends {
            let (map, key) = match ip {
                Some(ip) => (Map::Frontends, key(&[(*ip).into(), proto, Value::Port(*port)])),
                None => (Map::NodePorts, key(&[proto, Value::Port(*port)])),
            };
            if let Some(number) = self.number_of(map, &key) {
                found.insert(number >> WAY_BITS);
                for map in [Map::Inside, Map::Outside] {
                    let split = nft::key(&[Value::ClassId(number >> WAY_BITS << WAY_BITS)]);
                    found.extend(self.number_of(map, &split).map(|number| number >> WAY_BITS));
                }
            }
        }
        found.remove(&0);
        found
    }

    fn number_of(&self, map: Map, key: &[u8]) -> Option<u32> {
        self.elements.find(map, key)?.data.and_then(number)
    }
}

fn number(bytes: impl AsRef<[u8]>) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.as_ref().try_into().ok()?))
}

fn endpoint(element: &Seen<'_>, family: Family) -> Option<SocketAddr> {
    let address = if family == Family::V4 { Type::Ipv4 } else { Type::Ipv6 };
    match nft::fields(&[address, Type::Port], element.data?).ok()?[..] {
        [Value::Ip(ip), Value::Port(port)] => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}
