//! Named packet counters of the kernel (nfacct), which iptables rules can count into.

use crate::netlink::attr::{text, u64_be};
use crate::netlink::{Message, Op, Socket, attrs};
use crate::{Error, Result};

const SUBSYSTEM: u16 = 7;
const MSG_NEW: u16 = 0;
const MSG_GET: u16 = 1;
const MSG_DELETE: u16 = 3;
const NAME: u16 = 1;
const PACKETS: u16 = 2;
/// Bytes of the nfgenmsg before the attributes of a reply.
const FAMILY_HEADER: usize = 4;
/// `struct nfgenmsg`: no family, version 0.
const HEADER: [u8; FAMILY_HEADER] = [0; FAMILY_HEADER];

/// Makes the counter `name` if it is absent; one that is present keeps counting.
///
/// # Errors
/// The kernel's refusal; EINVAL or EOPNOTSUPP when it has no such counters.
pub fn ensure(socket: &mut Socket, name: &str) -> Result<()> {
    let mut message = Message::new(kind(MSG_NEW), libc::NLM_F_CREATE | libc::NLM_F_EXCL, &HEADER);
    message.text(NAME, name);
    socket.apply(&[Op::new(format!("add counter {name}"), message).or_present()])
}

/// Packets that the counter `name` has seen; none when it is absent.
///
/// # Errors
/// The kernel's refusal.
pub fn packets(socket: &mut Socket, name: &str) -> Result<Option<u64>> {
    let mut message = Message::new(kind(MSG_GET), 0, &HEADER);
    message.text(NAME, name);
    let replies = match socket.request(&Op::new(format!("read counter {name}"), message)) {
        Ok(replies) => replies,
        Err(Error::Kernel { errno, .. }) if errno.0 == libc::ENOENT => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = replies.iter().find_map(|reply| {
        let body = reply.payload.get(FAMILY_HEADER..)?;
        let is_it = attrs(body).find_attr(NAME).map(text).as_deref() == Some(name);
        is_it.then(|| attrs(body).find_attr(PACKETS).and_then(u64_be))?
    });
    Ok(found)
}

/// Removes the counter `name` unless a rule counts into it. Absent is fine.
///
/// # Errors
/// The kernel's refusal.
pub fn remove_unused(socket: &mut Socket, name: &str) -> Result<()> {
    let mut message = Message::new(kind(MSG_DELETE), 0, &HEADER);
    message.text(NAME, name);
    let op = Op::new(format!("delete counter {name}"), message).or_absent();
    match socket.apply(&[op]) {
        Err(Error::Kernel { errno, .. }) if errno.0 == libc::EBUSY => Ok(()),
        outcome => outcome,
    }
}

fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}
