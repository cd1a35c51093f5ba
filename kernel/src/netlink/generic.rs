//! Generic netlink: families have names, and numbers only once the kernel has loaded them.

use super::attr::{attrs, u16_ne};
use super::{Message, Op, Socket};
use crate::Result;

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// struct genlmsghdr.
pub(crate) fn header(command: u8, version: u8) -> [u8; 4] {
    [command, version, 0, 0]
}

/// The number of the family called `name`; `None` when this kernel has none.
pub fn family(socket: &mut Socket, name: &str) -> Result<Option<u16>> {
    let mut message = Message::new(GENL_ID_CTRL, 0, &header(CTRL_CMD_GETFAMILY, 1));
    message.text(CTRL_ATTR_FAMILY_NAME, name);
    match socket.request(&Op::new(format!("look up the netlink family {name}"), message)) {
        Ok(replies) => Ok(replies.iter().find_map(|reply| {
            attrs(reply.payload.get(4..)?).find_attr(CTRL_ATTR_FAMILY_ID).and_then(u16_ne)
        })),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}
