//! `vxlan`: a pod on the node's bridge, in a cluster whose nodes carry packets for each other.
//!
//! ```text
//!   pod            node                                                    other node
//!  eth0 ---veth--- vethxxxxxxxx                                             10.2.0.0/24
//!                     |                                                          |
//!                  bowline0 10.1.0.1/24 --- bowline.1 10.1.0.0 === UDP 8472 === bowline.1 10.2.0.0
//! ```
//! The pod's side is `bridge`, with defaults that suit a node. The way to other nodes is the daemon's, which writes
//! pod CIDRs and MTU into the node's facts; or that of the `peers` of the configuration.

use std::path::PathBuf;

use cni::{AddResult, Call, GcCall, IpConfig, NetConf, Plugin, Result, StatusCall};
use kernel::link;
use kernel::netlink::{Protocol, Socket};
use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::cluster::{self, Conf, Kind, Pods, masquerade};
use crate::error::gather;
use crate::owner::Owner;
use crate::{configure, kernel_error, pod};

const KIND: Kind = Kind::Vxlan;
const DEFAULT_BRIDGE: &str = "bowline0";

/// The plug-in.
#[derive(Debug)]
pub struct Vxlan;

impl Plugin for Vxlan {
    fn name(&self) -> &'static str {
        KIND.name()
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        let (cluster, pods) = cluster::ensure(&call.conf, KIND)?;
        let on_bridge = with_conf(call, fill_in(&call.conf, &cluster, &pods));
        let mut result = Bridge.add(&on_bridge).map_err(|error| cluster::in_own_name(KIND, error))?;
        let finished = follow_mtu(&mut result, pods.mtu).and_then(|()| {
            let peers = cluster.peers.as_ref().filter(|peers| peers.ip_masq);
            peers.map_or(Ok(()), |peers| masquerade::ensure(peers, &owner(call), &own_ips(call, &result)))
        });
        if let Err(error) = finished {
            // The ADD has failed with an error of its own.
            let _ = masquerade::remove(&owner(call), &own_ips(call, &result));
            let _ = Bridge.del(&on_bridge.into_del());
            return Err(error);
        }
        Ok(result)
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        let on_bridge = with_conf(call, for_removal(&call.conf));
        let own = call.conf.prev_result.as_ref().map(|prev| own_ips(call, prev));
        let deleted = Bridge.del(&on_bridge).map_err(|error| cluster::in_own_name(KIND, error));
        gather([deleted, cluster::unmasquerade(&call.conf, KIND, &owner(call), &own.unwrap_or_default())])
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let (cluster, pods) = cluster::check(&call.conf, KIND)?;
        let on_bridge = with_conf(call, fill_in(&call.conf, &cluster, &pods));
        Bridge.check(&on_bridge).map_err(|error| cluster::in_own_name(KIND, error))?;
        let ifname = call.attachment.ifname.as_str();
        let inside = pod::open(&call.netns)?;
        let mut inside = Socket::open_in(&inside, Protocol::Route).map_err(kernel_error)?;
        let container = link::find(&mut inside, ifname).map_err(kernel_error)?;
        container.map_or(Ok(()), |link| cluster::check_mtu(&link, &pods))?;
        cluster::check_masquerade(call, cluster.peers.as_ref())
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        let on_bridge = GcCall { conf: for_removal(&call.conf), ..call.clone() };
        let collected = Bridge.gc(&on_bridge).map_err(|error| cluster::in_own_name(KIND, error));
        let rules = call.valid.as_ref().map_or(Ok(()), |valid| masquerade::gc(&call.conf.name, valid));
        gather([collected, rules])
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        let (cluster, pods) = cluster::status(&call.conf, KIND)?;
        let on_bridge = StatusCall { conf: fill_in(&call.conf, &cluster, &pods), ..call.clone() };
        Bridge.status(&on_bridge).map_err(|error| cluster::in_own_name(KIND, error))
    }
}

fn owner<N>(call: &Call<N>) -> Owner {
    Owner::new(&call.conf.name, &call.attachment)
}

fn own_ips<N>(call: &Call<N>, result: &AddResult) -> Vec<IpConfig> {
    configure::own_ips(result, call.attachment.ifname.as_str())
}

/// `bridge` leaves the MTU of a bridge that is there alone. This one is the node's: where the pods' MTU has changed since it
/// was made, it follows, or the node would send fresh pods what they cannot take, or less than they can.
fn follow_mtu(result: &mut AddResult, mtu: u32) -> Result<()> {
    let Some(bridge) = result.interfaces.first_mut().filter(|bridge| bridge.mtu != Some(mtu)) else {
        return Ok(());
    };
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    let found = link::find(&mut host, &bridge.name).map_err(kernel_error)?;
    let Some(link) = found.filter(|link| link.mtu != mtu) else { return Ok(()) };
    host.apply(&[link::set_mtu(&link.id, mtu)]).map_err(kernel_error)?;
    bridge.mtu = Some(mtu);
    Ok(())
}

/// The bridge's configuration: on the node's bridge, which is the pods' gateway and lets a pod reach itself.
fn fill_in(conf: &NetConf, cluster: &Conf, pods: &Pods) -> NetConf {
    cluster::fill_in(conf, Some((cluster, pods)), &defaults(conf))
}

fn for_removal(conf: &NetConf) -> NetConf {
    cluster::fill_in_for_removal(conf, KIND, &defaults(conf))
}

fn defaults(conf: &NetConf) -> [(&'static str, Value); 3] {
    let promiscuous = conf.member("promiscMode") == Some(&Value::Bool(true));
    [
        ("bridge", json!(DEFAULT_BRIDGE)),
        ("isDefaultGateway", json!(true)),
        ("hairpinMode", json!(!promiscuous)),
    ]
}

fn with_conf<N: Clone>(call: &Call<N>, conf: NetConf) -> Call<N> {
    Call { conf, ..call.clone() }
}
