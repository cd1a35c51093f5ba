//! `routed`: a pod with an address of its own and no subnet, on a cable to its node, which routes.
//!
//! ```text
//!   pod                                        node
//!  eth0 10.1.0.5/32, fd00:1::5/128  ---veth---  vethxxxxxxxx fe80::1, answers for 169.254.1.1
//!  default via 169.254.1.1, fe80::1             10.1.0.5 dev vethxxxxxxxx, fd00:1::5 dev vethxxxxxxxx
//! ```
//! All host ends have the same hardware address, so that what a pod knows of its gateway stays true whatever happens to
//! the cable. The pod is told that address: the kernel answers for 169.254.1.1 (proxy ARP) only where it has a route to
//! it, which a node without default route has not. Proxy ARP is on all the same, for pods that forget.

mod add;
mod check;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use cni::{AddResult, Call, GcCall, Plugin, Result, StatusCall};
use kernel::Mac;

use crate::cable::{self, Cable};
use crate::cluster::{self, Kind, masquerade};
use crate::error::gather;
use crate::owner::Owner;
use crate::{ipam, pod};

const KIND: Kind = Kind::Routed;
/// The gateway of every pod.
const GATEWAY_4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));

/// The hardware address of every host end. Tunnels have addresses that begin alike and end with the node's address;
/// no node is 255.255.255.255.
fn host_mac() -> Mac {
    Mac::ethernet([0x62, 0x6c, 0xff, 0xff, 0xff, 0xff])
}

/// The plug-in.
#[derive(Debug)]
pub struct Routed;

impl Plugin for Routed {
    fn name(&self) -> &'static str {
        KIND.name()
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        let (cluster, pods) = cluster::ensure(&call.conf, KIND)?;
        let conf = cluster::fill_in(&call.conf, Some((&cluster, &pods)), &[]);
        add::add(&Call { conf, ..call.clone() }, cluster.peers.as_ref(), &pods)
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        let conf = cluster::fill_in_for_removal(&call.conf, KIND, &[]);
        let filled = Call { conf, ..call.clone() };
        let (cable, mut outcomes) = Cable::find(call);
        outcomes.push(ipam::del(&filled));
        // The host's routes go with the cable.
        outcomes.push(cable.delete());
        let owner = Owner::new(&call.conf.name, &call.attachment);
        outcomes.push(cluster::unmasquerade(&call.conf, KIND, &owner, &cable.ips));
        gather(outcomes)
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let (cluster, pods) = cluster::check(&call.conf, KIND)?;
        let conf = cluster::fill_in(&call.conf, Some((&cluster, &pods)), &[]);
        check::check(&Call { conf, ..call.clone() }, &pods)?;
        cluster::check_masquerade(call, cluster.peers.as_ref())
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        let conf = cluster::fill_in_for_removal(&call.conf, KIND, &[]);
        let leases = ipam::gc(&GcCall { conf, ..call.clone() });
        let Some(valid) = &call.valid else { return leases };
        let name = &call.conf.name;
        gather([leases, cable::gc(name, valid), masquerade::gc(name, valid)])
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        let (cluster, pods) = cluster::status(&call.conf, KIND)?;
        let conf = cluster::fill_in(&call.conf, Some((&cluster, &pods)), &[]);
        ipam::status(&StatusCall { conf, ..call.clone() })?;
        pod::may_attach()
    }
}
