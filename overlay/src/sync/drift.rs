//! Which kernel events may mean that somebody changed what is ours.

use kernel::addr::Address;
use kernel::fdb::Forward;
use kernel::link::Link;
use kernel::neigh::Neighbour;
use kernel::netlink::{Reply, monitor};
use kernel::route::Route;
use kernel::rule::Rule;

use crate::{ALIAS, ROUTE_PROTOCOL};

/// The multicast groups that tell.
pub const GROUPS: [u32; 8] = [
    monitor::GROUP_LINK,
    monitor::GROUP_NEIGH,
    monitor::GROUP_IPV4_ADDR,
    monitor::GROUP_IPV4_ROUTE,
    monitor::GROUP_IPV4_RULE,
    monitor::GROUP_IPV6_ADDR,
    monitor::GROUP_IPV6_ROUTE,
    monitor::GROUP_IPV6_RULE,
];

const RTM_DELLINK: u16 = 17;
const RTM_DELROUTE: u16 = 25;
const RTM_DELNEIGH: u16 = 29;
const RTM_DELRULE: u16 = 33;

/// Whether `event` is a reason to sync: something of ours went away or changed, or the node's own links and addresses
/// did. A busy node's other events (pods' links and neighbours coming and going) are not. What a sync itself removes
/// looks the same, so one more sync follows, which finds nothing to do.
pub fn is_drift(event: &Reply) -> bool {
    if let Some(link) = Link::parse(event) {
        let ours = link.alias == ALIAS;
        return ours
            || (event.kind != RTM_DELLINK && link.kind != "veth")
            || link.id.name.starts_with("bowline");
    }
    if let Some(route) = Route::parse(event) {
        let ours = route.protocol == ROUTE_PROTOCOL && event.kind == RTM_DELROUTE;
        return ours || route.dst.prefix() == 0;
    }
    if let Some(rule) = Rule::parse(event) {
        return rule.protocol == ROUTE_PROTOCOL && event.kind == RTM_DELRULE;
    }
    if let Some(forward) = Forward::parse(event) {
        return forward.is_permanent() && event.kind == RTM_DELNEIGH;
    }
    if let Some(neighbour) = Neighbour::parse(event) {
        return neighbour.is_permanent() && event.kind == RTM_DELNEIGH;
    }
    Address::parse(event).is_some_and(|address| address.is_global())
}
