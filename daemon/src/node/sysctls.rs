//! Sysctls without which no pod is reached, and what br_netfilter means.

use kernel::netlink::Socket;
use kernel::route::{self, Filter};
use kernel::{Result, link, sysctl};
use overlay::{DualStack, Family, Uplink};

use super::Outcome;

/// The bridge that the plug-in `vxlan` makes.
pub const BRIDGE: &str = "bowline0";
/// RTPROT_RA: the kernel learned the route from a router advertisement.
const FROM_ADVERTISEMENT: u8 = 9;

/// Switches forwarding on in `families`; leaves rp_filter as it is, because both ways of a packet use the same link.
///
/// A host that forwards IPv6 ignores router advertisements unless told otherwise, and would lose the default route it
/// has learned from them: so `accept_ra` of such an uplink becomes 2 first.
///
/// # Errors
/// What can't be read or set, /proc/sys mounted read-only for instance.
pub fn ensure_forwarding(
    socket: &mut Socket,
    families: DualStack<bool>,
    uplinks: &DualStack<Option<Uplink>>,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut ensure = |key: &str, value: &str| {
        let changed = sysctl::ensure(key, value)?;
        if changed {
            outcome.changes.push(format!("set sysctl {key} to {value}"));
        }
        Ok::<_, kernel::Error>(())
    };
    if families.v4 {
        ensure("net/ipv4/ip_forward", "1")?;
    }
    if families.v6 {
        if let Some(uplink) = &uplinks.v6 {
            let key = format!("net/ipv6/conf/{}/accept_ra", uplink.link.name);
            if sysctl::read(&key)? == "1" && learns_routes(socket, uplink)? {
                ensure(&key, "2")?;
            }
        }
        ensure("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(outcome)
}

fn learns_routes(socket: &mut Socket, uplink: &Uplink) -> Result<bool> {
    let filter = Filter { link: Some(uplink.link.index), ..Filter::default() };
    let routes = route::list(socket, filter)?;
    Ok(routes.iter().any(|route| route.protocol == FROM_ADVERTISEMENT && route.dst.is_ipv6()))
}

/// What br_netfilter makes of packets between pods of one bridge, and what is done about it.
///
/// The pods of the daemon's own network are on no bridge; those of the plug-in `vxlan` are. Where the module is loaded
/// these shall meet the ruleset: a Service's answer that goes from pod to pod over the bridge alone would keep the wrong
/// source address. Forwarding rules of a host firewall then apply to them as well, and the pod CIDRs are accepted there
/// ([`super::forward`]). Where it isn't loaded, only who needs Services between pods of one bridge needs it; loading
/// modules is the administrator's.
///
/// # Errors
/// As [`ensure_forwarding`].
pub fn ensure_bridge_filter(
    socket: &mut Socket,
    families: DualStack<bool>,
) -> Result<(Outcome, &'static str)> {
    let mut outcome = Outcome::default();
    if link::find(socket, BRIDGE)?.is_none() {
        return Ok((outcome, "not needed: no pod is on a bridge of ours"));
    }
    let mut is_loaded = false;
    for (family, key) in [
        (Family::V4, "net/bridge/bridge-nf-call-iptables"),
        (Family::V6, "net/bridge/bridge-nf-call-ip6tables"),
    ] {
        match sysctl::read(key) {
            Err(error) if error.is_absent() => continue,
            Err(error) => return Err(error),
            Ok(_) => is_loaded = true,
        }
        if *families.of(family) && sysctl::ensure(key, "1")? {
            outcome.changes.push(format!("set sysctl {key} to 1"));
        }
    }
    let state = match is_loaded {
        true => {
            "loaded: packets between pods of one bridge meet the ruleset, and the pod CIDRs are accepted in it"
        }
        false => {
            "not loaded: fine without Services; with them, answers between pods of one bridge need `modprobe br_netfilter`"
        }
    };
    Ok((outcome, state))
}
