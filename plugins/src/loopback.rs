//! `loopback`: sets the pod's `lo` up. It has no configuration of its own, and CNI_IFNAME does not matter.

use std::path::PathBuf;

use cni::{AddResult, Call, Error, GcCall, Interface, IpConfig, Plugin, Result, StatusCall};
use kernel::addr::{self, Address};
use kernel::link::{self, Link, LinkId, Switch};
use kernel::netlink::{Protocol, Socket};

use crate::{kernel_error, pod};

const LO: &str = "lo";

/// The plug-in.
#[derive(Debug)]
pub struct Loopback;

impl Plugin for Loopback {
    fn name(&self) -> &'static str {
        "loopback"
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        let netns = pod::open(&call.netns)?;
        let mut socket = Socket::open_in(&netns, Protocol::Route).map_err(kernel_error)?;
        let lo = find_lo(&mut socket)?;
        socket.apply(&[link::set_up(&lo.id, Switch::On)]).map_err(kernel_error)?;
        let addresses = addr::list(&mut socket, Some(lo.id.index)).map_err(kernel_error)?;
        if let Some(stranger) = addresses.iter().find(|a| !a.ip.ip().is_loopback()) {
            return Err(Error::internal(format!("{LO} has {}, which is no loopback address", stranger.ip)));
        }
        Ok(match &call.conf.prev_result {
            Some(prev) => prev.clone(),
            None => result(&addresses, &call.netns.to_string_lossy()),
        })
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        let Some(netns) = pod::open_if_there(call.netns.as_deref())? else { return Ok(()) };
        let mut socket = Socket::open_in(&netns, Protocol::Route).map_err(kernel_error)?;
        let lo = LinkId { index: 1, name: LO.to_owned() };
        socket.apply(&[link::set_up(&lo, Switch::Off).or_absent()]).map_err(kernel_error)
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let netns = pod::open(&call.netns)?;
        let mut socket = Socket::open_in(&netns, Protocol::Route).map_err(kernel_error)?;
        if find_lo(&mut socket)?.is_up() { Ok(()) } else { Err(Error::internal(format!("{LO} is down"))) }
    }

    fn gc(&self, _: &GcCall) -> Result<()> {
        Ok(())
    }

    fn status(&self, _: &StatusCall) -> Result<()> {
        pod::may_attach()
    }
}

fn find_lo(socket: &mut Socket) -> Result<Link> {
    let lo = link::find(socket, LO).map_err(kernel_error)?;
    lo.ok_or_else(|| Error::internal(format!("the network namespace has no {LO}")))
}

/// The link, and its first address of each family.
fn result(addresses: &[Address], sandbox: &str) -> AddResult {
    let first = |v4: bool| addresses.iter().find(|a| a.ip.is_ipv4() == v4);
    let ips = [first(true), first(false)].into_iter().flatten();
    AddResult {
        interfaces: vec![Interface {
            name: LO.to_owned(),
            mac: "00:00:00:00:00:00".to_owned(),
            sandbox: sandbox.to_owned(),
            ..Interface::default()
        }],
        ips: ips.map(|a| IpConfig { interface: Some(0), address: a.ip, gateway: None }).collect(),
        ..AddResult::default()
    }
}
