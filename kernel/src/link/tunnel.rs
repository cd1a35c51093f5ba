//! Tunnel links: VXLAN, IP in IP, WireGuard.

use std::net::IpAddr;

use super::{IFF_UP, Kind, NewEnd, Switch, header, write_end};
use crate::netlink::attr::{ip, u16_be, u32_ne};
use crate::netlink::{Attrs, Message, Op, Socket};
use crate::{Error, Result};

const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_TTL: u16 = 5;
const IFLA_VXLAN_TOS: u16 = 6;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_UDP_CSUM: u16 = 18;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
const IFLA_IPTUN_LINK: u16 = 1;
const IFLA_IPTUN_LOCAL: u16 = 2;
const IFLA_IPTUN_REMOTE: u16 = 3;
const IFLA_IPTUN_TTL: u16 = 4;
const IFLA_IPTUN_FLAGS: u16 = 8;
const IFLA_IPTUN_PROTO: u16 = 9;
const IFLA_IPTUN_PMTUDISC: u16 = 10;
const IFLA_IPTUN_COLLECT_METADATA: u16 = 19;
/// Without it every packet carries eight bytes of destination options to limit nesting.
const IP6_TNL_F_IGN_ENCAP_LIMIT: u32 = 1;
const IPPROTO_IPIP: u8 = 4;
const IPPROTO_IPV6: u8 = 41;

/// A VXLAN link: what it is made with, and what is observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP port, of the others and of itself.
    pub port: u16,
    /// Outer source address, which also decides the family; `None` is any IPv4 address.
    pub local: Option<IpAddr>,
    /// Index of the link that packets leave by; the link goes with it.
    pub underlay: Option<u32>,
    /// Whether it learns who is where from what arrives.
    pub learning: bool,
    /// Whether packets to IPv4 addresses have an outer UDP checksum; to IPv6 addresses they always do.
    pub udp_checksum: bool,
    /// Outer TTL; 0 is the namespace's default.
    pub ttl: u8,
    /// Outer type of service; 0 is none, 1 copies the inner one.
    pub tos: u8,
    /// Whether destinations come with each packet (`external`): such a link owns its port for every VNI.
    pub external: bool,
}

/// An IP in IP link without a remote end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpTunnel {
    /// `ip6tnl`, which carries IPv6 in IPv6, and not `ipip`, which carries IPv4 in IPv4.
    pub v6: bool,
    /// Whether outer addresses come from the route ([`crate::route::Encapsulation`]), and packets from whoever; then the
    /// kernel ignores all of the following. A namespace has at most one such link of each kind.
    pub external: bool,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// The only destination; `None` (as we make it) is the next hop.
    pub remote: Option<IpAddr>,
    /// Index of the link that packets leave by.
    pub underlay: Option<u32>,
    /// Outer TTL; 0 copies the inner one.
    pub ttl: u8,
}

/// What a tunnel link is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelState {
    /// A `vxlan`.
    Vxlan(Vxlan),
    /// An `ipip` or `ip6tnl`.
    Ip(IpTunnel),
}

impl Vxlan {
    pub(super) fn write(&self, m: &mut Message) {
        m.u32(IFLA_VXLAN_ID, self.vni).u16_be(IFLA_VXLAN_PORT, self.port);
        match self.local {
            Some(local @ IpAddr::V4(_)) => m.ip(IFLA_VXLAN_LOCAL, local),
            Some(local @ IpAddr::V6(_)) => m.ip(IFLA_VXLAN_LOCAL6, local),
            None => m,
        };
        if let Some(index) = self.underlay {
            m.u32(IFLA_VXLAN_LINK, index);
        }
        m.u8(IFLA_VXLAN_LEARNING, self.learning.into());
        m.u8(IFLA_VXLAN_UDP_CSUM, self.udp_checksum.into());
        m.u8(IFLA_VXLAN_TTL, self.ttl).u8(IFLA_VXLAN_TOS, self.tos);
        if self.external {
            m.u8(IFLA_VXLAN_COLLECT_METADATA, 1);
        }
    }

    fn parse(of: &Attrs<'_>) -> Self {
        let byte = |kind| of.find_attr(kind).and_then(|b| b.first().copied()).unwrap_or(0);
        let local = of.find_attr(IFLA_VXLAN_LOCAL).or_else(|| of.find_attr(IFLA_VXLAN_LOCAL6));
        Vxlan {
            vni: of.find_attr(IFLA_VXLAN_ID).and_then(u32_ne).unwrap_or(0),
            port: of.find_attr(IFLA_VXLAN_PORT).and_then(u16_be).unwrap_or(0),
            local: local.and_then(ip),
            underlay: of.find_attr(IFLA_VXLAN_LINK).and_then(u32_ne).filter(|index| *index != 0),
            learning: byte(IFLA_VXLAN_LEARNING) != 0,
            udp_checksum: byte(IFLA_VXLAN_UDP_CSUM) != 0,
            ttl: byte(IFLA_VXLAN_TTL),
            tos: byte(IFLA_VXLAN_TOS),
            external: byte(IFLA_VXLAN_COLLECT_METADATA) != 0,
        }
    }
}

impl IpTunnel {
    pub(super) fn kind(&self) -> &'static str {
        if self.v6 { "ip6tnl" } else { "ipip" }
    }

    pub(super) fn write(&self, m: &mut Message) {
        if self.external {
            m.flag(IFLA_IPTUN_COLLECT_METADATA);
            m.u8(IFLA_IPTUN_PROTO, if self.v6 { IPPROTO_IPV6 } else { IPPROTO_IPIP });
            return;
        }
        if let Some(index) = self.underlay {
            m.u32(IFLA_IPTUN_LINK, index);
        }
        if let Some(local) = self.local {
            m.ip(IFLA_IPTUN_LOCAL, local);
        }
        if let Some(remote) = self.remote {
            m.ip(IFLA_IPTUN_REMOTE, remote);
        }
        m.u8(IFLA_IPTUN_TTL, self.ttl);
        if self.v6 {
            m.u32(IFLA_IPTUN_FLAGS, IP6_TNL_F_IGN_ENCAP_LIMIT).u8(IFLA_IPTUN_PROTO, IPPROTO_IPV6);
        } else {
            m.u8(IFLA_IPTUN_PMTUDISC, 1).u8(IFLA_IPTUN_PROTO, IPPROTO_IPIP);
        }
    }

    fn parse(v6: bool, of: &Attrs<'_>) -> Self {
        if of.find_attr(IFLA_IPTUN_COLLECT_METADATA).is_some() {
            return IpTunnel { v6, external: true, local: None, remote: None, underlay: None, ttl: 0 };
        }
        let address = |kind| of.find_attr(kind).and_then(ip).filter(|ip| !ip.is_unspecified());
        IpTunnel {
            v6,
            external: false,
            local: address(IFLA_IPTUN_LOCAL),
            remote: address(IFLA_IPTUN_REMOTE),
            underlay: of.find_attr(IFLA_IPTUN_LINK).and_then(u32_ne).filter(|index| *index != 0),
            ttl: of.find_attr(IFLA_IPTUN_TTL).and_then(|b| b.first().copied()).unwrap_or(0),
        }
    }
}

impl TunnelState {
    /// Of the link kind `kind` with these IFLA_INFO_DATA attributes; `None` for kinds that are none of these.
    pub(super) fn parse(kind: &str, of: &Attrs<'_>) -> Option<Self> {
        match kind {
            "vxlan" => Some(TunnelState::Vxlan(Vxlan::parse(of))),
            "ipip" | "ip6tnl" => Some(TunnelState::Ip(IpTunnel::parse(kind == "ip6tnl", of))),
            _ => None,
        }
    }
}

/// Whether this kernel can make links of `kind`. Nothing is made: the request is crooked (no transmit queue at all), and
/// the kernel looks for the kind before it looks at that.
pub fn is_kind_known(socket: &mut Socket, kind: &Kind<'_>) -> Result<bool> {
    let name = kind.name();
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut m = Message::new(libc::RTM_NEWLINK, flags, &header(0, Switch::Off.bit(IFF_UP), IFF_UP));
    write_end(&mut m, &NewEnd { name: "bowline-probe", ..NewEnd::default() });
    m.u32(IFLA_NUM_TX_QUEUES, 0);
    m.nested(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_KIND, name);
    });
    match socket.request(&Op::new(format!("ask for {name} links"), m)) {
        Err(error) if error.is_unsupported() => Ok(false),
        Err(error @ Error::Kernel { .. }) if error.errno().is_some_and(|e| e.0 == libc::EPERM) => Err(error),
        Err(Error::Kernel { .. }) | Ok(_) => Ok(true),
        Err(error) => Err(error),
    }
}
