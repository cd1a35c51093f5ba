//! Addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use crate::link::LinkId;
use crate::netlink::attr::{attrs, ip, u32_ne};
use crate::netlink::{Message, Op, Reply, Socket};
use crate::{Error, Result};

/// Whether the kernel probes for duplicates before an IPv6 address is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dad {
    /// As the link's sysctls say: the address is tentative for a second or two.
    Probe,
    /// Usable at once.
    Skip,
}

/// One address as observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of its link.
    pub link: u32,
    /// Address and prefix length.
    pub ip: IpNetwork,
    /// IFA_F_* flags.
    pub flags: u32,
    /// RT_SCOPE_* number.
    pub scope: u8,
}

/// Adds an address with its prefix's connected route; IPv4 gets the broadcast address of its subnet.
pub fn add(link: &LinkId, address: IpNetwork, dad: Dad) -> Op {
    add_with(link, address, dad, (0, libc::RT_SCOPE_UNIVERSE))
}

/// Like [`add`], but the prefix gets no connected route: who adds the address says where its subnet is.
pub fn add_without_route(link: &LinkId, address: IpNetwork, dad: Dad) -> Op {
    add_with(link, address, dad, (IFA_F_NOPREFIXROUTE, libc::RT_SCOPE_UNIVERSE))
}

/// Adds an address that the kernel accepts packets for, but takes as the source of none except those to itself: where
/// a link without addresses of its own makes it look elsewhere, it passes by those of scope host (IPv4) and those
/// that are deprecated (IPv6).
pub fn add_unpreferred(link: &LinkId, address: IpNetwork) -> Op {
    const VALID_FOR: [u8; 4] = [0xff; 4];
    let mut op = add_with(link, address, Dad::Skip, (IFA_F_NOPREFIXROUTE, libc::RT_SCOPE_HOST));
    if address.is_ipv6() {
        // struct ifa_cacheinfo: preferred for no time, valid for ever.
        op.message.raw(IFA_CACHEINFO, &[[0; 4], VALID_FOR, [0; 4], [0; 4]].concat());
    }
    op
}

fn add_with(link: &LinkId, address: IpNetwork, dad: Dad, (more, scope): (u32, u8)) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let nodad = if dad == Dad::Skip && address.is_ipv6() { libc::IFA_F_NODAD } else { 0 };
    let mut header = header(link.index, Some(address), nodad);
    header[3] = scope;
    let mut message = Message::new(libc::RTM_NEWADDR, flags, &header);
    write(&mut message, address);
    if more != 0 {
        message.u32(IFA_FLAGS, nodad | more);
    }
    if let IpNetwork::V4(v4) = address
        && v4.prefix() < 31
    {
        let broadcast = Ipv4Addr::from(u32::from(v4.ip()) | !u32::from(v4.mask()));
        message.ip(libc::IFA_BROADCAST, IpAddr::V4(broadcast));
    }
    Op::new(format!("add address {address} to {link}"), message)
}

/// Removes an address.
pub fn delete(link: &LinkId, address: IpNetwork) -> Op {
    let mut message = Message::new(libc::RTM_DELADDR, 0, &header(link.index, Some(address), 0));
    write(&mut message, address);
    Op::new(format!("delete address {address} of {link}"), message)
}

/// The addresses of one link, or of all (`None`), in the kernel's order.
pub fn list(socket: &mut Socket, link: Option<u32>) -> Result<Vec<Address>> {
    let message = Message::new(libc::RTM_GETADDR, 0, &header(link.unwrap_or(0), None, 0));
    match socket.dump(&Op::new("list addresses", message)) {
        Ok(replies) => {
            let all = replies.iter().filter_map(Address::parse);
            Ok(all.filter(|a| link.is_none_or(|index| a.link == index)).collect())
        }
        Err(error) if error.is_absent() && link.is_some() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn header(link: u32, address: Option<IpNetwork>, flags: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[0] = address.map_or(0, |a| family(a.ip()));
    bytes[1] = address.map_or(0, |a| a.prefix());
    bytes[2] = u8::try_from(flags & 0xff).unwrap_or(0);
    bytes[4..].copy_from_slice(&link.to_ne_bytes());
    bytes
}

fn write(message: &mut Message, address: IpNetwork) {
    message.ip(libc::IFA_LOCAL, address.ip());
    message.ip(libc::IFA_ADDRESS, address.ip());
}

/// AF_INET or AF_INET6.
pub(crate) fn family(ip: IpAddr) -> u8 {
    u8::try_from(if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }).unwrap_or(0)
}

impl Address {
    /// Reads an RTM_NEWADDR or RTM_DELADDR message; `None` for any other, and for crooked ones.
    pub fn parse(reply: &Reply) -> Option<Address> {
        if reply.kind != libc::RTM_NEWADDR && reply.kind != libc::RTM_DELADDR {
            return None;
        }
        let head = reply.payload.get(..8)?;
        let of = attrs(reply.payload.get(8..)?);
        let bytes = of.find_attr(libc::IFA_LOCAL).or_else(|| of.find_attr(libc::IFA_ADDRESS))?;
        Some(Address {
            link: u32_ne(head.get(4..8)?)?,
            ip: IpNetwork::new(ip(bytes)?, head[1]).ok()?,
            flags: of.find_attr(IFA_FLAGS).and_then(u32_ne).unwrap_or(u32::from(head[2])),
            scope: head[3],
        })
    }

    /// Whether duplicate detection still runs.
    pub fn is_tentative(&self) -> bool {
        self.flags & libc::IFA_F_TENTATIVE != 0
    }

    /// Whether duplicate detection found another owner.
    pub fn is_duplicate(&self) -> bool {
        self.flags & libc::IFA_F_DADFAILED != 0
    }

    /// Whether no new connection should use it: its preferred lifetime is over.
    pub fn is_deprecated(&self) -> bool {
        self.flags & libc::IFA_F_DEPRECATED != 0
    }

    /// Whether it is a passing one: made for privacy (RFC 8981), not to be known by. Of IPv4 the same flag means
    /// another thing: see [`Address::is_secondary`].
    pub fn is_temporary(&self) -> bool {
        self.ip.is_ipv6() && self.flags & libc::IFA_F_TEMPORARY != 0
    }

    /// Whether another address of the same subnet was there first (IPv4).
    pub fn is_secondary(&self) -> bool {
        self.ip.is_ipv4() && self.flags & libc::IFA_F_SECONDARY != 0
    }

    /// Whether its scope is the whole network.
    pub fn is_global(&self) -> bool {
        self.scope == libc::RT_SCOPE_UNIVERSE
    }
}

const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;

/// Reads `10.1.2.3/24`, or a bare address as a host's (`/32`, `/128`).
///
/// # Errors
/// [`Error::Invalid`] naming the text.
pub fn parse_cidr_or_host(text: &str) -> Result<IpNetwork> {
    text.parse().map_err(|_| Error::Invalid { what: format!("`{text}` is not an IP address") })
}
