//! Forgetting stale flows, after the table leads new ones elsewhere.

use kernel::Result;
use kernel::conntrack::flush_where;
use kernel::netlink::Socket;

use crate::Family;
use crate::plan::Stale;
use crate::state::Protocol;

/// Removes the recorded flows that [`crate::plan::stale`] names, in one walk per protocol, and returns how many there
/// were. To be called after the sync, else a packet may record the same flow again. `socket` is a netfilter socket.
///
/// # Errors
/// When the kernel has no conntrack by netlink, or refuses.
pub fn forget(socket: &mut Socket, family: Family, stale: &[Stale]) -> Result<usize> {
    let mut forgotten = 0;
    for protocol in Protocol::ALL {
        let of_protocol: Vec<&Stale> = stale.iter().filter(|s| s.protocol == protocol).collect();
        if of_protocol.is_empty() {
            continue;
        }
        forgotten += flush_where(socket, (family == Family::V4, protocol.number()), |flow| {
            of_protocol.iter().any(|stale| stale.includes(flow.original.destination, flow.reply.source))
        })?;
    }
    Ok(forgotten)
}
