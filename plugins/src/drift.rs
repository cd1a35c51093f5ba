//! What CHECK looks for whatever the plug-in: the two ends of a pod's cable, and a host that forwards.

use cni::{AddResult, Error, Interface, IpConfig, Result};
use kernel::Mac;
use kernel::link::{self, Link};
use kernel::netlink::Socket;

use crate::{configure, kernel_error};

/// Something is not as ADD left it: this sentence says what.
///
/// # Errors
/// Always.
pub fn drift<T>(what: String) -> Result<T> {
    Err(Error::internal(what))
}

/// The pod's end as `prev` records it: a veth with the hardware address of then. `plugin` is whose prevResult it is.
///
/// # Errors
/// What has changed; the kernel's refusal to tell.
pub fn container_end(plugin: &str, inside: &mut Socket, prev: &AddResult, ifname: &str) -> Result<Link> {
    let Some(recorded) = prev.interfaces.iter().find(|i| i.name == ifname && !i.sandbox.is_empty()) else {
        return drift(format!("{plugin}: prevResult: it lists no {ifname} in a sandbox"));
    };
    let Some(container) = link::find(inside, ifname).map_err(kernel_error)? else {
        return drift(format!("{ifname} is gone from the pod"));
    };
    if container.kind != "veth" {
        return drift(format!("{ifname} is no veth but a {}", container.kind));
    }
    if !same_mac(recorded, &container) {
        return drift(format!("{ifname} has MAC {}, not {}", container.mac_text(), recorded.mac));
    }
    Ok(container)
}

/// Whether the link has the hardware address that was recorded; one that was not recorded may be any.
pub fn same_mac(recorded: &Interface, seen: &Link) -> bool {
    recorded.mac.is_empty() || recorded.mac.parse::<Mac>().ok() == seen.mac
}

/// The end on the host: the one whose other end is the pod's.
///
/// # Errors
/// It is gone; the kernel's refusal to tell.
pub fn host_end(host: &mut Socket, container: &Link) -> Result<Link> {
    let peer = container.peer.unwrap_or_default();
    let found = link::find_index(host, peer).map_err(kernel_error)?;
    let ours = |l: &Link| l.kind == "veth" && l.peer == Some(container.id.index) && l.peer_netns.is_some();
    match found.filter(ours) {
        Some(link) => Ok(link),
        None => drift(format!("the host end of {} is gone", container.id)),
    }
}

/// The link is up.
///
/// # Errors
/// It is down.
pub fn is_up(link: &Link) -> Result<()> {
    if link.is_up() { Ok(()) } else { drift(format!("{} is down", link.id)) }
}

/// The host forwards the families of `ips`, as ADD made it.
///
/// # Errors
/// It doesn't; the kernel's refusal to tell.
pub fn forwarding(host: &mut Socket, ips: &[IpConfig]) -> Result<()> {
    let (v4, v6) = configure::families(ips);
    match configure::lacking_forwarding(host, v4, v6)?.first() {
        Some(key) => drift(format!("the host does not forward: sysctl {key} is 0, not 1")),
        None => Ok(()),
    }
}
