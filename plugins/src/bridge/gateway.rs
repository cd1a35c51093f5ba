//! The host as the pods' gateway: its addresses, on the bridge or on a VLAN's own port.
//!
//! ```text
//! vlan 0                         vlan 100
//! cni0  10.1.0.1/24              cni0.100  10.1.0.1/24
//!  |                                | veth
//! pods                           cni0 -- port of VLAN 100, untagged
//! ```

use cni::{Error, Result};
use ipnetwork::IpNetwork;
use kernel::addr::{self, Dad};
use kernel::bridge::{self, VlanFlags, VlanRange, VlanSide};
use kernel::link::{self, Kind, Link, LinkId, NewEnd};
use kernel::lock;
use kernel::netlink::{Socket, delete_link_early};
use kernel::sysctl;

use super::conf::Conf;
use crate::{configure, kernel_error, veth};

/// Name of the gateway's own link for a VLAN.
pub fn port_name(bridge: &str, vlan: u16) -> String {
    format!("{bridge}.{vlan}")
}

/// Makes the link that holds the gateway addresses of VLAN `vlan`, or finds it.
///
/// # Errors
/// A link of that name is something else; the kernel's refusal.
pub fn ensure_vlan_port(host: &mut Socket, conf: &Conf, bridge: &LinkId, vlan: u16) -> Result<Link> {
    let name = port_name(&bridge.name, vlan);
    if name.len() > cni::IfName::MAX_LEN {
        let what =
            format!("bridge: bridge: `{}`: {name} is too long for the gateway of vlan {vlan}", bridge.name);
        return Err(Error::config(what));
    }
    // Held so that the DEL of the VLAN's last pod does not take away what this ADD has just found.
    let _lock = lock::exclusive_netns().map_err(kernel_error)?;
    if let Some(found) = link::find(host, &name).map_err(kernel_error)? {
        let attached =
            found.peer.map(|peer| link::find_index(host, peer)).transpose().map_err(kernel_error)?;
        if found.kind == "veth" && attached.flatten().is_some_and(|peer| peer.master == Some(bridge.index)) {
            return Ok(found);
        }
        return Err(Error::internal(format!("{name} exists but is no VLAN port of {bridge}")));
    }
    make_vlan_port(host, conf, bridge, vlan)
}

fn make_vlan_port(host: &mut Socket, conf: &Conf, bridge: &LinkId, vlan: u16) -> Result<Link> {
    let name = port_name(&bridge.name, vlan);
    let peer_name = veth::random_name().map_err(kernel_error)?;
    let near =
        NewEnd { name: &peer_name, mtu: conf.mtu, master: Some(bridge.index), up: true, ..NewEnd::default() };
    let peer = NewEnd { name: &name, mtu: conf.mtu, ..NewEnd::default() };
    host.apply(&[link::create(&near, &Kind::Veth { peer })]).map_err(kernel_error)?;
    let port = existing(host, &peer_name)?;
    let undo = veth::undo(&port.id);
    let access = VlanFlags { pvid: true, untagged: true };
    let mut ops = super::link::delete_other_vlans(host, &port.id, &[vlan])?;
    ops.push(bridge::add_vlans(&port.id, VlanSide::Port, VlanRange::one(vlan), access));
    let gateway = existing(host, &name)?;
    configure::face_pods(&name);
    ops.push(link::set_up(&gateway.id, link::Switch::On));
    host.apply(&ops).map_err(kernel_error)?;
    undo.commit();
    Ok(gateway)
}

fn existing(host: &mut Socket, name: &str) -> Result<Link> {
    let found = link::find(host, name).map_err(kernel_error)?;
    found.ok_or_else(|| Error::internal(format!("{name} vanished once made")))
}

/// Removes the gateway's link of `vlan` when no pod is in that VLAN any more. Nothing there is success.
///
/// # Errors
/// The kernel's refusal.
pub fn remove_unused_vlan_port(host: &mut Socket, bridge: &str, vlan: u16) -> Result<()> {
    let _lock = lock::exclusive_netns().map_err(kernel_error)?;
    let Some(bridge_link) = link::find(host, bridge).map_err(kernel_error)? else { return Ok(()) };
    let Some(gateway) = link::find(host, &port_name(bridge, vlan)).map_err(kernel_error)? else {
        return Ok(());
    };
    let own_port = gateway.peer.unwrap_or_default();
    let ports = bridge::port_vlans(host, &bridge_link.id).map_err(kernel_error)?;
    let in_use = ports.iter().any(|(port, vlans)| *port != own_port && vlans.contains_key(&vlan));
    if in_use || gateway.kind != "veth" || !ports.contains_key(&own_port) {
        return Ok(());
    }
    delete_link_early(None, gateway.id.index, &gateway.id.name).map_err(kernel_error)
}

/// Gives `link` the gateway's `addresses`.
///
/// Another IPv4 address, or an IPv6 one whose subnet overlaps, is in the way: it is replaced with `forceAddress`.
///
/// # Errors
/// An address is in the way.
pub fn ensure_addresses(host: &mut Socket, conf: &Conf, link: &Link, addresses: &[IpNetwork]) -> Result<()> {
    let id = &link.id;
    let listed = addr::list(host, Some(id.index)).map_err(kernel_error)?;
    let mut present: Vec<IpNetwork> = listed.iter().filter(|a| a.is_global()).map(|a| a.ip).collect();
    let mut ops = Vec::new();
    for wanted in addresses {
        if present.contains(wanted) {
            continue;
        }
        let (others, kept): (Vec<_>, Vec<_>) =
            present.iter().partition(|other| is_in_the_way(**other, *wanted));
        if let Some(other) = others.first().filter(|_| !conf.force_address) {
            let what = format!("{id} already has address {other}, which differs from {wanted}");
            return Err(Error::internal(what).with_details("forceAddress replaces it"));
        }
        ops.extend(others.iter().map(|other| addr::delete(id, *other).or_absent()));
        if wanted.is_ipv6() {
            enable_ipv6(&id.name)?;
        }
        ops.push(addr::add(id, *wanted, Dad::Skip).or_present());
        present = kept;
        present.push(*wanted);
    }
    if let Some(mac) = link.mac.as_ref().filter(|_| link.kind == "bridge" && !ops.is_empty()) {
        // Set by hand, it stays when ports come and go.
        ops.push(link::set_mac(id, mac));
    }
    host.apply(&ops).map_err(kernel_error)
}

fn is_in_the_way(present: IpNetwork, wanted: IpNetwork) -> bool {
    match (present, wanted) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(a), IpNetwork::V6(b)) => a.contains(b.network()) || b.contains(a.network()),
        _ => false,
    }
}

fn enable_ipv6(name: &str) -> Result<()> {
    sysctl::ensure_if_known(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")
        .map(drop)
        .map_err(kernel_error)
}
