//! The pod's cable: a veth pair, one end in the pod under CNI_IFNAME, the other on the host.

use std::os::fd::AsFd;

use cni::{Error, IfName, Interface, Result};
use kernel::link::{self, Kind, Link, LinkId, NewEnd};
use kernel::netlink::{Op, Protocol, Socket, delete_link_early};
use kernel::{Mac, Netns};

use crate::kernel_error;
use crate::owner::Owner;
use crate::undo::Undo;

/// A random name that clashes is tried again this often.
const TRIES: usize = 10;

/// What a pair is made of.
#[derive(Debug, Clone)]
pub struct Plan<'a> {
    /// The pod's namespace.
    pub pod: &'a Netns,
    /// The name of the end in the pod.
    pub ifname: &'a IfName,
    /// MTU of both ends, in bytes.
    pub mtu: Option<u32>,
    /// Hardware address of the end in the pod.
    pub mac: Option<&'a Mac>,
    /// Hardware address of the end on the host.
    pub host_mac: Option<&'a Mac>,
    /// Index of the bridge that the end on the host joins.
    pub master: Option<u32>,
    /// Whether the end on the host starts up.
    pub up: bool,
}

/// Makes the pair in one request: the end on the host is in its bridge, the end in the pod is down.
///
/// `name` gives names for the end on the host.
///
/// # Errors
/// The pod has a link of this name; ten names in a row were taken; or the kernel's refusal.
pub fn create(
    host: &mut Socket,
    plan: &Plan<'_>,
    mut name: impl FnMut() -> kernel::Result<String>,
) -> Result<Link> {
    let ifname = plan.ifname.as_str();
    let peer = NewEnd {
        name: ifname,
        mtu: plan.mtu,
        mac: plan.mac,
        netns: Some(plan.pod.as_fd()),
        ..NewEnd::default()
    };
    for _ in 0..TRIES {
        let host_name = name().map_err(kernel_error)?;
        let near = NewEnd {
            name: &host_name,
            mtu: plan.mtu,
            mac: plan.host_mac,
            master: plan.master,
            up: plan.up,
            ..NewEnd::default()
        };
        match host.apply(&[link::create(&near, &Kind::Veth { peer: peer.clone() })]) {
            Ok(()) => {
                let made = link::find(host, &host_name).map_err(kernel_error)?;
                return made.ok_or_else(|| Error::internal(format!("{host_name} vanished once made")));
            }
            Err(error) if error.is_present() => refuse_if_taken(plan, &host_name)?,
            Err(error) => return Err(kernel_error(error)),
        }
    }
    Err(Error::internal(format!("{TRIES} random names for the host end of {ifname} are all taken")))
}

/// EEXIST does not say which of the two names is taken.
fn refuse_if_taken(plan: &Plan<'_>, host_name: &str) -> Result<()> {
    let ifname = plan.ifname.as_str();
    let mut inside = Socket::open_in(plan.pod, Protocol::Route).map_err(kernel_error)?;
    if link::find(&mut inside, ifname).map_err(kernel_error)?.is_none() {
        return Ok(());
    }
    let pod = plan.pod.path().display();
    Err(Error::internal(format!(
        "CNI_IFNAME: {ifname} exists already in {pod}, so no veth can be made there (host end {host_name})"
    )))
}

/// A name as the reference gives them: `veth` and eight random hex digits.
pub fn random_name() -> kernel::Result<String> {
    Ok(format!("veth{}", kernel::random::hex8()?))
}

/// Deletes the pair again unless committed.
pub fn undo(host_end: &LinkId) -> Undo<impl FnOnce() + use<>> {
    let LinkId { index, name } = host_end.clone();
    Undo::new(move || {
        // The ADD has failed with an error of its own; DEL will try again.
        let _ = delete_link_early(None, index, &name);
    })
}

/// Writes the owner into the alias of the end on the host, for people and for garbage collection.
pub fn label(host_end: &LinkId, owner: &Owner) -> Op {
    link::set_alias(host_end, &owner.comment())
}

/// What the result says about a link; `sandbox` is the pod's path, empty for the host.
pub fn describe(link: &Link, sandbox: &str) -> Interface {
    Interface {
        name: link.id.name.clone(),
        mac: link.mac_text(),
        mtu: Some(link.mtu),
        sandbox: sandbox.to_owned(),
        ..Interface::default()
    }
}
