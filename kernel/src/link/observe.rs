//! What the kernel says about links.

use super::{
    IFLA_BR_VLAN_FILTERING, IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LEARNING, IFLA_BRPORT_MODE, LinkId, TunnelState,
};
use crate::Mac;
use crate::netlink::attr::{attrs, text, u32_ne};
use crate::netlink::{Attrs, Reply};

/// RFC 2863 state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperState {
    /// The driver does not say (lo, dummy).
    Unknown,
    /// Can carry packets.
    Up,
    /// Anything else, with IF_OPER_*'s number.
    Other(u8),
}

/// One link as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Index and name.
    pub id: LinkId,
    /// `veth`, `bridge`, ...; empty for physical links and lo.
    pub kind: String,
    /// IFF_* flags.
    pub flags: u32,
    /// Operational state.
    pub operstate: OperState,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Index of the master, in the same namespace.
    pub master: Option<u32>,
    /// IFLA_LINK: a veth's other end, a VLAN's parent.
    pub peer: Option<u32>,
    /// Id of the namespace that `peer` is in, as this namespace numbers it; `None` when it is this one.
    pub peer_netns: Option<i32>,
    /// Transmit queue length, in packets.
    pub txqlen: u32,
    /// Number of reasons to be promiscuous.
    pub promiscuity: u32,
    /// Alias, empty when none.
    pub alias: String,
    /// State as a bridge.
    pub bridge: Option<BridgeState>,
    /// State as a bridge's port.
    pub port: Option<PortState>,
    /// State as a tunnel.
    pub tunnel: Option<TunnelState>,
}

/// What a bridge is set to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgeState {
    /// Whether it filters VLANs.
    pub vlan_filtering: bool,
}

/// What a bridge port is set to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortState {
    /// Whether frames may leave by the port they came in by.
    pub hairpin: bool,
    /// Whether it only talks to ports that are not isolated.
    pub isolated: bool,
    /// Whether it learns addresses.
    pub learning: bool,
}

impl Link {
    /// Reads an RTM_NEWLINK or RTM_DELLINK message; `None` for any other, and for crooked ones.
    pub fn parse(reply: &Reply) -> Option<Link> {
        if reply.kind != libc::RTM_NEWLINK && reply.kind != libc::RTM_DELLINK {
            return None;
        }
        let index = u32_ne(reply.payload.get(4..8)?)?;
        let flags = u32_ne(reply.payload.get(8..12)?)?;
        let of = attrs(reply.payload.get(16..)?);
        let number = |kind| of.find_attr(kind).and_then(u32_ne);
        let words = |kind| of.find_attr(kind).map(text).unwrap_or_default();
        let info = attrs(of.find_attr(libc::IFLA_LINKINFO).unwrap_or(&[]));
        let kind = info.find_attr(libc::IFLA_INFO_KIND).map(text).unwrap_or_default();
        Some(Link {
            id: LinkId { index, name: words(libc::IFLA_IFNAME) },
            flags,
            operstate: match of.find_attr(libc::IFLA_OPERSTATE).and_then(|b| b.first()) {
                None | Some(0) => OperState::Unknown,
                Some(6) => OperState::Up,
                Some(other) => OperState::Other(*other),
            },
            mac: of.find_attr(libc::IFLA_ADDRESS).and_then(Mac::from_bytes),
            mtu: number(libc::IFLA_MTU).unwrap_or(0),
            master: number(libc::IFLA_MASTER).filter(|index| *index != 0),
            peer: number(libc::IFLA_LINK).filter(|index| *index != 0),
            peer_netns: number(libc::IFLA_LINK_NETNSID).map(u32::cast_signed),
            txqlen: number(libc::IFLA_TXQLEN).unwrap_or(0),
            promiscuity: number(libc::IFLA_PROMISCUITY).unwrap_or(0),
            alias: words(libc::IFLA_IFALIAS),
            bridge: (kind == "bridge").then(|| bridge_state(&info)),
            port: port_state(&info),
            tunnel: TunnelState::parse(&kind, &attrs(info.find_attr(libc::IFLA_INFO_DATA).unwrap_or(&[]))),
            kind,
        })
    }

    /// Whether it is set up.
    pub fn is_up(&self) -> bool {
        self.flags & super::IFF_UP != 0
    }

    /// Whether it is in promiscuous mode, by IFF_PROMISC.
    pub fn is_promisc(&self) -> bool {
        self.flags & super::IFF_PROMISC != 0
    }

    /// Whether it receives all multicast.
    pub fn is_allmulti(&self) -> bool {
        self.flags & super::IFF_ALLMULTI != 0
    }

    /// Whether it is the loopback link.
    pub fn is_loopback(&self) -> bool {
        self.flags & libc::IFF_LOOPBACK.cast_unsigned() != 0
    }

    /// Its hardware address in colon form, empty when it has none.
    pub fn mac_text(&self) -> String {
        self.mac.as_ref().map(Mac::to_string).unwrap_or_default()
    }
}

fn first(of: &Attrs<'_>, kind: u16) -> bool {
    of.find_attr(kind).and_then(|b| b.first()).is_some_and(|b| *b != 0)
}

fn bridge_state(info: &Attrs<'_>) -> BridgeState {
    let of = attrs(info.find_attr(libc::IFLA_INFO_DATA).unwrap_or(&[]));
    BridgeState { vlan_filtering: first(&of, IFLA_BR_VLAN_FILTERING) }
}

fn port_state(info: &Attrs<'_>) -> Option<PortState> {
    if info.find_attr(libc::IFLA_INFO_SLAVE_KIND).map(text)? != "bridge" {
        return None;
    }
    let of = attrs(info.find_attr(libc::IFLA_INFO_SLAVE_DATA)?);
    Some(PortState {
        hairpin: first(&of, IFLA_BRPORT_MODE),
        isolated: first(&of, IFLA_BRPORT_ISOLATED),
        learning: first(&of, IFLA_BRPORT_LEARNING),
    })
}
/// Counters of what a link has received since it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// Packets; several that were merged before they came are one.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Received {
    /// Reads them from an RTM_NEWLINK message: struct rtnl_link_stats64 begins with packets received, sent, bytes
    /// received.
    pub(super) fn parse(reply: &Reply) -> Option<Self> {
        if reply.kind != libc::RTM_NEWLINK {
            return None;
        }
        let counters = attrs(reply.payload.get(16..)?).find_attr(libc::IFLA_STATS64)?;
        let counter = |at: usize| Some(u64::from_ne_bytes(counters.get(at..at + 8)?.try_into().ok()?));
        Some(Received { packets: counter(0)?, bytes: counter(16)? })
    }
}
