//! CHECK: is everything that ADD made still as the configuration and the result say?
//!
//! Not compared: what others may change with good reason. udev gives host ends other hardware addresses, later
//! plug-ins set MTUs, another network may want the bridge promiscuous.

use std::path::PathBuf;

use cni::{AddResult, Call, Error, Result};
use kernel::link::{self, Link};
use kernel::netlink::{Protocol, Socket};
use kernel::{addr, bridge};

use super::conf::{Conf, ranges};
use super::{add, gateway};
use crate::drift::{self, drift, same_mac};
use crate::owner::Owner;
use crate::spoof::{self, Guard};
use crate::{configure, ipam, kernel_error, masquerade, pod};

/// Looks for drift.
///
/// # Errors
/// The first drift found; bad configuration; no `prevResult`.
pub fn check(call: &Call<PathBuf>) -> Result<()> {
    let conf = Conf::parse(&call.conf, &call.args)?;
    let Some(prev) = &call.conf.prev_result else {
        return Err(Error::config("bridge: prevResult: CHECK needs it"));
    };
    if !call.conf.ipam_type.is_empty() {
        ipam::check(call)?;
    }
    let pod = pod::open(&call.netns)?;
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    let mut inside = Socket::open_in(&pod, Protocol::Route).map_err(kernel_error)?;
    let bridge = check_bridge(&mut host, &conf, prev)?;
    let container = drift::container_end("bridge", &mut inside, prev, call.attachment.ifname.as_str())?;
    if !conf.container_down {
        drift::is_up(&container)?;
    }
    let host_end = check_host_end(&mut host, &bridge, &container, prev)?;
    check_port(&mut host, &conf, &host_end)?;
    if !prev.ips.is_empty() && !conf.container_down {
        configure::check(&mut inside, &container.id, prev)?;
        check_gateway(&mut host, &conf, &bridge, prev, &container)?;
    }
    check_rules(call, &conf, prev, &host_end, &container)
}

fn check_bridge(host: &mut Socket, conf: &Conf, prev: &AddResult) -> Result<Link> {
    let name = &conf.bridge;
    let Some(bridge) = link::find(host, name).map_err(kernel_error)? else {
        return drift(format!("bridge {name} is gone"));
    };
    if bridge.kind != "bridge" {
        return drift(format!("{name} is no bridge but a {}", bridge.kind));
    }
    let recorded = prev.interfaces.iter().find(|i| i.name == *name && i.sandbox.is_empty());
    let Some(recorded) = recorded else {
        return drift(format!("bridge: prevResult: it lists no bridge {name}"));
    };
    // Only a gateway's address is pinned: others follow their ports in bridges that we did not make.
    if conf.is_gateway && !same_mac(recorded, &bridge) {
        return drift(format!("bridge {name} has MAC {}, not {}", bridge.mac_text(), recorded.mac));
    }
    if conf.promisc && !bridge.is_promisc() {
        return drift(format!("bridge {name} is not promiscuous"));
    }
    drift::is_up(&bridge)?;
    Ok(bridge)
}

/// The end on the host is the one whose other end is the pod's; the result must list it.
fn check_host_end(host: &mut Socket, bridge: &Link, container: &Link, prev: &AddResult) -> Result<Link> {
    let host_end = drift::host_end(host, container)?;
    let name = &host_end.id.name;
    if !prev.interfaces.iter().any(|i| i.name == *name && i.sandbox.is_empty()) {
        return drift(format!(
            "bridge: prevResult: it does not list {name}, the host end of {}",
            container.id
        ));
    }
    if host_end.master != Some(bridge.id.index) {
        return drift(format!("{name} is no port of {}", bridge.id));
    }
    drift::is_up(&host_end)?;
    Ok(host_end)
}

fn check_port(host: &mut Socket, conf: &Conf, host_end: &Link) -> Result<()> {
    let name = &host_end.id.name;
    let state = host_end.port.unwrap_or_default();
    for (what, wanted, seen) in
        [("hairpin mode", conf.hairpin, state.hairpin), ("isolation", conf.isolation, state.isolated)]
    {
        if wanted != seen {
            let word = |on: bool| if on { "on" } else { "off" };
            return drift(format!("{what} of {name} is {}, not {}", word(seen), word(wanted)));
        }
    }
    let Some(wanted) = conf.vlans.table() else { return Ok(()) };
    let seen = bridge::vlans(host, &host_end.id).map_err(kernel_error)?;
    if seen != wanted {
        let list = |table| {
            let words: Vec<_> = ranges(table).iter().map(|(range, _)| range.to_string()).collect();
            words.join(",")
        };
        let (seen, wanted) = (list(&seen), list(&wanted));
        return drift(format!(
            "{name} is in VLANs `{seen}`, not `{wanted}` with the PVID that was configured"
        ));
    }
    Ok(())
}

fn check_gateway(
    host: &mut Socket,
    conf: &Conf,
    bridge: &Link,
    prev: &AddResult,
    container: &Link,
) -> Result<()> {
    if !conf.is_gateway {
        return Ok(());
    }
    let holder = match conf.vlans.access {
        None => bridge.clone(),
        Some(vlan) => {
            let name = gateway::port_name(&conf.bridge, vlan);
            match link::find(host, &name).map_err(kernel_error)? {
                Some(link) => link,
                None => return drift(format!("{name}, the gateway of vlan {vlan}, is gone")),
            }
        }
    };
    let present = addr::list(host, Some(holder.id.index)).map_err(kernel_error)?;
    let own = configure::own_ips(prev, &container.id.name);
    drift::forwarding(host, &own)?;
    for wanted in own.iter().filter_map(add::gateway_address) {
        if !present.iter().any(|a| a.ip == wanted) {
            return drift(format!("{} has lost the gateway address {wanted}", holder.id));
        }
    }
    Ok(())
}

fn check_rules(
    call: &Call<PathBuf>,
    conf: &Conf,
    prev: &AddResult,
    host_end: &Link,
    container: &Link,
) -> Result<()> {
    if !conf.ip_masq && !conf.spoof_check {
        return Ok(());
    }
    let owner = Owner::new(&call.conf.name, &call.attachment);
    let mut netfilter = Socket::open(Protocol::Netfilter).map_err(kernel_error)?;
    let own = configure::own_ips(prev, &container.id.name);
    if conf.ip_masq && !own.is_empty() {
        let backend = conf.ip_masq_backend.decide(&mut netfilter);
        masquerade::check(&mut netfilter, &owner, &own, backend)?;
    }
    match &container.mac {
        Some(mac) if conf.spoof_check => {
            let guard = Guard { port: host_end.id.name.clone(), mac: mac.clone() };
            spoof::check(&mut netfilter, &owner, &guard)
        }
        _ => Ok(()),
    }
}
