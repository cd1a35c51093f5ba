//! What the kernel does, in words.

use std::collections::BTreeMap;

use kernel::ipvs::{Served as Destination, Service};
use kernel::nft::{Element, End, Type, Value, fields};

use super::layout::{At, Map, leads_to};
use super::observe::{Filter, Servers};
use crate::Family;
use crate::dataplane::Served;
use crate::state::Protocol;

/// Every frontend, and every address.
pub(super) fn served(servers: &Servers, filter: &Filter, family: Family) -> Vec<Served> {
    let mut lines: BTreeMap<At, Vec<String>> = BTreeMap::new();
    for (key, (service, destinations)) in servers {
        if let Some(at) = At::of(*key) {
            lines.entry(at).or_default().push(describe(service, destinations));
        }
    }
    let mut rest = Vec::new();
    for ((map, ..), element) in filter.elements.iter().filter(|((map, ..), _)| *map != Map::Excluded) {
        let Some(at) = at(*map, element, family) else {
            rest.push(other(*map, element, family));
            continue;
        };
        let mut does = map.name().to_owned();
        if let Some(address) = leads_to(element, family) {
            does += &format!(" by {address}");
        }
        if let End::Last(last) = &element.end {
            does += &format!(" {}", range(element, last, family));
        }
        if *map != Map::Frontends {
            lines.entry(at).or_default().push(does);
        } else if !servers.contains_key(&at.key()) {
            lines.entry(at).or_default();
        }
    }
    let of_frontend = |(at, mut does): (At, Vec<String>)| {
        does.sort();
        Served {
            protocol: Some(at.protocol),
            ip: Some(at.ip()),
            port: Some(at.address.port()),
            does: does.join("; "),
        }
    };
    rest.extend(lines.into_iter().map(of_frontend));
    rest.sort_unstable();
    rest
}

fn describe(service: &Service, destinations: &[Destination]) -> String {
    let mut destinations: Vec<String> = destinations
        .iter()
        .map(|one| match one.destination.weight {
            0 => format!("{} (drains)", one.destination.address),
            _ => one.destination.address.to_string(),
        })
        .collect();
    destinations.sort();
    let sticky = service.persistence.map(|p| format!(" for {}s", p.timeout.as_secs())).unwrap_or_default();
    format!("{}{sticky} to [{}]", service.scheduler, destinations.join(", "))
}

/// The frontend that an element is about.
fn at(map: Map, element: &Element, family: Family) -> Option<At> {
    match fields(map.set(family).key, &element.key).ok()?[..] {
        [Value::Ip(ip), Value::Proto(number), Value::Port(port), ..] => {
            let protocol = Protocol::ALL.into_iter().find(|known| known.number() == number)?;
            Some(At { address: std::net::SocketAddr::new(ip, port), protocol })
        }
        _ => None,
    }
}

fn range(element: &Element, last: &[u8], family: Family) -> String {
    let types = Map::Allowed.set(family).key;
    let client = |bytes: &[u8]| match fields(types, bytes).unwrap_or_default().last() {
        Some(Value::Ip(ip)) => ip.to_string(),
        _ => "?".to_owned(),
    };
    format!("{} to {}", client(&element.key), client(last))
}

/// An element that is about an address or a port alone.
fn other(map: Map, element: &Element, family: Family) -> Served {
    let types: &[Type] = map.set(family).key;
    let mut line = Served { protocol: None, ip: None, port: None, does: map.name().to_owned() };
    for value in fields(types, &element.key).unwrap_or_default() {
        match value {
            Value::Ip(ip) => line.ip = Some(ip),
            Value::Port(port) => (line.protocol, line.port) = (Some(Protocol::Tcp), Some(port)),
            _ => {}
        }
    }
    line
}
