//! bandwidth: limits what a pod receives and sends.
//!
//! ```text
//!  pod           host
//! eth0 ═══ veth1234 ◄─ tbf ── to the pod (ingress)
//!              │
//!              └─ ingress qdisc ─ redirect ─► bwp<hash> ─ tbf ─► from the pod (egress)
//! ```
//! Both families and everything else on the wire are limited together. The qdiscs die with the veth; the ifb is this
//! plug-in's to remove, and its alias says whose it is.

pub mod config;
pub mod ifb;
pub mod shape;

use std::path::PathBuf;

use cni::{AddResult, Call, Error, GcCall, Plugin, Result, StatusCall, Version};
use kernel::link::{self, Kind, Link, NewEnd};
use kernel::netlink::{Op, Protocol, Socket, delete_link_early};
use kernel::tc::{self, Qdisc};

use crate::error::gather;
use crate::owner::{Keep, Owner};
use crate::{configure, kernel_error, pod, undo::Undo, veth};
use config::Config;
use ifb::{Names, Observed};
use shape::{Limit, bucket, is_bucket_for};

/// The plug-in.
pub struct Bandwidth;

impl Plugin for Bandwidth {
    fn name(&self) -> &'static str {
        "bandwidth"
    }

    fn versions(&self) -> &'static [Version] {
        &Version::ALL[2..]
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        let config = Config::parse(&call.conf)?;
        let mut result = prev_result(call)?.clone();
        if config.is_empty() {
            return Ok(result);
        }
        let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
        let veth = find_veth(&mut host, call)?;
        let shaped_in =
            config.ingress.map(|limit| limit_ingress(&mut host, &veth, &limit, &config)).transpose()?;
        if let Some(limit) = config.egress {
            let ifb = limit_egress(&mut host, &veth, &limit, call, &config)?;
            result.interfaces.push(veth::describe(&ifb, ""));
        }
        if let Some(shaped_in) = shaped_in {
            shaped_in.commit();
        }
        Ok(result)
    }

    /// The ifb goes; the qdiscs go with the veth. No part of the configuration is needed for that.
    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        let owner = Owner::new(&call.conf.name, &call.attachment);
        let names = Names::new(&call.conf.name, &call.attachment);
        let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
        let observed = Observed::find(&mut host, &names, &owner).map_err(kernel_error)?;
        let listed: Option<Vec<String>> = call.conf.prev_result.as_ref().map(|result| {
            let on_host = result.interfaces.iter().filter(|interface| interface.sandbox.is_empty());
            on_host.map(|interface| interface.name.clone()).collect()
        });
        remove(observed.to_remove(listed.as_deref()))
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let config = Config::parse(&call.conf)?;
        prev_result(call)?;
        if config.is_empty() {
            return Ok(());
        }
        let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
        let veth = find_veth(&mut host, call)?;
        if let Some(limit) = &config.ingress {
            check_bucket(&mut host, &veth, limit, &config)?;
        }
        match &config.egress {
            Some(limit) => check_egress(&mut host, &veth, limit, call, &config),
            None => Ok(()),
        }
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        let Some(valid) = &call.valid else { return Ok(()) };
        let keep = Keep::new(&call.conf.name, valid);
        let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
        let links = link::list(&mut host).map_err(kernel_error)?;
        remove(links.iter().filter(|link| link.kind == "ifb" && keep.is_stale(&link.alias)))
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        Config::parse(&call.conf)?;
        pod::may_attach()
    }
}

fn prev_result<N>(call: &Call<N>) -> Result<&AddResult> {
    call.conf.prev_result.as_ref().ok_or_else(|| {
        Error::config("prevResult: missing; bandwidth follows a plugin that makes the pod's interface")
    })
}

/// The host's end of the pod's interface, which must be in `prevResult`.
fn find_veth(host: &mut Socket, call: &Call<PathBuf>) -> Result<Link> {
    let ifname = call.attachment.ifname.as_str();
    let missing = |what: String| Error::internal(format!("bandwidth: {what}"));
    let netns = pod::open(&call.netns)?;
    let mut inside = Socket::open_in(&netns, Protocol::Route).map_err(kernel_error)?;
    let inner = link::find(&mut inside, ifname).map_err(kernel_error)?;
    let inner = inner.ok_or_else(|| missing(format!("no interface {ifname} in {}", call.netns.display())))?;
    let not_a_veth = || missing(format!("{ifname} has no other end on the host; only a veth can be limited"));
    let peer = inner.peer.filter(|_| inner.kind == "veth").ok_or_else(not_a_veth)?;
    let outer = link::find_index(host, peer).map_err(kernel_error)?;
    let outer = outer.filter(|outer| outer.kind == "veth" && outer.peer == Some(inner.id.index));
    let outer = outer.ok_or_else(not_a_veth)?;
    let on_host = |interface: &&cni::Interface| interface.sandbox.is_empty();
    if !prev_result(call)?.interfaces.iter().filter(on_host).any(|interface| interface.name == outer.id.name)
    {
        let listed = "is not among prevResult's interfaces on the host";
        return Err(missing(format!("{}, the other end of {ifname}, {listed}", outer.id.name)));
    }
    Ok(outer)
}

fn limit_ingress(
    host: &mut Socket,
    veth: &Link,
    limit: &Limit,
    config: &Config,
) -> Result<Undo<impl FnOnce() + use<>>> {
    let bucket = bucket(limit, veth.mtu, &config.shaping);
    host.apply(&[tc::set_tbf(&veth.id, &bucket)]).map_err(kernel_error)?;
    Ok(undo_by(vec![tc::delete_root(&veth.id)]))
}

/// Shapes what the pod sends; gives the ifb.
fn limit_egress(
    host: &mut Socket,
    veth: &Link,
    limit: &Limit,
    call: &Call<PathBuf>,
    config: &Config,
) -> Result<Link> {
    let (ifb, made) = ensure_ifb(host, veth, call)?;
    let bucket = bucket(limit, veth.mtu, &config.shaping);
    let up = link::set_up(&ifb.id, link::Switch::On);
    let steps = [tc::set_tbf(&ifb.id, &bucket), up, tc::add_ingress(&veth.id)];
    let mut outcomes = host.apply_each(&steps).map_err(kernel_error)?;
    let hooked = outcomes.pop().unwrap_or(Ok(()));
    outcomes.into_iter().collect::<kernel::Result<()>>().map_err(kernel_error)?;
    match hooked {
        Ok(()) => {
            let unhook = undo_by(vec![tc::delete_ingress(&veth.id)]);
            host.apply(&[tc::redirect_ingress(&veth.id, &ifb.id)]).map_err(kernel_error)?;
            unhook.commit();
        }
        Err(error) if error.is_present() => ensure_redirect(host, veth, &ifb)?,
        Err(error) => return Err(kernel_error(error)),
    }
    if let Some(made) = made {
        made.commit();
    }
    Ok(ifb)
}

/// The attachment's ifb, as wide as the veth; a guard when it was made just now.
fn ensure_ifb(
    host: &mut Socket,
    veth: &Link,
    call: &Call<PathBuf>,
) -> Result<(Link, Option<Undo<impl FnOnce() + use<>>>)> {
    let owner = Owner::new(&call.conf.name, &call.attachment);
    let names = Names::new(&call.conf.name, &call.attachment);
    let observed = Observed::find(host, &names, &owner).map_err(kernel_error)?;
    if let Some(there) = observed.ours() {
        let renew = [link::set_alias(&there.id, &owner.comment()), link::set_mtu(&there.id, veth.mtu)];
        host.apply(&renew).map_err(kernel_error)?;
        return Ok((Link { mtu: veth.mtu, ..there.clone() }, None));
    }
    let taken = || drift(format!("the names {} and {} for the ifb are both taken", names.shared, names.own));
    let name = observed.free_name(&names).ok_or_else(taken)?;
    let end = NewEnd { name, mtu: Some(veth.mtu), txqlen: Some(0), ..NewEnd::default() };
    let make = [link::create(&end, &Kind::Ifb), link::set_alias_named(name, &owner.comment())];
    host.apply(&make).map_err(kernel_error)?;
    let made = link::find(host, name).map_err(kernel_error)?;
    let made = made.ok_or_else(|| Error::internal(format!("{name} vanished once made")))?;
    let undo = undo_by(vec![link::delete(&made.id)]);
    configure::pass_frames_only(name);
    Ok((made, Some(undo)))
}

/// There was an ingress or clsact qdisc already, perhaps with somebody's filters in it: the redirect goes to the first
/// priority that takes filters of its kind, unless it is there.
fn ensure_redirect(host: &mut Socket, veth: &Link, ifb: &Link) -> Result<()> {
    let filters = tc::ingress_filters(host, veth.id.index).map_err(kernel_error)?;
    if filters.iter().any(|filter| filter.redirects.contains(&ifb.id.index)) {
        return Ok(());
    }
    let free = (1..=u16::MAX).find(|priority| filters.iter().all(|filter| filter.priority != *priority));
    let free =
        free.ok_or_else(|| Error::internal(format!("bandwidth: {} has no room for a filter", veth.id)))?;
    host.apply(&[tc::redirect_ingress_at(&veth.id, &ifb.id, free)]).map_err(kernel_error)
}

fn check_egress(
    host: &mut Socket,
    veth: &Link,
    limit: &Limit,
    call: &Call<PathBuf>,
    config: &Config,
) -> Result<()> {
    let owner = Owner::new(&call.conf.name, &call.attachment);
    let names = Names::new(&call.conf.name, &call.attachment);
    let observed = Observed::find(host, &names, &owner).map_err(kernel_error)?;
    let candidates = observed.to_remove(None);
    let Some(ifb) = candidates.first() else {
        return Err(drift(format!("there is no ifb {} or {} of this attachment", names.shared, names.own)));
    };
    if !ifb.is_up() {
        return Err(drift(format!("{} is down", ifb.id)));
    }
    check_bucket(host, ifb, limit, config)?;
    let filters = tc::ingress_filters(host, veth.id.index).map_err(kernel_error)?;
    if !filters.iter().any(|filter| filter.redirects.contains(&ifb.id.index)) {
        return Err(drift(format!("what arrives on {} is not redirected to {}", veth.id, ifb.id)));
    }
    Ok(())
}

fn check_bucket(host: &mut Socket, link: &Link, limit: &Limit, config: &Config) -> Result<()> {
    let qdiscs = tc::qdiscs(host, link.id.index).map_err(kernel_error)?;
    let Some(observed) = qdiscs.iter().filter(|qdisc| qdisc.is_root()).find_map(|qdisc: &Qdisc| qdisc.tbf)
    else {
        return Err(drift(format!("{} has no token bucket", link.id)));
    };
    if is_bucket_for(&observed, limit, link.mtu, &config.shaping) {
        return Ok(());
    }
    let expected = bucket(limit, link.mtu, &config.shaping);
    Err(drift(format!("the token bucket of {} is {observed:?}, expected {expected:?}", link.id)))
}

fn drift(what: String) -> Error {
    Error::internal(format!("bandwidth: {what}"))
}

fn remove<'a>(links: impl IntoIterator<Item = &'a Link>) -> Result<()> {
    let delete = |link: &Link| delete_link_early(None, link.id.index, &link.id.name).map_err(kernel_error);
    gather(links.into_iter().map(delete))
}

/// Takes a step of a failing ADD back.
fn undo_by(ops: Vec<Op>) -> Undo<impl FnOnce()> {
    Undo::new(move || {
        // The ADD has failed with an error of its own; DEL will try again.
        let _ = Socket::open(Protocol::Route).and_then(|mut host| host.apply_each(&ops));
    })
}
