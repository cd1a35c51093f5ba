//! What the kernel holds of ours, beside the links.

use kernel::fdb::{self, Forward};
use kernel::neigh::{self, Neighbour};
use kernel::netlink::Socket;
use kernel::route::{self, Filter, Route};
use kernel::rule::{self, Rule};

use super::links::Links;
use crate::{NODES_TABLE, ROUTE_PROTOCOL};

/// Facts, only of ours.
#[derive(Debug, Default)]
pub(super) struct Observed {
    pub(super) routes: Vec<Route>,
    pub(super) rules: Vec<Rule>,
    pub(super) neighbours: Vec<Neighbour>,
    pub(super) fdb: Vec<Forward>,
}

pub(super) fn observe(socket: &mut Socket, links: &Links) -> kernel::Result<Observed> {
    let filter = Filter { protocol: Some(ROUTE_PROTOCOL), ..Filter::default() };
    let mut observed =
        Observed { routes: route::list(socket, filter)?, rules: rule::list(socket)?, ..Observed::default() };
    observed.routes.retain(|route| is_ours(route, links));
    observed.rules.retain(|rule| rule.protocol == ROUTE_PROTOCOL && rule.table == NODES_TABLE);
    for vxlan in links.vxlans() {
        observed.neighbours.extend(neigh::list(socket, vxlan.index)?);
        observed.fdb.extend(fdb::list(socket, vxlan.index)?);
    }
    observed.neighbours.retain(Neighbour::is_permanent);
    observed.fdb.retain(Forward::is_permanent);
    Ok(observed)
}

/// Routes to single pods bear our protocol number too, but are the plug-ins': they lead to a pod's link without a next
/// hop.
fn is_ours(route: &Route, links: &Links) -> bool {
    route.gw.is_some()
        || !route.hops.is_empty()
        || route.kind != route::UNICAST
        || route.table == NODES_TABLE
        || route.link.is_some_and(|index| links.is_tunnel(index))
}
