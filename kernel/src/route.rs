//! Routes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::Result;
use crate::addr::family;
use crate::netlink::attr::{attrs, ip, u32_ne};
use crate::netlink::{Attrs, Message, Op, Reply, Socket};

/// The main table.
pub const MAIN: u32 = 254;
/// The table of local addresses.
pub const LOCAL: u32 = 255;
/// Kind of a route that delivers to a next hop.
pub const UNICAST: u8 = libc::RTN_UNICAST;
/// Kind of a route that answers with ICMP unreachable.
pub const UNREACHABLE: u8 = libc::RTN_UNREACHABLE;
/// Scope of a route over a gateway.
pub const SCOPE_UNIVERSE: u8 = libc::RT_SCOPE_UNIVERSE;
/// Scope of a route to what is on a link itself.
pub const SCOPE_LINK: u8 = libc::RT_SCOPE_LINK;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_ENCAP: u16 = 22;
const LWTUNNEL_ENCAP_IP: u16 = 2;
const LWTUNNEL_ENCAP_IP6: u16 = 4;
/// LWTUNNEL_IP_DST and LWTUNNEL_IP6_DST.
const LWTUNNEL_DST: u16 = 2;
/// LWTUNNEL_IP_SRC and LWTUNNEL_IP6_SRC.
const LWTUNNEL_SRC: u16 = 3;
/// LWTUNNEL_IP_TTL and LWTUNNEL_IP6_HOPLIMIT.
const LWTUNNEL_TTL: u16 = 4;
const OUTER_TTL: u8 = 64;
const RTNH_F_ONLINK: u32 = 4;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;

/// A route, wanted or observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination, host bits zero.
    pub dst: IpNetwork,
    /// Only packets from here take it (IPv6 only; kernels with CONFIG_IPV6_SUBTREES, see [`is_source_known`]).
    pub from: Option<IpNetwork>,
    /// Next hop.
    pub gw: Option<IpAddr>,
    /// Index of the outgoing link.
    pub link: Option<u32>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Table.
    pub table: u32,
    /// Metric; the kernel's default is 0 for IPv4 and 1024 for IPv6.
    pub priority: Option<u32>,
    /// RT_SCOPE_* number.
    pub scope: u8,
    /// RTPROT_* number: who made it.
    pub protocol: u8,
    /// RTN_* number.
    pub kind: u8,
    /// Path MTU in bytes.
    pub mtu: Option<u32>,
    /// TCP maximal segment size to advertise, in bytes.
    pub advmss: Option<u32>,
    /// Whether the next hop is taken to be on the link whatever the addresses say.
    pub onlink: bool,
    /// Outer addresses, for a tunnel that takes them from the route.
    pub encapsulation: Option<Encapsulation>,
    /// Several next hops instead of `gw` and `link` (observed only).
    pub hops: Vec<Hop>,
}

/// Outer addresses of a tunnelled packet, both of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encapsulation {
    /// Source.
    pub from: IpAddr,
    /// Destination.
    pub to: IpAddr,
}

/// One of several next hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Next hop.
    pub gw: Option<IpAddr>,
    /// Index of the outgoing link.
    pub link: u32,
}

impl Route {
    /// A plain unicast route in the main table, as an administrator would add it.
    pub fn new(dst: IpNetwork, link: u32) -> Self {
        Route {
            dst: masked(dst),
            from: None,
            gw: None,
            link: Some(link),
            src: None,
            table: MAIN,
            priority: None,
            scope: libc::RT_SCOPE_UNIVERSE,
            protocol: libc::RTPROT_BOOT,
            kind: libc::RTN_UNICAST,
            mtu: None,
            advmss: None,
            onlink: false,
            encapsulation: None,
            hops: Vec::new(),
        }
    }

    /// Whether it goes by `gw`, alone or among others.
    pub fn goes_by(&self, gw: IpAddr) -> bool {
        self.gw == Some(gw) || self.hops.iter().any(|hop| hop.gw == Some(gw))
    }

    /// Whether it leaves by the link with this index, alone or among others.
    pub fn leaves_by(&self, link: u32) -> bool {
        self.link == Some(link) || self.hops.iter().any(|hop| hop.link == link)
    }
}

/// `network` with its host bits zero.
pub fn masked(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

/// The default destination of a family.
pub fn default_of(ip: IpAddr) -> IpNetwork {
    let any = match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    IpNetwork::new(any, 0).expect("0 is a valid prefix length in both families")
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Some(gw) = self.gw {
            write!(f, " via {gw}")?;
        }
        if self.table != MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// Adds a route with NLM_F_CREATE alone: another next hop for the same destination joins the first (IPv6) or goes in
/// front of it (IPv4); the very same route again is EEXIST.
pub fn add(route: &Route) -> Op {
    Op::new(format!("add route {route}"), message(libc::RTM_NEWROUTE, libc::NLM_F_CREATE, route))
}

/// Adds a route, or puts it in the place of the one with the same destination, metric and table.
pub fn replace(route: &Route) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    Op::new(format!("replace route {route}"), message(libc::RTM_NEWROUTE, flags, route))
}

/// Adds a route; EEXIST when there is one with the same destination, metric and table, whoever made it.
pub fn create(route: &Route) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    Op::new(format!("add route {route}"), message(libc::RTM_NEWROUTE, flags, route))
}

/// Deletes a route.
pub fn delete(route: &Route) -> Op {
    Op::new(format!("delete route {route}"), message(libc::RTM_DELROUTE, 0, route))
}

fn message(kind: u16, flags: i32, route: &Route) -> Message {
    let mut m = Message::new(kind, flags, &header(route));
    if route.dst.prefix() > 0 {
        m.ip(libc::RTA_DST, route.dst.network());
    }
    if let Some(from) = route.from {
        m.ip(libc::RTA_SRC, from.network());
    }
    if let Some(gw) = route.gw {
        m.ip(libc::RTA_GATEWAY, gw);
    }
    if let Some(src) = route.src {
        m.ip(libc::RTA_PREFSRC, src);
    }
    if let Some(link) = route.link {
        m.u32(libc::RTA_OIF, link);
    }
    if let Some(priority) = route.priority {
        m.u32(libc::RTA_PRIORITY, priority);
    }
    m.u32(libc::RTA_TABLE, route.table);
    if let Some(Encapsulation { from, to }) = route.encapsulation {
        m.nested(RTA_ENCAP, |m| {
            m.ip(LWTUNNEL_DST, to).ip(LWTUNNEL_SRC, from).u8(LWTUNNEL_TTL, OUTER_TTL);
        });
        m.u16(RTA_ENCAP_TYPE, if to.is_ipv4() { LWTUNNEL_ENCAP_IP } else { LWTUNNEL_ENCAP_IP6 });
    }
    if route.mtu.is_some() || route.advmss.is_some() {
        m.nested(libc::RTA_METRICS, |m| {
            if let Some(mtu) = route.mtu {
                m.u32(RTAX_MTU, mtu);
            }
            if let Some(advmss) = route.advmss {
                m.u32(RTAX_ADVMSS, advmss);
            }
        });
    }
    m
}

/// struct rtmsg.
fn header(route: &Route) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family(route.dst.ip());
    bytes[1] = route.dst.prefix();
    bytes[2] = route.from.map_or(0, |from| from.prefix());
    bytes[4] = u8::try_from(route.table).unwrap_or(libc::RT_TABLE_UNSPEC);
    bytes[5] = route.protocol;
    bytes[6] = route.scope;
    bytes[7] = route.kind;
    let flags: u32 = if route.onlink { RTNH_F_ONLINK } else { 0 };
    bytes[8..].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

/// Which routes to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// Only this table.
    pub table: Option<u32>,
    /// Only those that leave by the link with this index.
    pub link: Option<u32>,
    /// Only those with this RTPROT_* number.
    pub protocol: Option<u8>,
}

/// The routes of both families that pass `filter`. The kernel filters where it can (Linux 4.20), else we do.
pub fn list(socket: &mut Socket, filter: Filter) -> Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0; 12];
        header[0] = u8::try_from(family).unwrap_or(0);
        header[5] = filter.protocol.unwrap_or(libc::RTPROT_UNSPEC);
        let mut message = Message::new(libc::RTM_GETROUTE, 0, &header);
        if let Some(table) = filter.table {
            message.u32(libc::RTA_TABLE, table);
        }
        if let Some(link) = filter.link {
            message.u32(libc::RTA_OIF, link);
        }
        match socket.dump(&Op::new("list routes", message)) {
            Ok(replies) => routes.extend(replies.iter().filter_map(Route::parse)),
            // A table nobody has used yet, or a family the kernel lacks.
            Err(error) if error.is_absent() || error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    routes.retain(|route| {
        filter.table.is_none_or(|table| route.table == table)
            && filter.link.is_none_or(|link| route.leaves_by(link))
            && filter.protocol.is_none_or(|protocol| route.protocol == protocol)
    });
    Ok(routes)
}

/// Whether this kernel knows IPv6 routes for packets of some source only. Changes nothing: it is asked for one by a
/// link that cannot be, of which a kernel that knows such routes complains.
pub fn is_source_known(socket: &mut Socket) -> Result<bool> {
    let network = |text: &str| text.parse::<IpNetwork>().ok();
    let (Some(dst), from) = (network("2001:db8::/128"), network("2001:db8::/64")) else { return Ok(false) };
    let nowhere = Route { from, ..Route::new(dst, i32::MAX.cast_unsigned()) };
    let op = Op::new("ask for IPv6 routes by source", create(&nowhere).message);
    match socket.apply(&[op]) {
        Ok(()) => Ok(false),
        Err(error) => Ok(error.errno().is_some_and(|errno| errno.0 == libc::ENODEV)),
    }
}

/// The index of the link that `to` is directly behind; `None` when there is no route, or only one over a gateway.
pub fn attached_link(socket: &mut Socket, to: IpAddr) -> Result<Option<u32>> {
    let mut header = [0; 12];
    header[0] = u8::try_from(if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0);
    header[1] = if to.is_ipv4() { 32 } else { 128 };
    let mut message = Message::new(libc::RTM_GETROUTE, 0, &header);
    message.ip(libc::RTA_DST, to);
    match socket.request(&Op::new(format!("look up the route to {to}"), message)) {
        Ok(replies) => Ok(replies
            .iter()
            .filter(|reply| reply.kind == libc::RTM_NEWROUTE)
            .filter(|reply| {
                reply.payload.get(12..).is_some_and(|of| attrs(of).find_attr(libc::RTA_GATEWAY).is_none())
            })
            .find_map(|reply| attrs(reply.payload.get(12..)?).find_attr(libc::RTA_OIF).and_then(u32_ne))),
        Err(error) if error.errno().is_some_and(|errno| errno.0 == libc::ENETUNREACH) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Route {
    /// Reads an RTM_NEWROUTE or RTM_DELROUTE message; `None` for any other, for cached ones, and for crooked ones.
    pub fn parse(reply: &Reply) -> Option<Route> {
        if reply.kind != libc::RTM_NEWROUTE && reply.kind != libc::RTM_DELROUTE {
            return None;
        }
        let head = reply.payload.get(..12)?;
        let flags = u32_ne(&head[8..])?;
        if flags & libc::RTM_F_CLONED != 0 {
            return None;
        }
        let of = attrs(reply.payload.get(12..)?);
        let any = match i32::from(head[0]) {
            libc::AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            libc::AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let address = |kind| of.find_attr(kind).and_then(ip);
        let metrics = attrs(of.find_attr(libc::RTA_METRICS).unwrap_or(&[]));
        Some(Route {
            dst: IpNetwork::new(address(libc::RTA_DST).unwrap_or(any), head[1]).ok()?,
            from: address(libc::RTA_SRC).and_then(|from| IpNetwork::new(from, head[2]).ok()),
            gw: address(libc::RTA_GATEWAY).or_else(|| of.find_attr(libc::RTA_VIA).and_then(via)),
            link: of.find_attr(libc::RTA_OIF).and_then(u32_ne),
            src: address(libc::RTA_PREFSRC),
            table: of.find_attr(libc::RTA_TABLE).and_then(u32_ne).unwrap_or(u32::from(head[4])),
            priority: of.find_attr(libc::RTA_PRIORITY).and_then(u32_ne),
            scope: head[6],
            protocol: head[5],
            kind: head[7],
            mtu: metrics.find_attr(RTAX_MTU).and_then(u32_ne),
            advmss: metrics.find_attr(RTAX_ADVMSS).and_then(u32_ne),
            onlink: flags & RTNH_F_ONLINK != 0,
            encapsulation: of.find_attr(RTA_ENCAP).and_then(encapsulation),
            hops: of.find_attr(libc::RTA_MULTIPATH).map(hops).unwrap_or_default(),
        })
    }
}

fn encapsulation(bytes: &[u8]) -> Option<Encapsulation> {
    let of = attrs(bytes);
    let address = |kind| of.find_attr(kind).and_then(ip);
    Some(Encapsulation { from: address(LWTUNNEL_SRC)?, to: address(LWTUNNEL_DST)? })
}

/// struct rtvia: family (2 bytes), then the address.
fn via(bytes: &[u8]) -> Option<IpAddr> {
    ip(bytes.get(2..)?)
}

/// A row of struct rtnexthop (length, flags, hops, index), each followed by its own attributes.
fn hops(mut bytes: &[u8]) -> Vec<Hop> {
    let mut found = Vec::new();
    while let Some(length) = crate::netlink::attr::u16_ne(bytes).map(usize::from) {
        let Some((head, of)) = bytes.get(..length).and_then(|hop| hop.split_at_checked(8)) else { break };
        let of: Attrs<'_> = attrs(of);
        let gw = of.find_attr(libc::RTA_GATEWAY).and_then(ip);
        let gw = gw.or_else(|| of.find_attr(libc::RTA_VIA).and_then(via));
        if let Some(link) = u32_ne(&head[4..]) {
            found.push(Hop { gw, link });
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    found
}
