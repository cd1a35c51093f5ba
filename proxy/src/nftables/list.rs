//! What a table does, in words.

use std::collections::BTreeMap;

use kernel::nft::{End, Value, fields, key};

use super::elements::Seen;
use super::layout::{Map, WAYS, WAYS_BY_SOURCE};
use super::observe::Observed;
use super::pool::{Pool, WAY_BITS};
use super::spread::WAY;
use crate::Family;
use crate::dataplane::Served;
use crate::state::Protocol;

/// Every element, numbers replaced by what they lead to.
pub(super) fn served(observed: &Observed, family: Family) -> Vec<Served> {
    let pools = observed.pools(family);
    let mut lines: Vec<Served> = Vec::new();
    for element in observed.elements.iter() {
        let does = match element.map {
            Map::Frontends | Map::NodePorts => follow(observed, &pools, &element, WAYS.name),
            // Reached from frontends.
            Map::Endpoints | Map::Numbers | Map::Slots | Map::Inside | Map::Outside => continue,
            Map::ClusterIps | Map::NodePortAddresses | Map::Ranged | Map::Allowed | Map::Hairpins => {
                element.map.name().to_owned()
            }
        };
        lines.push(line(&element, does, family));
    }
    lines.sort_unstable();
    lines
}

fn line(element: &Seen<'_>, does: String, family: Family) -> Served {
    let types = element.map.set(family).key;
    let mut line = Served { protocol: None, ip: None, port: None, does };
    for value in fields(types, element.key).unwrap_or_default() {
        match value {
            Value::Ip(ip) if line.ip.is_none() => line.ip = Some(ip),
            Value::Ip(ip) => line.does += &format!(" {ip}"),
            Value::Proto(number) => {
                line.protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == number);
            }
            Value::Port(port) => line.port = Some(port),
            other => line.does += &format!(" {other:?}"),
        }
    }
    if let End::Last(last) = element.end() {
        let last = fields(types, &last).unwrap_or_default();
        if let Some(Value::Ip(ip)) = last.last() {
            line.does += &format!(" to {ip}");
        }
    }
    line
}

fn follow(
    observed: &Observed,
    pools: &BTreeMap<u32, Pool>,
    element: &Seen<'_>,
    ways: &'static str,
) -> String {
    let Some(number) = number(element) else { return String::new() };
    let chain = observed.ways.get(&(ways, number & WAY)).map_or("?", String::as_str);
    let mut text = chain.to_owned();
    if chain == "by-source" {
        for map in [Map::Inside, Map::Outside] {
            let pool = key(&[Value::ClassId(number & !WAY)]);
            if let Some(element) = observed.elements.find(map, &pool) {
                let there = follow(observed, pools, &element, WAYS_BY_SOURCE.name);
                text += &format!(", {}: {there}", map.name());
            }
        }
    } else if let Some(pool) = pools.get(&(number >> WAY_BITS)) {
        let mut endpoints = pool.slots.clone();
        endpoints.sort_unstable();
        text += &format!(" {endpoints:?}");
    }
    text
}

fn number(element: &Seen<'_>) -> Option<u32> {
    Some(u32::from_ne_bytes(element.data?.try_into().ok()?))
}
