//! The forwarding database of VXLAN links: which node has a hardware address.

use std::net::IpAddr;

use crate::link::LinkId;
use crate::neigh::header;
use crate::netlink::attr::{attrs, ip, u16_ne, u32_ne};
use crate::netlink::{Message, Op, Reply, Socket};
use crate::{Mac, Result};

const AF_BRIDGE: u8 = libc::AF_BRIDGE as u8;
const NTF_SELF: u8 = 2;

/// One entry as observed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Index of the link.
    pub link: u32,
    /// Hardware address; all zero for everything that has no entry.
    pub mac: Mac,
    /// Where its frames are sent.
    pub to: IpAddr,
    /// NUD_* state.
    pub state: u16,
}

/// Makes a permanent entry, or puts it in the place of the one for the same hardware address.
pub fn set_permanent(link: &LinkId, mac: &Mac, to: IpAddr) -> Op {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    let mut message = Message::new(libc::RTM_NEWNEIGH, flags, &own(link.index, libc::NUD_PERMANENT));
    message.raw(libc::NDA_LLADDR, mac.bytes()).ip(libc::NDA_DST, to);
    Op::new(format!("set where {link} sends frames for {mac} to {to}"), message)
}

/// Removes an entry: of several destinations of one hardware address only this one.
pub fn delete(link: &LinkId, mac: &Mac, to: IpAddr) -> Op {
    let mut message = Message::new(libc::RTM_DELNEIGH, 0, &own(link.index, 0));
    message.raw(libc::NDA_LLADDR, mac.bytes()).ip(libc::NDA_DST, to);
    Op::new(format!("no longer send frames of {link} for {mac} to {to}"), message)
}

/// The entries of one VXLAN link.
pub fn list(socket: &mut Socket, link: u32) -> Result<Vec<Forward>> {
    let message = Message::new(libc::RTM_GETNEIGH, 0, &header(link, AF_BRIDGE, 0));
    let replies = socket.dump(&Op::new("list forwarding entries", message))?;
    Ok(replies.iter().filter_map(Forward::parse).filter(|f| f.link == link).collect())
}

/// struct ndmsg, about the link itself and not the bridge it is a port of.
fn own(link: u32, state: u16) -> [u8; 12] {
    let mut bytes = header(link, AF_BRIDGE, state);
    bytes[10] = NTF_SELF;
    bytes
}

impl Forward {
    /// Reads an RTM_NEWNEIGH or RTM_DELNEIGH message about a VXLAN entry; `None` for any other.
    pub fn parse(reply: &Reply) -> Option<Forward> {
        if reply.kind != libc::RTM_NEWNEIGH && reply.kind != libc::RTM_DELNEIGH {
            return None;
        }
        let head = reply.payload.get(..12)?;
        if head[0] != AF_BRIDGE {
            return None;
        }
        let of = attrs(reply.payload.get(12..)?);
        Some(Forward {
            link: u32_ne(head.get(4..8)?)?,
            mac: of.find_attr(libc::NDA_LLADDR).and_then(Mac::from_bytes)?,
            to: ip(of.find_attr(libc::NDA_DST)?)?,
            state: u16_ne(head.get(8..10)?)?,
        })
    }

    /// Whether it stays until it is removed.
    pub fn is_permanent(&self) -> bool {
        self.state & libc::NUD_PERMANENT != 0
    }
}
