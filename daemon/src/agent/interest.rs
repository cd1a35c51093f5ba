//! Which events of the kernel concern this node's plan. Pods come and go by the dozen, and none of their links, routes
//! and neighbours does.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;
use kernel::addr::Address;
use kernel::link::Link;
use kernel::netconf;
use kernel::netlink::{Reply, attr};
use kernel::route::Route;
use kernel::rule::Rule;
use overlay::{DualStack, NODES_TABLE, Plan, ROUTE_PROTOCOL, Uplink};

use crate::node::pods;

/// The RTNLGRP_* that are listened to: links, neighbours, addresses, routes, rules and switches (RTNLGRP_IPV4_NETCONF,
/// RTNLGRP_IPV6_NETCONF) of both families.
pub const GROUPS: [u32; 10] = [1, 3, 5, 7, 8, 9, 11, 19, 24, 25];

/// What is looked out for.
#[derive(Debug, Clone, Default)]
pub struct Interest {
    names: BTreeSet<String>,
    tunnels: BTreeSet<u32>,
    uplinks: BTreeSet<u32>,
    destinations: BTreeSet<IpNetwork>,
}

impl Interest {
    /// Everything that `plan` and `uplinks` rest upon. `index` finds the link of a name.
    pub fn of(
        plan: &Plan,
        uplinks: &DualStack<Option<Uplink>>,
        index: impl FnMut(&str) -> Option<u32>,
    ) -> Self {
        let tunnels = plan.tunnels.iter().map(|tunnel| tunnel.name.as_str());
        let up = uplinks.present().map(|(_, uplink)| uplink.link.name.as_str());
        Interest {
            names: tunnels.clone().chain(up).map(str::to_owned).collect(),
            tunnels: tunnels.filter_map(index).collect(),
            uplinks: uplinks.present().map(|(_, uplink)| uplink.link.index).collect(),
            destinations: plan.routes.iter().map(|route| route.dst).collect(),
        }
    }

    /// Whether `event` may mean that the plan, or the kernel, is another one now.
    pub fn concerns(&self, event: &Reply) -> bool {
        // While there is no uplink, any link or address may become it.
        let searching = self.uplinks.is_empty();
        let known = |index: u32| self.tunnels.contains(&index) || self.uplinks.contains(&index);
        if let Some(link) = Link::parse(event) {
            return searching || self.names.contains(&link.id.name) || known(link.id.index);
        }
        if let Some(address) = Address::parse(event) {
            let was_gateway = event.kind == libc::RTM_DELADDR && pods::is_gateway(address.ip);
            return searching || was_gateway || known(address.link);
        }
        if let Some(route) = Route::parse(event) {
            return self.concerns_route(&route, event.kind == libc::RTM_DELROUTE);
        }
        if let Some(rule) = Rule::parse(event) {
            return rule.table == NODES_TABLE && event.kind == libc::RTM_DELRULE;
        }
        netconf::concerns_all(event) || netconf::is_proxy_off(event) || self.concerns_neighbour(event)
    }

    fn concerns_route(&self, route: &Route, is_gone: bool) -> bool {
        if route.protocol == ROUTE_PROTOCOL {
            return is_gone;
        }
        let decides_uplink = route.dst.prefix() == 0 && route.table == kernel::route::MAIN;
        // In front of ours, or out of our way again.
        decides_uplink || self.destinations.contains(&route.dst)
    }

    /// FDB entries are neighbours too, of family AF_BRIDGE. All of ours are permanent.
    fn concerns_neighbour(&self, event: &Reply) -> bool {
        let of = |at: std::ops::Range<usize>| event.payload.get(at);
        let is_ours = of(4..8).and_then(attr::u32_ne).is_some_and(|index| self.tunnels.contains(&index));
        match event.kind {
            libc::RTM_DELNEIGH => is_ours,
            libc::RTM_NEWNEIGH => is_ours && of(8..10).and_then(attr::u16_ne) != Some(libc::NUD_PERMANENT),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use kernel::netlink::Op;
    use kernel::{neigh, route};
    use overlay::plan::{Hop, Tunnel, TunnelKind};

    use super::*;

    fn ip(text: &str) -> std::net::IpAddr {
        text.parse().expect("an address")
    }

    fn network(text: &str) -> IpNetwork {
        text.parse().expect("a network")
    }

    fn interest() -> Interest {
        let kind = TunnelKind::Wireguard { port: 1 };
        let address = network("10.1.0.0/32");
        let plan = Plan {
            tunnels: vec![Tunnel { name: "bowline.1".into(), kind, address, mac: None, mtu: 1450 }],
            routes: vec![overlay::plan::Route {
                table: route::MAIN,
                dst: network("10.2.0.0/24"),
                from: None,
                hop: Hop::Unreachable,
            }],
            ..Plan::default()
        };
        let link = kernel::link::LinkId { index: 2, name: "eth0".into() };
        let uplink = Uplink { link, ip: ip("192.0.2.1"), prefix: 24, mtu: 1500 };
        Interest::of(&plan, &DualStack { v4: Some(uplink), v6: None }, |_| Some(7))
    }

    /// The announcement that the kernel makes of a request: the same bytes under the same number.
    fn event(op: &Op) -> Reply {
        Reply { kind: op.message.kind(), payload: op.message.payload().to_vec() }
    }

    #[test]
    fn what_pods_do_is_passed_over_and_what_is_ours_is_not() {
        let interest = interest();
        let link = |index| kernel::link::LinkId { index, name: "x".into() };
        let mac = "02:00:00:00:00:01".parse().expect("an address");
        let ours = route::Route { protocol: ROUTE_PROTOCOL, ..route::Route::new(network("10.2.0.0/24"), 7) };
        let pods = route::Route::new(network("10.1.0.5/32"), 99);
        let stolen = route::Route::new(network("10.2.0.0/24"), 99);
        let default = route::Route::new(network("0.0.0.0/0"), 2);
        for (name, op, concerns) in [
            ("our route goes", route::delete(&ours), true),
            ("our route comes", route::replace(&ours), false),
            ("a pod's route goes", route::delete(&pods), false),
            ("a pod's route comes", route::add(&pods), false),
            ("another route to a peer's pods", route::replace(&stolen), true),
            ("the default route goes", route::delete(&default), true),
            ("our neighbour goes", neigh::delete(&link(7), ip("10.2.0.0")), true),
            ("our neighbour comes", neigh::set_permanent(&link(7), ip("10.2.0.0"), &mac), false),
            ("a pod's neighbour goes", neigh::delete(&link(99), ip("10.1.0.5")), false),
            ("the uplink's neighbour goes", neigh::delete(&link(2), ip("192.0.2.2")), false),
            ("an address of the uplink goes", kernel::addr::delete(&link(2), network("192.0.2.1/24")), true),
            ("a pod's gateway goes", kernel::addr::delete(&link(99), network("fe80::1/64")), true),
            ("an address of a pod's link", kernel::addr::delete(&link(99), network("10.1.0.1/32")), false),
        ] {
            assert_eq!(interest.concerns(&event(&op)), concerns, "{name}");
        }
    }
}
