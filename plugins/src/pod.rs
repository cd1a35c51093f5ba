//! The pod's network namespace, as CNI_NETNS names it.

use std::io::ErrorKind;
use std::path::Path;

use cni::{Code, Error, Result};
use kernel::Netns;

use crate::kernel_error;

/// Opens the namespace of an ADD or a CHECK.
///
/// # Errors
/// Code 8, naming the path: it is missing, or no network namespace.
pub fn open(path: &Path) -> Result<Netns> {
    Netns::open(path).map_err(|e| {
        let mut error = kernel_error(e).context("CNI_NETNS");
        error.code = Code::INVALID_NETNS;
        error
    })
}

/// Opens the namespace of a DEL: `None` when none was given, or when it is gone (the path is missing, or only the file
/// that it was mounted on is left).
///
/// # Errors
/// Anything else that keeps it from being opened, such as permissions.
pub fn open_if_there(path: Option<&Path>) -> Result<Option<Netns>> {
    let Some(path) = path else { return Ok(None) };
    match Netns::open(path) {
        Ok(netns) => Ok(Some(netns)),
        Err(kernel::Error::NotANetns { .. }) => Ok(None),
        Err(error) if error.is_absent() || is_not_a_directory(&error) => Ok(None),
        Err(error) => Err(Error::from_chain(&error).context("CNI_NETNS")),
    }
}

fn is_not_a_directory(error: &kernel::Error) -> bool {
    matches!(error, kernel::Error::Io { source, .. } if source.kind() == ErrorKind::NotADirectory)
}
