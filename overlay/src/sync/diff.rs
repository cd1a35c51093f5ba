//! The difference between a plan and what the kernel holds. Pure.
//!
//! The order is that of a packet's way: first whatever a route needs, then the route; and of what goes, first the route.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::route::{self, Encapsulation, Route};
use kernel::rule::{self, Rule};
use kernel::{Mac, fdb, neigh};

use super::Sweep;
use super::apply::Change;
use super::links::Links;
use super::observe::Observed;
use crate::ROUTE_PROTOCOL;
use crate::plan::{self, Hop, LAST_RESORT, Plan, RULE_PRIORITY};

/// The kernel's metric of IPv6 routes that name none.
const IPV6_METRIC: u32 = 1024;

/// What to do, in order; WireGuard's peers are set between the two.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) first: Vec<Change>,
    pub(super) last: Vec<Change>,
}

pub(super) fn diff(plan: &Plan, observed: &Observed, links: &Links, sweep: Sweep) -> Changes {
    let mut changes = Changes::default();
    let routes = routes(plan, observed, links);
    let neighbours = neighbours(plan, observed, links);
    let fdb = forwards(plan, observed, links);
    let rules = rules(plan, observed);
    let swept = |removals: Vec<Change>| if sweep == Sweep::Ours { removals } else { Vec::new() };
    changes.first.extend(swept(routes.stale));
    changes.first.extend(routes.in_the_way);
    changes.first.extend(neighbours.wanted);
    changes.first.extend(fdb.wanted);
    changes.last.extend(routes.wanted);
    changes.last.extend(rules.wanted);
    changes.last.extend(swept(rules.stale));
    changes.last.extend(swept(fdb.stale));
    changes.last.extend(swept(neighbours.stale));
    changes
}

/// Changes of one kind of object.
#[derive(Default)]
struct Part {
    /// Made, or replaced in place.
    wanted: Vec<Change>,
    /// Removed because something wanted cannot be made beside it.
    in_the_way: Vec<Change>,
    /// Removed because nobody wants it.
    stale: Vec<Change>,
}

/// What the kernel allows one route for.
type RouteKey = (u32, IpNetwork, Option<IpNetwork>, u32);

fn routes(plan: &Plan, observed: &Observed, links: &Links) -> Part {
    let mut part = Part::default();
    let mut present: BTreeMap<RouteKey, Vec<&Route>> = BTreeMap::new();
    for route in &observed.routes {
        present.entry(key_of(route)).or_default().push(route);
    }
    for wanted in &plan.routes {
        // A device that could not be made has been reported once; its routes must not come up as failures too.
        let Some(route) = kernel_route(wanted, links) else { continue };
        let about = wanted.dst.network();
        match present.remove(&key_of(&route)).as_deref() {
            None | Some([]) => part.wanted.push(Change::adds_route(&route)),
            Some([one]) if is_same(one, &route) => {}
            Some([_]) => part.wanted.push(Change::adds(route::replace(&route), about)),
            Some(several) => {
                let removals = several.iter().map(|route| Change::removes(route::delete(route), about));
                part.in_the_way.extend(removals);
                part.wanted.push(Change::adds_route(&route));
            }
        }
    }
    let stale = present.into_values().flatten();
    part.stale.extend(stale.map(|route| Change::removes(deletion(route), route.dst.network())));
    part
}

fn key_of(route: &Route) -> RouteKey {
    let default = if route.dst.is_ipv6() { IPV6_METRIC } else { 0 };
    (route.table, route.dst, route.from, route.priority.unwrap_or(default))
}

/// `None` when its device is not there.
fn kernel_route(wanted: &plan::Route, links: &Links) -> Option<Route> {
    let (link, gateway, onlink) = match &wanted.hop {
        Hop::Direct { device, gateway } => (Some(links.index_of(device)?), Some(*gateway), false),
        Hop::Tunnel { device, gateway } => {
            let onlink = gateway.is_some_and(|gateway| gateway.is_ipv4());
            (Some(links.tunnel(device)?.index), *gateway, onlink)
        }
        Hop::Encapsulated { device, .. } => (Some(links.tunnel(device)?.index), None, false),
        Hop::Unreachable => (None, None, false),
    };
    let encapsulation = match wanted.hop {
        Hop::Encapsulated { from, to, .. } => Some(Encapsulation { from, to }),
        _ => None,
    };
    let unreachable = wanted.hop == Hop::Unreachable;
    let scope = if gateway.is_none() && !unreachable && wanted.dst.is_ipv4() {
        route::SCOPE_LINK
    } else {
        route::SCOPE_UNIVERSE
    };
    Some(Route {
        from: wanted.from,
        gw: gateway,
        link,
        table: wanted.table,
        priority: unreachable.then_some(LAST_RESORT),
        protocol: ROUTE_PROTOCOL,
        kind: if unreachable { route::UNREACHABLE } else { route::UNICAST },
        scope,
        onlink,
        encapsulation,
        ..Route::new(wanted.dst, 0)
    })
}

/// Whether an observed route is as wanted. IPv6 shows a route to nowhere on lo, and no scope.
fn is_same(observed: &Route, wanted: &Route) -> bool {
    let nowhere = wanted.kind != route::UNICAST;
    observed.kind == wanted.kind
        && observed.hops.is_empty()
        && observed.gw == wanted.gw
        && (nowhere || observed.link == wanted.link)
        && (observed.onlink || !wanted.onlink)
        && observed.encapsulation == wanted.encapsulation
        && observed.src.is_none()
        && observed.mtu.is_none()
        && observed.advmss.is_none()
}

fn deletion(route: &Route) -> kernel::netlink::Op {
    if route.kind == route::UNICAST {
        route::delete(route)
    } else {
        route::delete(&Route { link: None, ..route.clone() })
    }
}

fn neighbours(plan: &Plan, observed: &Observed, links: &Links) -> Part {
    let mut part = Part::default();
    let mut present: BTreeMap<(u32, IpAddr), Option<&Mac>> =
        observed.neighbours.iter().map(|n| ((n.link, n.ip), n.mac.as_ref())).collect();
    for wanted in &plan.neighbours {
        let Some(link) = links.tunnel(&wanted.device) else { continue };
        if present.remove(&(link.index, wanted.ip)).flatten() != Some(&wanted.mac) {
            let op = neigh::set_permanent(link, wanted.ip, &wanted.mac);
            part.wanted.push(Change::adds(op, wanted.ip));
        }
    }
    for (index, ip) in present.into_keys() {
        let link = links.named(index);
        part.stale.push(Change::removes(neigh::delete(&link, ip), ip));
    }
    part
}

/// A unicast hardware address has one destination, which the kernel replaces in place; only groups, which we never
/// make, have several.
fn forwards(plan: &Plan, observed: &Observed, links: &Links) -> Part {
    let mut part = Part::default();
    let mut present: BTreeMap<(u32, &Mac), Vec<IpAddr>> = BTreeMap::new();
    for forward in &observed.fdb {
        present.entry((forward.link, &forward.mac)).or_default().push(forward.to);
    }
    for wanted in &plan.fdb {
        let Some(link) = links.tunnel(&wanted.device) else { continue };
        if present.remove(&(link.index, &wanted.mac)).as_deref() != Some(&[wanted.to]) {
            part.wanted.push(Change::adds(fdb::set_permanent(link, &wanted.mac, wanted.to), wanted.to));
        }
    }
    for ((index, mac), destinations) in present {
        let link = links.named(index);
        part.stale
            .extend(destinations.into_iter().map(|to| Change::removes(fdb::delete(&link, mac, to), to)));
    }
    part
}

fn rules(plan: &Plan, observed: &Observed) -> Part {
    let mut part = Part::default();
    let mut present: Vec<&Rule> = observed.rules.iter().collect();
    for wanted in &plan.rules {
        let rule = Rule {
            priority: Some(RULE_PRIORITY),
            protocol: ROUTE_PROTOCOL,
            ..Rule::from_source(wanted.from, wanted.table)
        };
        match present.iter().position(|there| **there == rule) {
            Some(at) => {
                present.swap_remove(at);
            }
            None => part.wanted.push(Change::adds(rule::add(&rule), None)),
        }
    }
    part.stale.extend(present.into_iter().map(|rule| Change::removes(rule::delete(rule), None)));
    part
}
