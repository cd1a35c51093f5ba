//! ipMasq with the reference's iptables rules (`CNI-<hash>` chains in table nat).

use cni::{Attachment, IpConfig, Result};
use kernel::netlink::Socket;

use crate::owner::Owner;

/// Adds the rules for `ips`; repeatable.
pub(super) fn ensure(_owner: &Owner, _ips: &[IpConfig]) -> Result<()> {
    Err(cni::Error::config("ipMasqBackend: \"iptables\" is not available in this build"))
}

/// Removes the owner's chain and the rules that jump to it; starts a program only if the chain is there.
pub(super) fn remove(_host: &mut Socket, _owner: &Owner, _ips: &[IpConfig]) -> Result<()> {
    Ok(())
}

/// Whether all rules for `ips` are there; starts a program only if the owner's chain is there.
pub(super) fn check(_host: &mut Socket, _owner: &Owner, _ips: &[IpConfig]) -> Result<()> {
    Err(cni::Error::internal("masquerade: no iptables rules"))
}

/// Removes chains of `network` that belong to none of `valid`; starts a program only if there is such a chain.
pub(super) fn gc(_host: &mut Socket, _network: &str, _valid: &[Attachment]) -> Result<()> {
    Ok(())
}
