//! What a node has for each of its pods. The plug-in `routed` makes it; the daemon puts it back.

use std::net::{IpAddr, Ipv6Addr};

use ipnetwork::IpNetwork;
use kernel::route::{self, Route};

use crate::ROUTE_PROTOCOL;

/// The gateway of every pod with an IPv6 address, on its link.
pub const GATEWAY_6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// By what a link with IPv4 forwards and answers for the gateway at once: tree and key below `net/ipv4`, and the value.
pub const SWITCHES_4: [(&str, &str, &str); 3] =
    [("conf", "forwarding", "1"), ("conf", "proxy_arp", "1"), ("neigh", "proxy_delay", "0")];

/// `fe80::1/64`.
pub fn gateway_network() -> IpNetwork {
    IpNetwork::new(GATEWAY_6, 64).expect("64 is a prefix length of IPv6")
}

/// The node's route to one of the pod's addresses, by the link with this index.
pub fn route_to(address: IpNetwork, link: u32) -> Route {
    Route {
        scope: if address.is_ipv4() { route::SCOPE_LINK } else { route::SCOPE_UNIVERSE },
        protocol: ROUTE_PROTOCOL,
        ..Route::new(address, link)
    }
}
