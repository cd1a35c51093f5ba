//! What the kernel's per-namespace switches are set to, by netlink: no path under /proc is walked.

use crate::netlink::attr::{attrs, u32_ne};
use crate::netlink::{Message, Op, Reply, Socket};
use crate::{Error, Result};

const RTM_NEWNETCONF: u16 = 80;
const RTM_GETNETCONF: u16 = 82;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_PROXY_NEIGH: u16 = 5;
/// NETCONFA_IFINDEX_ALL, -1: the namespace's own setting (`net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding`).
const ALL: u32 = u32::MAX;

/// Whether the socket's namespace forwards packets of `family` (AF_INET or AF_INET6).
pub fn forwards(socket: &mut Socket, family: i32) -> Result<bool> {
    let doing = "ask whether packets are forwarded";
    // struct netconfmsg: the family.
    let mut message = Message::new(RTM_GETNETCONF, 0, &[u8::try_from(family).unwrap_or(0)]);
    message.u32(NETCONFA_IFINDEX, ALL);
    let replies = socket.request(&Op::new(doing, message))?;
    let answers = replies.iter().filter(|reply| reply.kind == RTM_NEWNETCONF);
    let value = |payload: &[u8]| attrs(payload.get(4..)?).find_attr(NETCONFA_FORWARDING).and_then(u32_ne);
    let found = answers.filter_map(|reply| value(&reply.payload)).next();
    found
        .map(|value| value != 0)
        .ok_or(Error::Malformed { doing: doing.to_owned(), why: "the kernel does not say" })
}

/// Whether `event` says that a setting of the whole namespace has changed, not that of a single link.
pub fn concerns_all(event: &Reply) -> bool {
    let link = |payload: &[u8]| attrs(payload.get(4..)?).find_attr(NETCONFA_IFINDEX).and_then(u32_ne);
    event.kind == RTM_NEWNETCONF && link(&event.payload) == Some(ALL)
}

/// Whether `event` says that a link no longer answers for others' addresses (`proxy_arp`), rather than that it is new.
pub fn is_proxy_off(event: &Reply) -> bool {
    let Some((head, of)) = event.payload.split_at_checked(4) else { return false };
    let value = |kind| attrs(of).find_attr(kind).and_then(u32_ne);
    event.kind == RTM_NEWNETCONF
        && head.first().copied().map(i32::from) == Some(libc::AF_INET)
        && value(NETCONFA_PROXY_NEIGH) == Some(0)
        && value(NETCONFA_FORWARDING).is_none()
}
