//! The delegated IPAM plug-in: in this process when it is ours, by exec when it is not.
//!
//! It is ours when the file that CNI_PATH leads to is this very binary, or a copy of it, and [`crate::TABLE`] knows the name. An operator
//! who puts another binary of that name first in CNI_PATH still gets that one.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
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
