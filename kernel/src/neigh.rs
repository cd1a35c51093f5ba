//! Neighbours: which hardware address answers for an IP address on a link.

use std::net::IpAddr;

use crate::addr::family;
use crate::link::LinkId;
use crate::netlink::attr::{attrs, ip, u16_ne, u32_ne};
use crate::netlink::{Message, Op, Reply, Socket};
use crate::{Mac, Result};

/// One neighbour as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of its link.
    pub link: u32,
    /// Its IP address.
    pub ip: IpAddr,
    /// Its hardware address, where known.
    pub mac: Option<Mac>,
    /// NUD_* state.
    pub state: u16,
}

/// Makes a permanent entry, or puts it in the place of the one that is there.
pub fn set_permanent(link: &LinkId, ip: IpAddr, mac: &Mac) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message =
        Message::new(libc::RTM_NEWNEIGH, flags, &header(link.index, family(ip), libc::NUD_PERMANENT));
    message.ip(libc::NDA_DST, ip).raw(libc::NDA_LLADDR, mac.bytes());
    Op::new(format!("set neighbour {ip} of {link} to {mac}"), message)
}

/// Removes an entry.
pub fn delete(link: &LinkId, ip: IpAddr) -> Op {
    let mut message = Message::new(libc::RTM_DELNEIGH, 0, &header(link.index, family(ip), 0));
    message.ip(libc::NDA_DST, ip);
    Op::new(format!("delete neighbour {ip} of {link}"), message)
}

/// The neighbours of one link, both families.
pub fn list(socket: &mut Socket, link: u32) -> Result<Vec<Neighbour>> {
    let mut message = Message::new(libc::RTM_GETNEIGH, 0, &header(0, 0, 0));
    message.u32(libc::NDA_IFINDEX, link);
    let replies = socket.dump(&Op::new("list neighbours", message))?;
    Ok(replies.iter().filter_map(Neighbour::parse).filter(|n| n.link == link).collect())
}

/// struct ndmsg.
pub(crate) fn header(link: u32, family: u8, state: u16) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&link.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes
}

impl Neighbour {
    /// Reads an RTM_NEWNEIGH or RTM_DELNEIGH message about an IP neighbour; `None` for any other.
    pub fn parse(reply: &Reply) -> Option<Neighbour> {
        if reply.kind != libc::RTM_NEWNEIGH && reply.kind != libc::RTM_DELNEIGH {
            return None;
        }
        let head = reply.payload.get(..12)?;
        if i32::from(head[0]) == libc::AF_BRIDGE {
            return None;
        }
        let of = attrs(reply.payload.get(12..)?);
        Some(Neighbour {
            link: u32_ne(head.get(4..8)?)?,
            ip: ip(of.find_attr(libc::NDA_DST)?)?,
            mac: of.find_attr(libc::NDA_LLADDR).and_then(Mac::from_bytes),
            state: u16_ne(head.get(8..10)?)?,
        })
    }

    /// Whether it stays until it is removed.
    pub fn is_permanent(&self) -> bool {
        self.state & libc::NUD_PERMANENT != 0
    }
}
