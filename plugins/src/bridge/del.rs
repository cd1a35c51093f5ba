//! DEL: everything that carries the attachment's name goes, whatever is missing already.

use std::path::PathBuf;

use cni::{AddResult, Call, IpConfig, Result};
use kernel::link::{self, Link};
use kernel::netlink::{Protocol, Socket, delete_link_early};
use kernel::{Mac, Netns, addr};

use super::conf::Conf;
use super::gateway;
use crate::error::gather;
use crate::owner::Owner;
use crate::spoof::{self, Guard};
use crate::{ipam, kernel_error, masquerade, pod};

/// Unmakes the attachment. The lease goes before the link, which a DHCP client needs to say so.
///
/// # Errors
/// The first with the others as details, after everything was tried.
pub fn del(call: &Call<Option<PathBuf>>) -> Result<()> {
    let conf = Conf::parse_for_del(&call.conf);
    let mut outcomes = Vec::new();
    let mut note = |outcome: Result<()>| outcomes.push(outcome);
    let netns = pod::open_if_there(call.netns.as_deref()).unwrap_or_else(|e| {
        note(Err(e));
        None
    });
    let cable = Cable::find(call, netns.as_ref()).unwrap_or_else(|e| {
        note(Err(e));
        Cable::default()
    });
    if !call.conf.ipam_type.is_empty() {
        note(ipam::del(call));
    }
    note(cable.delete(netns.as_ref()));
    note(remove_rules(call, &conf, &cable));
    note(remove_unused_gateway(&conf));
    gather(outcomes)
}

/// What is left of the cable.
#[derive(Debug, Default)]
struct Cable {
    container: Option<Link>,
    host: Option<Link>,
    host_name: Option<String>,
    mac: Option<Mac>,
    ips: Vec<IpConfig>,
}

impl Cable {
    /// Looks into the pod; else to the host, for what prevResult names.
    fn find(call: &Call<Option<PathBuf>>, netns: Option<&Netns>) -> Result<Self> {
        let mut cable = Cable::default();
        let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
        if let Some(netns) = netns {
            cable.look_inside(&mut host, netns, call.attachment.ifname.as_str())?;
        }
        if let Some(prev) = &call.conf.prev_result {
            cable.recall(&mut host, prev, call.attachment.ifname.as_str())?;
        }
        Ok(cable)
    }

    fn look_inside(&mut self, host: &mut Socket, netns: &Netns, ifname: &str) -> Result<()> {
        let mut inside = Socket::open_in(netns, Protocol::Route).map_err(kernel_error)?;
        let found = link::find(&mut inside, ifname).map_err(kernel_error)?;
        let Some(container) = found.filter(|link| !link.is_loopback()) else { return Ok(()) };
        let addresses = addr::list(&mut inside, Some(container.id.index)).map_err(kernel_error)?;
        let global = addresses.iter().filter(|a| a.is_global());
        self.ips = global.map(|a| IpConfig { interface: None, address: a.ip, gateway: None }).collect();
        if container.kind == "veth"
            && let Some(peer) = container.peer
        {
            let other = link::find_index(host, peer).map_err(kernel_error)?;
            self.host = other.filter(|link| link.kind == "veth" && link.peer == Some(container.id.index));
        }
        self.host_name = self.host.as_ref().map(|link| link.id.name.clone());
        self.mac = container.mac.clone();
        self.container = Some(container);
        Ok(())
    }

    /// What ADD reported: the addresses, and the end on the host if it is still that one.
    fn recall(&mut self, host: &mut Socket, prev: &AddResult, ifname: &str) -> Result<()> {
        let own = |ip: &&IpConfig| match prev.interface_of(ip) {
            None => true,
            Some(interface) => interface.is_some_and(|i| i.name == ifname),
        };
        if !prev.ips.is_empty() {
            self.ips = prev.ips.iter().filter(own).cloned().collect();
        }
        let inside = prev.interfaces.iter().find(|i| i.name == ifname && !i.sandbox.is_empty());
        self.mac = self.mac.take().or_else(|| inside.and_then(|i| i.mac.parse().ok()));
        for interface in prev.interfaces.iter().filter(|i| i.sandbox.is_empty()) {
            if self.host.is_some() {
                break;
            }
            let Some(seen) = link::find(host, &interface.name).map_err(kernel_error)? else {
                // The bridge is always there; what is missing was the end on the host.
                self.host_name.get_or_insert_with(|| interface.name.clone());
                continue;
            };
            let elsewhere = seen.kind == "veth" && seen.peer_netns.is_some();
            if elsewhere && seen.mac_text().eq_ignore_ascii_case(&interface.mac) {
                self.host_name = Some(interface.name.clone());
                self.host = Some(seen);
            }
        }
        Ok(())
    }

    fn delete(&self, netns: Option<&Netns>) -> Result<()> {
        let (netns, link) = match (&self.host, &self.container) {
            (Some(host), _) => (None, host),
            (None, Some(container)) => (netns, container),
            (None, None) => return Ok(()),
        };
        delete_link_early(netns, link.id.index, &link.id.name).map_err(kernel_error)
    }
}

fn remove_rules(call: &Call<Option<PathBuf>>, conf: &Conf, cable: &Cable) -> Result<()> {
    if !conf.ip_masq && !conf.spoof_check {
        return Ok(());
    }
    let owner = Owner::new(&call.conf.name, &call.attachment);
    let mut netfilter = Socket::open(Protocol::Netfilter).map_err(kernel_error)?;
    let masquerade =
        if conf.ip_masq { masquerade::remove(&mut netfilter, &owner, &cable.ips) } else { Ok(()) };
    let guard = cable.host_name.clone().zip(cable.mac.clone()).map(|(port, mac)| Guard { port, mac });
    let spoof = if conf.spoof_check { spoof::remove(&mut netfilter, &owner, guard.as_ref()) } else { Ok(()) };
    gather([masquerade, spoof])
}

/// The gateway's own link of a VLAN goes with the VLAN's last pod.
pub fn remove_unused_gateway(conf: &Conf) -> Result<()> {
    let Some(vlan) = conf.vlans.access.filter(|_| conf.is_gateway) else { return Ok(()) };
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    gateway::remove_unused_vlan_port(&mut host, &conf.bridge, vlan)
}
