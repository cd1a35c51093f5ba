//! ipMasq: what leaves a pod for anywhere but its own subnet gets the host's address.
//!
//! Two dataplanes behind four verbs: `nftables` and `iptables`. Removal and garbage collection always try both,
//! and the reference's layouts, because the configuration may have changed, or the reference may have made the pod.

use cni::{Attachment, IpConfig, Result};
use kernel::netlink::Socket;

use crate::backend::Backend;
use crate::error::{gather, kernel_error};
use crate::owner::{Keep, Owner};

mod iptables;
mod nftables;
mod reference;

/// Masquerades `ips` on behalf of `owner`. Repeatable; an address that another owner has not given back is taken
/// over. `host` is a netfilter socket in the host's namespace.
pub fn ensure(host: &mut Socket, owner: &Owner, ips: &[IpConfig], backend: Backend) -> Result<()> {
    match backend {
        Backend::Nftables => nftables::ensure(host, owner, ips).map_err(failed),
        Backend::Iptables => iptables::ensure(owner, ips),
    }
}

/// Removes what `owner` has, whoever made it. Without `ips` it is searched for; nothing there is success.
///
/// # Errors
/// The first with the others as details, after everything was tried.
pub fn remove(host: &mut Socket, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    let ours = nftables::remove(host, owner, ips).map_err(failed);
    let reference = reference::remove(host, |comment| owner.owns(comment)).map_err(failed);
    let iptables = iptables::remove(host, owner, ips);
    gather([ours, reference, iptables])
}

/// Whether `ips` are masqueraded on behalf of `owner`, by the rules of `backend` or else by what the other backend
/// or the reference left.
pub fn check(host: &mut Socket, owner: &Owner, ips: &[IpConfig], backend: Backend) -> Result<()> {
    let by_iptables = |host: &mut Socket| iptables::check(host, owner, ips);
    let by_nftables = |host: &mut Socket| check_nftables(host, owner, ips);
    match backend {
        Backend::Nftables => by_nftables(host).or_else(|error| by_iptables(host).map_err(|_| error)),
        Backend::Iptables => by_iptables(host).or_else(|error| by_nftables(host).map_err(|_| error)),
    }
}

fn check_nftables(host: &mut Socket, owner: &Owner, ips: &[IpConfig]) -> Result<()> {
    match nftables::check(host, owner, ips).map_err(failed)? {
        Some(missing) if !reference::masquerades(host, owner).map_err(failed)? => {
            Err(cni::Error::internal(missing))
        }
        _ => Ok(()),
    }
}

/// Removes what belongs to `network` and to none of the `valid` attachments.
///
/// # Errors
/// The first with the others as details, after everything was tried.
pub fn gc(host: &mut Socket, network: &str, valid: &[Attachment]) -> Result<()> {
    let keep = Keep::new(network, valid);
    let ours = nftables::gc(host, &keep).map_err(failed);
    let reference = reference::remove(host, |comment| keep.is_stale(comment)).map_err(failed);
    let iptables = iptables::gc(host, network, valid);
    gather([ours, reference, iptables])
}

fn failed(error: kernel::Error) -> cni::Error {
    kernel_error(error).context("masquerade")
}
