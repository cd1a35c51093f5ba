//! Reading what the kernel answers. Bytes from the kernel are never trusted to be well formed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{
    Connections, Destination, Forward, Key, Persistence, Served, Service, Stats, Timeouts, Version, wire,
};
use crate::dual;
use crate::netlink::attr::{attrs, ip, text, u16_be, u16_ne, u32_be, u32_ne, u64_ne};
use crate::netlink::{Attrs, Reply};

/// Reads an answer about a virtual service; `None` for any other, and for crooked ones.
pub fn parse_service(reply: &Reply) -> Option<(Service, Stats)> {
    let of = attrs(attributes(reply).find_attr(wire::ATTR_SERVICE)?);
    let family = of.find_attr(wire::SVC_AF).and_then(read_family)?;
    let key = match of.find_attr(wire::SVC_FWMARK).and_then(u32_ne) {
        Some(mark) => Key::Mark { family, mark },
        None => {
            let ip = read_union(of.find_attr(wire::SVC_ADDR)?, family)?;
            let port = of.find_attr(wire::SVC_PORT).and_then(u16_be)?;
            let protocol = of.find_attr(wire::SVC_PROTOCOL).and_then(u16_ne)?;
            Key::Address { address: SocketAddr::new(ip, port), protocol: u8::try_from(protocol).ok()? }
        }
    };
    let flags = of.find_attr(wire::SVC_FLAGS).and_then(u32_ne).unwrap_or(0);
    let timeout = of.find_attr(wire::SVC_TIMEOUT).and_then(u32_ne).unwrap_or(0);
    let netmask = of.find_attr(wire::SVC_NETMASK).unwrap_or(&[]);
    let prefix = match family {
        dual::Family::V4 => u32_be(netmask).unwrap_or(u32::MAX).count_ones(),
        dual::Family::V6 => u32_ne(netmask).unwrap_or(128),
    };
    let persistence = Persistence {
        timeout: Duration::from_secs(timeout.into()),
        prefix: u8::try_from(prefix).unwrap_or(u8::MAX),
    };
    let service = Service {
        key,
        scheduler: of.find_attr(wire::SVC_SCHED_NAME).map(text).unwrap_or_default(),
        scheduler_flags: flags & wire::F_SCHED,
        persistence: (flags & wire::F_PERSISTENT != 0).then_some(persistence),
        one_packet: flags & wire::F_ONEPACKET != 0,
    };
    Some((service, parse_stats(of.find_attr(wire::SVC_STATS64))))
}

/// Reads an answer about a destination of a service of this family; `None` for any other, and for crooked ones.
pub fn parse_destination(reply: &Reply, of_service: dual::Family) -> Option<Served> {
    let of = attrs(attributes(reply).find_attr(wire::ATTR_DEST)?);
    // Before Linux 3.18 a destination was always of its service's family, and did not say so.
    let family = of.find_attr(wire::DEST_ADDR_FAMILY).and_then(read_family).unwrap_or(of_service);
    let number = |kind| of.find_attr(kind).and_then(u32_ne).unwrap_or(0);
    let ip = read_union(of.find_attr(wire::DEST_ADDR)?, family)?;
    let destination = Destination {
        address: SocketAddr::new(ip, of.find_attr(wire::DEST_PORT).and_then(u16_be)?),
        forward: match number(wire::DEST_FWD_METHOD) & wire::F_FWD {
            0 => Forward::Masquerade,
            1 => Forward::Local,
            2 => Forward::Tunnel,
            3 => Forward::Route,
            _ => Forward::Bypass,
        },
        weight: number(wire::DEST_WEIGHT),
        upper: number(wire::DEST_U_THRESH),
        lower: number(wire::DEST_L_THRESH),
    };
    let connections = Connections {
        active: number(wire::DEST_ACTIVE_CONNS),
        inactive: number(wire::DEST_INACT_CONNS),
        persistent: number(wire::DEST_PERSIST_CONNS),
    };
    Some(Served { destination, connections, stats: parse_stats(of.find_attr(wire::DEST_STATS64)) })
}

fn parse_stats(bytes: Option<&[u8]>) -> Stats {
    let of = attrs(bytes.unwrap_or(&[]));
    let number = |kind| of.find_attr(kind).and_then(u64_ne).unwrap_or(0);
    Stats {
        connections: number(wire::STATS_CONNS),
        packets_in: number(wire::STATS_INPKTS),
        packets_out: number(wire::STATS_OUTPKTS),
        bytes_in: number(wire::STATS_INBYTES),
        bytes_out: number(wire::STATS_OUTBYTES),
    }
}

/// Reads an answer about time-outs.
pub(super) fn timeouts(reply: &Reply) -> Timeouts {
    let of = attributes(reply);
    let number = |kind| of.find_attr(kind).and_then(u32_ne).map(|s| Duration::from_secs(s.into()));
    Timeouts {
        tcp: number(wire::ATTR_TIMEOUT_TCP),
        tcp_fin: number(wire::ATTR_TIMEOUT_TCP_FIN),
        udp: number(wire::ATTR_TIMEOUT_UDP),
    }
}

/// Reads an answer about the kernel's IPVS.
pub(super) fn version(reply: &Reply) -> Option<Version> {
    let of = attributes(reply);
    let [_, major, minor, patch] = of.find_attr(wire::INFO_VERSION).and_then(u32_ne)?.to_be_bytes();
    let connection_table = of.find_attr(wire::INFO_CONN_TAB_SIZE).and_then(u32_ne)?;
    Some(Version { version: (major, minor, patch), connection_table })
}

fn read_union(bytes: &[u8], family: dual::Family) -> Option<IpAddr> {
    ip(bytes.get(..if family == dual::Family::V4 { 4 } else { 16 })?)
}

fn read_family(bytes: &[u8]) -> Option<dual::Family> {
    match i32::from(u16_ne(bytes)?) {
        libc::AF_INET => Some(dual::Family::V4),
        libc::AF_INET6 => Some(dual::Family::V6),
        _ => None,
    }
}

fn attributes(reply: &Reply) -> Attrs<'_> {
    attrs(reply.payload.get(4..).unwrap_or(&[]))
}
