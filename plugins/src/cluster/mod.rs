//! What `vxlan` and `routed` have in common: pods of a node that is one of several.
//!
//! ```text
//! configuration ─┬─ says all ────────────────────────────────┐
//!                ├─ peers: overlay::plan ─► overlay::sync ───┤
//!                └─ leaves out: /run/bowline/node.json ──────┴─► pod CIDRs, MTU ─► configuration of the machinery
//! ```
//! The daemon readies the node and writes the facts. Where a configuration lists `peers`, it replaces the daemon: ADD
//! itself makes the overlay what the list says.

pub mod conf;
pub mod masquerade;
pub mod peers;

use std::path::PathBuf;

use cni::{Call, Code, Error, IpConfig, NetConf, Result};
use ipnetwork::IpNetwork;
use kernel::link::Link;
use overlay::NodeFacts;
use serde_json::{Map, Value, json};

use crate::configure;
use crate::owner::Owner;

pub use conf::{Conf, Static};

/// Who allocates addresses unless the configuration names another one.
pub const DEFAULT_IPAM: &str = "host-local";

/// The plug-in that works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `vxlan`: pods on the node's bridge.
    Vxlan,
    /// `routed`: pods on cables of their own.
    Routed,
}

impl Kind {
    /// The plug-in's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Vxlan => "vxlan",
            Kind::Routed => "routed",
        }
    }
}

/// What pods of this node are made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pods {
    /// The ranges of their addresses; empty where the IPAM plug-in knows them already.
    pub cidrs: Vec<IpNetwork>,
    /// Their MTU in bytes.
    pub mtu: u32,
}

impl Pods {
    /// From the configuration and, for what it leaves out, from the node's facts. Static peers need no facts: `mtu` is
    /// then that of their plan.
    ///
    /// # Errors
    /// The facts are needed and cannot be read; with `unready` as code.
    pub fn of(conf: &Conf, kind: Kind, mtu: Option<u32>, unready: Code) -> Result<Pods> {
        let mtu = mtu.or(conf.mtu);
        if let Some(mtu) = mtu.filter(|_| conf.has_addresses) {
            return Ok(Pods { cidrs: conf.pod_cidrs.clone(), mtu });
        }
        let facts = NodeFacts::read(&conf.facts).map_err(|why| {
            let left_out = if conf.has_addresses { "mtu" } else { "subnet" };
            let otherwise = format!("the configuration sets no {left_out} and lists no peers");
            Error::new(unready, format!("{}: {why}; {otherwise}", kind.name()))
        })?;
        let cidrs = if conf.has_addresses { conf.pod_cidrs.clone() } else { facts.pod_cidrs };
        Ok(Pods { cidrs, mtu: mtu.unwrap_or(facts.mtu) })
    }
}

/// What ADD begins with: the configuration, the overlay made what its peers ask for, and what pods are made with.
///
/// # Errors
/// Bad configuration; the kernel's refusal; facts that are needed and not there yet.
pub fn ensure(conf: &NetConf, kind: Kind) -> Result<(Conf, Pods)> {
    begin(conf, kind, peers::ensure, Code::TRY_AGAIN)
}

/// What CHECK begins with: as [`ensure`], but the overlay is only looked at.
///
/// # Errors
/// As [`ensure`]; drift of the overlay.
pub fn check(conf: &NetConf, kind: Kind) -> Result<(Conf, Pods)> {
    begin(conf, kind, peers::check, Code::TRY_AGAIN)
}

/// What STATUS begins with: as [`ensure`], but only asking whether it could be done.
///
/// # Errors
/// As [`ensure`], with code 50 for what is not there yet.
pub fn status(conf: &NetConf, kind: Kind) -> Result<(Conf, Pods)> {
    begin(conf, kind, peers::status, Code::NOT_AVAILABLE)
}

fn begin(
    conf: &NetConf,
    kind: Kind,
    peers: fn(&Conf, Kind) -> Result<Option<u32>>,
    unready: Code,
) -> Result<(Conf, Pods)> {
    let cluster = Conf::parse(conf, kind)?;
    let mtu = peers(&cluster, kind)?;
    let pods = Pods::of(&cluster, kind, mtu, unready)?;
    Ok((cluster, pods))
}

/// `conf` as the machinery below reads it: what the configuration leaves out is filled in, and masquerading is off,
/// which here is the cluster's business.
///
/// DEL and GC have no use for `node`: the addresses are on record.
pub fn fill_in(conf: &NetConf, node: Option<(&Conf, &Pods)>, defaults: &[(&str, Value)]) -> NetConf {
    let mut object = conf.object.as_object().cloned().unwrap_or_default();
    for (key, value) in defaults.iter().filter(|(key, _)| conf.member(key).is_none()) {
        set(&mut object, key, value.clone());
    }
    set(&mut object, "ipMasq", json!(false));
    let ipam_type = if conf.ipam_type.is_empty() { DEFAULT_IPAM } else { &conf.ipam_type }.to_owned();
    let mut ipam = conf.member("ipam").and_then(Value::as_object).cloned().unwrap_or_default();
    set(&mut ipam, "type", json!(ipam_type));
    if conf.ipam_type.is_empty() {
        set(&mut ipam, crate::ipam::OWN, json!(true));
    }
    if let Some((cluster, pods)) = node {
        set(&mut object, "mtu", json!(pods.mtu));
        let is_ranged = ["ranges", "subnet"].iter().any(|key| cni::json::member(&ipam, key).is_some());
        if ipam_type == DEFAULT_IPAM && !is_ranged && !pods.cidrs.is_empty() {
            let whole = || pods.cidrs.iter().map(|cidr| json!([{ "subnet": cidr }])).collect();
            set(&mut ipam, "ranges", cluster.ranges.clone().unwrap_or_else(whole));
        }
    }
    set(&mut object, "ipam", Value::Object(ipam));
    let object = Value::Object(object);
    NetConf { bytes: object.to_string().into_bytes(), object, ipam_type, ..conf.clone() }
}

/// As [`fill_in`] for DEL and GC: nothing that the node would have to say is needed, and no mistake in the configuration
/// keeps what is on record from being removed.
pub fn fill_in_for_removal(conf: &NetConf, kind: Kind, defaults: &[(&str, Value)]) -> NetConf {
    let known = Conf::parse(conf, kind).and_then(|cluster| {
        let pods = Pods::of(&cluster, kind, cluster.mtu.or(Some(0)), Code::TRY_AGAIN)?;
        Ok((cluster, Pods { mtu: 0, ..pods }))
    });
    fill_in(conf, known.as_ref().ok().map(|(cluster, pods)| (cluster, pods)), defaults)
}

/// Sets a key in the place of all that are read as the same one.
fn set(object: &mut Map<String, Value>, key: &str, value: Value) {
    object.retain(|other, _| !other.eq_ignore_ascii_case(key));
    object.insert(key.to_owned(), value);
}

/// `error` of the bridge's machinery in the words of the plug-in that uses it.
pub fn in_own_name(kind: Kind, error: Error) -> Error {
    match error.msg.strip_prefix("bridge: ") {
        Some(rest) => Error { msg: format!("{}: {rest}", kind.name()), ..error },
        None => error,
    }
}

/// DEL of what [`masquerade::ensure`] did. A configuration that ADD would refuse counts as one that masquerades.
///
/// # Errors
/// The kernel's refusal.
pub fn unmasquerade(conf: &NetConf, kind: Kind, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    let masquerades = |cluster: Conf| cluster.peers.is_some_and(|peers| peers.ip_masq);
    if Conf::parse(conf, kind).map_or(true, masquerades) { masquerade::remove(owner, ips) } else { Ok(()) }
}

/// CHECK of what [`masquerade::ensure`] did.
///
/// # Errors
/// What is missing.
pub fn check_masquerade(call: &Call<PathBuf>, peers: Option<&Static>) -> Result<()> {
    let (Some(peers), Some(prev)) = (peers.filter(|peers| peers.ip_masq), &call.conf.prev_result) else {
        return Ok(());
    };
    let owner = Owner::new(&call.conf.name, &call.attachment);
    masquerade::check(peers, &owner, &configure::own_ips(prev, call.attachment.ifname.as_str()))
}

/// CHECK of a pod's interface: what it sends must fit between nodes. Less is a later plug-in's choice.
///
/// # Errors
/// Its MTU is larger than that of pods.
pub fn check_mtu(link: &Link, pods: &Pods) -> Result<()> {
    if link.mtu <= pods.mtu {
        return Ok(());
    }
    Err(Error::internal(format!("{} has MTU {}, more than the {} of pods", link.id, link.mtu, pods.mtu)))
}
