//! Which addresses this node has.

use std::net::IpAddr;

use kernel::netlink::Socket;
use kernel::netlink::monitor::{GROUP_IPV4_ADDR, GROUP_IPV6_ADDR};
use kernel::{Result, addr, link};
// Addresses of Services are on it, and are not the node's.
use proxy::ipvs::LINK as SERVICES_LINK;

/// The multicast groups that tell of changes.
pub const GROUPS: [u32; 2] = [GROUP_IPV4_ADDR, GROUP_IPV6_ADDR];

/// Every address that the node can be meant by, sorted. Link-local ones of IPv6 come and go with every pod, and nobody
/// sends to a NodePort there.
///
/// # Errors
/// When the kernel can't be asked.
pub fn list(socket: &mut Socket) -> Result<Vec<IpAddr>> {
    let services = link::find(socket, SERVICES_LINK)?.map(|link| link.id.index);
    let all = addr::list(socket, None)?;
    let is_link_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let own = all.iter().filter(|address| Some(address.link) != services).map(|address| address.ip.ip());
    let mut ips: Vec<IpAddr> = own.filter(|ip| !is_link_local(*ip)).collect();
    ips.sort_unstable();
    ips.dedup();
    Ok(ips)
}
