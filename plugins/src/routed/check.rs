//! CHECK: is everything that ADD made still as the result says?

use std::path::PathBuf;

use cni::{AddResult, Call, Error, Result};
use ipnetwork::IpNetwork;
use kernel::link::Link;
use kernel::netlink::{Protocol, Socket};
use kernel::sysctl::Keys;
use kernel::{addr, route};

use overlay::attachment::{gateway_network, route_to};

use super::host_mac;
use crate::cluster::{self, Pods};
use crate::drift::{self, drift};
use crate::{configure, ipam, kernel_error, pod};

/// Looks for drift. What a pod knows of its gateway's hardware address is not compared: where it has forgotten, proxy
/// ARP answers.
///
/// # Errors
/// The first drift found; no `prevResult`.
pub fn check(call: &Call<PathBuf>, pods: &Pods) -> Result<()> {
    let Some(prev) = &call.conf.prev_result else {
        return Err(Error::config("routed: prevResult: CHECK needs it"));
    };
    ipam::check(call)?;
    let pod = pod::open(&call.netns)?;
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    let mut inside = Socket::open_in(&pod, Protocol::Route).map_err(kernel_error)?;
    let container = drift::container_end("routed", &mut inside, prev, call.attachment.ifname.as_str())?;
    drift::is_up(&container)?;
    cluster::check_mtu(&container, pods)?;
    configure::check(&mut inside, &container.id, prev)?;
    check_host_end(&mut host, &container, prev)
}

/// The host end is up, bears the address that pods know, answers for the gateway, and leads to each of the pod's
/// addresses.
fn check_host_end(host: &mut Socket, container: &Link, prev: &AddResult) -> Result<()> {
    let host_end = drift::host_end(host, container)?;
    let id = &host_end.id;
    drift::is_up(&host_end)?;
    if host_end.mac != Some(host_mac()) {
        return drift(format!("{id} has MAC {}, not {}", host_end.mac_text(), host_mac()));
    }
    let own = configure::own_ips(prev, &container.id.name);
    drift::forwarding(host, &own)?;
    let own: Vec<IpNetwork> = own.into_iter().map(|ip| ip.address).collect();
    if own.iter().any(IpNetwork::is_ipv6) {
        let addresses = addr::list(host, Some(id.index)).map_err(kernel_error)?;
        if !addresses.iter().any(|address| address.ip == gateway_network()) {
            return drift(format!("{id} has lost the gateway address {}", gateway_network()));
        }
    }
    if own.iter().any(IpNetwork::is_ipv4) {
        check_proxy(&id.name)?;
    }
    let filter = route::Filter { table: Some(route::MAIN), link: Some(id.index), ..route::Filter::default() };
    let routes = route::list(host, filter).map_err(kernel_error)?;
    for address in own {
        let wanted = route_to(IpNetwork::from(address.ip()), id.index);
        if !routes.iter().any(|route| route.dst == wanted.dst && route.gw.is_none()) {
            return drift(format!("the node's route to {} by {id} is gone", wanted.dst));
        }
    }
    Ok(())
}

fn check_proxy(host_end: &str) -> Result<()> {
    let key = format!("net/ipv4/conf/{host_end}/proxy_arp");
    match Keys::fresh().read(&key).map_err(kernel_error)?.as_str() {
        "1" => Ok(()),
        other => drift(format!("sysctl {key} is {other}, not 1")),
    }
}
