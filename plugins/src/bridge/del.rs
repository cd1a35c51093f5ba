//! DEL: everything that carries the attachment's name goes, whatever is missing already.

use std::path::PathBuf;

use cni::{Call, Result};
use kernel::netlink::{Protocol, Socket};

use super::conf::Conf;
use super::gateway;
use crate::cable::Cable;
use crate::error::gather;
use crate::owner::Owner;
use crate::spoof::{self, Guard};
use crate::{ipam, kernel_error, masquerade};

/// Unmakes the attachment. The lease goes before the link, which a DHCP client needs to say so.
///
/// # Errors
/// The first with the others as details, after everything was tried.
pub fn del(call: &Call<Option<PathBuf>>) -> Result<()> {
    let conf = Conf::parse_for_del(&call.conf);
    let (cable, mut outcomes) = Cable::find(call);
    if !call.conf.ipam_type.is_empty() {
        outcomes.push(ipam::del(call));
    }
    outcomes.push(cable.delete());
    outcomes.push(remove_rules(call, &conf, &cable));
    outcomes.push(remove_unused_gateway(&conf));
    gather(outcomes)
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
