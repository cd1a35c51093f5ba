//! Links: making, changing and observing them.
//!
//! ```text
//! NewLink --create--> Op      LinkId + value --set_*--> Op      get/dump --parse--> Link
//! ```

mod observe;
mod tunnel;

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::netlink::{Message, Op, Socket};
use crate::{Mac, Result};

pub use observe::{BridgeState, Link, OperState, PortState, Received};
pub use tunnel::{IpTunnel, TunnelState, Vxlan, is_kind_known};

pub(crate) const VETH_INFO_PEER: u16 = 1;
pub(crate) const IFLA_BRPORT_MODE: u16 = 4;
pub(crate) const IFLA_BRPORT_LEARNING: u16 = 8;
pub(crate) const IFLA_BRPORT_ISOLATED: u16 = 33;
pub(crate) const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_ARP_NOTIFY: u16 = 22;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

/// A link that exists: the index for the kernel, the name for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LinkId {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// Off.
    Off,
    /// On.
    On,
}

impl From<bool> for Switch {
    fn from(on: bool) -> Self {
        if on { Switch::On } else { Switch::Off }
    }
}

impl Switch {
    pub(crate) fn bit(self, flag: u32) -> u32 {
        if self == Switch::On { flag } else { 0 }
    }

    fn word(self) -> &'static str {
        if self == Switch::On { "on" } else { "off" }
    }
}

/// One end of a new link: what the kernel can set in the request that makes it.
#[derive(Debug, Clone, Default)]
pub struct NewEnd<'a> {
    /// Its name.
    pub name: &'a str,
    /// MTU in bytes; `None` for the kind's default.
    pub mtu: Option<u32>,
    /// Hardware address; `None` for a random one.
    pub mac: Option<&'a Mac>,
    /// Index of the bridge (or other master) it joins, in its own namespace.
    pub master: Option<u32>,
    /// Transmit queue length.
    pub txqlen: Option<u32>,
    /// Namespace to make it in; `None` is the socket's own. The descriptor must stay open until the request was sent.
    pub netns: Option<BorrowedFd<'a>>,
    /// Whether it starts up.
    pub up: bool,
}

/// What a new link is.
#[derive(Debug, Clone)]
pub enum Kind<'a> {
    /// A veth whose other end is made in the same request. The kernel doesn't apply the peer's `master`, and refuses
    /// a peer that is to start up (ENOTCONN).
    Veth {
        /// The other end.
        peer: NewEnd<'a>,
    },
    /// A bridge.
    Bridge {
        /// Whether it filters VLANs.
        vlan_filtering: bool,
    },
    /// An intermediate functional block, to shape what arrives.
    Ifb,
    /// A dummy.
    Dummy,
    /// A VXLAN endpoint.
    Vxlan(Vxlan),
    /// IP in IP: an `ipip`, or an `ip6tnl` where the local address is an IPv6 one.
    IpTunnel(IpTunnel),
    /// A WireGuard device, keyless: see [`crate::wireguard`].
    Wireguard,
}

impl Kind<'_> {
    /// What the kernel calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Veth { .. } => "veth",
            Kind::Bridge { .. } => "bridge",
            Kind::Ifb => "ifb",
            Kind::Dummy => "dummy",
            Kind::Vxlan(_) => "vxlan",
            Kind::IpTunnel(tunnel) => tunnel.kind(),
            Kind::Wireguard => "wireguard",
        }
    }
}

/// Creates a link; EEXIST when the name is taken.
pub fn create(end: &NewEnd<'_>, kind: &Kind<'_>) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut m = Message::new(libc::RTM_NEWLINK, flags, &header(0, Switch::from(end.up).bit(IFF_UP), IFF_UP));
    write_end(&mut m, end);
    m.nested(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_KIND, kind.name());
        match kind {
            Kind::Veth { peer } => {
                m.nested(libc::IFLA_INFO_DATA, |m| {
                    m.nested(VETH_INFO_PEER, |m| {
                        m.bare(&header(0, Switch::from(peer.up).bit(IFF_UP), IFF_UP));
                        write_end(m, peer);
                    });
                });
            }
            // Not spelled out when off: kernels built without it refuse the attribute whatever its value.
            Kind::Bridge { vlan_filtering: true } => {
                m.nested(libc::IFLA_INFO_DATA, |m| {
                    m.u8(IFLA_BR_VLAN_FILTERING, 1);
                });
            }
            Kind::Vxlan(vxlan) => {
                m.nested(libc::IFLA_INFO_DATA, |m| vxlan.write(m));
            }
            Kind::IpTunnel(tunnel) => {
                m.nested(libc::IFLA_INFO_DATA, |m| tunnel.write(m));
            }
            Kind::Bridge { vlan_filtering: false } | Kind::Ifb | Kind::Dummy | Kind::Wireguard => {}
        }
    });
    let doing = match kind {
        Kind::Veth { peer } => format!("create veth {} with peer {}", end.name, peer.name),
        _ => format!("create {} {}", kind.name(), end.name),
    };
    Op::new(doing, m)
}

fn write_end(m: &mut Message, end: &NewEnd<'_>) {
    m.text(libc::IFLA_IFNAME, end.name);
    if let Some(mtu) = end.mtu {
        m.u32(libc::IFLA_MTU, mtu);
    }
    if let Some(mac) = end.mac {
        m.raw(libc::IFLA_ADDRESS, mac.bytes());
    }
    if let Some(master) = end.master {
        m.u32(libc::IFLA_MASTER, master);
    }
    if let Some(length) = end.txqlen {
        m.u32(libc::IFLA_TXQLEN, length);
    }
    if let Some(netns) = end.netns {
        m.u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
    }
}

const IFF_UP: u32 = libc::IFF_UP.cast_unsigned();
const IFF_PROMISC: u32 = libc::IFF_PROMISC.cast_unsigned();
const IFF_ALLMULTI: u32 = libc::IFF_ALLMULTI.cast_unsigned();

/// struct ifinfomsg of family AF_UNSPEC.
fn header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    family_header(0, index, flags, change)
}

/// struct ifinfomsg.
pub(crate) fn family_header(family: u8, index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&flags.to_ne_bytes());
    bytes[12..16].copy_from_slice(&change.to_ne_bytes());
    bytes
}

fn change(link: &LinkId, flags: u32, mask: u32) -> Message {
    Message::new(libc::RTM_NEWLINK, 0, &header(link.index, flags, mask))
}

/// Sets a link up or down.
pub fn set_up(link: &LinkId, up: Switch) -> Op {
    let word = if up == Switch::On { "up" } else { "down" };
    Op::new(format!("set {link} {word}"), change(link, up.bit(IFF_UP), IFF_UP))
}

/// Turns promiscuous mode on or off.
pub fn set_promisc(link: &LinkId, promisc: Switch) -> Op {
    let message = change(link, promisc.bit(IFF_PROMISC), IFF_PROMISC);
    Op::new(format!("turn promiscuous mode of {link} {}", promisc.word()), message)
}

/// Turns reception of all multicast on or off.
pub fn set_allmulti(link: &LinkId, allmulti: Switch) -> Op {
    let message = change(link, allmulti.bit(IFF_ALLMULTI), IFF_ALLMULTI);
    Op::new(format!("turn allmulticast mode of {link} {}", allmulti.word()), message)
}

/// Sets the MTU, in bytes.
pub fn set_mtu(link: &LinkId, mtu: u32) -> Op {
    let mut message = change(link, 0, 0);
    message.u32(libc::IFLA_MTU, mtu);
    Op::new(format!("set the MTU of {link} to {mtu}"), message)
}

/// Sets the hardware address.
pub fn set_mac(link: &LinkId, mac: &Mac) -> Op {
    let mut message = change(link, 0, 0);
    message.raw(libc::IFLA_ADDRESS, mac.bytes());
    Op::new(format!("set the hardware address of {link} to {mac}"), message)
}

/// Puts a link under a master, or takes it out (`None`).
pub fn set_master(link: &LinkId, master: Option<&LinkId>) -> Op {
    let mut message = change(link, 0, 0);
    message.u32(libc::IFLA_MASTER, master.map_or(0, |m| m.index));
    let doing = match master {
        Some(master) => format!("make {link} a port of {master}"),
        None => format!("take {link} out of its master"),
    };
    Op::new(doing, message)
}

/// Sets the transmit queue length, in packets.
pub fn set_txqlen(link: &LinkId, length: u32) -> Op {
    let mut message = change(link, 0, 0);
    message.u32(libc::IFLA_TXQLEN, length);
    Op::new(format!("set the queue length of {link} to {length}"), message)
}

/// Sets the alias, at most 255 bytes; an empty one removes it.
pub fn set_alias(link: &LinkId, alias: &str) -> Op {
    let mut message = change(link, 0, 0);
    message.raw(libc::IFLA_IFALIAS, alias.as_bytes());
    Op::new(format!("set the alias of {link} to `{alias}`"), message)
}

/// Sets the alias of the link called `name`: for the batch that makes it, where its index is not known yet.
pub fn set_alias_named(name: &str, alias: &str) -> Op {
    let mut message = Message::new(libc::RTM_NEWLINK, 0, &header(0, 0, 0));
    message.text(libc::IFLA_IFNAME, name);
    message.raw(libc::IFLA_IFALIAS, alias.as_bytes());
    Op::new(format!("set the alias of {name} to `{alias}`"), message)
}

/// Renames a link, which must be down on kernels before 6.2.
pub fn set_name(link: &LinkId, name: &str) -> Op {
    let mut message = change(link, 0, 0);
    message.text(libc::IFLA_IFNAME, name);
    Op::new(format!("rename {link} to {name}"), message)
}

/// Moves a link into another namespace.
pub fn set_netns(link: &LinkId, netns: BorrowedFd<'_>) -> Op {
    let mut message = change(link, 0, 0);
    message.u32(libc::IFLA_NET_NS_FD, netns.as_raw_fd().cast_unsigned());
    Op::new(format!("move {link} to another network namespace"), message)
}

/// Sets the sysctl `net.ipv4.conf.LINK.arp_notify` without entering its namespace.
pub fn set_arp_notify(link: &LinkId, notify: Switch) -> Op {
    let mut message = change(link, 0, 0);
    message.nested(libc::IFLA_AF_SPEC, |m| {
        m.nested(libc::AF_INET as u16, |m| {
            m.nested(IFLA_INET_CONF, |m| {
                m.u32(IPV4_DEVCONF_ARP_NOTIFY, notify.bit(1));
            });
        });
    });
    Op::new(format!("turn arp_notify of {link} {}", notify.word()), message)
}

/// Keeps the kernel from making a link-local IPv6 address when the link goes up. Nothing where IPv6 is off.
pub fn set_no_link_local(link: &LinkId) -> Op {
    let mut message = change(link, 0, 0);
    message.nested(libc::IFLA_AF_SPEC, |m| {
        m.nested(libc::AF_INET6 as u16, |m| {
            m.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
        });
    });
    Op::new(format!("turn link-local addresses of {link} off"), message).or_unsupported()
}

/// Turns VLAN filtering of a bridge on or off.
pub fn set_vlan_filtering(bridge: &LinkId, filtering: Switch) -> Op {
    let mut message = change(bridge, 0, 0);
    message.nested(libc::IFLA_LINKINFO, |m| {
        m.text(libc::IFLA_INFO_KIND, "bridge");
        m.nested(libc::IFLA_INFO_DATA, |m| {
            m.u8(IFLA_BR_VLAN_FILTERING, u8::from(filtering == Switch::On));
        });
    });
    Op::new(format!("turn VLAN filtering of {bridge} {}", filtering.word()), message)
}

/// Whether this process may change the links of the socket's namespace: asks for what changes nothing, to delete a link
/// that no namespace has.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace.
pub fn probe(socket: &mut Socket) -> Result<()> {
    let nowhere = Message::new(libc::RTM_DELLINK, 0, &header(i32::MAX as u32, 0, 0));
    socket.apply(&[Op::new("change links", nowhere).or_absent()])
}

/// Deletes a link, its peer with it.
pub fn delete(link: &LinkId) -> Op {
    Op::new(format!("delete link {link}"), Message::new(libc::RTM_DELLINK, 0, &header(link.index, 0, 0)))
}

/// Deletes a link by name.
pub fn delete_named(name: &str) -> Op {
    let mut message = Message::new(libc::RTM_DELLINK, 0, &header(0, 0, 0));
    message.text(libc::IFLA_IFNAME, name);
    Op::new(format!("delete link {name}"), message)
}

/// Asks for one link by name.
pub fn get_named(name: &str) -> Op {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &header(0, 0, 0));
    message.text(libc::IFLA_IFNAME, name);
    message.u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_SKIP_STATS.cast_unsigned());
    Op::new(format!("look up link {name}"), message)
}

/// Asks for one link by index.
pub fn get_index(index: u32) -> Op {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &header(index, 0, 0));
    message.u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_SKIP_STATS.cast_unsigned());
    Op::new(format!("look up link {index}"), message)
}

/// Asks for every link.
pub fn get_all() -> Op {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &header(0, 0, 0));
    message.u32(libc::IFLA_EXT_MASK, libc::RTEXT_FILTER_SKIP_STATS.cast_unsigned());
    Op::new("list links", message)
}

/// The link called `name`; `None` when there is none.
pub fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    one(socket, &get_named(name))
}

/// What the link called `name` has received so far; `None` when there is no such link.
pub fn received(socket: &mut Socket, name: &str) -> Result<Option<Received>> {
    let mut message = Message::new(libc::RTM_GETLINK, 0, &header(0, 0, 0));
    message.text(libc::IFLA_IFNAME, name);
    match socket.request(&Op::new(format!("read the counters of {name}"), message)) {
        Ok(replies) => Ok(replies.iter().find_map(Received::parse)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The link with this index; `None` when there is none.
pub fn find_index(socket: &mut Socket, index: u32) -> Result<Option<Link>> {
    one(socket, &get_index(index))
}

fn one(socket: &mut Socket, op: &Op) -> Result<Option<Link>> {
    match socket.request(op) {
        Ok(replies) => Ok(replies.iter().find_map(Link::parse)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every link of the socket's namespace.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    Ok(socket.dump(&get_all())?.iter().filter_map(Link::parse).collect())
}
