//! The delegated IPAM plug-in: in this process when it is ours, by exec when it is not.
//!
//! It is ours when the file that CNI_PATH leads to is this very binary, or a copy of it, and [`crate::TABLE`] knows the name. An operator
//! who puts another binary of that name first in CNI_PATH still gets that one.
//!
//! Where the configuration names no IPAM plug-in there is no choice to respect ([`OWN`]): `vxlan` and `routed` then allocate
//! in this process, whoever's `host-local` is in the directory. An older one of another project would refuse the version.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cni::{AddResult, Call, Error, GcCall, IpConfig, NetConf, Plugin, Result, StatusCall};

/// Those of our plug-ins that give addresses.
const IPAM: [&str; 2] = ["host-local", "static"];
/// A key of `ipam` that is set where the configuration names no IPAM plug-in.
pub const OWN: &str = "bowline.dev/own";

/// Asks for addresses.
///
/// # Errors
/// The delegate's own; it gave no address at all, or a gateway of another family.
pub fn add(call: &Call<PathBuf>) -> Result<AddResult> {
    let name = &call.conf.ipam_type;
    let result = match find(&call.conf, &call.path)? {
        Some(plugin) => plugin.add(call)?,
        None => cni::delegate::add(&call.path, name, &call.conf)?,
    };
    let crossed = |ip: &&IpConfig| ip.gateway.is_some_and(|gw| gw.is_ipv4() != ip.address.is_ipv4());
    let wrong = match (result.ips.is_empty(), result.ips.iter().find(crossed)) {
        (true, _) => Error::internal(format!("IPAM plugin {name} returned no IP addresses")),
        (false, None) => return Ok(result),
        (false, Some(IpConfig { address, gateway, .. })) => {
            let gateway = gateway.map(|gw| gw.to_string()).unwrap_or_default();
            Error::config(format!("ipam: gateway: {gateway} is of another family than {address} ({name})"))
        }
    };
    // It may hold something all the same.
    let _ = del(&call.clone().into_del());
    Err(wrong)
}

/// Gives the addresses back.
///
/// # Errors
/// The delegate's own.
pub fn del(call: &Call<Option<PathBuf>>) -> Result<()> {
    let name = &call.conf.ipam_type;
    if gives_none(name) {
        // No ADD has got anything from it.
        return Ok(());
    }
    match find(&call.conf, &call.path)? {
        Some(plugin) => plugin.del(call),
        None => cni::delegate::del(&call.path, name, &call.conf),
    }
}

/// Asks whether the addresses are still held.
///
/// # Errors
/// The delegate's own.
pub fn check(call: &Call<PathBuf>) -> Result<()> {
    let name = &call.conf.ipam_type;
    match find(&call.conf, &call.path)? {
        Some(plugin) => plugin.check(call),
        None => cni::delegate::check(&call.path, name, &call.conf),
    }
}

/// Forwards GC.
///
/// # Errors
/// The delegate's own.
pub fn gc(call: &GcCall) -> Result<()> {
    let name = &call.conf.ipam_type;
    if gives_none(name) {
        return Ok(());
    }
    match find(&call.conf, &call.path)? {
        Some(plugin) => plugin.gc(call),
        None => cni::delegate::gc(&call.path, name, &call.conf),
    }
}

/// Forwards STATUS.
///
/// # Errors
/// The delegate's own.
pub fn status(call: &StatusCall) -> Result<()> {
    let name = &call.conf.ipam_type;
    match find(&call.conf, &call.path)? {
        Some(plugin) => plugin.status(call),
        None => cni::delegate::status(&call.path, name, &call.conf),
    }
}

/// Whether `name` is one of our plug-ins that give no addresses. It is refused whoever's binary it is: one that
/// delegates itself would call itself without end.
fn gives_none(name: &str) -> bool {
    !IPAM.contains(&name) && crate::find(name).is_some()
}

/// What serves the delegate in this process; none when it is to be executed.
fn find(conf: &NetConf, path: &[PathBuf]) -> Result<Option<&'static dyn Plugin>> {
    let name = conf.ipam_type.as_str();
    if gives_none(name) {
        return Err(Error::config(format!("ipam: type: {name:?} is a plugin that gives no addresses")));
    }
    if conf.member("ipam").is_some_and(|ipam| ipam[OWN] == true) {
        return Ok(crate::find(name));
    }
    cni::exec::find(name, path).map_err(|e| e.context("ipam"))?;
    Ok(ours(name, path))
}

/// Whether the delegate called `name` would be served in this process, and by what.
pub fn ours(name: &str, path: &[PathBuf]) -> Option<&'static dyn Plugin> {
    let plugin = crate::find(name)?;
    let file = cni::exec::find(name, path).ok()?;
    is_this_program(&file).unwrap_or(false).then_some(plugin)
}

/// Whether `file` is the running program: a link to it, or a copy (installers like to copy), known by its length and
/// its first page, where the linker has put the hash of the whole.
fn is_this_program(file: &Path) -> io::Result<bool> {
    let (own, other) = (Path::new("/proc/self/exe"), file);
    let (meta, other_meta) = (own.metadata()?, other.metadata()?);
    if (meta.dev(), meta.ino()) == (other_meta.dev(), other_meta.ino()) {
        return Ok(true);
    }
    Ok(meta.len() == other_meta.len() && first_page(own)? == first_page(other)?)
}

fn first_page(file: &Path) -> io::Result<[u8; 4096]> {
    let mut page = [0; 4096];
    File::open(file)?.read_exact(&mut page)?;
    Ok(page)
}
