//! The bridge itself, and a pod's port on it.

use std::time::{Duration, Instant};

use cni::{Error, Result};
use kernel::bridge::{self, PortChange, VlanRange, VlanSide};
use kernel::link::{self, Kind, Link, LinkId, NewEnd, OperState, Switch};
use kernel::netlink::monitor::GROUP_LINK;
use kernel::netlink::{Monitor, Op, Protocol, Socket, delete_link_early};
use kernel::{Errno, random};

use super::conf::{Conf, ranges};
use crate::undo::Undo;
use crate::{configure, kernel_error};

/// How long a port may take to come up: the sum of the reference's waits.
const PORT_PATIENCE: Duration = Duration::from_millis(2550);

/// Makes the bridge, or finds it; sets it up, and promiscuous where asked. An existing bridge keeps its MTU and its
/// VLAN filtering. The guard unmakes it, when this call has made it and nobody else is on it.
///
/// # Errors
/// A link of that name is no bridge; the kernel's refusal.
pub fn ensure_bridge(host: &mut Socket, conf: &Conf) -> Result<(Link, Undo<impl FnOnce() + use<>>)> {
    let (found, fresh) = match link::find(host, &conf.bridge).map_err(kernel_error)? {
        Some(found) => (found, false),
        None => make_bridge(host, conf)?,
    };
    let made = found.id.clone();
    let undo = Undo::new(move || {
        if fresh {
            // The ADD has failed with an error of its own.
            let _ = delete_unused(&made);
        }
    });
    if found.kind != "bridge" {
        let kind = if found.kind.is_empty() { "physical link" } else { &found.kind };
        let what = format!("bridge: bridge: `{}` exists already and is no bridge but a {kind}", conf.bridge);
        return Err(Error::config(what));
    }
    let mut ops = Vec::new();
    if conf.promisc && !found.is_promisc() {
        ops.push(link::set_promisc(&found.id, Switch::On));
    }
    if !found.is_up() {
        ops.push(link::set_up(&found.id, Switch::On));
    }
    host.apply(&ops).map_err(kernel_error)?;
    Ok((found, undo))
}

/// Deletes a bridge, unless another ADD has put a port on it.
fn delete_unused(bridge: &LinkId) -> kernel::Result<()> {
    let mut host = Socket::open(Protocol::Route)?;
    if link::list(&mut host)?.iter().any(|port| port.master == Some(bridge.index)) {
        return Ok(());
    }
    delete_link_early(None, bridge.index, &bridge.name)
}

/// The bridge gets a hardware address of its own, so that it does not change with its ports, and by which we know
/// whether it was this call that made it (true).
fn make_bridge(host: &mut Socket, conf: &Conf) -> Result<(Link, bool)> {
    let mac = random::mac().map_err(kernel_error)?;
    let new = NewEnd { name: &conf.bridge, mtu: conf.mtu, mac: Some(&mac), ..NewEnd::default() };
    let kind = Kind::Bridge { vlan_filtering: conf.vlans.filtering() };
    // Another ADD may have been faster: then theirs is used.
    let created = host.apply(&[link::create(&new, &kind).or_present()]);
    created.map_err(|e| match e.errno() {
        Some(Errno(EOPNOTSUPP)) if conf.vlans.filtering() => {
            kernel_error(e).context("bridge: vlan, vlanTrunk: this kernel's bridges cannot filter VLANs")
        }
        _ => kernel_error(e),
    })?;
    configure::face_pods(&conf.bridge);
    let made = link::find(host, &conf.bridge).map_err(kernel_error)?;
    let made = made.ok_or_else(|| Error::internal(format!("{} vanished once made", conf.bridge)))?;
    let fresh = made.mac.as_ref() == Some(&mac);
    Ok((made, fresh))
}

/// What turns a fresh port into the one that `conf` asks for. It stays down.
///
/// A port hands all frames to its bridge and has no use for addresses, so it gets no link-local one: at a thousand pods
/// that would be a thousand routes to the same prefix.
///
/// # Errors
/// The port's VLANs cannot be listed.
pub fn port_ops(host: &mut Socket, conf: &Conf, port: &LinkId) -> Result<Vec<Op>> {
    let mut ops = vec![link::set_no_link_local(port)];
    if conf.hairpin || conf.isolation {
        let on = |wanted: bool| wanted.then_some(Switch::On);
        let change = PortChange { hairpin: on(conf.hairpin), isolated: on(conf.isolation), learning: None };
        ops.push(bridge::set_port(port, change));
    }
    if let Some(table) = conf.vlans.table() {
        let wanted: Vec<u16> = table.keys().copied().collect();
        ops.extend(delete_other_vlans(host, port, &wanted)?);
        let add = |(range, flags)| bridge::add_vlans(port, VlanSide::Port, range, flags);
        ops.extend(ranges(&table).into_iter().map(add));
    }
    Ok(ops)
}

/// Removes the VLANs that the kernel admits by itself, but for the `wanted`.
///
/// # Errors
/// The port's VLANs cannot be listed.
pub fn delete_other_vlans(host: &mut Socket, port: &LinkId, wanted: &[u16]) -> Result<Vec<Op>> {
    let present = bridge::vlans(host, port).map_err(kernel_error)?;
    let others = present.into_keys().filter(|id| !wanted.contains(id));
    Ok(others.map(|id| bridge::delete_vlans(port, VlanSide::Port, VlanRange::one(id))).collect())
}

/// Waits until the port can carry packets.
///
/// # Errors
/// It cannot within 2.55 s.
pub fn wait_for_port(host: &mut Socket, port: &LinkId) -> Result<Link> {
    let mut look = || {
        let seen = link::find_index(host, port.index).map_err(kernel_error)?;
        seen.ok_or_else(|| Error::internal(format!("bridge port {port} vanished")))
    };
    let mut seen = look()?;
    if seen.operstate == OperState::Up {
        return Ok(seen);
    }
    let deadline = Instant::now() + PORT_PATIENCE;
    let mut monitor = Monitor::open(&[GROUP_LINK]).map_err(kernel_error)?;
    loop {
        seen = look()?;
        if seen.operstate == OperState::Up {
            return Ok(seen);
        }
        let announced =
            monitor.wait(deadline, |event| Link::parse(event).is_some_and(|l| l.id.index == port.index));
        match announced {
            Ok(true) => {}
            Ok(false) => {
                let state = seen.operstate;
                return Err(Error::internal(format!("bridge port in error state: {port} is {state:?}")));
            }
            // Announcements were lost: look again.
            Err(error) if error.errno() == Some(Errno(ENOBUFS)) => {}
            Err(error) => return Err(kernel_error(error)),
        }
    }
}

/// No buffer space: the socket missed announcements.
const ENOBUFS: i32 = 105;
const EOPNOTSUPP: i32 = 95;
