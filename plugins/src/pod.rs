//! The pod's network namespace, as CNI_NETNS names it.

use std::io::ErrorKind;
use std::path::Path;

use cni::{Code, Error, Result};
use kernel::netlink::{Protocol, Socket};
use kernel::{Netns, link};

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

/// STATUS of a plug-in that works on links: whether this process may enter namespaces and change links at all. Without
/// these rights the first ADD would fail, which STATUS is there to say.
///
/// # Errors
/// Code 50, naming what is refused.
pub fn may_attach() -> Result<()> {
    let not_available = |right: &str, error| Error {
        code: Code::NOT_AVAILABLE,
        ..kernel_error(error).context(format!("no pod can be attached without {right}"))
    };
    // Where it is already: nothing moves, but the kernel asks for the right all the same.
    Netns::current().and_then(|own| own.enter()).map_err(|e| not_available("CAP_SYS_ADMIN", e))?;
    let probed = Socket::open(Protocol::Route).and_then(|mut host| link::probe(&mut host));
    probed.map_err(|e| not_available("CAP_NET_ADMIN", e))
}

fn is_not_a_directory(error: &kernel::Error) -> bool {
    matches!(error, kernel::Error::Io { source, .. } if source.kind() == ErrorKind::NotADirectory)
}
