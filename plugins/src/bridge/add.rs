//! ADD: from a configuration to a pod that talks.

use std::path::PathBuf;

use cni::{AddResult, Call, Error, IpConfig, Result, Route};
use ipnetwork::IpNetwork;
use kernel::link::{self, Link, Switch};
use kernel::netlink::{Protocol, Socket};
use kernel::{Netns, route};

use super::conf::Conf;
use super::{gateway, link as port};
use crate::configure::{self, Duplicates, Inside, Subnet};
use crate::owner::Owner;
use crate::spoof::{self, Guard};
use crate::undo::Undo;
use crate::{dns, ipam, kernel_error, masquerade, pod, veth};

/// Position of the pod's end among the result's interfaces: after the bridge and the end on the host.
const CONTAINER: i64 = 2;

/// Makes the attachment. Whatever fails, what was made for it is unmade; the bridge too, unless others use it.
///
/// # Errors
/// Bad configuration, a refusal of the kernel or of the IPAM plug-in.
pub fn add(call: &Call<PathBuf>) -> Result<AddResult> {
    let conf = Conf::parse(&call.conf, &call.args)?;
    let dns = dns::Said::parse(&call.conf)?;
    let pod = pod::open(&call.netns)?;
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    let (bridge, undo_bridge) = port::ensure_bridge(&mut host, &conf)?;
    let plan = veth::Plan {
        pod: &pod,
        ifname: &call.attachment.ifname,
        mtu: conf.mtu,
        mac: conf.mac.as_ref(),
        host_mac: None,
        master: Some(bridge.id.index),
        up: false,
    };
    let host_end = veth::create(&mut host, &plan, veth::random_name)?;
    let undo_pair = veth::undo(&host_end.id);
    configure::pass_frames_only(&host_end.id.name);
    let mut ops = port::port_ops(&mut host, &conf, &host_end.id)?;
    ops.push(veth::label(&host_end.id, &Owner::new(&call.conf.name, &call.attachment)));
    if conf.enable_dad {
        // Duplicates are looked for through the port.
        ops.push(link::set_up(&host_end.id, Switch::On));
    }
    host.apply(&ops).map_err(kernel_error)?;

    let mut made = Made { call, conf: &conf, host, bridge, host_end };
    let (mut result, undo_lease) = made.lease(&dns)?;
    let undo_rules = undo_rules(call, &conf, &result.ips);
    let mut inside = made.enter(&pod, &result)?;
    made.guard(&inside)?;
    made.describe(&mut result, &inside);
    made.configure(&mut inside, &result)?;
    made.serve_as_gateway(&mut result)?;
    made.masquerade(&result.ips)?;
    made.finish(&mut result)?;

    undo_rules.commit();
    undo_lease.commit();
    undo_pair.commit();
    undo_bridge.commit();
    Ok(result)
}

/// What ADD has to work with once the cable is there.
struct Made<'a> {
    call: &'a Call<PathBuf>,
    conf: &'a Conf,
    host: Socket,
    bridge: Link,
    host_end: Link,
}

/// Takes masquerade and spoof rules back. Armed before they are made, for they may fail half-way.
fn undo_rules(call: &Call<PathBuf>, conf: &Conf, ips: &[IpConfig]) -> Undo<impl FnOnce() + use<>> {
    let owner = Owner::new(&call.conf.name, &call.attachment);
    let (masq, spoof_check, ips) = (conf.ip_masq, conf.spoof_check, ips.to_vec());
    Undo::new(move || {
        // The ADD has failed with an error of its own.
        let Ok(mut netfilter) = Socket::open(Protocol::Netfilter) else { return };
        if masq {
            let _ = masquerade::remove(&mut netfilter, &owner, &ips);
        }
        if spoof_check {
            let _ = spoof::remove(&mut netfilter, &owner, None);
        }
    })
}

impl Made<'_> {
    /// The IPAM plug-in's result, empty on layer 2, and the guard that gives the lease back.
    fn lease(&self, dns: &dns::Said) -> Result<(AddResult, Undo<impl FnOnce() + use<>>)> {
        let layer_3 = !self.call.conf.ipam_type.is_empty();
        let mut result = if layer_3 { ipam::add(self.call)? } else { AddResult::default() };
        let release = self.call.clone().into_del();
        let undo = Undo::new(move || {
            if layer_3 {
                // The ADD has failed with an error of its own.
                let _ = ipam::del(&release);
            }
        });
        for ip in &mut result.ips {
            ip.interface = Some(CONTAINER);
            if ip.gateway.is_none() && self.conf.is_gateway {
                ip.gateway = first_address(ip.address);
            }
        }
        if self.conf.is_default_gateway {
            add_default_routes(&mut result);
        }
        result.dns = dns.or(result.dns);
        Ok((result, undo))
    }

    fn enter(&self, pod: &Netns, result: &AddResult) -> Result<Inside> {
        let duplicates = if self.conf.enable_dad { Duplicates::Probed } else { Duplicates::Trusted };
        configure::enter(pod, self.call.attachment.ifname.as_str(), duplicates, result)
    }

    /// Before the pod's end comes up, so that nothing forged gets through.
    fn guard(&self, inside: &Inside) -> Result<()> {
        if !self.conf.spoof_check {
            return Ok(());
        }
        let owner = Owner::new(&self.call.conf.name, &self.call.attachment);
        let mut netfilter = Socket::open(Protocol::Netfilter).map_err(kernel_error)?;
        let mac = inside.link.mac.clone().ok_or_else(|| {
            Error::internal(format!("macspoofchk: {} has no hardware address", inside.link.id))
        })?;
        spoof::ensure(&mut netfilter, &owner, &Guard { port: self.host_end.id.name.clone(), mac })
    }

    fn describe(&self, result: &mut AddResult, inside: &Inside) {
        let sandbox = self.call.netns.to_string_lossy();
        result.interfaces = vec![
            veth::describe(&self.bridge, ""),
            veth::describe(&self.host_end, ""),
            veth::describe(&inside.link, &sandbox),
        ];
    }

    fn configure(&self, inside: &mut Inside, result: &AddResult) -> Result<()> {
        if self.conf.container_down {
            return Ok(());
        }
        if result.ips.is_empty() {
            configure::set_up(inside)
        } else {
            configure::apply(inside, result, Subnet::Connected)
        }
    }

    fn serve_as_gateway(&mut self, result: &mut AddResult) -> Result<()> {
        if !self.conf.is_gateway || result.ips.is_empty() {
            return Ok(());
        }
        let link = match self.conf.vlans.access {
            None => self.bridge.clone(),
            Some(vlan) => {
                let link = gateway::ensure_vlan_port(&mut self.host, self.conf, &self.bridge.id, vlan)?;
                result.interfaces.push(veth::describe(&link, ""));
                link
            }
        };
        let addresses: Vec<_> = result.ips.iter().filter_map(gateway_address).collect();
        gateway::ensure_addresses(&mut self.host, self.conf, &link, &addresses)?;
        let (v4, v6) = configure::families(&result.ips);
        configure::enable_forwarding(&mut self.host, v4, v6)
    }

    fn masquerade(&self, ips: &[IpConfig]) -> Result<()> {
        if !self.conf.ip_masq || ips.is_empty() {
            return Ok(());
        }
        let owner = Owner::new(&self.call.conf.name, &self.call.attachment);
        let mut netfilter = Socket::open(Protocol::Netfilter).map_err(kernel_error)?;
        let backend = self.conf.ip_masq_backend.decide(&mut netfilter);
        masquerade::ensure(&mut netfilter, &owner, ips, backend)
    }

    /// Last of all: what the pod's own stack sends once it has a carrier is flooded to every port of the bridge, and
    /// this ADD need not wait for that.
    fn raise_port(&mut self) -> Result<()> {
        self.host.apply(&[link::set_up(&self.host_end.id, Switch::On)]).map_err(kernel_error)
    }

    /// Waits for the port, and reads again what may have changed meanwhile: a bridge that we did not make takes the
    /// smallest hardware address among its ports.
    fn finish(&mut self, result: &mut AddResult) -> Result<()> {
        if !self.conf.enable_dad {
            self.raise_port()?;
        }
        if !self.conf.container_down {
            port::wait_for_port(&mut self.host, &self.host_end.id)?;
        }
        let bridge = link::find_index(&mut self.host, self.bridge.id.index).map_err(kernel_error)?;
        let bridge =
            bridge.ok_or_else(|| Error::internal(format!("{} vanished during ADD", self.bridge.id)))?;
        result.interfaces[0] = veth::describe(&bridge, "");
        Ok(())
    }
}

/// The first address of the subnet that `address` is in.
fn first_address(address: IpNetwork) -> Option<std::net::IpAddr> {
    match address {
        IpNetwork::V4(v4) => {
            u32::from(v4.network()).checked_add(1).map(|bits| std::net::Ipv4Addr::from(bits).into())
        }
        IpNetwork::V6(v6) => {
            u128::from(v6.network()).checked_add(1).map(|bits| std::net::Ipv6Addr::from(bits).into())
        }
    }
}

/// The gateway's address with the prefix length of the pod's.
pub(super) fn gateway_address(ip: &IpConfig) -> Option<IpNetwork> {
    IpNetwork::new(ip.gateway?, ip.address.prefix()).ok()
}

/// A default route by the gateway for each family, unless the IPAM plug-in has named a next hop for one already.
pub(crate) fn add_default_routes(result: &mut AddResult) {
    for v4 in [true, false] {
        let gateway = result.ips.iter().filter(|ip| ip.address.is_ipv4() == v4).find_map(|ip| ip.gateway);
        let Some(gateway) = gateway else { continue };
        let default = route::default_of(gateway);
        let named = |route: &Route| route::masked(route.dst) == default && route.gw.is_some();
        if !result.routes.iter().any(named) {
            // One without a next hop would go by this gateway too, and the same route twice is refused.
            result.routes.retain(|route| route::masked(route.dst) != default || route.table.is_some());
            result.routes.push(Route::new(default, Some(gateway)));
        }
    }
}
