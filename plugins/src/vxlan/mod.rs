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

use cni::{AddResult, Call, Code, GcCall, NetConf, Plugin, Result, StatusCall};
use kernel::link;
use kernel::netlink::{Protocol, Socket};
use serde_json::{Value, json};

use crate::bridge::Bridge;
use crate::cluster::{self, Conf, Kind, Pods, masquerade, peers};
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
        let cluster = Conf::parse(&call.conf, KIND)?;
        let mtu = peers::ensure(&cluster, KIND)?;
        let pods = Pods::of(&cluster, KIND, mtu, Code::TRY_AGAIN)?;
        let on_bridge = with_conf(call, fill_in(&call.conf, &cluster, &pods));
        let result = Bridge.add(&on_bridge).map_err(|error| cluster::in_own_name(KIND, error))?;
        if let Some(peers) = cluster.peers.filter(|peers| peers.ip_masq) {
            let owner = Owner::new(&call.conf.name, &call.attachment);
            let own = configure::own_ips(&result, call.attachment.ifname.as_str());
            masquerade::ensure(&peers, &owner, &own).inspect_err(|_| {
                // The ADD has failed with an error of its own.
                let _ = masquerade::remove(&owner, &own);
                let _ = Bridge.del(&on_bridge.into_del());
            })?;
        }
        Ok(result)
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        let on_bridge = with_conf(call, for_removal(&call.conf));
        let owner = Owner::new(&call.conf.name, &call.attachment);
        let recorded = call.conf.prev_result.as_ref();
        let own = recorded.map(|prev| configure::own_ips(prev, call.attachment.ifname.as_str()));
        let deleted = Bridge.del(&on_bridge).map_err(|error| cluster::in_own_name(KIND, error));
        gather([deleted, cluster::unmasquerade(&call.conf, KIND, &owner, &own.unwrap_or_default())])
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let cluster = Conf::parse(&call.conf, KIND)?;
        let mtu = peers::check(&cluster, KIND)?;
        let pods = Pods::of(&cluster, KIND, mtu, Code::TRY_AGAIN)?;
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
        let cluster = Conf::parse(&call.conf, KIND)?;
        let mtu = peers::status(&cluster, KIND)?;
        let pods = Pods::of(&cluster, KIND, mtu, Code::NOT_AVAILABLE)?;
        let on_bridge = StatusCall { conf: fill_in(&call.conf, &cluster, &pods), ..call.clone() };
        Bridge.status(&on_bridge).map_err(|error| cluster::in_own_name(KIND, error))
    }
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
