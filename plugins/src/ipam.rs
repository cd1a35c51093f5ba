//! The delegated IPAM plug-in: in this process when it is ours, by exec when it is not.
//!
//! It is ours when the file that CNI_PATH leads to is this very binary and [`crate::TABLE`] knows the name. An operator
//! who puts another binary of that name first in CNI_PATH still gets that one.

use std::path::{Path, PathBuf};

use cni::{AddResult, Call, Error, GcCall, Plugin, Result, StatusCall};

/// Asks for addresses.
///
/// # Errors
/// The delegate's own, or that it gave no address at all.
pub fn add(call: &Call<PathBuf>) -> Result<AddResult> {
    let name = &call.conf.ipam_type;
    let result = match ours(name, &call.path) {
        Some(plugin) => plugin.add(call)?,
        None => cni::delegate::add(&call.path, name, &call.conf)?,
    };
    if result.ips.is_empty() {
        // It may hold something all the same.
        let _ = del(&call.clone().into_del());
        return Err(Error::internal(format!("IPAM plugin {name} returned no IP addresses")));
    }
    Ok(result)
}

/// Gives the addresses back.
///
/// # Errors
/// The delegate's own.
pub fn del(call: &Call<Option<PathBuf>>) -> Result<()> {
    let name = &call.conf.ipam_type;
    match ours(name, &call.path) {
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
    match ours(name, &call.path) {
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
    match ours(name, &call.path) {
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
    match ours(name, &call.path) {
        Some(plugin) => plugin.status(call),
        None => cni::delegate::status(&call.path, name, &call.conf),
    }
}

/// Whether the delegate called `name` would be served in this process, and by what.
pub fn ours(name: &str, path: &[PathBuf]) -> Option<&'static dyn Plugin> {
    let plugin = crate::find(name)?;
    let file = cni::exec::find(name, path).ok()?;
    (identity(&file)? == identity(Path::new("/proc/self/exe"))?).then_some(plugin)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}
