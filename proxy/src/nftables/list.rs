//! What a table does, in words.

use std::collections::BTreeMap;

use kernel::nft::{Data, Element, End, Type, Value, fields, key};

use super::layout::{Entry, Map, WAYS, WAYS_BY_SOURCE};
use super::observe::Observed;
use super::pool::{Pool, WAY_BITS};
use super::spread::WAY;
use crate::Family;

/// Every element, numbers replaced by what they lead to.
pub(super) fn lines(observed: &Observed, family: Family) -> Vec<String> {
    let pools = observed.pools(family);
    let mut lines: Vec<String> = Vec::new();
    for Entry { map, element } in observed.elements.iter() {
        let what = match map {
            Map::Frontends | Map::NodePorts => follow(observed, &pools, element, WAYS.name),
            // Reached from frontends.
            Map::Endpoints | Map::Numbers | Map::Slots | Map::Inside | Map::Outside => continue,
            _ => end(*map, element, family),
        };
        lines.push(format!("{} {}{what}", map.name(), words(map.set(family).key, &element.key)));
    }
    lines.sort_unstable();
    lines
}

fn follow(observed: &Observed, pools: &BTreeMap<u32, Pool>, element: &Element, ways: &'static str) -> String {
    let Some(number) = number(element) else { return String::new() };
    let chain = observed.ways.get(&(ways, number & WAY)).map_or("?", String::as_str);
    let mut text = format!(" -> {chain}");
    if chain == "by-source" {
        for map in [Map::Inside, Map::Outside] {
            let pool = key(&[Value::ClassId(number & !WAY)]);
            if let Some(element) = observed.elements.find(map, &pool) {
                let there = follow(observed, pools, element, WAYS_BY_SOURCE.name);
                text += &format!(", {}{there}", map.name());
            }
        }
    } else if let Some(pool) = pools.get(&(number >> WAY_BITS)) {
        let mut endpoints = pool.slots.clone();
        endpoints.sort_unstable();
        text += &format!(" {endpoints:?}");
    }
    text
}

fn end(map: Map, element: &Element, family: Family) -> String {
    match &element.end {
        End::Last(last) => format!(" to {}", words(map.set(family).key, last)),
        _ => String::new(),
    }
}

fn number(element: &Element) -> Option<u32> {
    match element.data.as_ref()? {
        Data::Value(bytes) => Some(u32::from_ne_bytes(bytes.as_slice().try_into().ok()?)),
        Data::Verdict(_) => None,
    }
}

fn words(types: &[Type], bytes: &[u8]) -> String {
    let values = fields(types, bytes).unwrap_or_default();
    let word = |value: &Value<'_>| match value {
        Value::Ip(ip) => ip.to_string(),
        Value::Proto(number) => format!("protocol {number}"),
        Value::Port(port) => format!("port {port}"),
        other => format!("{other:?}"),
    };
    values.iter().map(word).collect::<Vec<_>>().join(" ")
}
