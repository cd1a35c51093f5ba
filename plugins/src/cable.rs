//! What a DEL finds of a pod's cable, with or without the pod.

use std::path::PathBuf;

use cni::{AddResult, Attachment, Call, IpConfig, Result};
use kernel::link::{self, Link};
use kernel::netlink::{Protocol, Socket, delete_link_early};
use kernel::{Mac, Netns, addr};

use crate::error::gather;
use crate::owner::{Keep, Owner};
use crate::{configure, kernel_error, pod};

/// What is left of the cable.
#[derive(Debug, Default)]
pub struct Cable {
    netns: Option<Netns>,
    container: Option<Link>,
    host: Option<Link>,
    /// Name of the end on the host, which may be gone.
    pub host_name: Option<String>,
    /// Hardware address of the end in the pod.
    pub mac: Option<Mac>,
    /// The pod's addresses on it.
    pub ips: Vec<IpConfig>,
}

impl Cable {
    /// Looks into the pod; else to the host, for what prevResult names; else for what carries the owner in its alias.
    /// With it come the outcomes of looking, for DEL goes on whatever they are.
    pub fn find(call: &Call<Option<PathBuf>>) -> (Self, Vec<Result<()>>) {
        let mut outcomes = Vec::new();
        let netns = pod::open_if_there(call.netns.as_deref()).unwrap_or_else(|error| {
            outcomes.push(Err(error));
            None
        });
        let found = Self::look(call, netns.as_ref()).unwrap_or_else(|error| {
            outcomes.push(Err(error));
            Cable::default()
        });
        (Cable { netns, ..found }, outcomes)
    }

    fn look(call: &Call<Option<PathBuf>>, netns: Option<&Netns>) -> Result<Self> {
        let mut cable = Cable::default();
        let owner = Owner::new(&call.conf.name, &call.attachment);
        let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
        if let Some(netns) = netns {
            cable.look_inside(&mut host, netns, call.attachment.ifname.as_str())?;
        }
        if cable.host.as_ref().is_some_and(|end| is_of_another(&owner, &end.alias)) {
            // The path leads to another pod by now, or the name was another network's before.
            cable = Cable::default();
        }
        if let Some(prev) = &call.conf.prev_result {
            cable.recall(&mut host, prev, &owner)?;
        }
        if cable.host.is_none() && cable.container.is_none() {
            cable.host = labelled(&mut host, |alias| owner.owns(alias))?.into_iter().next();
        }
        Ok(cable)
    }

    fn look_inside(&mut self, host: &mut Socket, netns: &Netns, ifname: &str) -> Result<()> {
        let mut inside = Socket::open_in(netns, Protocol::Route).map_err(kernel_error)?;
        let found = link::find(&mut inside, ifname).map_err(kernel_error)?;
        let Some(container) = found.filter(|link| !link.is_loopback()) else { return Ok(()) };
        let addresses = addr::list(&mut inside, Some(container.id.index)).map_err(kernel_error)?;
        let global = addresses.iter().filter(|a| a.is_global());
        self.ips = global.map(|a| IpConfig { interface: None, address: a.ip, gateway: None }).collect();
        if container.kind == "veth"
            && let Some(peer) = container.peer
        {
            let other = link::find_index(host, peer).map_err(kernel_error)?;
            self.host = other.filter(|link| link.kind == "veth" && link.peer == Some(container.id.index));
        }
        self.host_name = self.host.as_ref().map(|link| link.id.name.clone());
        self.mac = container.mac.clone();
        self.container = Some(container);
        Ok(())
    }

    /// What ADD reported: more addresses, and the end on the host if it is still that one. The addresses found in the
    /// pod count as well: a runtime's record may be of an earlier ADD.
    fn recall(&mut self, host: &mut Socket, prev: &AddResult, owner: &Owner) -> Result<()> {
        let ifname = owner.attachment.ifname.as_str();
        for recorded in configure::own_ips(prev, ifname) {
            if self.ips.iter().all(|ip| ip.address != recorded.address) {
                self.ips.push(recorded);
            }
        }
        let inside = prev.interfaces.iter().find(|i| i.name == ifname && !i.sandbox.is_empty());
        self.mac = self.mac.take().or_else(|| inside.and_then(|i| i.mac.parse().ok()));
        for interface in prev.interfaces.iter().filter(|i| i.sandbox.is_empty()) {
            if self.host.is_some() {
                break;
            }
            let Some(seen) = link::find(host, &interface.name).map_err(kernel_error)? else {
                // The bridge is always there; what is missing was the end on the host.
                self.host_name.get_or_insert_with(|| interface.name.clone());
                continue;
            };
            let elsewhere = seen.kind == "veth" && seen.peer_netns.is_some();
            let others = is_of_another(owner, &seen.alias);
            if elsewhere && !others && seen.mac_text().eq_ignore_ascii_case(&interface.mac) {
                self.host_name = Some(interface.name.clone());
                self.host = Some(seen);
            }
        }
        Ok(())
    }

    /// Deletes it, from whichever end is in reach. Nothing there is success.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn delete(&self) -> Result<()> {
        let (netns, link) = match (&self.host, &self.container) {
            (Some(host), _) => (None, host),
            (None, Some(container)) => (self.netns.as_ref(), container),
            (None, None) => return Ok(()),
        };
        delete_link_early(netns, link.id.index, &link.id.name).map_err(kernel_error)
    }
}

/// Whether `alias` says that somebody else made the link. The reference's links say nothing.
fn is_of_another(owner: &Owner, alias: &str) -> bool {
    crate::owner::is_tagged(alias) && !owner.owns(alias)
}

/// The host ends whose alias says that they are `wanted`. Looks at every link.
fn labelled(host: &mut Socket, wanted: impl Fn(&str) -> bool) -> Result<Vec<Link>> {
    let mut links = link::list(host).map_err(kernel_error)?;
    links.retain(|link| link.kind == "veth" && link.peer_netns.is_some() && wanted(&link.alias));
    Ok(links)
}

/// Deletes the cables of `network` that belong to none of the `valid` attachments.
///
/// # Errors
/// The first with the others as details, after everything was tried.
pub fn gc(network: &str, valid: &[Attachment]) -> Result<()> {
    let keep = Keep::new(network, valid);
    let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
    let stale = labelled(&mut host, |alias| keep.is_stale(alias))?;
    let delete = |link: &Link| delete_link_early(None, link.id.index, &link.id.name).map_err(kernel_error);
    gather(stale.iter().map(delete))
}
