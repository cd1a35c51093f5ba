//! Static peers: the overlay that the daemon would make, made by ADD and compared by CHECK.
//!
//! It belongs to the node, as the bridge does: no DEL takes it away, `bowline cleanup` does. What a changed list no longer
//! names stays until then, too, for another network may name it.

use cni::{Code, Error, Result};
use kernel::lock;
use kernel::netlink::{Protocol, Socket};
use overlay::plan::{self, Plan};
use overlay::sync::Dataplane;
use overlay::{Local, uplink};

use super::{Conf, Kind, Static};
use crate::kernel_error;

/// Makes the overlay be as `conf` says, and tells the MTU of pods in bytes; `None` without peers. Doing it twice changes
/// nothing.
///
/// # Errors
/// A peer that cannot be reached as it is written down; no uplink; the kernel's refusal; a daemon that runs this node.
pub fn ensure(conf: &Conf, kind: Kind) -> Result<Option<u32>> {
    let Some((mut dataplane, plan)) = open(conf, kind)? else { return Ok(None) };
    // Another ADD may be about to make the same links.
    let _lock = lock::exclusive_netns().map_err(kernel_error)?;
    let report = dataplane.extend(&plan).map_err(|error| failed(kind, &error))?;
    match report.failures.first() {
        None => Ok(Some(plan.mtu)),
        Some(problem) => Err(Error::internal(sentence(kind, &problem.peer, &problem.what))),
    }
}

/// Finds what of the overlay is missing or differs, and tells the MTU of pods in bytes; `None` without peers.
///
/// # Errors
/// The first difference; and as [`ensure`].
pub fn check(conf: &Conf, kind: Kind) -> Result<Option<u32>> {
    let Some((mut dataplane, plan)) = open(conf, kind)? else { return Ok(None) };
    let found = dataplane.survey(&plan).map_err(|error| failed(kind, &error))?;
    match found.first() {
        None => Ok(Some(plan.mtu)),
        Some(what) => Err(Error::internal(format!("{}: peers: not as written down: {what}", kind.name()))),
    }
}

/// Whether the overlay could be made, and the MTU of pods in bytes; `None` without peers.
///
/// # Errors
/// With code 50; as [`ensure`].
pub fn status(conf: &Conf, kind: Kind) -> Result<Option<u32>> {
    let unavailable = |error: Error| Error { code: Code::NOT_AVAILABLE, ..error };
    let Some((mut dataplane, plan)) = open(conf, kind).map_err(unavailable)? else { return Ok(None) };
    let lacking = |why: String| unavailable(Error::internal(format!("{}: {why}", kind.name())));
    dataplane.probe(&plan).map_err(lacking)?;
    Ok(Some(plan.mtu))
}

fn open(conf: &Conf, kind: Kind) -> Result<Option<(Dataplane, Plan)>> {
    let Some(cluster) = &conf.peers else { return Ok(None) };
    if conf.facts.exists() {
        let what =
            format!("{}: peers: bowlined runs this node, as {} says", kind.name(), conf.facts.display());
        return Err(Error::config(what));
    }
    let plan = plan_of(cluster, kind)?;
    let dataplane = Dataplane::open().map_err(|error| failed(kind, &error))?;
    Ok(Some((dataplane, plan)))
}

fn plan_of(cluster: &Static, kind: Kind) -> Result<Plan> {
    let refused = |why: String| Error::config(format!("{}: {why}", kind.name()));
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    let uplinks = uplink::find(&mut host, &cluster.uplink, &cluster.node_ips).map_err(refused)?;
    let local = Local { name: "this node".into(), uplinks, pod_cidrs: cluster.pod_cidrs, ..Local::default() };
    plan::check(&cluster.settings, &local).map_err(refused)?;
    let plan = plan::plan(&cluster.settings, &local, &cluster.peers);
    match plan.problems.first() {
        None => Ok(plan),
        Some(problem) => Err(Error::config(sentence(kind, &problem.peer, &problem.what))),
    }
}

fn sentence(kind: Kind, peer: &str, what: &str) -> String {
    let peer = if peer.is_empty() { String::new() } else { format!("{peer}: ") };
    format!("{}: peers: {peer}{what}", kind.name())
}

fn failed(kind: Kind, error: &kernel::Error) -> Error {
    Error::from_chain(error).context(format!("{}: peers", kind.name()))
}
